"""One labelled set as one coder sees it, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from sae_bench.data.labelled.encode import PartName
from sae_bench.engine.batch import Batch
from sae_bench.streams.token_codes import TokenCodes
from sae_bench.streams.token_sets import GroupTokens, Ints, TokenSets, among
from sae_bench.tasks.firing import PartTokens


class GroupCodes:
    """The codes of all coders on the tokens of a group of sets, and the labels of the set that is looked at.

    ``texts``: those of the group, of which those that no located set has are passed over.
    """

    def __init__(self, sets: TokenSets, texts: Ints, dtype: torch.dtype, *, waits: bool) -> None:
        self.sets = sets
        own = texts[among(texts, sets.texts)]
        self.tokens = GroupTokens(sets.suite, sets.mask, sets.special_ids, own)
        self._codes: dict[str, TokenCodes] = {}
        self._dtype, self._waits = dtype, waits
        self._parts: tuple[int, dict[PartName, PartTokens]] = (-1, {})

    def close(self) -> None:
        """Give the space back."""
        for codes in self._codes.values():
            codes.close()

    def of(self, key: str, n_latents: int) -> TokenCodes:
        """Those of one coder."""
        if key not in self._codes:
            self._codes[key] = TokenCodes(n_latents, len(self.tokens), self._dtype, waits=self._waits)
        return self._codes[key]

    def view(self, number: int, key: str) -> TokenSetView | None:
        """A set as one coder sees it; None for a set without labels of tokens, and for a coder without codes."""
        if number not in self.sets.usable or key not in self._codes:
            return None
        usable, parent = self.sets.usable, self.sets.parents.get(number)
        outer = None if parent is None else usable.index(parent)
        return TokenSetView(self, number, self._codes[key], usable.index(number), outer)

    def numbers(self, members: Sequence[int], batch: Batch) -> Ints:
        """The number of every token of a batch of the texts ``members``, -1 where it does not count."""
        found = np.full(int(batch.layout.lengths.sum()), -1, dtype=np.int64)
        begin = 0
        for text, length in zip(members, batch.layout.lengths.tolist(), strict=True):
            if self.tokens.there(text):
                found[begin : begin + length] = self.tokens.of_texts([text])[0]
            begin += length
        return np.where(batch.layout.kept, found, -1)

    def part(self, number: int, part: PartName) -> PartTokens:
        """The tokens of a part of a set that count."""
        if self._parts[0] != number:
            self._parts = number, {}
        if part not in self._parts[1]:
            self._parts[1][part] = self._made(number, part)
        return self._parts[1][part]

    def _made(self, number: int, part: PartName) -> PartTokens:
        suite, tokens = self.sets.suite, self.tokens
        half = getattr(suite.sets[number], part)
        numbers, rows = tokens.of_texts(half.texts)
        counted = tokens.counted[numbers]
        numbers, rows = numbers[counted], rows[counted]
        labels = among(numbers, tokens.labelled(suite.sets[number], part))
        parent = self.sets.parents.get(number)
        if parent is None:
            return PartTokens(numbers, rows, labels, tokens.ids[numbers], len(half.texts))
        outer = suite.sets[parent]
        shared = np.isin(half.texts, getattr(outer, part).texts)[rows]
        inside = shared & among(numbers, tokens.labelled(outer, part))
        return PartTokens(numbers, rows, labels, tokens.ids[numbers], len(half.texts), shared, inside)


@dataclass
class TokenSetView:
    """See :class:`sae_bench.tasks.firing.TokenView`."""

    group: GroupCodes
    place: int  # in the suite
    codes: TokenCodes
    number: int
    parent: int | None

    @cached_property
    def train(self) -> PartTokens:
        """The train part."""
        return self.group.part(self.place, "train")

    @cached_property
    def test(self) -> PartTokens:
        """The test part."""
        return self.group.part(self.place, "test")
