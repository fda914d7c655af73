"""The words of the language "context", and the descriptions that anybody who reads it could give: a word, and a place.

A :class:`Term` is *what* stands there (any word, a kind of word, one word) and *where* (anywhere, behind something,
inside a quotation, ...). It is written as people would write it and can be read back. All features of the language are
terms, and so are tens of thousands of things that are none: who reads a text has these words and not the truth.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Ids = NDArray[np.int64]

BEGIN = "<s>"
OPEN, CLOSE, LEFT, RIGHT = "“", "”", "(", ")"
KINDS = {
    "colours": "red blue green black white yellow brown grey",
    "animals": "dog cat horse bird wolf fox mouse bear frog sheep",
    "foods": "bread cheese apple soup cake rice honey butter",
    "tools": "hammer saw rope knife ladder needle shovel lamp",
    "weather words": "rain snow wind fog storm thunder frost hail",
    "places": "river forest kitchen garden harbour tower market bridge",
    "numbers": "two three four five six seven eight nine",
    "names of people": "anna boris clara david elena felix greta henry",
    "words of degree": "very quite rather too",
    "words of size": "big small old young heavy light",
    "verbs of moving": "runs walks jumps swims flies climbs falls crawls",
    "verbs of seeing": "sees hears finds watches likes fears",
    "verbs of speaking": "says asks shouts whispers",
    "negations": "not never hardly",
    "prepositions": "in near under behind beside above",
    "determiners": "the a this every",
    "words that join": "and but because while",
    "words of time": "today often suddenly slowly",
    "words that ask": "why how when where",
    "stops": ". ?",
    "quotation marks": f"{OPEN} {CLOSE}",
    "brackets": f"{LEFT} {RIGHT}",
}
WORDS = (BEGIN, *" ".join(KINDS.values()).split())
ID = {word: i for i, word in enumerate(WORDS)}
NOUNS = ("animals", "foods", "tools", "weather words", "places")

BEHIND = ("right after", "two words after", "three words after")
INSIDE = {"inside a quotation": (OPEN, CLOSE), "inside brackets": (LEFT, RIGHT)}
IN_SENTENCE, IN_TEXT, LAST_NOUN = (
    "later in a sentence with",
    "anywhere later in a text with",
    "while the last noun was of",
)


@dataclass(frozen=True)
class Term:
    """``what`` is "any word", a kind or one word; ``where`` a place ("": anywhere), and ``of`` its kind or word."""

    what: str
    where: str = ""
    of: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.where, self.of) if part)

    @property
    def expressible(self) -> bool:
        """Whether a word and the one before it decide whether it holds: a rule of tokens and pairs can say it."""
        return self.where in ("", BEHIND[0])


def quoted(word: str) -> str:
    """One word as a description names it."""
    return f"the word '{word}'"


@cache
def whats() -> dict[str, Flags]:
    """Everything that can stand somewhere, with the words that are it ``[types]``; any word first."""
    found = {"any word": np.array([word != BEGIN for word in WORDS])}
    for kind, words in KINDS.items():
        found[kind] = np.isin(WORDS, words.split())
    return found | {quoted(word): np.array(WORDS) == word for word in WORDS if word != BEGIN}


@cache
def places() -> tuple[tuple[str, str], ...]:
    """Every (where, of) of a term."""
    behind = [(where, of) for where in BEHIND for of in whats() if of != "any word"]
    before = [(where, kind) for where in (IN_SENTENCE, IN_TEXT) for kind in KINDS]
    return (("", ""), *behind, *((one, "") for one in INSIDE), *before, *((LAST_NOUN, kind) for kind in NOUNS))


def known(word: str) -> int:
    """The id of a word; that of the beginning for what is no word of the language."""
    return ID.get(word, 0)


def rows(texts: Sequence[Sequence[str]]) -> Ids:
    """Texts of words as ids ``[texts, longest]``, filled up with the beginning, which is no word."""
    found = np.zeros((len(texts), max(map(len, texts), default=0)), dtype=np.int64)
    for i, text in enumerate(texts):
        found[i, : len(text)] = [known(word) for word in text]
    return found


def standing(ids: Ids, names: Sequence[str]) -> Flags:
    """Where each of some whats stands in texts ``[texts, words]``: ``[names, texts, words]``."""
    return np.stack([whats()[name] for name in names])[:, ids]


def placed(ids: Ids, where: str, names: Sequence[str]) -> Flags:
    """The places that ``where`` with each of ``names`` means, ``[names, texts, words]``; a text begins where it begins.

    ``names`` is ("",) for a where that needs none.
    """
    if where == "":
        return np.ones((len(names), *ids.shape), dtype=np.bool_)
    if where in INSIDE:
        opens, closes = INSIDE[where]
        return _since(ids == ID[opens], ids == ID[closes])[None]
    own = standing(ids, names)
    if where in BEHIND:
        return _shifted(own, BEHIND.index(where) + 1)
    if where == IN_SENTENCE:
        return _since(own, standing(ids, ["stops"]))
    if where == IN_TEXT:
        return _since(own, np.zeros_like(own))
    if where == LAST_NOUN:
        return _since(own, standing(ids, NOUNS).any(0) & ~own)
    raise KeyError(where)


def everywhere(ids: Ids) -> Flags:
    """The places of :func:`places` in their order ``[places, texts, words]``."""
    groups = itertools.groupby(places(), key=itemgetter(0))
    return np.concatenate([placed(ids, where, [of for _, of in group]) for where, group in groups])


def holds(term: Term, ids: Ids) -> Flags:
    """Where a term holds in texts ``[texts, words]``."""
    found: Flags = whats()[term.what][ids] & placed(ids, term.where, (term.of,))[0]
    return found


def _shifted(flags: Flags, by: int) -> Flags:
    """What was so many words before."""
    found = np.zeros_like(flags)
    found[..., by:] = flags[..., : flags.shape[-1] - by]
    return found


def _since(begins: Flags, ends: Flags) -> Flags:
    """Where something has begun at an earlier word, and has not ended at a later one that is earlier too."""
    place = np.arange(begins.shape[-1]) + 1
    last = [np.maximum.accumulate(np.where(one, place, 0), axis=-1) for one in (begins, ends)]
    return _shifted(last[0] > last[1], 1)


@cache
def terms() -> dict[str, Term]:
    """Every term by how it is written."""
    every = (Term(what, where, of) for what in whats() for where, of in places())
    return {str(term): term for term in every}


def read(description: str) -> list[Term]:
    """The terms that a description is made of, with "; or " between them; those that are none are left out."""
    parts = [part.strip() for part in description.split("; or ")]
    return [terms()[part] for part in parts if part in terms()]
