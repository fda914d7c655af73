"""The tables of units of a coder, and the figures that a task makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sae_bench.engine.plan import Options
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.schema import MetricValue
from sae_bench.streams import Reader, Run
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.tasks.base import Task
from sae_bench.units import Units, kinds
from sae_bench.units.kinds import Draws


def measured_tables(run: Run, reader: Reader, task: Task, entry: Entry, sae: Entry | None = None) -> dict[str, Units]:
    """The tables of one coder on one task; of a control, beside an SAE. Raises CoderFailure, TaskFailure, Deferred."""
    if (why := run.state.failures.get(entry.key)) is not None:
        raise CoderFailure(why, entry.key)
    if (why := reader.failure(task, entry)) is not None:
        raise TaskFailure(why)
    own = partial(reader.tables, task, entry) if sae is None else partial(reader.beside, task, entry, sae)
    found = guarded(task, own, "tables")
    if not isinstance(found, dict) or not all(isinstance(table, Units) for table in found.values()):
        raise TaskFailure(f"task {task.spec.id}: tables must return tables of units by name")
    lacking = sorted({metric.table for metric in task.spec.metrics.values()} - found.keys())
    if lacking:
        raise TaskFailure(f"task {task.spec.id}: its metrics are made of the table {lacking[0]}, which is not made")
    return found


def drawn(task: Task, tables: Mapping[str, Units], options: Options) -> dict[str, Draws]:
    """The resampled sums of every table that the task's metrics are made of. Raises TaskFailure."""
    draw = partial(kinds.drawn, task.spec, tables, seed=options.seed, resamples=options.resamples)
    return guarded(task, draw, "resampling its tables")


def figures(
    task: Task, draws: Mapping[str, Draws], without: frozenset[str] = frozenset(), lacking: str = ""
) -> dict[str, MetricValue]:
    """All metrics of a task (``without`` some) from what :func:`drawn` gave for its tables. Raises TaskFailure.

    ``lacking`` says why there may be no table for a metric, which then has no value.
    """
    found = {}
    for name, spec in task.spec.metrics.items():
        if name in without:
            continue
        if lacking and spec.table not in draws:
            common: dict[str, Any] = {"unit": spec.unit, "better": spec.better, "n_units": 0}
            found[name] = MetricValue(value=None, low=None, high=None, reason=lacking, **common)
            continue
        bounds = {"lowest": spec.lowest, "highest": spec.highest}
        e = guarded(
            task,
            partial(kinds.estimate, draws[spec.table], task.metrics[name], interval=spec.interval, **bounds),
            f"the metric {name}, on the table {spec.table},",
        )
        found[name] = MetricValue(
            value=e.value,
            low=e.low,
            high=e.high,
            unit=spec.unit,
            better=spec.better,
            n_units=e.n_units,
            reason=e.reason,
            no_interval=e.no_interval,
            optimistic=e.optimistic,
            design_effect=e.design_effect,
        )
    return found
