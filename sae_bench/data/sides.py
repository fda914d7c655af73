"""What one side of a text takes: evaluation or calibration, up to so many units and tokens, spread over groups.

Under a limit of tokens no group has more than its share as long as there are further groups: of a long document
sequences are taken that a hash chooses among all of its own, of many rows the first. If a text has too few groups for
that, they are filled up evenly, a sequence at a time, the smallest first, and of each a sequence of as many units as it
has. What a smaller limit takes is among what a larger one takes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from sae_bench.data.groups import content_of
from sae_bench.data.packing import Packer
from sae_bench.data.rows import LEAST, Unit
from sae_bench.data.tokens import IntArray, TokenSet
from sae_bench.units.groups import in_group

SPREAD = 512  # groups over which tokens are spread, if there are as many
CHARACTERS = 4  # of a token, in a text that is passed over
NO_IDS: IntArray = np.empty(0, np.int32)
LOOKED_THROUGH = 1 << 20  # tokens that are looked through without a new group before there are taken to be no others


@dataclass(frozen=True)
class Most:
    """The most units and tokens of a side (None: all); tokens are counted with the BOS before each sequence."""

    units: int | None = None
    tokens: int | None = None

    @staticmethod
    def of(units: int | None, tokens: int | None, sequences: int | None, longest: int) -> Most:
        """``sequences`` is a limit of tokens too: those of so many sequences of the longest kind."""
        given = [tokens, None if sequences is None else sequences * longest]
        return Most(units, min((n for n in given if n is not None), default=None))

    def share(self, longest: int) -> int | None:
        """The tokens that one group may have while there are others: at least one sequence."""
        if self.tokens is None:
            return None
        return max(longest, self.tokens // min(SPREAD, self.units or SPREAD))


@dataclass(eq=False)
class _Candidate:
    """A unit with its sequences (place in the unit, ids without BOS) in the order in which they are taken."""

    unit: Unit
    name: str
    group: str
    size: int
    pieces: list[tuple[int, IntArray]]
    taken: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether less than all of the unit is taken."""
        return sum(len(ids) for _, ids in self.pieces[: self.taken]) < self.size


class Side:
    """A growing :class:`TokenSet` of at most ``most`` units and tokens.

    ``room`` is how many ids a sequence has beside ``bos`` (None: none is added). ``divisible``: a sequence may be cut
    to what is left of the tokens. ``packer`` joins documents, None where the unit is what comes.
    """

    def __init__(
        self, most: Most, room: int, bos: int | None, *, seed: int, divisible: bool, packer: Packer | None
    ) -> None:
        self.most, self.room, self.packer = most, room, packer
        self.start = np.array([] if bos is None else [bos], dtype=np.int32)
        self.share = most.share(room + len(self.start))
        self._seed, self._divisible = str(seed).encode()[:64], divisible
        self.ids, self.offsets, self.units = array("i"), array("q", [0]), array("i")
        self.unit_ids: list[str] = []
        self.sources: list[str | None] = []
        self.padded_ends: set[int] = set()
        self.seen: Counter[str] = Counter()
        self.several = self.duplicates = self.cut = 0
        self._candidates: list[_Candidate] = []
        self._used: Counter[str] = Counter()  # tokens of each group, in the order in which groups came
        self._closed: set[str] = set()  # groups that have their share
        self._sated: set[str] = set()  # groups of which so many units wait that no further one can be taken
        self._n = self._total = self._spare = self._since_new = 0
        self.spent = False  # whether the tokens are all taken, or what is left of them is less than what comes

    @property
    def full(self) -> bool:
        """Whether nothing more needs to be read for this side."""
        if self.most.tokens is not None and self._since_new >= max(LOOKED_THROUGH, self.most.tokens):
            return True
        return self.spent or (self.most.units is not None and self._n >= self.most.units)

    def passes_over(self, group: str, characters: int) -> bool:
        """Whether a text of a group need not even be tokenised; if so, it counts as looked through."""
        if not self.full and group not in self._sated:
            return False
        self._since_new += characters // CHARACTERS
        return True

    def offer(self, unit: Unit, counts: Counter[str]) -> None:
        """Take a document or row, or the sequences that it completes; what comes when the side is full is counted."""
        for one in (unit,) if self.packer is None else self.packer.add(unit):
            if self.full:
                counts["units_beyond_a_limit"] += 1
            else:
                self._add(one)

    def _add(self, unit: Unit) -> None:
        name = content_of(unit.ids)
        whole = [(place, unit.ids[at : at + self.room]) for place, at in enumerate(range(0, len(unit.ids), self.room))]
        if self.most.tokens is None:
            self._n += 1
            self._append(unit, name, [ids for _, ids in whole])
            return
        if (group := unit.group or name) in self._sated:
            self._since_new += len(unit.ids) + len(whole) * len(self.start)
            return
        pieces = [(place, ids.copy()) for place, ids in whole]  # whatever they are a part of may go
        made = _Candidate(unit._replace(ids=NO_IDS), name, group, len(unit.ids), pieces)
        if sum(map(self._cost, made.pieces)) > (self.share or 0) - self._used[made.group]:
            made.pieces.sort(key=lambda piece: self._turn(name, piece[0]))
        self._candidates.append(made)
        self._since_new = 0 if made.group not in self._used else self._since_new + sum(map(self._cost, made.pieces))
        self._take_share(made)
        self._spare += sum(map(self._cost, made.pieces[made.taken :]))
        if self._spare > self.most.tokens * 5 // 4:
            self._forget()

    def _turn(self, name: str, place: int) -> bytes:
        return hashlib.blake2b(f"{name}/{place}".encode(), digest_size=8, key=self._seed, person=b"sequence").digest()

    def _cost(self, piece: tuple[int, IntArray]) -> int:
        return len(self.start) + len(piece[1])

    def _take_share(self, made: _Candidate) -> None:
        """The sequences that fit into the share of the group, in order; behind one that does not, nothing of it is."""
        while made.taken < len(made.pieces) and made.group not in self._closed and not self.spent:
            if self._used[made.group] + self._cost(made.pieces[made.taken]) > (self.share or 0):
                self._closed.add(made.group)
            else:
                self._take(made)

    def _take(self, made: _Candidate) -> None:
        """The next sequence of a candidate, cut to what is left of the tokens; nothing more is taken after a cut."""
        left = (self.most.tokens or 0) - self._total
        place, ids = made.pieces[made.taken]
        if self._cost((place, ids)) > left:
            self.spent = True
            if not self._divisible or left < LEAST + len(self.start):
                return
            made.pieces[made.taken] = (place, ids[: left - len(self.start)])
        self._n += made.taken == 0
        cost = self._cost(made.pieces[made.taken])
        made.taken += 1
        self._used[made.group] += cost
        self._total += cost
        self.spent |= self._total == self.most.tokens

    def _in_turn(self) -> Iterator[tuple[_Candidate, int]]:
        """Candidates with what their next sequence costs, always one of the group that has least."""
        spare = [(place, made) for made in self._candidates for place in range(made.taken, len(made.pieces))]
        queues: dict[str, deque[tuple[_Candidate, int]]] = {}
        for place, made in sorted(spare, key=lambda one: one[0]):  # first one of each unit of a group, then a second
            queues.setdefault(made.group, deque()).append((made, self._cost(made.pieces[place])))
        used = dict(self._used)
        heap = [(used.get(group, 0), number, group) for number, group in enumerate(queues) if queues[group]]
        heapify(heap)
        while heap:
            n, number, group = heappop(heap)
            made, cost = queues[group].popleft()
            yield made, cost
            if queues[group]:
                heappush(heap, (n + cost, number, group))

    def _forget(self) -> None:
        """Keep of what was not taken what would be taken if nothing more came: less of it as more groups come."""
        keep: Counter[int] = Counter()
        left = self.most.tokens or 0
        for made, cost in self._in_turn():
            left -= cost
            if left < 0:
                break
            keep[id(made)] += 1
        for made in self._candidates:
            if made.pieces and not made.taken + keep[id(made)]:
                self._sated.add(made.group)  # whatever else is of it would come later
            del made.pieces[made.taken + keep[id(made)] :]
        self._candidates = [made for made in self._candidates if made.pieces]
        self._spare = sum(self._cost(piece) for made in self._candidates for piece in made.pieces[made.taken :])

    def _fill(self) -> None:
        """Give the tokens that are left to the groups that there are, evenly."""
        for made, _ in self._in_turn():
            if self.spent:
                return
            if made.taken or self.most.units is None or self._n < self.most.units:
                self._take(made)

    def _append(self, unit: Unit, name: str, sequences: list[IntArray]) -> None:
        """Add a unit, each of its sequences with BOS before it."""
        for ids in sequences:
            self.ids.frombytes(np.concatenate([self.start, ids]).astype(np.int32).tobytes())
            self.offsets.append(len(self.ids))
            self.units.append(len(self.unit_ids))
        if unit.padded_end:
            self.padded_ends.add(len(self.units) - 1)
        self.seen[name] += 1
        copies = self.seen[name]
        own = name if copies == 1 else f"{name}#{copies}"
        self.unit_ids.append(own if unit.group is None else in_group(unit.group, own))
        self.sources.append(unit.source)
        self.several += len(sequences) > 1
        self.duplicates += copies > 1

    def finish(self) -> TokenSet:
        """The set, which shares this object's memory; nothing may be added afterwards."""
        if not self.spent and (self.most.units is None or self._n < self.most.units):
            self._fill()
        for made in self._candidates:
            if made.taken:
                self.cut += made.is_cut
                self._append(made.unit, made.name, [ids for _, ids in sorted(made.pieces[: made.taken], key=_place)])
        ids, units = np.frombuffer(self.ids, dtype=np.int32), np.frombuffer(self.units, dtype=np.int32)
        offsets = np.frombuffer(self.offsets, dtype=np.int64)
        sources = tuple(self.sources) if any(self.sources) else ()
        return TokenSet(ids, offsets, units, tuple(self.unit_ids), frozenset(self.padded_ends), sources)


def _place(piece: tuple[int, IntArray]) -> int:
    return piece[0]
