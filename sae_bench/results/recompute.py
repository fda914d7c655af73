"""The figures of a result from its units alone: what everybody can check without the model or the SAE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from sae_bench import registry
from sae_bench.errors import ResultError, SaeBenchError
from sae_bench.metrics import metrics_of, silent_of
from sae_bench.results.against import Side, against
from sae_bench.results.definitions import installed, measured_with
from sae_bench.schema import MARKED_FROM, MetricValue, Result, TaskSpec, Verdict
from sae_bench.units import Units
from sae_bench.units.bootstrap import Draws, Estimate, Metric
from sae_bench.units.kinds import Kind, drawn, estimate, kind
from sae_bench.units.sample import first_for_controls

EXACT = 1e-9  # figures from the same units differ by rounding alone


def definition(result: Result, task_dir: str | None = None) -> TaskSpec:
    """The task of a result as it was measured: its definition with the parameters of the run. Raises ResultError."""
    spec = installed(result, task_dir)
    if result.provenance.protocol.task != result.task:
        raise ResultError(f"the result is of {result.task!r}, but its protocol of {result.provenance.protocol.task!r}")
    return measured_with(spec, result)


def figures(
    spec: TaskSpec, tables: Mapping[str, Units], seed: int, resamples: int, *, older: bool = False
) -> dict[str, Estimate]:
    """Every metric of a task with its interval, from those of its tables that there are.

    ``older``: as they were made before a sample was asked what its intervals are worth (``MARKED_FROM``).
    """
    draws, metrics = drawn(spec, tables, seed=seed, resamples=resamples), metrics_of(spec)
    if older:
        draws = {table: replace(own, sample=None) if isinstance(own, Draws) else own for table, own in draws.items()}
    return {
        name: estimate(
            draws[metric.table],
            metrics[name],
            interval=metric.interval,
            lowest=None if older else metric.lowest,
            highest=None if older else metric.highest,
        )
        for name, metric in spec.metrics.items()
        if metric.table in draws
    }


def differences(result: Result, tables: Mapping[str, Units], task_dir: str | None = None) -> tuple[int, list[str]]:
    """How many figures were computed again, and a sentence for each that is not what the units give.

    Also those of the controls whose tables are there. Raises ResultError for a task that is not installed.
    """
    spec = definition(result, task_dir)
    seed, resamples = result.provenance.protocol.seed, result.provenance.resamples
    own = {kind: table for kind, table in tables.items() if "/" not in kind}
    groups: list[tuple[str, Mapping[str, MetricValue], Mapping[str, Units]]] = [("", result.metrics, own)]
    silent: dict[str, frozenset[str]] = {}
    for name, values in result.controls.items():
        if kept := _control(name, tables):
            groups.append((f"control {name}, ", values, kept))
            silent[f"control {name}, "] = silent_of(spec, name) - values.keys()
    spec = _measured(spec, result, own)
    n, wrong = 0, _lacking(result, spec, own, tables)
    wrong += [said for label, _, kept in groups[1:] for said in _chosen(spec, label, own, kept, seed)]
    wrong += [f"{label}{said}" for label, _, kept in groups for said in _disagreeing(spec, kept)]
    marked = result.schema_version >= MARKED_FROM
    for label, claimed, units in groups:
        try:
            found = figures(spec, units, seed, resamples, older=not marked)
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # columns are what somebody made them
            wrong.append(f"{label}no figure can be computed from the units of {', '.join(units)}: {error}")
            continue
        wrong += _without_units(label, claimed, spec, units)
        for metric, e in found.items():
            if metric in silent.get(label, ()):
                continue
            n += 1
            if metric not in claimed:
                wrong.append(f"{label}{metric} is not in the result, though its units are")
                continue
            for what in ("value", "low", "high"):
                theirs, ours = getattr(claimed[metric], what), getattr(e, what)
                if not _equal(theirs, ours):
                    wrong.append(f"{label}{metric}: {what} is {theirs} in the result, but its units give {ours}")
            wrong += _marks(label, metric, claimed[metric], e) if marked else []
            known = {"n_units": e.n_units, "unit": spec.metrics[metric].unit, "better": spec.metrics[metric].better}
            for what, right in known.items():
                if (theirs := getattr(claimed[metric], what)) != right:
                    wrong.append(f"{label}{metric}: {what} is {theirs!r} in the result, and must be {right!r}")
    return n, wrong or _against(result, spec, own, tables)  # of wrong figures no difference is right


def _disagreeing(spec: TaskSpec, tables: Mapping[str, Units]) -> list[str]:
    """What one table of an SAE or control says, and another denies."""
    used = sorted({metric.table for metric in spec.metrics.values()} & tables.keys())
    try:
        return [said for name in used if (said := kind(name).disagree(tables))]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return [f"the tables {', '.join(used)} cannot be held against each other: {error}"]


def unchecked(result: Result, tables: Mapping[str, Units]) -> list[str]:
    """What stands beside the SAE with figures, and has no units that they could be computed from."""
    return [name for name in result.controls if name not in registry.controls() and not _control(name, tables)]


def _against(result: Result, spec: TaskSpec, own: Mapping[str, Units], tables: Mapping[str, Units]) -> list[str]:
    """What the result says of the SAE beside its controls, and the units do not; what it left out is no claim."""
    sides = {name: Side(kept) for name in result.against if (kept := _control(name, tables))}
    try:
        found = against(result, spec, Side(own), sides)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, SaeBenchError) as error:
        return [f"the SAE cannot be held against its controls by their units: {error}"]
    wrong = [
        f"the SAE is held against {name}, which has no figures in the result"
        for name in result.against
        if name not in result.controls
    ]
    for name in sides:
        for metric, claimed in result.against[name].items():
            ours = found.get(name, {}).get(metric)
            if ours is None:
                wrong.append(f"against {name}, {metric} is in the result, but the units give no difference")
                continue
            for what in ("value", "low", "high", "p"):
                if not _equal(getattr(claimed, what), getattr(ours, what)):
                    theirs, right = getattr(claimed, what), getattr(ours, what)
                    wrong.append(f"against {name}, {metric}: {what} is {theirs} in the result, the units give {right}")
            if claimed.n_units != ours.n_units or not _agree(claimed.verdict, ours.verdict):
                wrong.append(
                    f"against {name}, {metric}: {claimed.verdict!r} on {claimed.n_units} units in the result, "
                    f"{ours.verdict!r} on {ours.n_units} by the units"
                )
    return wrong


def _agree(claimed: Verdict, ours: Verdict) -> bool:
    """Whether two verdicts say the same; "differs" is all that is said while nobody is ranked by the metric."""
    return claimed == ours or ("differs" in (claimed, ours) and "cannot be told apart" not in (claimed, ours))


def _marks(label: str, metric: str, claimed: MetricValue, e: Estimate) -> list[str]:
    """A mark that was taken off, or put on; that a value or an interval is gone is said already."""
    if (claimed.value is None, claimed.low is None) != (e.value is None, e.low is None):
        return []
    wrong = []
    for what in ("no_interval", "optimistic"):
        theirs, ours = getattr(claimed, what), getattr(e, what)
        if (theirs is None) != (ours is None):
            wrong.append(f"{label}{metric}: {what} is {theirs!r} in the result, but its units say {ours!r}")
    if not _equal(claimed.design_effect, e.design_effect):
        wrong.append(
            f"{label}{metric}: design_effect is {claimed.design_effect} in the result, but its units give "
            f"{e.design_effect}"
        )
    return wrong


def _measured(spec: TaskSpec, result: Result, own: Mapping[str, Units]) -> TaskSpec:
    """The definition without metrics that came after the result: it neither has them nor the sums they are made of.

    A result of another definition may have the sums.
    """
    metrics, of_another = metrics_of(spec), registry.definition_sha256(spec) != result.provenance.protocol.task_sha256
    later = {
        name
        for name, metric in spec.metrics.items()
        if name not in result.metrics
        and metric.table in own
        and (of_another or not _computable(metrics[name], kind(metric.table), own[metric.table]))
    }
    return spec.model_copy(update={"metrics": {n: metric for n, metric in spec.metrics.items() if n not in later}})


def _computable(metric: Metric, of: Kind, units: Units) -> bool:
    try:
        of.point(of.totals(units), metric)
    except AttributeError:
        return False
    return True


def _lacking(result: Result, spec: TaskSpec, own: Mapping[str, Units], tables: Mapping[str, Units]) -> list[str]:
    """Figures behind which there is no unit, and documents without a row."""
    used = {metric.table for metric in spec.metrics.values()}
    wrong = [f"the units have no {name} table, which figures are made of" for name in sorted(used - set(own))]
    wrong += [f"{name} is no metric of {spec.id}" for name in result.metrics if name not in spec.metrics]
    for name in registry.controls():
        if name in result.controls and not _control(name, tables):
            wrong.append(f"the control {name} has figures but no units")
    for name, table in own.items():
        if len(set(table.ids)) < len(table):
            wrong.append(f"the {name} table has {len(table) - len(set(table.ids))} rows twice")
    n = result.provenance.protocol.n_documents
    for name in sorted(used & set(own)):
        if kind(name).population and len(own[name]) != n:
            wrong.append(f"the {name} table has {len(own[name])} rows, but the protocol says {n} documents")
    return wrong


def _chosen(spec: TaskSpec, label: str, own: Mapping[str, Units], control: Mapping[str, Units], seed: int) -> list[str]:
    """Documents of a control that somebody has chosen: each sample is the first of the text by a hash, or all of it."""
    wrong = []
    for name in sorted({metric.table for metric in spec.metrics.values()} & own.keys() & control.keys()):
        if kind(name).population:
            table, ids = control[name], own[name].ids
            first = sorted(ids[i] for i in first_for_controls(ids, len(table), seed))
            if sorted(table.ids) != first:
                wrong.append(f"{label}its {len(table)} {name} rows are not those by which a sample of the text begins")
    return wrong


def _without_units(
    label: str, claimed: Mapping[str, MetricValue], spec: TaskSpec, units: Mapping[str, Units]
) -> list[str]:
    """What a control claims of tables that it does not have; of an SAE such a table is missed by :func:`_lacking`."""
    return [
        f"{label}{name} has a value, but there is no {spec.metrics[name].table} table that it could be made of"
        for name, value in claimed.items()
        if label and value.value is not None and name in spec.metrics and spec.metrics[name].table not in units
    ]


def _control(name: str, tables: Mapping[str, Units]) -> dict[str, Units]:
    """The tables of a control; columns equal to those of the SAE in the same rows are stored there alone."""
    found = {}
    for key, table in tables.items():
        prefix, _, kind = key.rpartition("/")
        if prefix == f"control/{name}":
            beside = tables[kind].beside(table.ids) if kind in tables else None
            found[kind] = Units(table.ids, {**(beside.columns if beside else {}), **table.columns}, table.common)
    return found


def _equal(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=EXACT, abs_tol=EXACT)
