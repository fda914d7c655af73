"""Groups of units: what a user says belongs together, under names that no label can forge.

A label is untrusted text. What stands in ids is a digest of it, so that no label can be taken for another one, break
the ids of a table, or be longer than they are.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from sae_bench.data.rows import Unit
from sae_bench.data.tokens import IntArray, TokenSet
from sae_bench.errors import DataError, UsageError
from sae_bench.units.groups import group_of

REMEDY = "give every one the name of what it comes from"
LARGEST = 8  # groups that details show
_SAFE = re.compile(r"[\w][\w .,/+-]{0,39}", re.ASCII)


def label_of(value: Any, where: str) -> str:
    """A label as text: ``3`` and ``"3"`` are one. Raises DataError for what is no text, no integer or not printable."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, str | int | np.integer):
        raise DataError(f"{where} must be a text or an integer, got {type(value).__name__}; {REMEDY}.")
    try:
        text = str(value)
    except ValueError:  # Python writes no integer of thousands of digits
        raise DataError(f"{where} must be a text or an integer, got one of thousands of digits; {REMEDY}.") from None
    if not text.strip() or not text.isprintable():
        raise DataError(f"{where} must be a printable text and not empty, got {text[:40]!r}; {REMEDY}.")
    return text


def labels_given(groups: Any) -> list[str]:
    """The labels in a list, tuple, array, tensor or series ``[rows]``. Raises UsageError, DataError."""
    listed = groups.tolist() if hasattr(groups, "tolist") else groups
    if not isinstance(listed, list | tuple):
        raise UsageError(f"groups must be a list of one label for every text or row, got {type(groups).__name__}")
    return [label_of(value, f"the group of row {row}") for row, value in enumerate(listed)]


def name_of(label: str) -> str:
    """What a group is called in ids: 16 hex digits of its label's digest."""
    return hashlib.blake2b(label.encode(), digest_size=8, person=b"group").hexdigest()


def content_of(ids: IntArray) -> str:
    """What a unit is called in ids: 16 hex digits of the digest of its content."""
    return hashlib.blake2b(ids.astype("<i4").tobytes()).hexdigest()[:16]


class Grouping:
    """The groups of units as they come.

    A text that was there before belongs to the group that it had first: copies are one group whatever their labels say,
    so they are also on one side of the calibration split.
    """

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self._first: dict[str, str] = {}

    def named(self, unit: Unit) -> Unit:
        """The unit with the name of its group in the place of its label; a unit without label stays as it is."""
        if unit.group is None:
            return unit
        name = name_of(unit.group)
        self.labels.setdefault(name, unit.group)
        return unit._replace(group=self._first.setdefault(content_of(unit.ids), name))


class Split:
    """Which groups are set aside for calibration, and how many of each side were seen.

    A keyed hash of the group's name decides, or of the content where there is none: no group is on both sides, and none
    changes sides as others come. The group ``moved`` alone is on the other side: see :meth:`to_move`.
    """

    def __init__(self, share: float, seed: int, moved: bytes | None = None) -> None:
        self._share, self._moved = share, moved
        self._key = str(seed).encode()[:64]
        self.seen = {True: 0, False: 0}
        self._nearest: tuple[float, bytes] | None = None  # to the bound between the sides
        self._several = False

    def aside(self, unit: Unit) -> bool:
        """Whether a unit is for calibration."""
        name = unit.ids.astype("<i4").tobytes() if unit.group is None else unit.group.encode()
        digest = hashlib.blake2b(name, digest_size=8, key=self._key, person=b"calibration").digest()
        place = int.from_bytes(digest, "little")
        aside = (place < self._share * 2.0**64) != (digest == self._moved)
        self.seen[aside] += 1
        near = abs(place - self._share * 2.0**64), digest
        self._several |= self._nearest is not None and self._nearest != near
        self._nearest = min(self._nearest or near, near)
        return aside

    def to_move(self) -> bytes | None:
        """The group that would have to change sides, where all of several are on one: that nearest to the other.

        None where there is a group on each, or only one in all, or none may be set aside.
        """
        if all(self.seen.values()) or not self._several or self._nearest is None or not self._share:
            return None
        return self._nearest[1]


def largest(tokens: TokenSet, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The groups that hold most tokens, with how many units and tokens each has; a label is shown if it is harmless."""
    of_unit = [group_of(unit) for unit in tokens.unit_ids]
    units, sizes = Counter(of_unit), Counter[str]()
    for unit, length in zip(tokens.units.tolist(), np.diff(tokens.offsets).tolist(), strict=True):
        sizes[of_unit[unit]] += length
    first = sorted(sizes, key=lambda name: (-sizes[name], name))[:LARGEST]
    return [{"group": _shown(name, labels), "units": units[name], "tokens": sizes[name]} for name in first]


def _shown(name: str, labels: Mapping[str, str]) -> str:
    label = labels.get(name, name)
    return label if _SAFE.fullmatch(label) else name
