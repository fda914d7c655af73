"""From a table of units to a figure with an interval. The only place where anything is resampled.

A metric is a pure function of weighted column sums. With all weights 1 it gives the figure itself; with random weights
it gives a bootstrap replicate. All replicates are one matrix product.

*Weights.* Each unit gets one Poisson(1) count a replicate, from a generator keyed by (seed, unit id) (the Poisson
bootstrap; Chamandy et al. 2012, "Estimating uncertainty for massive data streams"). A unit therefore has the same
weights in every table: two SAEs measured on the same documents can be compared in pairs, and a part of the table gives
the same weights as the whole. More than ``MAX_GROUPS`` units are resampled in groups, by a hash of their id, which
bounds time and memory.

*Interval.* Percentiles of the replicates at levels widened for few units (the "expanded percentile" interval;
Hesterberg 2015, "What teachers should know about the bootstrap"). In simulation its coverage is that of BCa at a third
of the code. A share of 0/1 units has a Wilson score interval instead, because resampling gives the empty interval
[0, 0] when no unit is 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.table import Units

RESAMPLES = 2000
CONFIDENCE = 0.95
MAX_GROUPS = 4096
FEWEST = 5  # units for an interval: resamples stay within what was seen, and hold the truth 1 time in 2 with 2 units
NOISE = 0.001  # share of resamples in which a denominator may be negative: more, and the quotient's interval is not one

Array = NDArray[np.float64]


class Sums:
    """Weighted column sums, ``sums.name`` of shape ``[replicates]`` or ``[replicates, width]``.

    ``columns`` holds sums, or, with ``weights`` ``[replicates, rows]``, the rows to be summed. That is done when a
    column is first asked for: all narrow columns in one product; each wide one, which is more work than they, alone.
    """

    def __init__(self, columns: Mapping[str, Array], weights: Array | None = None) -> None:
        self._columns = columns
        self._weights = weights
        self._done: dict[str, Array] = dict(columns) if weights is None else {}

    def __getattr__(self, name: str) -> Array:
        if name not in self._columns:
            raise AttributeError(f"the units table has no column {name}; it has {sorted(self._columns)}")
        if name not in self._done and self._weights is not None:
            names = [name] if self._columns[name].ndim > 1 else [n for n, c in self._columns.items() if c.ndim == 1]
            if len(names) == 1:
                self._done[name] = self._weights @ self._columns[name]
            else:
                sums = (self._weights @ np.stack([self._columns[n] for n in names], axis=1)).T.copy()
                self._done |= dict(zip(names, sums, strict=True))
        return self._done[name]

    def under(self, prefix: str) -> Sums:
        """The columns whose name starts with ``prefix``, without it; what is summed for one is summed for both."""
        return _Under(self, prefix)


class _Under(Sums):
    def __init__(self, whole: Sums, prefix: str) -> None:
        super().__init__({})
        self._whole, self._prefix = whole, prefix

    def __getattr__(self, name: str) -> Array:
        return getattr(self._whole, self._prefix + name)  # type: ignore[no-any-return]


class Ratio(NamedTuple):
    """A metric that is a quotient. It is undefined unless the denominator is positive beyond noise.

    The denominator has to lie above ``floor``, in its own unit; ``what`` names it in the reason. Every denominator here
    is a count, an energy or a cost: where it is negative a quotient would still look like a score, and mean nothing.
    """

    numerator: Array
    denominator: Array
    what: str
    floor: Array | float = 0.0
    offset: float = 0.0  # added to the quotient: 1 - a/b is Ratio(-a, b, ..., offset=1)


Metric = Callable[[Sums], Array | Ratio]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval. ``value`` is None exactly when ``reason`` says why."""

    value: float | None
    low: float | None
    high: float | None
    n_units: int
    reason: str | None = None


@dataclass(frozen=True)
class Draws:
    """Column sums of a table (``points``), their replicates, and of how many independent units they are."""

    points: Sums
    replicates: Sums
    n: int


def draw(units: Units, *, seed: int, resamples: int = RESAMPLES) -> Draws:
    """Everything that figures of a table of independent units are made of."""
    return Draws(total(units), resample(units, seed=seed, resamples=resamples), len(units))


def estimate_of(
    draws: Draws, metric: Metric, *, interval: str = "bootstrap", confidence: float = CONFIDENCE
) -> Estimate:
    """The figure of ``metric`` with its interval at level ``confidence``; fewer than 5 units have none.

    ``interval="wilson"`` is for metrics that are the share of units whose column is 1, which resampling would give an
    empty interval where there is no such unit.
    """
    if draws.n == 0:
        return Estimate(None, None, None, 0, "there is no unit to measure")
    replicates = None if interval == "wilson" else metric(draws.replicates)
    return settle(metric(draws.points), replicates, draws.n, confidence)


def estimate(
    units: Units,
    metric: Metric,
    *,
    interval: str = "bootstrap",
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The figure of one metric of independent units; see :func:`estimate_of`, which is for many of one table."""
    return estimate_of(draw(units, seed=seed, resamples=resamples), metric, interval=interval, confidence=confidence)


def settle(point: Array | Ratio, replicates: Array | Ratio | None, n: int, confidence: float) -> Estimate:
    """The estimate that a point ``[1]`` and its replicates make; without these the point is a share of 0/1 units.

    Raises ValueError for a point of another shape: its first number would look like the figure.
    """
    if (shape := np.shape(quotient(point))) != (1,):
        raise ValueError(f"a metric must return one number for each row of sums, [1], not {list(shape)}")
    if reason := undefined(point, replicates):
        return Estimate(None, None, None, n, reason)
    value = float(quotient(point)[0])
    if not math.isfinite(value):
        return Estimate(None, None, None, n, "the figure is not finite on these units")
    if replicates is None:
        return Estimate(value, *wilson(value, n, confidence), n)
    if n < FEWEST:
        return Estimate(value, None, None, n)
    return Estimate(value, *percentile_interval(value, quotient(replicates), n, confidence), n)


def total(units: Units) -> Sums:
    """Column sums with every weight 1."""
    return Sums({name: column.sum(axis=0, keepdims=True) for name, column in units.columns.items()})


def resample(units: Units, *, seed: int, resamples: int = RESAMPLES) -> Sums:
    """Column sums under bootstrap weights, ``resamples`` rows each."""
    rows = _pooled(units)
    return Sums(rows.columns, resample_weights(rows.ids, seed, resamples))


def percentile_interval(
    value: float, replicates: Array, n_units: int, confidence: float
) -> tuple[float | None, float | None]:
    """Expanded percentile interval around ``value``; replicates that are not finite (empty resamples) are left out."""
    finite = replicates[np.isfinite(replicates)]
    if len(finite) < len(replicates) / 2:
        return None, None
    tail = NormalDist().cdf(-math.sqrt(n_units / (n_units - 1)) * _t_quantile(confidence, n_units - 1))
    low, high = np.quantile(finite, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)


def wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Wilson score interval for a share of ``n`` independent 0/1 units; never empty, never outside [0, 1]."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, min(share, (centre - half) / scale)), min(1.0, max(share, (centre + half) / scale))


def quotient(values: Array | Ratio) -> Array:
    """The figure: the values themselves, or the quotient of a ratio."""
    if isinstance(values, Ratio):
        with np.errstate(divide="ignore", invalid="ignore"):
            return values.numerator / values.denominator + values.offset
    return values


def undefined(point: Array | Ratio, replicates: Array | Ratio | None) -> str | None:
    """Why a quotient has no meaning here, or None."""
    if not isinstance(point, Ratio):
        return None
    denominator, floor = float(point.denominator[0]), float(np.max(point.floor))
    if math.isnan(denominator):
        return f"{point.what} cannot be computed on these units"
    if not floor < denominator < math.inf:
        return f"{point.what} is {denominator:.4g}, and must be above {floor:.2g} to divide by it"
    if isinstance(replicates, Ratio):
        drawn = replicates.denominator
        drawn = drawn[np.isfinite(drawn) & (drawn != 0)]  # a resample without any unit says nothing about noise
        if len(drawn) and drawn.min() > 0:
            return None
        low, high = np.quantile(drawn, [NOISE, 1 - NOISE]) if len(drawn) else (0.0, 0.0)
        if low <= 0:
            return f"{point.what} is {denominator:.4g}, within noise of 0 (resamples from {low:.4g} to {high:.4g})"
    return None


def _pooled(units: Units) -> Units:
    """The table itself, or, if it is long, its rows added up in ``MAX_GROUPS`` groups by a hash of their ids."""
    if len(units) <= MAX_GROUPS:
        return units
    present, group = _groups(units.ids)
    columns = {}
    for name, column in units.columns.items():
        columns[name] = np.zeros((len(present), *column.shape[1:]))
        np.add.at(columns[name], group, column)
    return Units(tuple(f"group {g}" for g in present), columns)


@lru_cache(maxsize=1)
def _groups(ids: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The groups that occur, and the position among them of every unit's group."""
    groups = np.array([int.from_bytes(_random(0, unit, 4), "little") % MAX_GROUPS for unit in ids], dtype=np.int64)
    present, group = np.unique(groups, return_inverse=True)
    return present, group


@lru_cache(maxsize=3)
def resample_weights(ids: tuple[str, ...], seed: int, resamples: int) -> Array:
    """Bootstrap weights ``[resamples, rows]``."""
    counts = np.empty((len(ids), resamples), dtype=np.uint8)
    for row, unit in enumerate(ids):
        uniform = np.frombuffer(_random(seed, unit, 2 * resamples), dtype="<u2")
        counts[row] = _POISSON[uniform]
    return counts.T.astype(np.float64)


def _random(seed: int, unit: str, n_bytes: int) -> bytes:
    """Random bytes that depend on nothing but seed and unit, on any machine and with any version of any library."""
    return hashlib.shake_128(f"{seed}|bootstrap|{unit}".encode()).digest(n_bytes)


# Poisson(1) by inversion: the count for each of the 2^16 values of a uniform number
_POISSON = np.searchsorted(
    np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)]), (np.arange(1 << 16) + 0.5) / (1 << 16)
).astype(np.uint8)


def _t_quantile(confidence: float, degrees: int) -> float:
    from scipy.special import stdtrit  # here, because importing scipy costs more than all other commands need

    return float(stdtrit(degrees, 0.5 + confidence / 2))
