"""The figures of a result from its units alone: what everybody can check without the model or the SAE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sae_bench import crossed, nested, registry
from sae_bench.errors import ResultError
from sae_bench.metrics import metrics_of
from sae_bench.schema import MetricValue, Result, TaskSpec
from sae_bench.statistics import Estimate, estimate
from sae_bench.units import Units

EXACT = 1e-9  # figures from the same units differ by rounding alone


def definition(result: Result) -> TaskSpec:
    """The task of a result as it was measured: its definition with the parameters of the run. Raises ResultError."""
    known = registry.tasks()
    if result.task not in known:
        raise ResultError(f"the result is of the task {result.task!r}, which is not installed here")
    spec = known[result.task]
    changed = {k: v for k, v in result.provenance.protocol.parameters.items() if k in spec.parameters}
    return spec.model_copy(update={"parameters": spec.parameters | changed})


def figures(spec: TaskSpec, tables: Mapping[str, Units], seed: int, resamples: int) -> dict[str, Estimate]:
    """Every metric of a task with its interval, from those of its tables that there are."""
    found: dict[str, Estimate] = {}
    draws: dict[str, Any] = {}
    metrics = metrics_of(spec)
    for name, metric in spec.metrics.items():
        table = tables.get(metric.table)
        if table is None:
            continue
        if metric.table in ("example", "ablation") and len(table):
            scheme: Any = nested if metric.table == "example" else crossed
            if metric.table not in draws:
                draws[metric.table] = scheme.draw(table, seed=seed, resamples=resamples)
            more = {"interval": metric.interval} if scheme is crossed else {}
            found[name] = scheme.estimate(draws[metric.table], metrics[name], **more)
        else:
            found[name] = estimate(table, metrics[name], interval=metric.interval, seed=seed, resamples=resamples)
    return found


def differences(result: Result, tables: Mapping[str, Units]) -> tuple[int, list[str]]:
    """How many figures were computed again, and a sentence for each that is not what the units give.

    Also those of the controls whose tables are there. Raises ResultError for a task that is not installed.
    """
    spec = definition(result)
    seed, resamples = result.provenance.protocol.seed, result.provenance.resamples
    own = {kind: table for kind, table in tables.items() if "/" not in kind}
    groups: list[tuple[str, Mapping[str, MetricValue], Mapping[str, Units]]] = [("", result.metrics, own)]
    for name, values in result.controls.items():
        if kept := _control(name, tables):
            groups.append((f"control {name}, ", values, kept))
    n, wrong = 0, []
    for label, claimed, units in groups:
        for metric, e in figures(spec, units, seed, resamples).items():
            n += 1
            if metric not in claimed:
                wrong.append(f"{label}{metric} is not in the result, though its units are")
                continue
            for what in ("value", "low", "high"):
                theirs, ours = getattr(claimed[metric], what), getattr(e, what)
                if not _equal(theirs, ours):
                    wrong.append(f"{label}{metric}: {what} is {theirs} in the result, but its units give {ours}")
    return n, wrong


def _control(name: str, tables: Mapping[str, Units]) -> dict[str, Units]:
    """The tables of a control; columns equal to those of the SAE are stored there alone."""
    found = {}
    for key, table in tables.items():
        prefix, _, kind = key.rpartition("/")
        if prefix == f"control/{name}":
            of_sae = tables[kind].columns if kind in tables else {}
            shared = {c: values for c, values in of_sae.items() if len(values) == len(table)}
            found[kind] = Units(table.ids, shared | dict(table.columns))
    return found


def _equal(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=EXACT, abs_tol=EXACT)
