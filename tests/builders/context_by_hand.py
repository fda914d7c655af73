"""What is true of a text of the world "context", a second time: from its words alone, a loop for each feature.

Nothing here comes from ``sae_bench.validity``: kinds of words are listed again, and each feature is a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable

COLOURS = {"red", "blue", "green", "black", "white", "yellow", "brown", "grey"}
ANIMALS = {"dog", "cat", "horse", "bird", "wolf", "fox", "mouse", "bear", "frog", "sheep"}
FOODS = {"bread", "cheese", "apple", "soup", "cake", "rice", "honey", "butter"}
TOOLS = {"hammer", "saw", "rope", "knife", "ladder", "needle", "shovel", "lamp"}
WEATHER = {"rain", "snow", "wind", "fog", "storm", "thunder", "frost", "hail"}
PLACES = {"river", "forest", "kitchen", "garden", "harbour", "tower", "market", "bridge"}
NUMBERS = {"two", "three", "four", "five", "six", "seven", "eight", "nine"}
NAMES = {"anna", "boris", "clara", "david", "elena", "felix", "greta", "henry"}
DEGREE = {"very", "quite", "rather", "too"}
SIZES = {"big", "small", "old", "young", "heavy", "light"}
MOVING = {"runs", "walks", "jumps", "swims", "flies", "climbs", "falls", "crawls"}
SEEING = {"sees", "hears", "finds", "watches", "likes", "fears"}
NEGATIONS = {"not", "never", "hardly"}
PREPOSITIONS = {"in", "near", "under", "behind", "beside", "above"}
DETERMINERS = {"the", "a", "this", "every"}
JOINING = {"and", "but", "because", "while"}
TIMES = {"today", "often", "suddenly", "slowly"}
ASKING = {"why", "how", "when", "where"}
STOPS = {".", "?"}
NOUNS = ANIMALS | FOODS | TOOLS | WEATHER | PLACES

Feature = Callable[[list[str], int], bool]


def _before(words: list[str], i: int, back: int, of: set[str]) -> bool:
    return i >= back and words[i - back] in of


def _inside(words: list[str], i: int, opens: str, closes: str) -> bool:
    state = False
    for word in words[:i]:
        state = word == opens or (state and word != closes)
    return state


def _sentence(words: list[str], i: int, of: set[str]) -> bool:
    start = i
    while start > 0 and words[start - 1] not in STOPS:
        start -= 1
    return any(word in of for word in words[start:i])


def _noun(words: list[str], i: int, of: set[str]) -> bool:
    nouns = [word for word in words[:i] if word in NOUNS]
    return bool(nouns) and nouns[-1] in of


FEATURES: tuple[Feature, ...] = (
    lambda w, i: w[i] in COLOURS,
    lambda w, i: w[i] in ANIMALS,
    lambda w, i: w[i] in FOODS,
    lambda w, i: w[i] in TOOLS,
    lambda w, i: w[i] in WEATHER,
    lambda w, i: w[i] in PLACES,
    lambda w, i: w[i] in NUMBERS,
    lambda w, i: w[i] in NAMES,
    lambda w, i: w[i] in SIZES,
    lambda w, i: w[i] in MOVING,
    lambda w, i: w[i] in SEEING,
    lambda w, i: w[i] in PREPOSITIONS,
    lambda w, i: w[i] in NEGATIONS,
    lambda w, i: w[i] in TIMES,
    lambda w, i: w[i] == "because",
    lambda w, i: w[i] == "river",
    lambda w, i: w[i] in SIZES and _before(w, i, 1, DEGREE),
    lambda w, i: w[i] in COLOURS and _before(w, i, 1, DEGREE),
    lambda w, i: w[i] in COLOURS and _before(w, i, 1, {"the"}),
    lambda w, i: w[i] in ANIMALS and _before(w, i, 1, COLOURS),
    lambda w, i: w[i] in FOODS and _before(w, i, 1, NUMBERS),
    lambda w, i: w[i] in TOOLS and _before(w, i, 1, SIZES),
    lambda w, i: w[i] in WEATHER and _before(w, i, 1, DETERMINERS),
    lambda w, i: w[i] in PLACES and _before(w, i, 1, {"every"}),
    lambda w, i: _before(w, i, 1, NEGATIONS),
    lambda w, i: _before(w, i, 1, {"“"}),
    lambda w, i: _before(w, i, 1, {"."}),
    lambda w, i: w[i] in NAMES and _before(w, i, 1, JOINING),
    lambda w, i: w[i] in MOVING and _before(w, i, 1, NAMES),
    lambda w, i: w[i] in SEEING and _before(w, i, 1, ANIMALS),
    lambda w, i: w[i] in NUMBERS and _before(w, i, 1, {"this"}),
    lambda w, i: w[i] in PREPOSITIONS and _before(w, i, 1, {"runs"}),
    lambda w, i: _inside(w, i, "“", "”"),
    lambda w, i: _inside(w, i, "(", ")"),
    lambda w, i: w[i] in ANIMALS and _inside(w, i, "“", "”"),
    lambda w, i: w[i] in SEEING and _inside(w, i, "“", "”"),
    lambda w, i: w[i] in MOVING and _sentence(w, i, NEGATIONS),
    lambda w, i: w[i] in PLACES and _sentence(w, i, NUMBERS),
    lambda w, i: w[i] in FOODS and _sentence(w, i, NAMES),
    lambda w, i: w[i] in DETERMINERS and _sentence(w, i, ASKING),
    lambda w, i: w[i] in COLOURS and _sentence(w, i, COLOURS),
    lambda w, i: w[i] in TOOLS and any(word in WEATHER for word in w[:i]),
    lambda w, i: w[i] in PREPOSITIONS and _noun(w, i, ANIMALS),
    lambda w, i: w[i] in JOINING and _noun(w, i, TOOLS),
    lambda w, i: w[i] in SEEING and _noun(w, i, WEATHER),
    lambda w, i: _before(w, i, 2, NAMES),
    lambda w, i: _before(w, i, 3, NUMBERS),
    lambda w, i: _before(w, i, 3, DEGREE),
)


def features(text: str) -> list[list[bool]]:
    """For every word of a text, which of the features hold there."""
    words = text.split()
    return [[feature(words, i) for feature in FEATURES] for i in range(len(words))]
