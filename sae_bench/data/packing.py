"""Documents joined into one stream and cut into sequences of equal length, each of the group that holds most of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import numpy as np

from sae_bench.data.groups import content_of
from sae_bench.data.rows import Unit
from sae_bench.data.tokens import IntArray


class Packer:
    """Documents joined by ``separator``, in pieces of exactly ``room`` ids; ``left`` is how many are left over.

    The group of a sequence is the one whose tokens are most of it, the first on ties; a separator is of none. A
    document without a label is a group of its own, under the name that it has when it is not packed.
    """

    def __init__(self, room: int, separator: int, counts: Counter[str]) -> None:
        self._room, self._separator, self._counts = room, separator, counts
        self._pending = np.empty(0, np.int32)
        self._between = np.empty(0, np.int32)
        self._runs: deque[tuple[str | None, int]] = deque()  # groups of the pending ids, with how many they are

    @property
    def left(self) -> int:
        """Ids that wait for a sequence to be whole."""
        return len(self._pending)

    def add(self, document: Unit) -> Iterator[Unit]:
        """The sequences that a document completes. A text may end in a separator of its own, which goes."""
        own = np.flatnonzero(document.ids != self._separator)
        ids: IntArray = document.ids[: own[-1] + 1] if len(own) else document.ids[:0]
        if not len(ids):
            self._counts["documents_skipped_as_too_short"] += 1
            return
        group = document.group or content_of(document.ids)
        self._runs.extend([(None, len(self._between)), (group, len(ids))])
        self._pending = np.concatenate([self._pending, self._between, ids])
        self._between = np.array([self._separator], np.int32)
        while len(self._pending) >= self._room:
            yield Unit(self._pending[: self._room], group=self._next_group())
            self._pending = self._pending[self._room :]

    def _next_group(self) -> str:
        """The group of the next ``room`` ids, which are taken off the runs."""
        sizes: dict[str, int] = {}
        left = self._room
        while left:
            group, n = self._runs.popleft()
            taken = min(n, left)
            if group is not None:
                sizes[group] = sizes.get(group, 0) + taken
            if n > taken:
                self._runs.appendleft((group, n - taken))
            left -= taken
        return max(sizes, key=sizes.__getitem__)  # the first of those of equal size: a dict keeps the order of the text
