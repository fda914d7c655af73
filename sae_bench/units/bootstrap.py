"""From a table of units to a figure with an interval. The only place where anything is resampled.

A metric is a pure function of weighted column sums. With all weights 1 it gives the figure itself; with random weights
it gives a bootstrap replicate. All replicates are one matrix product.

*Groups.* Rows that come from one source of text are no independent draws: they are added up by their group
(``units/groups.py``) before anything is drawn. A row that stands alone is a group of its own.

*Weights.* Each group gets one Poisson(1) count a replicate, from a generator keyed by (seed, its name) (the Poisson
bootstrap; Chamandy et al. 2012, "Estimating uncertainty for massive data streams"). A group therefore has the same
weights in every table: two SAEs measured on the same documents can be compared in pairs, and a part of the table gives
the same weights as the whole. More than ``MAX_GROUPS`` groups are pooled, by a hash of their name, which bounds time
and memory: a byte a pool and replicate (8 MiB at 2,000, 78 MiB at 20,000; of two tables at a time) and 8 MiB of floats.

*Interval.* Percentiles of the replicates at levels widened for few groups (the "expanded percentile" interval;
Hesterberg 2015, "What teachers should know about the bootstrap"). In simulation its coverage is that of BCa at a third
of the code. A share of 0/1 units has a Wilson score interval instead, because resampling gives the empty interval
[0, 0] when no unit is 1. What the sample itself says against its interval is in ``units/trust.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.adding import MAX_GROUPS as MAX_GROUPS
from sae_bench.units.adding import common_total, grouped, pooled
from sae_bench.units.adding import total as total
from sae_bench.units.sums import CommonSums, Without
from sae_bench.units.sums import Sums as Sums
from sae_bench.units.table import Units
from sae_bench.units.trust import Influence, Sample, design_effect, optimistic, some_rows
from sae_bench.units.weights import resample_weights as resample_weights

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST = 5  # units for an interval: resamples stay within what was seen, and hold the truth 1 time in 2 with 2 units
MOSTLY_UNDEFINED = "most resamples have no value"
NOISE = 0.001  # share of resamples in which a denominator may be negative: more, and the quotient's interval is not one

Array = NDArray[np.float64]


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
    """A figure with its interval. ``value`` is None exactly when ``reason`` says why.

    Where there is a value and no interval, ``no_interval`` says why; ``optimistic`` says why an interval is too narrow.
    ``n_units`` counts groups, ``design_effect`` is that of ``units/trust.py``.
    """

    value: float | None
    low: float | None
    high: float | None
    n_units: int
    reason: str | None = None
    no_interval: str | None = None
    optimistic: str | None = None
    design_effect: float | None = None


@dataclass(frozen=True)
class Draws:
    """Column sums of a table (``points``), their replicates, and of how many independent groups they are.

    ``sample`` has the sums without each group in turn, for what the sample says of its own interval, or says it of all
    figures alike; None: nothing.
    """

    points: Sums
    replicates: Sums
    n: int
    sample: Sample | Influence | None = None

    def influence(self, metric: Metric) -> Influence | None:
        """How a figure moves without each group in turn; None where the draws do not know."""
        if self.sample is None or isinstance(self.sample, Influence):
            return self.sample

        def weight(sums: Sums) -> Array | None:
            found = metric(sums)
            return found.denominator if isinstance(found, Ratio) else None

        return self.sample.influence(lambda sums: quotient(metric(sums)), weight)


def draw(units: Units, *, seed: int, resamples: int = RESAMPLES, group: Callable[[str], str] | None = None) -> Draws:
    """Everything that figures of a table are made of. ``group`` names by the id of a row what is drawn.

    Without it rows are drawn, which are not of text.
    """
    groups = units if group is None else grouped(units, group)
    replicates, n = resample(groups, seed=seed, resamples=resamples), len(groups)
    return Draws(total(units), replicates, n, sample_of(units, groups, text=group is not None) if n else None)


def sample_of(units: Units, groups: Units, *, text: bool) -> Sample:
    """The sums without each group, and without each row where several are of one group.

    ``groups`` has the rows of ``units`` added up by group.
    """
    parts = pooled(groups)
    rows = _without(units, some_rows(len(units))) if len(groups) < len(units) else None
    return Sample(_without(parts), len(groups), rows, len(units), total(units), parts.columns, text)


def _without(units: Units, chosen: NDArray[np.int64] | None = None) -> Without:
    """The sums of a table without each of its rows in turn, or of the ``chosen`` ones."""

    def some(columns: Mapping[str, Array]) -> Mapping[str, Array]:
        return columns if chosen is None or len(chosen) == len(units) else {n: c[chosen] for n, c in columns.items()}

    shared, common, whole = units.shared, units.common, total(units)
    if not shared or common is None or not common.wide:
        return Without(some(units.columns), whole)
    of_all = common.once("without", lambda: Without(some(common.columns), Sums(common_total(common))))
    own = some({name: column for name, column in units.columns.items() if name not in shared})
    return Without({n: of_all.column(n) if n in shared else own[n] for n in units.columns}, whole, of_all, shared)


def estimate_of(
    draws: Draws, metric: Metric, *, interval: str = "bootstrap", confidence: float = CONFIDENCE
) -> Estimate:
    """The figure of ``metric`` with its interval at level ``confidence``; fewer than 5 groups have none.

    ``interval="wilson"`` is for metrics that are the share of units whose column is 1, which resampling would give an
    empty interval where there is no such unit.
    """
    if draws.n == 0:
        return Estimate(None, None, None, 0, "there is no unit to measure")
    point, replicates = metric(draws.points), None if interval == "wilson" else metric(draws.replicates)
    influence = None if replicates is None else draws.influence(metric)
    found = settle(point, replicates, draws.n, confidence, of="groups", influence=influence)
    return found if replicates is None else trusted(found, influence, quotient(replicates))


def trusted(found: Estimate, influence: Influence | None, replicates: Array) -> Estimate:
    """An estimate with what the sample says of its interval."""
    if influence is None or (value := found.value) is None:
        return found
    known = replace(found, n_units=min(found.n_units, influence.n))  # latents of few groups are no more than those
    if found.low is None:  # too few groups to say anything of their spread
        return known
    error = spread(replicates)
    why, effect = optimistic(influence, value), design_effect(influence, error, value)
    return replace(known, optimistic=why, design_effect=effect)


def spread(replicates: Array) -> float:
    """The standard error that replicates give; nan where fewer than two are finite."""
    finite = replicates[np.isfinite(replicates)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else math.nan


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


def settle(
    point: Array | Ratio,
    replicates: Array | Ratio | None,
    n: int,
    confidence: float,
    *,
    of: str = "units",
    influence: Influence | None = None,
) -> Estimate:
    """The estimate that a point ``[1]`` and its replicates make; without these the point is a share of 0/1 units.

    ``of`` names what ``n`` counts; ``influence`` says how much of the replicates' spread is the figure's.

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
        return Estimate(value, None, None, n, no_interval=too_few(n, of))
    low, high = percentile_interval(value, quotient(replicates), n, confidence)
    return Estimate(value, low, high, n, no_interval=MOSTLY_UNDEFINED if low is None else None)


def too_few(n: int, of: str) -> str:
    """Why a figure over ``n`` of them has no interval."""
    return f"it is of {n} {of if n != 1 else of.removesuffix('s')}, and fewer than {FEWEST} tell too little"


def resample(units: Units, *, seed: int, resamples: int = RESAMPLES) -> Sums:
    """Column sums under bootstrap weights, ``resamples`` rows each."""
    rows = pooled(units)
    weights = resample_weights(rows.ids, seed, resamples)
    shared, common = rows.shared, rows.common
    if not shared or common is None or not common.wide:
        return Sums(rows.columns, weights)
    draw = partial(resample_weights, rows.ids, seed, resamples)
    of_all = common.once((seed, resamples), lambda: CommonSums(common.columns, draw))
    return Sums(rows.columns, weights, of_all, shared)


def percentile_interval(
    value: float, replicates: Array, n_units: int, confidence: float
) -> tuple[float | None, float | None]:
    """Expanded percentile interval around ``value``; replicates that are not finite (empty resamples) are left out."""
    finite = replicates[np.isfinite(replicates)]
    if len(finite) < len(replicates) / 2:
        return None, None
    tail = NormalDist().cdf(-t_width(n_units, confidence))
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


def t_width(n: int, confidence: float = CONFIDENCE) -> float:
    """How many standard deviations of replicates an interval reaches to each side, of ``n`` units (2 or more)."""
    from scipy.special import stdtrit  # here, because importing scipy costs more than all other commands need

    return math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, 0.5 + confidence / 2))
