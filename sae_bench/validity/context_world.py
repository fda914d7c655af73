"""A language in which what a word means depends on the words before it, and every feature has a name.

The residual stream of its model is, at every word, a mean, what word it is (a small vector that no feature is), and a
sum of strength times direction over the features that hold there. 48 features: 16 are kinds of words; 16 also ask for
the word before, so that a rule of tokens and pairs can say them as well; 16 ask for what is further away: a quotation
that is open, a negation earlier in the sentence, a number three words before. All are :class:`Term`, and true of a text
by itself. A small grammar makes the sentences; most nouns of a document are of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sae_bench.validity.context_words import (
    BEHIND,
    CLOSE,
    ID,
    IN_SENTENCE,
    IN_TEXT,
    INSIDE,
    KINDS,
    LAST_NOUN,
    LEFT,
    OPEN,
    RIGHT,
    WORDS,
    Flags,
    Ids,
    Term,
    holds,
    quoted,
    whats,
)  # fmt: skip
from sae_bench.validity.numbers import Array, Numbers

WIDTH, SPELLING = 80, 16  # of the residual stream, and of its part that says which word it is
LENGTH = 64  # words of a document
HOOK = "blocks.0.hook_resid_post"
ANY = "any word"
QUOTED, BRACKETED = INSIDE

FEATURES: tuple[Term, ...] = (
    *map(Term, ("colours", "animals", "foods", "tools", "weather words", "places", "numbers", "names of people")),
    *map(Term, ("words of size", "verbs of moving", "verbs of seeing", "prepositions", "negations", "words of time")),
    *map(Term, (quoted("because"), quoted("river"))),
    Term("words of size", BEHIND[0], "words of degree"),
    Term("colours", BEHIND[0], "words of degree"),
    Term("colours", BEHIND[0], quoted("the")),
    Term("animals", BEHIND[0], "colours"),
    Term("foods", BEHIND[0], "numbers"),
    Term("tools", BEHIND[0], "words of size"),
    Term("weather words", BEHIND[0], "determiners"),
    Term("places", BEHIND[0], quoted("every")),
    Term(ANY, BEHIND[0], "negations"),
    Term(ANY, BEHIND[0], quoted(OPEN)),
    Term(ANY, BEHIND[0], quoted(".")),
    Term("names of people", BEHIND[0], "words that join"),
    Term("verbs of moving", BEHIND[0], "names of people"),
    Term("verbs of seeing", BEHIND[0], "animals"),
    Term("numbers", BEHIND[0], quoted("this")),
    Term("prepositions", BEHIND[0], quoted("runs")),
    Term(ANY, QUOTED),
    Term(ANY, BRACKETED),
    Term("animals", QUOTED),
    Term("verbs of seeing", QUOTED),
    Term("verbs of moving", IN_SENTENCE, "negations"),
    Term("places", IN_SENTENCE, "numbers"),
    Term("foods", IN_SENTENCE, "names of people"),
    Term("determiners", IN_SENTENCE, "words that ask"),
    Term("colours", IN_SENTENCE, "colours"),
    Term("tools", IN_TEXT, "weather words"),
    Term("prepositions", LAST_NOUN, "animals"),
    Term("words that join", LAST_NOUN, "tools"),
    Term("verbs of seeing", LAST_NOUN, "weather words"),
    Term(ANY, BEHIND[1], "names of people"),
    Term(ANY, BEHIND[2], "numbers"),
    Term(ANY, BEHIND[2], "words of degree"),
)
TOPICS = ("animals", "foods", "tools", "weather words")


@dataclass(frozen=True)
class World:
    """One language and all that is true of it.

    ``directions`` ``[features, width]`` are unit vectors, ``strengths`` ``[types, features]`` how strong a feature is
    at a word where it holds, ``spelling`` ``[types, width]`` what says which word it is, ``mean`` ``[width]`` what all
    words share. Spelling is orthogonal to directions and mean.
    """

    seed: int
    directions: Array
    strengths: Array
    spelling: Array
    mean: Array

    @cached_property
    def readout(self) -> Array:
        """What gives back the strengths of a sum of directions ``[width, features]``."""
        found: Array = np.asarray(np.linalg.pinv(self.directions), dtype=np.float64)
        return found

    @cached_property
    def sample(self) -> Ids:
        """Text that no task reads ``[documents, words]``: on it is decided how good an SAE is."""
        return self.ids(240, "sample")

    @cached_property
    def has(self) -> Flags:
        """Which features hold at every word of the sample ``[words, features]``."""
        return true(self.sample).reshape(-1, len(FEATURES))

    @cached_property
    def stream(self) -> Array:
        """The residual stream of the sample ``[words, width]``."""
        return self.activations(self.sample).reshape(-1, WIDTH)

    @cached_property
    def rates(self) -> Array:
        """How often each feature is ``[features]``."""
        found: Array = self.has.mean(0)
        return found

    def activations(self, ids: Ids) -> Array:
        """The residual stream of texts ``[texts, words, width]``."""
        found: Array = (true(ids) * self.strengths[ids]) @ self.directions + self.spelling[ids] + self.mean
        return found

    def ids(self, n: int, what: str, length: int = LENGTH) -> Ids:
        """``n`` documents of ``length`` words ``[n, length]``, without the beginning."""
        numbers = Numbers(self.seed, "text", what)
        return np.array([_document(numbers.uniform(6 * length + 64), length) for _ in range(n)])


def world(seed: int) -> World:
    """The language of a seed."""
    numbers = Numbers(seed, "context")
    basis = np.linalg.qr(numbers.normal(WIDTH, WIDTH))[0]
    own, rest = basis[:, :SPELLING], basis[:, SPELLING:]
    directions = numbers.directions(len(FEATURES), WIDTH - SPELLING) @ rest.T
    strengths = 0.7 + 0.6 * numbers.uniform(len(WORDS), len(FEATURES))
    spelling = 0.5 * numbers.directions(len(WORDS), SPELLING) @ own.T
    mean = 1.5 * numbers.directions(1, WIDTH - SPELLING)[0] @ rest.T
    return World(seed, directions, strengths, spelling, mean)


def true(ids: Ids) -> Flags:
    """Which features hold at every word ``[texts, words, features]``, by the text alone."""
    return np.stack([holds(term, ids) for term in FEATURES], axis=-1)


def text(ids: Ids) -> list[str]:
    """Documents as text, a word a token."""
    return [" ".join(WORDS[i] for i in row) for row in ids.tolist()]


class _Luck:
    """Numbers of one document, one after another."""

    def __init__(self, numbers: Array) -> None:
        self._numbers: Iterator[float] = iter(numbers.tolist())

    def __call__(self, chance: float) -> bool:
        return next(self._numbers) < chance

    def of(self, kind: str) -> str:
        """A word of a kind; earlier ones are more frequent."""
        words = KINDS[kind].split()
        return words[int(len(words) * next(self._numbers) ** 1.4)]

    def one(self, names: tuple[str, ...]) -> str:
        """One of some names, all as often."""
        return names[int(len(names) * next(self._numbers))]


def _document(numbers: Array, length: int) -> list[int]:
    luck = _Luck(numbers)
    topic = luck.one(TOPICS)
    words: list[str] = []
    while len(words) < length:
        words += _sentence(luck, topic)
    return [ID[word] for word in words[:length]]


def _sentence(luck: _Luck, topic: str) -> list[str]:
    if luck(0.12):
        return [luck.of("words that ask"), *_clause(luck, topic), "?"]
    if luck(0.16):
        return [luck.of("names of people"), luck.of("verbs of speaking"), OPEN, *_clause(luck, topic), CLOSE, "."]
    first = _clause(luck, topic)
    more = [luck.of("words that join"), *_clause(luck, topic)] if luck(0.45) else []
    return [*first, *more, "."]


def _clause(luck: _Luck, topic: str) -> list[str]:
    subject = [luck.of("names of people")] if luck(0.35) else _thing(luck, topic)
    negated = [luck.of("negations")] if luck(0.2) else []
    if luck(0.5):
        where = _whereabouts(luck) if luck(0.6) else []
        return [*subject, *negated, luck.of("verbs of moving"), *([luck.of("words of time")] if luck(0.25) else where)]
    return [*subject, *negated, luck.of("verbs of seeing"), *_thing(luck, topic)]


def _whereabouts(luck: _Luck) -> list[str]:
    return [luck.of("prepositions"), luck.of("determiners"), luck.of("places")]


def _thing(luck: _Luck, topic: str) -> list[str]:
    """A noun, mostly of what the document is about, with what stands before and behind it."""
    found = [luck.of("determiners")]
    found += [luck.of("numbers")] if luck(0.2) else []
    found += [luck.of("words of degree")] if luck(0.2) else []
    found += [luck.of("words of size")] if luck(0.3) else []
    found += [luck.of("colours")] if luck(0.35) else []
    found += [luck.of(topic if luck(0.6) else luck.one(TOPICS))]
    return [*found, LEFT, *_whereabouts(luck), RIGHT] if luck(0.1) else found


assert len(whats()) == len(WORDS) + len(KINDS)  # a kind, a word, or any; no word has two kinds
