"""The figures of a task's tables, each resampled as its rows ask.

Rows of the table ``example`` lie in data sets (:mod:`sae_bench.units.nested`), rows of ``ablation`` belong to a
document and to a latent (:mod:`sae_bench.units.crossed`), and rows of any other are independent
(:mod:`sae_bench.units.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Mapping

from sae_bench.schema import TaskSpec
from sae_bench.units import bootstrap, crossed, nested
from sae_bench.units.bootstrap import Estimate, Metric
from sae_bench.units.table import Units

Draws = bootstrap.Draws | nested.Draws


def draw(table: str, units: Units, *, seed: int, resamples: int) -> Draws:
    """Column sums of a table of this name and their replicates; without rows there is nothing to nest or to cross."""
    if table == "example" and len(units):
        return nested.draw(units, seed=seed, resamples=resamples)
    if table == "ablation" and len(units):
        return crossed.draw(units, seed=seed, resamples=resamples)
    return bootstrap.draw(units, seed=seed, resamples=resamples)


def drawn(spec: TaskSpec, tables: Mapping[str, Units], *, seed: int, resamples: int) -> dict[str, Draws]:
    """What the task's metrics are made of, of those tables that there are."""
    used = {metric.table for metric in spec.metrics.values()} & tables.keys()
    return {table: draw(table, tables[table], seed=seed, resamples=resamples) for table in sorted(used)}


def estimate(draws: Draws, metric: Metric, *, interval: str) -> Estimate:
    """A figure with its interval, or the reason why there is none; figures over data sets have no Wilson interval."""
    if isinstance(draws, nested.Draws):
        return nested.estimate(draws, metric)
    return bootstrap.estimate_of(draws, metric, interval=interval)
