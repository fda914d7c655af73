"""Sequences of token ids, each of one unit, in contiguous storage."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sae_bench.units.groups import BEFORE, group_of

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Sequence:
    """One input of the language model: `ids` `[length]` and the index of its unit in `TokenSet.unit_ids`."""

    unit: int
    ids: IntArray


@dataclass(frozen=True, eq=False)
class TokenSet:
    """Ragged sequences in contiguous storage; the sequences of a unit are neighbours, in the order of the text.

    `ids` `[tokens]`; sequence `s` is `ids[offsets[s]:offsets[s + 1]]` and belongs to unit `units[s]`, so `offsets` is
    `[sequences + 1]` and `units` `[sequences]`. `unit_ids` names each unit by its content without the BOS that was
    added: 16 hex digits of blake2b, with `#2`, `#3`, ... for further units of the same content; before it stands the
    group of a unit that belongs to one (see :mod:`sae_bench.units.groups`). `padded_ends` are the
    sequences whose last id is an end of text that is also the padding of their source: it is read, but no target.
    `sources` says of each unit what kind of text it is (the demo: news, code, ...), None where nobody says so; it is
    empty where that is so of all. Tables may be made by it; nothing is resampled by it.
    """

    ids: IntArray
    offsets: npt.NDArray[np.int64]
    units: IntArray
    unit_ids: tuple[str, ...]
    padded_ends: frozenset[int] = frozenset()
    sources: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, index: int) -> Sequence:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"sequence {index} of {size}")
        index %= size
        return Sequence(int(self.units[index]), self.ids[self.offsets[index] : self.offsets[index + 1]])

    def __iter__(self) -> Iterator[Sequence]:
        return (self[index] for index in range(len(self)))

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.unit_ids)

    @property
    def n_groups(self) -> int:
        """Number of groups: of what is resampled."""
        return len({group_of(unit) for unit in self.unit_ids})

    @property
    def n_tokens(self) -> int:
        """Number of ids, added BOS ids included."""
        return len(self.ids)

    @property
    def longest(self) -> int:
        """Length of the longest sequence in tokens, 0 for an empty set."""
        return int(np.diff(self.offsets).max(initial=0))

    def sequence_name(self, index: int) -> str:
        """A name for a sequence: that of its unit, with `/1`, `/2`, ... behind it from its second sequence on."""
        place = index - self._first[int(self.units[index])]
        name = self.unit_ids[int(self.units[index])]
        return f"{name}/{place}" if place else name

    @cached_property
    def _first(self) -> dict[int, int]:
        """The first sequence of every unit."""
        units, places = np.unique(self.units, return_index=True)
        return dict(zip(units.tolist(), places.tolist(), strict=True))

    @cached_property
    def sha256(self) -> str:
        """Hex digest over all ids, the boundaries of the sequences, their units, and which ends are no target.

        Groups are in it too where there are any, since intervals depend on them.
        """
        digest = hashlib.sha256()
        for part, dtype in ((self.offsets, "<i8"), (self.units, "<i4"), (self.ids, "<i4")):
            digest.update(np.ascontiguousarray(part, dtype=dtype).data)
        if self.padded_ends:
            digest.update(np.array(sorted(self.padded_ends), dtype="<i8").data)
        if any(BEFORE in unit for unit in self.unit_ids):
            digest.update("\n".join(map(group_of, self.unit_ids)).encode())
        return digest.hexdigest()
