"""Figures over data sets of examples: resampled on two levels, data sets and the examples within them.

A unit's id is ``<set>:<example>``. Within a set a metric is a function of weighted column sums, as everywhere; the
figure is the mean of it over sets, or, for a :class:`~sae_bench.units.bootstrap.Ratio`, the mean numerator over the
mean denominator. A replicate draws new weights for sets and for examples; an example that is in several sets has the
same weight in all of them, and a set the same weight in every table, so SAEs can be compared in pairs.

Both levels are drawn, as a new suite would have other sets and other examples. The spread of the observed sets already
holds the noise of their examples, so the interval counts that part twice and is a little too wide where sets are small
(Davison & Hinkley 1997, "Bootstrap methods and their application", section 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.bootstrap import (
    CONFIDENCE,
    Array,
    Estimate,
    Metric,
    Ratio,
    Sums,
    quotient,
    resample,
    resample_weights,
    settle,
    total,
)
from sae_bench.units.table import Units


@dataclass(frozen=True)
class Draws:
    """A table of examples by set: column sums (``points``) and their replicates, and the replicates' set weights."""

    names: tuple[str, ...]
    points: tuple[Sums, ...]
    replicates: tuple[Sums, ...]
    sizes: tuple[int, ...]
    weights: Array  # [replicates, sets]


def by_set(units: Units) -> dict[str, Units]:
    """The table of each set; the ids of its rows are those of the examples."""
    rows: dict[str, list[int]] = {}
    for row, unit in enumerate(units.ids):
        rows.setdefault(unit.rpartition(":")[0], []).append(row)
    tables = {}
    for name, own in rows.items():
        table = units.select(own)
        tables[name] = Units(tuple(unit.rpartition(":")[2] for unit in table.ids), table.columns)
    return tables


def draw(units: Units, *, seed: int, resamples: int) -> Draws:
    """Everything that figures of this table are made of."""
    tables = by_set(units)
    return Draws(
        tuple(tables),
        tuple(total(table) for table in tables.values()),
        tuple(_replicates(table, seed, resamples) for table in tables.values()),
        tuple(len(table) for table in tables.values()),
        resample_weights(tuple(tables), seed, resamples).astype(np.float64),
    )


def estimate(draws: Draws, metric: Metric, *, confidence: float = CONFIDENCE) -> Estimate:
    """The mean over sets with its interval; fewer than 5 sets have a figure and no interval.

    A figure that fewer than half of the sets have is none of the suite.
    """
    n = len(draws.names)
    if n == 0:
        return Estimate(None, None, None, 0, "there is no labelled set to measure")
    each = [metric(sums) for sums in draws.points]
    there = sum(bool(np.isfinite(quotient(value)).all()) for value in each if not isinstance(value, Ratio))
    if not isinstance(each[0], Ratio) and 0 < 2 * there < n:
        return Estimate(None, None, None, n, f"only {there} of {n} sets have a value")
    point = mean_over_sets(each, np.ones((1, n)))
    replicates = mean_over_sets([metric(sums) for sums in draws.replicates], draws.weights)
    return settle(point, replicates, n, confidence)


def each_set(draws: Draws, metric: Metric, *, confidence: float = CONFIDENCE) -> dict[str, Estimate]:
    """The figure of every set alone, with its interval over examples."""
    sets = zip(draws.names, draws.points, draws.replicates, draws.sizes, strict=True)
    return {name: settle(metric(sums), metric(drawn), n, confidence) for name, sums, drawn, n in sets}


def set_of(unit: str) -> str:
    """The labelled set of a row ``<set>:<example>``."""
    return unit.rpartition(":")[0]


def common(a: Units, b: Units) -> tuple[Units, Units]:
    """The rows of the sets that both tables have, for a comparison of results that cover different sets."""
    sets = by_set(a).keys() & by_set(b).keys()
    return a.where(lambda unit: set_of(unit) in sets), b.where(lambda unit: set_of(unit) in sets)


def _replicates(table: Units, seed: int, resamples: int) -> Sums:
    """All replicates of a set's sums; made at once, so that its weights need not be kept."""
    sums = resample(table, seed=seed, resamples=resamples)
    return Sums({name: getattr(sums, name) for name in table.columns})


def mean_over_sets(values: list[Array | Ratio], weights: Array) -> Array | Ratio:
    """Weighted means over sets ``[replicates]``; a set whose figure is undefined in a replicate is left out of it."""
    if all(isinstance(value, Ratio) for value in values):
        ratios = cast(list[Ratio], values)
        numerator = _weighted([ratio.numerator for ratio in ratios], weights)
        denominator = _weighted([ratio.denominator for ratio in ratios], weights)
        return ratios[0]._replace(numerator=numerator, denominator=denominator)
    return _weighted(cast(list[Array], values), weights)


def _weighted(values: list[Array], weights: Array) -> Array:
    table: NDArray[np.float64] = np.stack(values, axis=1)
    there = np.isfinite(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: Array = (np.where(there, table, 0) * weights).sum(1) / (there * weights).sum(1)
    return mean
