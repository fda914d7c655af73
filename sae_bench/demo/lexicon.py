"""What the grammars share: how a word list is written, which symbol carries which attribute, shapes of documents."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """A list from text, split at ``|`` where there is one, else at spaces."""
    return text.split("|") if "|" in text else text.split()


MARKS: dict[str, str] = {
    "NAME.f": "female_person",
    "SHE.f": "female_person",
    "HER.f": "female_person",
    "NAME.m": "male_person",
    "SHE.m": "male_person",
    "HER.m": "male_person",
    "COLOR": "mentions_color",
    "COLORM": "mentions_color",
    "COLORF": "mentions_color",
    "ANIMAL": "mentions_animal",
    "ANIMALM": "mentions_animal",
    "ANIMALF": "mentions_animal",
    "CITY": "mentions_city",
    "WEEKDAY": "mentions_weekday",
    "JOB": "mentions_profession",
    "FOOD": "mentions_food",
    "WEATHER": "mentions_weather",
    "VERB.past": "past_tense",
    "IS.past": "past_tense",
    "VERB.fut": "future_tense",
    "IS.fut": "future_tense",
    "NOT": "has_negation",
    "NEVER": "has_negation",
    "ACRONYM": "uppercase_word",
    "FLASH": "uppercase_word",
    "PRICE": "mentions_price",
}

# The shapes of French, German and Spanish documents; each language brings its words, clauses and agreement.
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
    "LINE": [
        "[question|{ASK}|^{CLAUSE}.]",
        "^{CLAUSE}{MARK}",
        "{LIKE}",
        "{YES}, {CLAUSE}.",
        "[price|{COST}.|{THANKS}.]",
    ],
    "CLOSE_dialogue": ["", "{NAME@a}: {GOODBYE}."],
    "OPEN_letter": ["{DEAR} {NAME@a},\n", "[city|{CITY@c}, ]{DATE}\n{DEAR} {NAME@a},\n"],
    "SENT_letter": ["{SENTENCE}", "[quote|{SPEECH} |{SENTENCE}]", "[question|{ASK} |{SENTENCE}]", "{LIKE} "],
    "CLOSE_letter": ["\n{BYE},\n{NAME@b}"],
    "OPEN_review": ["[number|{RATING}: {STARS}. ]{LIKE} ", "[upper|{FLASH}: ]{LIKE} "],
    "SENT_review": [
        "{LIKE} ",
        "[quote|{SPEECH} |{LIKE} ]",
        "{SENTENCE}",
        "[price|{COST}. |{LIKE} ]",
        "[question|{ASK} |{LIKE} ]",
    ],
    "CLOSE_review": ["", "{THANKS}."],
}
