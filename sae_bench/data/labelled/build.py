"""The examples of a probe set: what is there twice is left out, and a choice is made among the rest.

Two texts are the same text where the language model cannot tell them apart: equal token ids after truncation. The
choice among more examples than the limits allow depends on nothing but the texts themselves and the seed: the order of
the rows has no say in it, and sets made of the same texts choose the same ones, so that the model runs on fewer.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_bench.data.labelled.encode import (
    LEAST,
    PARTS,
    BadText,
    Encoded,
    Encoder,
    LabelledOptions,
    PartName,
    Unusable,
    keyed,
)
from sae_bench.data.labelled.spans import Spans
from sae_bench.data.tokens import IntArray
from sae_bench.errors import DataError

Where = Callable[[PartName, int | None], str]
# How many times more candidates than the limit are held: some are left out later, as copies or contradictions.
SPARE = 2


@dataclass(frozen=True, eq=False)
class Draft:
    """The chosen examples of a set, in the order of their keys, before its texts have a place in the suite.

    ``places``: which tokens of each have the label, None where the set does not say it.
    """

    name: str
    examples: dict[PartName, list[tuple[Encoded, bool]]]
    notes: dict[str, Any]
    source: str
    places: dict[PartName, list[IntArray]] | None = None


class _Smallest:
    """The `size` texts with the smallest keys (None: all), whatever the order in which they come."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._largest_first: list[int] = []
        self._kept: dict[int, Encoded] = {}

    def add(self, key: int, encoded: Encoded) -> None:
        if key in self._kept:
            return
        self._kept[key] = encoded
        heapq.heappush(self._largest_first, -key)
        if self._size is not None and len(self._kept) > self._size:
            del self._kept[-heapq.heappop(self._largest_first)]

    def __iter__(self) -> Iterator[tuple[int, Encoded]]:
        return iter(sorted(self._kept.items(), key=lambda item: item[0]))


class _PartBuilder:
    """What is known of one part: every text by its unit (label and row), and the candidates of each class."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.seen: dict[str, tuple[bool, int]] = {}
        self.conflicting: set[str] = set()
        self.places: dict[str, IntArray] = {}  # by unit: which tokens have the label, where that is said
        self.nowhere: int | None = None  # the row of the first positive text of which it is not
        self.candidates = {label: _Smallest(None if limit is None else SPARE * limit) for label in (False, True)}
        self.counts: Counter[str] = Counter()


class SetBuilder:
    """Collects the examples of one set, and chooses among them at the end.

    With `where`, which names the place of a row in a part (None: the part), the set must be clean: a bad text, a text
    with both labels or in both parts, and a part with too few examples of a class raise `DataError`. Without it, bad
    and contradictory texts are left out, texts of the test part are left out of the train part, all are counted in
    the notes, and too few examples raise `Unusable`. Copies inside a part are left out and counted in either case.

    `balanced` chooses as many positive as negative examples, rather than in proportion to what there is; `least` is
    the fewest examples that each class of a part must have.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        options: LabelledOptions,
        *,
        where: Where | None = None,
        balanced: bool = False,
        least: dict[PartName, int] | None = None,
    ) -> None:
        self.name = name
        self._encoder, self._seed, self._where, self._balanced = encoder, str(options.seed), where, balanced
        self._least = LEAST if least is None else least
        self._parts = {part: _PartBuilder(options.limit(part)) for part in PARTS}
        self._spans = False  # whether any row says where its label is

    def add(self, part: PartName, text: str, label: bool, row: int = 0, spans: Spans | None = None) -> None:
        """Take one example; `row` says where it was found, `spans` where in the text the label is (None: not said)."""
        here = self._parts[part]
        here.counts["read"] += 1
        try:
            encoded = self._encoder.encode(text)
        except BadText as error:
            if self._where is not None:
                self._refuse(f"the text of {self._where(part, row)} {error}; remove the row or correct it")
            here.counts["bad_texts"] += 1
            return
        unit = encoded.unit
        known = here.seen.setdefault(unit, (label, row))
        if self._where is not None:
            self._check_clean(self._where, part, encoded, row, label)
        self._locate(part, text, label, row, spans, unit)
        if known[0] != label:
            here.conflicting.add(unit)
        here.candidates[label].add(keyed("probe choice", self._seed, text), encoded)

    def _locate(self, part: PartName, text: str, label: bool, row: int, spans: Spans | None, unit: str) -> None:
        """Keep which tokens of a text have its label; of copies that say it differently, in a set that may, all."""
        here = self._parts[part]
        if spans and not label and self._where is not None:
            self._refuse(f"{self._where(part, row)} has the label 0 and spans where it is; remove one")
        if label and not spans:
            here.nowhere = row if here.nowhere is None else here.nowhere
        if not label or not spans or not self._encoder.locates:
            self._spans |= bool(spans)
            return
        self._spans = True
        found = self._encoder.places(text, spans)
        known = here.places.setdefault(unit, found)
        if not np.array_equal(known, found):
            if self._where is not None:
                places = f"{self._where(part, here.seen[unit][1])} and {self._where(part, row)}"
                self._refuse(f"{places} hold the same text with different spans; remove one")
            here.places[unit] = np.union1d(known, found)

    def _located(self, examples: dict[PartName, list[tuple[Encoded, bool]]]) -> dict[PartName, list[IntArray]] | None:
        """Which tokens of each chosen text have the label; None where no text says it, or the tokenizer cannot."""
        if not self._spans or not self._encoder.locates:
            return None
        for part, here in self._parts.items():
            if here.nowhere is not None and self._where is not None:
                self._refuse(
                    f"{self._where(part, here.nowhere)} has the label 1 and no span that says where, as other rows "
                    "have; add it, or remove the column 'spans'"
                )
        none = np.zeros(0, dtype=np.int32)
        return {
            part: [self._parts[part].places.get(encoded.unit, none) for encoded, _ in chosen]
            for part, chosen in examples.items()
        }

    def _check_clean(self, where: Where, part: PartName, encoded: Encoded, row: int, label: bool) -> None:
        cut = f" (cut to {len(encoded.ids)} tokens)" if encoded.truncated else ""
        remedy = "remove one, or give a longer context" if encoded.truncated else "remove one"
        first_label, first_row = self._parts[part].seen[encoded.unit]
        if first_label != label:
            places = f"{where(part, first_row)} and {where(part, row)}"
            self._refuse(f"{places} hold the same text{cut} with different labels; {remedy}")
        other: PartName = "test" if part == "train" else "train"
        if encoded.unit in self._parts[other].seen:
            places = f"{where(other, self._parts[other].seen[encoded.unit][1])} and {where(part, row)}"
            self._refuse(f"{places} hold the same text{cut}, and a text may be in one part only; {remedy}")

    def _refuse(self, reason: str) -> None:
        raise DataError(f"Probe set {self.name!r}: {reason}.")

    def distinct(self, part: PartName) -> Counter[bool]:
        """How many different usable texts of each class a part has."""
        here, test = self._parts[part], self._parts["test"].seen
        return Counter(
            label
            for unit, (label, _) in here.seen.items()
            if unit not in here.conflicting and (part == "test" or unit not in test)
        )

    def finish(self, source: str, **notes: Any) -> Draft:
        """The chosen examples. Raises `DataError` (with `where`) or `Unusable` if a class of a part has too few."""
        examples = {part: self._choose(part) for part in PARTS}
        notes |= {part: self._notes(part, examples[part]) for part in PARTS}
        if self._spans and not self._encoder.locates:
            notes["spans_left_out"] = "the tokenizer does not say which characters its tokens have"
        return Draft(self.name, examples, notes, source, self._located(examples))

    def _choose(self, part: PartName) -> list[tuple[Encoded, bool]]:
        here, available, least = self._parts[part], self.distinct(part), self._least[part]
        if min(available[True], available[False]) < least:
            found = f"the {part} part has {available[True]} positive and {available[False]} negative texts"
            reason = f"{found}, and each class needs at least {least}"
            if self._where is not None:
                self._refuse(f"{reason}; add examples to {self._where(part, None)}")
            raise Unusable(reason)
        quota = quotas(available, here.limit, least, self._balanced)
        chosen: list[tuple[int, Encoded, bool]] = []
        for label, candidates in here.candidates.items():
            taken: set[str] = set()
            for key, encoded in candidates:
                if len(taken) < quota[label] and encoded.unit not in taken and self._usable(part, encoded.unit):
                    taken.add(encoded.unit)
                    chosen.append((key, encoded, label))
        return [(encoded, label) for _, encoded, label in sorted(chosen, key=lambda item: item[0])]

    def _usable(self, part: PartName, unit: str) -> bool:
        in_test = part == "train" and unit in self._parts["test"].seen
        return not in_test and unit not in self._parts[part].conflicting

    def _notes(self, part: PartName, chosen: list[tuple[Encoded, bool]]) -> dict[str, Any]:
        here = self._parts[part]
        positive = sum(label for _, label in chosen)
        notes: dict[str, Any] = {
            "read": here.counts["read"],
            "used": len(chosen),
            "base_rate": positive / len(chosen),
            "truncated": sum(encoded.truncated for encoded, _ in chosen),
            "bad_texts_left_out": here.counts["bad_texts"],
            "duplicates_left_out": here.counts["read"] - here.counts["bad_texts"] - len(here.seen),
            "texts_with_both_labels_left_out": len(here.conflicting),
        }
        if part == "train":
            notes["texts_of_the_test_part_left_out"] = len(here.seen.keys() & self._parts["test"].seen.keys())
        return notes


def quotas(available: Counter[bool], limit: int | None, least: int, balanced: bool) -> dict[bool, int]:
    """How many examples of each class to take: all, or `limit` in proportion to what there is (or half of each).

    A rare class keeps at least `least` examples where it has them.
    """
    positive, negative = available[True], available[False]
    if balanced:
        each = min(positive, negative, positive if limit is None else limit // 2)
        return {True: each, False: each}
    total = positive + negative
    if limit is None or total <= limit:
        return {True: positive, False: negative}
    share = (2 * limit * positive + total) // (2 * total)  # rounded to the nearest example
    least = min(least, limit // 2)
    share = min(max(share, min(least, positive)), limit - min(least, negative))
    return {True: share, False: limit - share}
