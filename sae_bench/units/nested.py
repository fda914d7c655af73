"""Figures over data sets of examples: the mean over sets, and how sure it is.

A unit's id is ``<set>:<example>``. Within a set a metric is a function of weighted column sums, as everywhere; the
figure is the mean of it over sets, or, for a :class:`~sae_bench.units.bootstrap.Ratio`, the mean numerator over the
mean denominator. An example that is in several sets has the same weight in all of them, and SAEs are compared in pairs.

*The interval of a figure takes the sets as given*: they are the benchmark, and a figure on other sets is another
figure. Two things are drawn. The examples of the test part, as everywhere. And the train part, on which a probe is
chosen and fitted: the table holds a row ``<set>:refit 07`` for each of R fits under other weights of the training
texts. Such a row has, in every column, the deviation of that refit's sum over the test examples from the mean of all
R, divided by sqrt(3 (R - 1)). Being rows, refits are resampled like examples: the sum over them of Poisson weight times
deviation has the refits' sample covariance, over all columns and sets at once. The deviations are centred because a
refit sees fewer different texts than the fit: it is worse on average, which is no noise and moves no figure. Weighted
by 1 the rows add up to 0, and figures leave them out.

The 3: a probe stands near the optimum of what it is scored by, so a figure moves with the square of the fit's error
d. Over fits that is d'Hd, of variance 2 tr((HV)^2); around one fit it is (d + e)'H(d + e) with e drawn like d, of
variance 6 tr((HV)^2) on average. That argues for losses; for AUROC and the choice of latents it is a calibration, made
after the demo's spread over draws was seen without it. ``benchmarks/probe_intervals.py`` measures what comes of it.

*The interval over sets* (:func:`over_sets`) draws the sets too, as another suite would have other sets. The spread of
the observed sets already holds the noise of their examples, so it counts that part twice and is a little too wide where
sets are small (Davison & Hinkley 1997, "Bootstrap methods and their application", section 3.8). It is the only one of
a table without refits, which was measured before there were any.
"""

from __future__ import annotations

from collections.abc import Callable
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

INFLATION = 3.0  # of the variance over refits, see above
REFIT = "refit "  # what the name of a refit begins with; those of examples are digests


@dataclass(frozen=True)
class Draws:
    """A table of examples by set: column sums (``points``) and their replicates, and the replicates' set weights.

    ``weights`` are those of the figure's own interval, all 1 where that takes the sets as given (``given``); with
    ``of_sets`` the sets are drawn. ``n_examples`` counts an example of several sets once.
    """

    names: tuple[str, ...]
    points: tuple[Sums, ...]
    replicates: tuple[Sums, ...]
    sizes: tuple[int, ...]
    weights: Array  # [replicates, sets]
    of_sets: Array  # [replicates, sets]
    n_examples: int
    given: bool

    def n_units(self, without: int = 0) -> int:
        """How many independent units an interval rests on: examples, or sets but for those ``without`` a value."""
        return self.n_examples if self.given else len(self.names) - without


def refit_name(number: int) -> str:
    """The name of a refit in the id of a row: the same for every set and SAE, as they share its weights."""
    return f"{REFIT}{number:02d}"


def is_refit(unit: str) -> bool:
    """Whether a row ``<set>:<example>`` is a refit and no example."""
    return example_of(unit).startswith(REFIT)


def by_set(units: Units) -> dict[str, Units]:
    """The examples of each set; the ids of its rows are theirs."""
    return _parts(units, lambda unit: not is_refit(unit))


def _parts(units: Units, wanted: Callable[[str], bool]) -> dict[str, Units]:
    rows: dict[str, list[int]] = {}
    for row, unit in enumerate(units.ids):
        if wanted(unit):
            rows.setdefault(set_of(unit), []).append(row)
    tables = {}
    for name, own in rows.items():
        table = units.select(own)
        tables[name] = Units(tuple(map(example_of, table.ids)), table.columns)
    return tables


def draw(units: Units, *, seed: int, resamples: int) -> Draws:
    """Everything that figures of this table are made of."""
    tables, whole = by_set(units), _parts(units, lambda unit: True)
    names = tuple(tables)
    of_sets = resample_weights(names, seed, resamples).astype(np.float64)
    given = any(map(is_refit, units.ids))
    return Draws(
        names,
        tuple(total(table) for table in tables.values()),
        tuple(_replicates(whole[name], seed, resamples) for name in names),
        tuple(len(table) for table in tables.values()),
        np.ones_like(of_sets) if given else of_sets,
        of_sets,
        len({unit for table in tables.values() for unit in table.ids}),
        given,
    )


def estimate(draws: Draws, metric: Metric, *, confidence: float = CONFIDENCE) -> Estimate:
    """The mean over sets with its interval; fewer than 5 units have a figure and no interval.

    A figure that fewer than half of the sets have is none of the suite.
    """
    return _estimate(draws, metric, draws.weights, draws.n_units(), confidence)


def over_sets(draws: Draws, metric: Metric, *, confidence: float = CONFIDENCE) -> Estimate:
    """The same figure with the interval of a suite that was drawn: what other sets of this kind would give."""
    return _estimate(draws, metric, draws.of_sets, len(draws.names), confidence)


def _estimate(draws: Draws, metric: Metric, weights: Array, n_units: int, confidence: float) -> Estimate:
    n = len(draws.names)
    if n == 0:
        return Estimate(None, None, None, 0, "there is no labelled set to measure")
    each = [metric(sums) for sums in draws.points]
    there = sum(bool(np.isfinite(quotient(value)).all()) for value in each if not isinstance(value, Ratio))
    if not isinstance(each[0], Ratio) and 0 < 2 * there < n:
        return Estimate(None, None, None, n_units, f"only {there} of {n} sets have a value")
    point = mean_over_sets(each, np.ones((1, n)))
    return settle(point, replicates_of(draws, metric, each, weights), n_units, confidence)


def replicates_of(draws: Draws, metric: Metric, points: list[Array | Ratio], weights: Array) -> Array | Ratio:
    """The replicates ``[replicates]`` of the mean over sets whose figures are ``points``.

    Where sets are given, one whose figure is undefined is in no replicate, whatever these make of its sums.
    """
    found = [metric(sums) for sums in draws.replicates]
    if draws.given:
        for i, (drawn, point) in enumerate(zip(found, points, strict=True)):
            if not isinstance(drawn, Ratio) and not isinstance(point, Ratio) and not np.isfinite(point).all():
                found[i] = np.full_like(drawn, np.nan)
    return mean_over_sets(found, weights)


def each_set(draws: Draws, metric: Metric, *, confidence: float = CONFIDENCE) -> dict[str, Estimate]:
    """The figure of every set alone, with its interval over what is drawn of it."""
    sets = zip(draws.names, draws.points, draws.replicates, draws.sizes, strict=True)
    return {name: settle(metric(sums), metric(drawn), n, confidence) for name, sums, drawn, n in sets}


def set_of(unit: str) -> str:
    """The labelled set of a row ``<set>:<example>``."""
    return unit.rpartition(":")[0]


def example_of(unit: str) -> str:
    """The example of a row ``<set>:<example>``, or the refit: the same in every set that has it."""
    return unit.rpartition(":")[2]


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
