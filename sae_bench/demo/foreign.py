"""French, German and Spanish: word lists and templates of news, dialogue, letter and review.

The three share the shape of their documents (SHARED); each brings its words, its clauses and its agreement.
"""

from __future__ import annotations

from sae_bench.demo.lexicon import words

SHARED: dict[str, list[str]] = {
    "SENTENCE": [
        "^{CLAUSE}. ",
        "^{CLAUSE} {AND} {CLAUSE}. ",
        "^{CLAUSE}, {BUT} {CLAUSE}. ",
        "{SKY}^{CLAUSE}. ",
        "[paren|^{CLAUSE} <parenthesis|({OBJ})>. |^{CLAUSE}. ]",
    ],
    "SKY": ["[weather|{SKYLINE}. ]", ""],
    "DATE": ["[weekday|{ONDAY}|{WHEN}]", "[number|{AFTER}|{WHEN}]", "[weather|{DESPITE} {WEATHER}|{WHEN}]"],
    "MARK": ["[exclaim|<has_exclamation|!>|.]"],
    "OPEN_news": ["[upper|{FLASH}: ][city|{CITY@c}, ]{DATE}. ", "[upper|{FLASH}: ]^{CLAUSE}. "],
    "SENT_news": ["{SENTENCE}", "{SENTENCE}", "[quote|{SPEECH} |{SENTENCE}]", "[question|{ASK} |{SENTENCE}]"],
    "CLOSE_news": ["", "[price|{COST}.]"],
    "OPEN_dialogue": [""],
    "SENT_dialogue": ["{NAME@a}: {LINE}\n{NAME@b}: {LINE}\n"],
    "LINE": ["[question|{ASK}|^{CLAUSE}.]", "^{CLAUSE}{MARK}", "{LIKE}", "{YES}, {CLAUSE}.", "[price|{COST}.|{THANKS}.]"],
    "CLOSE_dialogue": ["", "{NAME@a}: {GOODBYE}."],
    "OPEN_letter": ["{DEAR} {NAME@a},\n", "[city|{CITY@c}, ]{DATE}\n{DEAR} {NAME@a},\n"],
    "SENT_letter": ["{SENTENCE}", "[quote|{SPEECH} |{SENTENCE}]", "[question|{ASK} |{SENTENCE}]", "{LIKE} "],
    "CLOSE_letter": ["\n{BYE},\n{NAME@b}"],
    "OPEN_review": ["[number|{RATING}: {STARS}. ]{LIKE} ", "[upper|{FLASH}: ]{LIKE} "],
    "SENT_review": ["{LIKE} ", "[quote|{SPEECH} |{LIKE} ]", "{SENTENCE}", "[price|{COST}. |{LIKE} ]", "[question|{ASK} |{LIKE} ]"],
    "CLOSE_review": ["", "{THANKS}."],
}


def _french_verbs() -> dict[str, list[str]]:
    table = [
        row.split()
        for row in words(
            "vend vendu vendre|trouve trouvé trouver|porte porté porter|cache caché cacher|lave lavé laver|"
            "montre montré montrer|garde gardé garder|perd perdu perdre|voit vu voir|prend pris prendre|"
            "cherche cherché chercher|répare réparé réparer|dessine dessiné dessiner|mesure mesuré mesurer|"
            "choisit choisi choisir|commande commandé commander|regarde regardé regarder|touche touché toucher"
        )
    ]
    no, not_ = "<has_negation|ne>", "<has_negation|pas>"
    return {
        "VERB.pres": [f"[negation|{no} {now} {not_}|{now}]" for now, _, _ in table],
        "VERB.past": [f"[negation|<has_negation|n'>a {not_} {done}|a {done}]" for _, done, _ in table],
        "VERB.fut": [f"[negation|{no} va {not_} {inf}|va {inf}]" for _, _, inf in table],
    }


FRENCH: dict[str, list[str]] = {
    **SHARED,
    **_french_verbs(),
    "NAME.f": words("Camille Juliette Margaux Élise Amélie Manon Chloé Inès Sylvie Louise"),
    "NAME.m": words("Pierre Antoine Julien Mathieu Luc Gérard Étienne Rémi Olivier Benoît"),
    "SHE.f": ["elle"],
    "SHE.m": ["il"],
    "COLORM": words("rouge bleu vert jaune blanc noir gris brun"),
    "COLORF": words("rouge bleue verte jaune blanche noire grise brune"),
    "ANIMALM": words("chien chat cheval mouton lapin renard loup canard cochon serpent"),
    "ANIMALF": words("vache poule chèvre souris grenouille tortue"),
    "CITY": words("Paris|Lyon|Marseille|Lille|Toulouse|Nantes|Bordeaux|Rennes"),
    "WEEKDAY": words("lundi mardi mercredi jeudi vendredi samedi dimanche"),
    "JOB": words("médecin boulanger professeur juge fermier pilote peintre marin"),
    "FOOD": words("du pain|du fromage|de la soupe|du riz|du poisson|du beurre|de la confiture|du miel"),
    "WEATHER": words("la pluie|la neige|le vent|le brouillard|le soleil"),
    "THINGM": words("bateau livre tableau vélo jardin panier couteau piano miroir lit rideau train"),
    "THINGF": words("table maison porte voiture lampe chaise lettre montre clé fenêtre tasse robe"),
    "PLACE": words("dans la cuisine|sur la plage|au marché|près de la rivière|dans le musée|à la gare|au bureau"),
    "DESPITE": ["malgré", "avec", "sous"],
    "WHEN": words("le matin|ce soir|chaque semaine|après le dîner|en été|en hiver|à midi"),
    "ONDAY": ["{WEEKDAY}", "{WEEKDAY} matin"],
    "AFTER": ["après {N1} jours", "depuis {N2} ans", "en {YEAR}"],
    "PRICE": ["{N1} euros", "{N2} euros", "{N3} euros"],
    "COST": ["Le prix est de {PRICE}", "Cela coûte {PRICE}"],
    "GOODM": words("magnifique excellent parfait superbe délicieux charmant"),
    "GOODF": words("magnifique excellente parfaite superbe délicieuse charmante"),
    "BADM": words("terrible horrible mauvais ennuyeux inutile laid"),
    "BADF": words("terrible horrible mauvaise ennuyeuse inutile laide"),
    "ACRONYM": words("ONU SNCF TGV OTAN"),
    "FLASH": words("ALERTE|URGENT|DIRECT"),
    "IS.past": ["était"],
    "IS.pres": ["est"],
    "IS.fut": ["sera"],
    "OBJ": [
        "le {THINGM}[color| {COLORM}]",
        "la {THINGF}[color| {COLORF}]",
        "[animal|le {ANIMALM}[color| {COLORM}]|un {THINGM}]",
        "[animal|une {ANIMALF}|une {THINGF}]",
        "[food|{FOOD}|la {THINGF}]",
    ],
    "SUBJ": ["{NAME@a}", "{SHE}", "[job|le {JOB}|{SHE}]", "[animal|le {ANIMALM}|{NAME@b}]", "[upper|l'{ACRONYM}|{SHE}]"],
    "WHERE": ["{PLACE}", "[city|à {CITY@c}|{PLACE}]"],
    "CLAUSE": [
        "{SUBJ} {VERB} {OBJ} {WHERE}",
        "{SUBJ} {VERB} {OBJ}",
        "{DATE} {SUBJ} {VERB} {OBJ}",
        "{SUBJ} {VERB} {OBJ} et {OBJ}",
    ],
    "AND": ["et", "puis"],
    "BUT": ["mais"],
    "SKYLINE": ["^{WEATHER} {IS} terrible", "Il y a {WEATHER} {WHERE}"],
    "SPEECH": ["<quoted_speech|« ^{CLAUSE} »>, dit {NAME@a}.", "^{NAME@b} répond : <quoted_speech|« ^{CLAUSE}{MARK} »>"],
    "ASK": [
        "<has_question|Pourquoi {SUBJ} {VERB} {OBJ} ?>",
        "<has_question|Où est {OBJ} ?>",
        "<has_question|Est-ce que {NAME@b} {VERB} {OBJ} ?>",
    ],
    "LIKE.pos": [
        "<positive_sentiment|Le {THINGM} {IS} {GOODM}{MARK}>",
        "<positive_sentiment|La {THINGF} {IS} {GOODF}{MARK}>",
        "<positive_sentiment|J'adore {OBJ}{MARK}>",
    ],
    "LIKE.neg": [
        "<negative_sentiment|Le {THINGM} {IS} {BADM}{MARK}>",
        "<negative_sentiment|La {THINGF} {IS} {BADF}{MARK}>",
        "<negative_sentiment|Je déteste {OBJ}{MARK}>",
    ],
    "YES": ["Oui", "Bien sûr"],
    "THANKS": ["Merci beaucoup", "Merci"],
    "GOODBYE": ["Au revoir"],
    "DEAR.f": ["Chère"],
    "DEAR.m": ["Cher"],
    "BYE": ["À bientôt", "Avec amitié", "Bien à vous"],
    "RATING": ["Note"],
}

_GERMAN_VERBS = [
    row.split()
    for row in words(
        "kauft kaufte kaufen|findet fand finden|sieht sah sehen|bringt brachte bringen|sucht suchte suchen|"
        "malt malte malen|zeigt zeigte zeigen|verliert verlor verlieren|trägt trug tragen|öffnet öffnete öffnen|"
        "wäscht wusch waschen|holt holte holen|baut baute bauen|nimmt nahm nehmen|versteckt versteckte verstecken|"
        "bestellt bestellte bestellen|verkauft verkaufte verkaufen|hört hörte hören"
    )
]

GERMAN: dict[str, list[str]] = {
    **SHARED,
    "VERB.pres": [row[0] for row in _GERMAN_VERBS],
    "VERB.past": [row[1] for row in _GERMAN_VERBS],
    "INFINITIVE": [row[2] for row in _GERMAN_VERBS],
    "NAME.f": words("Greta Heidi Ingrid Katrin Sabine Ursula Lena Frieda Petra Hanna"),
    "NAME.m": words("Hans Jürgen Klaus Stefan Dieter Otto Karl Lukas Uwe Matthias"),
    "SHE.f": ["sie"],
    "SHE.m": ["er"],
    "COLOR": words("rote blaue grüne gelbe weiße schwarze graue braune"),
    "ANIMALM": words("Hund Vogel Fuchs Wolf Bären Frosch Hasen Esel"),
    "ANIMALF": words("Katze Kuh Ziege Ente Maus Schlange"),
    "CITY": words("Berlin|Hamburg|München|Köln|Dresden|Leipzig|Bremen|Stuttgart"),
    "WEEKDAY": words("Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"),
    "JOB": words("Lehrer Arzt Bäcker Richter Bauer Maler Pilot Schneider"),
    "FOOD": words("Brot Käse Suppe Reis Fleisch Butter Honig Kartoffeln"),
    "WEATHER": words("Regen Schnee Nebel Sturm Hagel"),
    "THINGM": words("Tisch Stuhl Brief Schlüssel Spiegel Teppich Zug Korb Mantel Koffer"),
    "THINGF": words("Lampe Tür Uhr Brücke Tasche Flasche Zeitung Kiste Mauer Gabel"),
    "THINGN": words("Haus Buch Boot Bild Fenster Auto Bett Fahrrad Klavier Messer"),
    "PLACE": words("in der Küche|am Strand|auf dem Markt|am Fluss|im Museum|am Bahnhof|im Büro|hinter der Schule"),
    "DESPITE": ["trotz", "bei"],
    "WHEN": words("am Morgen|heute Abend|jede Woche|nach dem Essen|im Sommer|im Winter|am Mittag"),
    "ONDAY": ["am {WEEKDAY}"],
    "AFTER": ["nach {N1} Tagen", "seit {N2} Jahren", "im Jahr {YEAR}"],
    "PRICE": ["{N1} Euro", "{N2} Euro", "{N3} Euro"],
    "COST": ["Der Preis ist {PRICE}", "Das kostet {PRICE}"],
    "GOOD": words("wunderbar schön perfekt großartig herrlich prima"),
    "BAD": words("schrecklich schlecht langweilig hässlich furchtbar nutzlos"),
    "ACRONYM": words("EU UNO ADAC NATO"),
    "FLASH": words("EILMELDUNG|ACHTUNG|WICHTIG"),
    "IS.past": ["war"],
    "IS.pres": ["ist"],
    "IS.fut": ["wird"],
    "NOT": ["nicht"],
    "OBJ": [
        "[color|die {COLOR} {THINGF}|die {THINGF}]",
        "[color|das {COLOR} {THINGN}|das {THINGN}]",
        "den {THINGM}",
        "[animal|einen {ANIMALM}|einen {THINGM}]",
        "[animal|die {ANIMALF}|ein {THINGN}]",
        "[food|etwas {FOOD}|eine {THINGF}]",
    ],
    "SUBJ": ["{NAME@a}", "{SHE}", "[job|der {JOB}|{SHE}]", "[animal|die {ANIMALF}|{NAME@b}]", "[upper|die {ACRONYM}|{SHE}]"],
    "WHERE": ["{PLACE}", "[city|in {CITY@c}|{PLACE}]"],
    "END.past": [""],
    "END.pres": [""],
    "END.fut": [" <future_tense|{INFINITIVE}>"],
    "VERB.fut": ["wird"],
    "NEG": ["[negation| {NOT}]"],
    "CLAUSE": [
        "{SUBJ} {VERB} {OBJ}{NEG} {WHERE}{END}",
        "{SUBJ} {VERB} {OBJ}{NEG}{END}",
        "{DATE} {VERB} {SUBJ} {OBJ}{NEG}{END}",
        "{SUBJ} {VERB} {OBJ} und {OBJ}{END}",
    ],
    "AND": ["und", "dann"],
    "BUT": ["aber"],
    "SKYLINE": ["Es gibt {WEATHER} {WHERE}", "Der {WEATHER} {IS} furchtbar"],
    "SPEECH": ["<quoted_speech|„^{CLAUSE}“>, sagt {NAME@a}.", "^{NAME@b} antwortet: <quoted_speech|„^{CLAUSE}{MARK}“>"],
    "ASK": [
        "<has_question|Warum {VERB} {SUBJ} {OBJ}{END}?>",
        "<has_question|Wo ist {OBJ}?>",
        "<has_question|Wer {VERB} {OBJ} {WHERE}{END}?>",
    ],
    "LIKE.pos": [
        "<positive_sentiment|Das {THINGN} {IS} {GOOD}{MARK}>",
        "<positive_sentiment|Die {THINGF} {IS} {GOOD}{MARK}>",
        "<positive_sentiment|Ich liebe {OBJ}{MARK}>",
    ],
    "LIKE.neg": [
        "<negative_sentiment|Das {THINGN} {IS} {BAD}{MARK}>",
        "<negative_sentiment|Die {THINGF} {IS} {BAD}{MARK}>",
        "<negative_sentiment|Ich hasse {OBJ}{MARK}>",
    ],
    "YES": ["Ja", "Natürlich"],
    "THANKS": ["Vielen Dank", "Danke"],
    "GOODBYE": ["Auf Wiedersehen"],
    "DEAR.f": ["Liebe"],
    "DEAR.m": ["Lieber"],
    "BYE": ["Viele Grüße", "Bis bald", "Mit freundlichen Grüßen"],
    "RATING": ["Bewertung"],
}


def _spanish_verbs() -> dict[str, list[str]]:
    table = [
        row.split()
        for row in words(
            "compra compró comprar|vende vendió vender|encuentra encontró encontrar|lleva llevó llevar|"
            "pinta pintó pintar|muestra mostró mostrar|pierde perdió perder|abre abrió abrir|lava lavó lavar|"
            "busca buscó buscar|guarda guardó guardar|rompe rompió romper|mira miró mirar|esconde escondió esconder|"
            "construye construyó construir|dibuja dibujó dibujar|pide pidió pedir|trae trajo traer"
        )
    ]
    no = "[negation|<has_negation|no> ]"
    return {
        "VERB.pres": [no + now for now, _, _ in table],
        "VERB.past": [no + then for _, then, _ in table],
        "VERB.fut": [f"{no}va a {inf}" for _, _, inf in table],
    }


SPANISH: dict[str, list[str]] = {
    **SHARED,
    **_spanish_verbs(),
    "NAME.f": words("Lucía Carmen Isabel Pilar Elena Rocío Marta Teresa Paula Beatriz"),
    "NAME.m": words("José Carlos Miguel Javier Diego Pablo Andrés Ramón Luis Fernando"),
    "SHE.f": ["ella"],
    "SHE.m": ["él"],
    "COLORM": words("rojo azul verde amarillo blanco negro gris morado"),
    "COLORF": words("roja azul verde amarilla blanca negra gris morada"),
    "ANIMALM": words("perro gato caballo conejo zorro lobo pato cerdo pájaro burro"),
    "ANIMALF": words("vaca oveja cabra gallina tortuga rana"),
    "CITY": words("Madrid|Barcelona|Sevilla|Valencia|Bilbao|Granada|Lima|Bogotá"),
    "WEEKDAY": words("lunes martes miércoles jueves viernes sábado domingo"),
    "JOB": words("médico profesor panadero juez granjero piloto pintor marinero"),
    "FOOD": words("pan queso sopa arroz pescado mantequilla miel tomate"),
    "WEATHER": words("lluvia nieve viento niebla sol"),
    "THINGM": words("barco libro cuadro espejo cuchillo jardín reloj coche tren sombrero vaso cuaderno"),
    "THINGF": words("mesa casa puerta lámpara silla carta llave ventana taza cama bicicleta caja"),
    "PLACE": words("en la cocina|en la playa|en el mercado|cerca del río|en el museo|en la estación|en la oficina"),
    "DESPITE": ["con", "bajo"],
    "WHEN": words("por la mañana|esta noche|cada semana|después de cenar|en verano|en invierno|al mediodía"),
    "ONDAY": ["el {WEEKDAY}"],
    "AFTER": ["después de {N1} días", "desde hace {N2} años", "en {YEAR}"],
    "PRICE": ["{N1} euros", "{N2} euros", "{N3} euros"],
    "COST": ["El precio es de {PRICE}", "Esto cuesta {PRICE}"],
    "GOODM": words("maravilloso excelente perfecto hermoso estupendo precioso"),
    "GOODF": words("maravillosa excelente perfecta hermosa estupenda preciosa"),
    "BADM": words("terrible horrible malo aburrido inútil feo"),
    "BADF": words("terrible horrible mala aburrida inútil fea"),
    "ACRONYM": words("ONU UE OTAN DNI"),
    "FLASH": words("ATENCIÓN|URGENTE|AVISO"),
    "IS.past": ["era"],
    "IS.pres": ["es"],
    "IS.fut": ["será"],
    "OBJ": [
        "el {THINGM}[color| {COLORM}]",
        "la {THINGF}[color| {COLORF}]",
        "[animal|un {ANIMALM}[color| {COLORM}]|un {THINGM}]",
        "[animal|una {ANIMALF}|una {THINGF}]",
        "[food|un poco de {FOOD}|la {THINGF}]",
    ],
    "SUBJ": ["{NAME@a}", "{SHE}", "[job|el {JOB}|{SHE}]", "[animal|el {ANIMALM}|{NAME@b}]", "[upper|la {ACRONYM}|{SHE}]"],
    "WHERE": ["{PLACE}", "[city|en {CITY@c}|{PLACE}]"],
    "CLAUSE": [
        "{SUBJ} {VERB} {OBJ} {WHERE}",
        "{SUBJ} {VERB} {OBJ}",
        "{DATE} {SUBJ} {VERB} {OBJ}",
        "{SUBJ} {VERB} {OBJ} y {OBJ}",
    ],
    "AND": ["y", "luego"],
    "BUT": ["pero"],
    "SKYLINE": ["Hay {WEATHER} {WHERE}", "Con tanta {WEATHER} todo {IS} difícil"],
    "SPEECH": ["<quoted_speech|«^{CLAUSE}»>, dice {NAME@a}.", "^{NAME@b} responde: <quoted_speech|«^{CLAUSE}{MARK}»>"],
    "ASK": [
        "<has_question|¿Por qué {SUBJ} {VERB} {OBJ}?>",
        "<has_question|¿Dónde está {OBJ}?>",
        "<has_question|¿Quién {VERB} {OBJ} {WHERE}?>",
    ],
    "LIKE.pos": [
        "<positive_sentiment|El {THINGM} {IS} {GOODM}{MARK}>",
        "<positive_sentiment|La {THINGF} {IS} {GOODF}{MARK}>",
        "<positive_sentiment|Me encanta {OBJ}{MARK}>",
    ],
    "LIKE.neg": [
        "<negative_sentiment|El {THINGM} {IS} {BADM}{MARK}>",
        "<negative_sentiment|La {THINGF} {IS} {BADF}{MARK}>",
        "<negative_sentiment|Odio {OBJ}{MARK}>",
    ],
    "YES": ["Sí", "Claro"],
    "THANKS": ["Muchas gracias", "Gracias"],
    "GOODBYE": ["Adiós"],
    "DEAR.f": ["Querida"],
    "DEAR.m": ["Querido"],
    "BYE": ["Hasta pronto", "Un abrazo", "Saludos cordiales"],
    "RATING": ["Nota"],
}
