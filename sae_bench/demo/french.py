"""French: word lists and templates of news, dialogue, letter and review."""

from __future__ import annotations

from sae_bench.demo.lexicon import SHARED, words


def _verbs() -> dict[str, list[str]]:
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


RULES: dict[str, list[str]] = {
    **SHARED,
    **_verbs(),
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
    "SUBJ": [
        "{NAME@a}",
        "{SHE}",
        "[job|le {JOB}|{SHE}]",
        "[animal|le {ANIMALM}|{NAME@b}]",
        "[upper|l'{ACRONYM}|{SHE}]",
    ],
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
    "SPEECH": [
        "<quoted_speech|« ^{CLAUSE} »>, dit {NAME@a}.",
        "^{NAME@b} répond : <quoted_speech|« ^{CLAUSE}{MARK} »>",
    ],
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
