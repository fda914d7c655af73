"""German: word lists and templates of news, dialogue, letter and review."""

from __future__ import annotations

from sae_bench.demo.lexicon import SHARED, words

_VERBS = [
    row.split()
    for row in words(
        "kauft kaufte kaufen|findet fand finden|sieht sah sehen|bringt brachte bringen|sucht suchte suchen|"
        "malt malte malen|zeigt zeigte zeigen|verliert verlor verlieren|trägt trug tragen|öffnet öffnete öffnen|"
        "wäscht wusch waschen|holt holte holen|baut baute bauen|nimmt nahm nehmen|versteckt versteckte verstecken|"
        "bestellt bestellte bestellen|verkauft verkaufte verkaufen|hört hörte hören"
    )
]

RULES: dict[str, list[str]] = {
    **SHARED,
    "VERB.pres": [row[0] for row in _VERBS],
    "VERB.past": [row[1] for row in _VERBS],
    "INFINITIVE": [row[2] for row in _VERBS],
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
    "SUBJ": [
        "{NAME@a}",
        "{SHE}",
        "[job|der {JOB}|{SHE}]",
        "[animal|die {ANIMALF}|{NAME@b}]",
        "[upper|die {ACRONYM}|{SHE}]",
    ],
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
