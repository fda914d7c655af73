"""Labelled sets that say which tokens their label is on: which take part, and which lies inside which.

All of it follows from the sets and the mask, before the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from sae_bench.data.labelled import LabelledSet, Suite
from sae_bench.data.labelled.encode import LEAST, PARTS, PartName
from sae_bench.data.mask import Mask, inside

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
FEWEST_TOKENS = 16  # of a child, and of its parent outside it, in each part
FEWEST_TEXTS = 4  # that hold these
SAMPLE = 64  # labelled tokens of a child that are looked up before all are
SHARED = 0.5  # of a child's labelled train tokens must lie in texts of which the parent has labels too


def among(some: Ints, ascending: Ints) -> Bools:
    """Which of ``some`` numbers are among others."""
    if not len(ascending):
        return np.zeros(len(some), dtype=bool)
    return np.asarray(ascending[np.searchsorted(ascending, some).clip(max=len(ascending) - 1)] == some)


class GroupTokens:
    """The tokens of some ``texts`` of a suite, numbered one text after the other, also those outside the mask."""

    def __init__(self, suite: Suite, mask: Mask, special_ids: frozenset[int], texts: Ints) -> None:
        ids = [suite.tokens[int(text)].ids for text in texts]
        self.lengths = np.array([len(own) for own in ids], dtype=np.int64)
        self.begins = self.lengths.cumsum() - self.lengths
        self.ids: Ints = np.concatenate([np.zeros(0, np.int64), *ids]).astype(np.int64)
        masks = [inside(own, mask, special_ids) for own in ids]
        self.counted: Bools = np.concatenate([np.zeros(0, bool), *masks])
        self._place = np.full(suite.tokens.n_units, -1, dtype=np.int64)
        self._place[texts] = np.arange(len(texts))

    def __len__(self) -> int:
        return len(self.ids)

    def of_texts(self, texts: Sequence[int] | Ints) -> tuple[Ints, Ints]:
        """The numbers of all tokens of some texts, all of which are here, and which of them each is of."""
        places = self._place[np.asarray(texts, dtype=np.int64)]
        lengths = self.lengths[places]
        rows = np.repeat(np.arange(len(places)), lengths)
        within = np.arange(len(rows)) - np.repeat(lengths.cumsum() - lengths, lengths)
        return self.begins[places][rows] + within, rows

    def there(self, text: int) -> bool:
        """Whether a text is here."""
        return bool(self._place[text] >= 0)

    def length(self, text: int) -> int:
        """How many tokens a text has that is here."""
        return int(self.lengths[self._place[text]])

    def labelled(self, one: LabelledSet, part: PartName) -> Ints:
        """The numbers of the tokens with the label of a set that count, ascending."""
        half = one.train if part == "train" else one.test
        assert half.places is not None
        begins = self.begins[self._place[half.texts]]
        found = [begin + places for begin, places in zip(begins, half.places, strict=True)]
        numbers = np.concatenate([np.zeros(0, np.int64), *found])
        return np.sort(numbers[self.counted[numbers]])


@dataclass(frozen=True, eq=False)
class TokenSets:
    """The sets of a suite that say which tokens their label is on, by their place in it."""

    suite: Suite
    mask: Mask
    special_ids: frozenset[int]

    @staticmethod
    def of(suite: Suite, mask: Mask, special_ids: frozenset[int]) -> TokenSets:
        """Those of a suite, worked out once for the suites that were last asked for."""
        return _of(suite, mask, special_ids)

    @property
    def located(self) -> list[int]:
        """All of them."""
        return [i for i, one in enumerate(self.suite.sets) if one.token_digest]

    @cached_property
    def texts(self) -> Ints:
        """The texts of the sets, each once."""
        return self._texts(self.located)

    @cached_property
    def measured(self) -> Ints:
        """The texts of the usable sets, each once."""
        return self._texts(self.usable)

    @property
    def n_counted(self) -> int:
        """How many of their tokens count."""
        return int(self.tokens.counted[self.tokens.of_texts(self.measured)[0]].sum())

    def _texts(self, chosen: Sequence[int]) -> Ints:
        halves = [half.texts for i in chosen for half in (self.suite.sets[i].train, self.suite.sets[i].test)]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *halves]))

    @cached_property
    def tokens(self) -> GroupTokens:
        """The tokens of these texts."""
        return GroupTokens(self.suite, self.mask, self.special_ids, self.texts)

    @cached_property
    def counts(self) -> dict[int, dict[PartName, tuple[int, int, int]]]:
        """Of each set and part: tokens that count, those with the label, and texts that hold such."""
        found: dict[int, dict[PartName, tuple[int, int, int]]] = {}
        for i in self.located:
            one = self.suite.sets[i]
            found[i] = {}
            for part in PARTS:
                half = one.train if part == "train" else one.test
                numbers, _ = self.tokens.of_texts(half.texts)
                own = self.tokens.labelled(one, part)
                n_texts = len(np.unique(np.searchsorted(self.tokens.begins, own, side="right")))
                found[i][part] = int(self.tokens.counted[numbers].sum()), len(own), n_texts
        return found

    @cached_property
    def usable(self) -> list[int]:
        """Those of which each part has enough texts with a token that has the label, and a token without."""
        return [i for i in self.located if self.too_few(i) is None]

    def too_few(self, number: int) -> str | None:
        """Why nothing can be said of a set, or None."""
        for part, (tokens, labelled, texts) in self.counts[number].items():
            if texts < LEAST[part]:
                return (
                    f"{texts} texts of its {part} part have a token with the label that counts and is not cut off, and "
                    f"{LEAST[part]} are needed"
                )
            if labelled == tokens:
                return f"all tokens of its {part} part have the label"
        return None

    @cached_property
    def parents(self) -> dict[int, int]:
        """Of every usable set that lies inside others by the labels of its train tokens, the smallest of these."""
        own = {i: {part: self.tokens.labelled(self.suite.sets[i], part) for part in PARTS} for i in self.usable}
        found: dict[int, int] = {}
        for group in self.suite.groups():
            for child in group:
                others = [(n, i) for i in group if i in own and i != child and child in own
                          if (n := self._outside(child, i, own)) is not None]  # fmt: skip
                if others:
                    found[child] = min(others)[1]
        return found

    def _outside(self, child: int, parent: int, own: dict[int, dict[PartName, Ints]]) -> int | None:
        """How many train tokens of shared texts only the parent has, None where the child does not lie inside it."""
        n_outside = 0
        for part in ("train", "test"):
            inner, outer = own[child][part], own[parent][part]
            mine, theirs = (self._members(i, part) for i in (child, parent))
            if not np.array_equal(mine, theirs):
                shared = np.intersect1d(mine, theirs, assume_unique=True)
                inner, outer = (self._in_texts(numbers, shared) for numbers in (inner, outer))
            if part == "train" and not among(inner[:SAMPLE], outer).all():
                return None
            both = among(inner, outer)
            if part == "train" and (not both.all() or len(inner) < SHARED * len(own[child][part])):
                return None
            only = outer[~among(outer, inner)]
            if not all(self._enough(numbers) for numbers in (inner[both], only)):
                return None
            n_outside = len(only) if part == "train" else n_outside
        return n_outside

    def _members(self, number: int, part: PartName) -> Ints:
        one = self.suite.sets[number]
        return (one.train if part == "train" else one.test).texts

    def _text_of(self, numbers: Ints) -> Ints:
        return self.texts[np.searchsorted(self.tokens.begins, numbers, side="right") - 1]

    def _in_texts(self, numbers: Ints, texts: Ints) -> Ints:
        return numbers[np.isin(self._text_of(numbers), texts)]

    def _enough(self, numbers: Ints) -> bool:
        return len(numbers) >= FEWEST_TOKENS and len(np.unique(self._text_of(numbers))) >= FEWEST_TEXTS

    def with_parents(self, chosen: Sequence[int]) -> list[int]:
        """These sets and all that they need: their parents, and so on."""
        wanted = list(chosen)
        for number in wanted:
            if (parent := self.parents.get(number)) is not None and parent not in wanted:
                wanted.append(parent)
        return sorted(wanted)


@lru_cache(maxsize=2)
def _of(suite: Suite, mask: Mask, special_ids: frozenset[int]) -> TokenSets:
    return TokenSets(suite, mask, special_ids)
