"""Ranks as ranges: an SAE's rank lies between 1 + the surely better ones and n - the surely worse ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench import registry
from sae_bench.board.columns import Column
from sae_bench.errors import SaeBenchError
from sae_bench.results import store
from sae_bench.schema import MetricValue

PAIRED_AT_MOST = 12  # SAEs in a ranking that are compared pair by pair: 66 pairs a metric
DIFFERENCES_AT_MOST = 500  # on a whole board, at about 5 ms each; above it every ranking is by intervals


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
        self, files: Sequence[Path], values: Sequence[MetricValue], column: Column
    ) -> tuple[list[tuple[int, int]], str]:
        """A range of ranks for each result, and a phrase that says what "surely better" means there."""
        if len(files) > PAIRED_AT_MOST:
            why = f"more than {PAIRED_AT_MOST} SAEs"
        elif not self.paired:
            why = f"more than {DIFFERENCES_AT_MOST} pairs on this board"
        elif not all(store.units_of(file).exists() for file in files):
            why = "not every result has its units"
        elif column.task not in registry.tasks(self.task_dir):
            why = f"the task {column.task} is not installed"
        else:
            try:
                made = from_differences(files, column.metric, column.spec.better, self._cache, self.task_dir)
                return (
                    made,
                    "the 95 % interval of the paired difference on common units leaves out 0, for each pair by itself",
                )
            except SaeBenchError as error:
                self.problems.append(f"{error}; {column.id} is ranked by its intervals")
            why = "the units cannot be compared"
        return from_intervals(
            values, column.spec.better
        ), f"two 95 % intervals do not overlap ({why}), which is cautious"


def from_intervals(values: Sequence[MetricValue], better: str) -> list[tuple[int, int]]:
    """Rank ranges where "surely better" means that two intervals do not overlap; for the order of ``values``.

    A value without an interval may have any rank. ``better`` is "higher" or "lower". Ends that are equal but for
    rounding overlap.
    """
    sign = 1.0 if better == "lower" else -1.0
    ends = np.array([(-np.inf, np.inf) if v.low is None or v.high is None else (v.low, v.high) for v in values])
    costs = np.sort(sign * ends.reshape(-1, 2), axis=1)  # [n, 2]: the best and the worst that each may cost
    best, worst = costs[:, 0], costs[:, 1]
    return _ranges(_exceeded(best, worst), _exceeded(-worst, -best))


def _exceeded(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each value how many of the others lie below it by more than rounding, by halving: n log n, not all pairs."""
    from sae_bench.results.compare import ROUNDING

    ordered, low, high = np.sort(others), np.zeros(len(values), np.int64), np.full(len(values), len(others))
    while (searching := low < high).any():
        middle = (low + high) // 2
        other = ordered[np.minimum(middle, len(others) - 1)]
        with np.errstate(invalid="ignore"):
            below = values - other > ROUNDING * np.maximum(np.abs(values), np.abs(other))
        low = np.where(searching & below, middle + 1, low)
        high = np.where(searching & ~below, middle, high)
    return low


def from_differences(
    files: Sequence[Path], metric: str, better: str, cache: dict[Path, Any], task_dir: str | None = None
) -> list[tuple[int, int]]:
    """Rank ranges where "surely better" means that the interval of the paired difference leaves out 0.

    ``cache`` keeps what was loaded (units and draws) between calls. Raises SaeBenchError where units cannot be read or
    a pair cannot be compared.
    """
    from sae_bench.results import compare

    n = len(files)
    for file in files:
        if file not in cache:
            cache[file] = compare.load(file, task_dir)
    n_better, n_worse = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for a in range(n):
        for b in range(a + 1, n):
            found = compare.difference(cache[files[a]], cache[files[b]], metric)  # b - a
            if found.verdict not in ("better", "worse"):
                continue  # cannot be told apart
            best, other = (b, a) if found.verdict == "better" else (a, b)
            n_better[other] += 1
            n_worse[best] += 1
    return _ranges(n_better, n_worse)


def _ranges(n_better: NDArray[np.int64], n_worse: NDArray[np.int64]) -> list[tuple[int, int]]:
    n = len(n_better)
    return [(1 + int(b), n - int(w)) for b, w in zip(n_better, n_worse, strict=True)]
