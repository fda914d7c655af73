"""Ranks as ranges: an SAE's rank lies between 1 + the surely better ones and n - the surely worse ones.

In a metric that more active latents alone make better, the n are the SAEs whose L0 is within 10 % of its own: each SAE
has a group of its own, and groups overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_bench import registry
from sae_bench.board.columns import Column
from sae_bench.errors import SaeBenchError
from sae_bench.results import at_l0, store
from sae_bench.schema import MetricValue

PAIRED_AT_MOST = 12  # SAEs in a ranking that are compared pair by pair: 66 pairs a metric
PAIRS_AT_MOST = comb(PAIRED_AT_MOST, 2)
DIFFERENCES_AT_MOST = 500  # on a whole board, at about 5 ms each; above it every ranking is by intervals
Integers = NDArray[np.int64]


class Group(NamedTuple):
    """The ``n`` SAEs of about one L0, from ``low`` to ``high``, among which one of them is ranked."""

    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Groups:
    """With whom each SAE is held: a run of an order of all of them, from ``begin`` to ``end``, itself among them."""

    order: Integers
    begin: Integers
    end: Integers
    l0s: Sequence[float] | None = None

    @staticmethod
    def of(n: int, l0s: Sequence[float] | None) -> Groups:
        """All of ``n``, or for each those close to it in L0."""
        if l0s is not None:
            return Groups(*at_l0.windows(l0s), l0s)
        return Groups(np.arange(n), np.zeros(n, np.int64), np.full(n, n))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The places of all pairs that are held against each other, each once."""
        return [(i, int(j)) for i in range(len(self.order)) for j in self.members(i) if i < j]

    @property
    def n_pairs(self) -> int:
        """How many there are."""
        return int((self.end - self.begin - 1).sum()) // 2

    def members(self, place: int) -> Integers:
        """The places of the group of one SAE."""
        return self.order[self.begin[place] : self.end[place]]

    def of_place(self, place: int) -> Group | None:
        """How many one SAE is held with, and their L0; None where that is all of them."""
        if self.l0s is None:
            return None
        own = [self.l0s[i] for i in self.members(place)]
        return Group(len(own), own[0], own[-1])

    def ranges(self, better: Integers, worse: Integers) -> list[tuple[int, int]]:
        """The ranges, from how many of its group are surely better and surely worse than each SAE."""
        return _ranges(better, worse, self.end - self.begin)


@dataclass
class Ranker:
    """Ranks of the columns of one board; ``paired`` whether differences may be made, ``problems`` what went wrong.

    ``task_dir`` has further task definitions. Results of a task that is not installed are ranked by their intervals.
    """

    paired: bool
    problems: list[str]
    task_dir: str | None = None
    _cache: dict[Path, Any] = field(default_factory=dict)

    def rank(
        self,
        files: Sequence[Path],
        values: Sequence[MetricValue],
        column: Column,
        groups: Groups,
    ) -> tuple[list[tuple[int, int]], str]:
        """A range of ranks for each result in its group, and a phrase that says what "surely better" means there."""
        if groups.n_pairs > PAIRS_AT_MOST:
            what = f"{PAIRED_AT_MOST} SAEs" if groups.l0s is None else f"{PAIRS_AT_MOST} pairs of about one L0"
            why = f"more than {what}"
        elif not self.paired:
            why = f"more than {DIFFERENCES_AT_MOST} pairs on this board"
        elif not all(store.units_of(file).exists() for file in files):
            why = "not every result has its units"
        elif column.task not in registry.tasks(self.task_dir):
            why = f"the task {column.task} is not installed"
        else:
            try:
                made = from_differences(files, column.metric, groups, self._cache, self.task_dir)
                return (
                    made,
                    "the 95 % interval of the paired difference on common units leaves out 0, for each pair by itself",
                )
            except SaeBenchError as error:
                self.problems.append(f"{error}; {column.id} is ranked by its intervals")
            why = "the units cannot be compared"
        return from_intervals(values, column.spec.better, groups), (
            f"two 95 % intervals do not overlap ({why}), which is cautious"
        )


def from_intervals(values: Sequence[MetricValue], better: str, groups: Groups | None = None) -> list[tuple[int, int]]:
    """Ranks where "surely better" means that two intervals do not overlap; for the order of ``values``.

    A value without an interval may have any rank. ``better`` is "higher" or "lower". Ends that are equal but for
    rounding overlap. ``groups``: with whom each is held, else with all.
    """
    sign = 1.0 if better == "lower" else -1.0
    ends = np.array([(-np.inf, np.inf) if v.low is None or v.high is None else (v.low, v.high) for v in values])
    costs = np.sort(sign * ends.reshape(-1, 2), axis=1)  # [n, 2]: the best and the worst that each may cost
    best, worst = costs[:, 0], costs[:, 1]
    if groups is None or groups.l0s is None:
        return _ranges(_exceeded(best, worst), _exceeded(-worst, -best), repeat(len(values), len(values)))
    n_better, n_worse = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    for i in range(len(values)):
        others = groups.members(i)
        n_better[i] = _above(best[i], worst[others]).sum()
        n_worse[i] = _above(best[others], worst[i]).sum()
    return groups.ranges(n_better, n_worse)


def _ranges(better: Integers, worse: Integers, sizes: Iterable[int]) -> list[tuple[int, int]]:
    return [(1 + int(b), int(n) - int(w)) for b, w, n in zip(better, worse, sizes, strict=True)]


def _above(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a value is more than another by more than rounding."""
    from sae_bench.results.compare import ROUNDING

    with np.errstate(invalid="ignore"):
        found: NDArray[np.bool_] = values - others > ROUNDING * np.maximum(np.abs(values), np.abs(others))
    return found


def _exceeded(values: NDArray[np.float64], others: NDArray[np.float64]) -> Integers:
    """For each value how many of the others lie below it by more than rounding, by halving: n log n, not all pairs."""
    ordered, low, high = np.sort(others), np.zeros(len(values), np.int64), np.full(len(values), len(others))
    while (searching := low < high).any():
        middle = (low + high) // 2
        below = _above(values, ordered[np.minimum(middle, len(others) - 1)])
        low = np.where(searching & below, middle + 1, low)
        high = np.where(searching & ~below, middle, high)
    return low


def from_differences(
    files: Sequence[Path], metric: str, groups: Groups, cache: dict[Path, Any], task_dir: str | None = None
) -> list[tuple[int, int]]:
    """Ranks where "surely better" means that the interval of the paired difference leaves out 0.

    ``cache`` keeps what was loaded (units and draws) between calls. Raises SaeBenchError where units cannot be read or
    a pair cannot be compared.
    """
    from sae_bench.results import compare

    for file in files:
        if file not in cache:
            cache[file] = compare.load(file, task_dir)
    n_better, n_worse = np.zeros(len(files), np.int64), np.zeros(len(files), np.int64)
    for a, b in groups.pairs:
        found = compare.difference(cache[files[a]], cache[files[b]], metric)  # b - a
        if found.verdict not in ("better", "worse"):
            continue  # cannot be told apart
        best, other = (b, a) if found.verdict == "better" else (a, b)
        n_better[other] += 1
        n_worse[best] += 1
    return groups.ranges(n_better, n_worse)
