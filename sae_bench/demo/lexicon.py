"""What every grammar shares: which symbol carries which attribute, and how a word list is written."""

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
