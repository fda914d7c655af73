"""From what was measured to results: figures with intervals, controls beside them, provenance."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sae_bench.engine.plan import Options
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.engine.workspace import guarded as guarded_coder
from sae_bench.errors import Deferred, SaeBenchError, TaskError, said
from sae_bench.models.subject import SubjectModel, canonical_name
from sae_bench.saes.wrap import content_sha256
from sae_bench.schema import CONTROL_RULES, CoderRecord, MetricValue, Protocol, Provenance, Result, Status, TaskSpec
from sae_bench.session import fidelity
from sae_bench.session.run import Measured
from sae_bench.streams import Reader, Run, stream
from sae_bench.streams.beside import PERMUTED
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.tasks.base import Task
from sae_bench.units import Units, kinds
from sae_bench.units.bootstrap import CONFIDENCE
from sae_bench.units.kinds import Draws

MEASURED = "controls as measured"  # name in the details: by control, its L0 and on how many documents


def weights_sha256(entry: Entry) -> str:
    """Digest of the files of an SAE, else of what it does; zeros where it fails."""
    digest: str | None = entry.coder.info.provenance.get("sha256")
    if digest is None:
        try:
            digest = guarded_coder(entry, lambda: content_sha256(entry.coder))
        except CoderFailure:
            digest = "0" * 64
    return digest


def coder_record(entry: Entry, source: str, subject: SubjectModel) -> CoderRecord:
    """Who was measured, at hook points of ``subject`` by their canonical names."""
    info = entry.coder.info
    came, goes = (tuple(canonical_name(subject, hook) for hook in hooks) for hooks in (info.hooks_in, info.hooks_out))
    written = {"hooks_as_written": [*info.hooks_in, *info.hooks_out]}
    other = {} if (came, goes) == (info.hooks_in, info.hooks_out) else written
    return CoderRecord(
        name=entry.key,
        source=source,
        format=info.format,
        architecture=info.architecture,
        weights_sha256=weights_sha256(entry),
        n_latents=info.n_latents,
        d_in=info.d_in,
        d_out=info.d_out,
        hooks_in=came,
        hooks_out=goes,
        provenance={k: v for k, v in info.provenance.items() if k != "sha256"} | other,
    )


def results(
    measured: Measured,
    records: dict[str, CoderRecord],
    protocols: dict[tuple[str, str], tuple[str, Protocol]],
    provenance: dict[str, dict[str, Any]],
) -> Iterator[tuple[Result, dict[str, Units]]]:
    """A result for every SAE and task, with its tables of units.

    Tables are called ``document``, ``latent``, and ``control/<name>/document`` and so on for controls, whose tables
    leave out the columns that they share with the SAE.
    """
    run = measured.run
    said_of: dict[tuple[str, str], list[str]] = {}
    for entry in by_hook(run.cast.saes):
        record = records[entry.key]
        for name, task in measured.tasks.items():
            digest, protocol = protocols[entry.key, name]
            common: dict[str, Any] = {"sae": record, "task": name, "version": task.spec.version, "protocol": digest}
            common["definition"] = task.spec

            def origin(
                entry: Entry = entry, name: str = name, protocol: Protocol = protocol
            ) -> Provenance:  # made last: explanations are counted too
                return Provenance(
                    **_common(protocol, run.inputs.options),
                    n_calibration_documents=run.inputs.corpus.calibration.n_units,
                    n_calibration_tokens=run.work.moments[entry.hook_in].n_tokens,
                    counters=measured.counters(name, entry),
                    **provenance[name],
                )

            try:
                content, tables = _measured(measured, task, entry)
            except (TaskFailure, CoderFailure) as failure:
                yield Result(**common, status="error", reason=str(failure), provenance=origin()), {}
            except Deferred as stop:
                yield Result(**common, status="skipped", reason=str(stop), provenance=origin()), {}
            else:
                why = guarded(task, partial(task.degraded, content["details"]), "degraded")
                status: Status = "ok" if why is None else "degraded"
                yield Result(**common, status=status, reason=why, **content, provenance=origin()), tables
                for caution in content["details"].get("cautions", ()):
                    said_of.setdefault((name, caution), []).append(entry.label)
    in_order = [entry.label for entry in run.cast.saes]
    for (name, caution), labels in said_of.items():
        warnings.warn(f"{name} of {', '.join(sorted(labels, key=in_order.index))}: {caution}", stacklevel=2)


def by_hook(saes: Sequence[Entry]) -> list[Entry]:
    """The SAEs of one hook point after those of another, as what belongs to a hook point is in memory for one alone."""
    first = {entry.hook_out: i for i, entry in reversed([*enumerate(saes)])}
    return sorted(saes, key=lambda entry: first[entry.hook_out])


def tables_of(measured: Measured, task: Task, entry: Entry) -> dict[str, Units]:
    """The tables of units of one coder on one task. Raises CoderFailure, TaskFailure, Deferred."""
    return _tables(measured.run, measured.readers[task.spec.id], task, entry)


def _measured(measured: Measured, task: Task, entry: Entry) -> tuple[dict[str, Any], dict[str, Units]]:
    """Figures, controls and details of one SAE, and all tables. Raises TaskFailure, CoderFailure, Deferred."""
    run, reader = measured.run, measured.readers[task.spec.id]
    tables = _tables(run, reader, task, entry)
    beside = _controls(run, reader, task, entry, tables)
    lost = beside.lost
    if why := guarded(task, lambda: task.unusable(tables), "unusable"):
        raise TaskFailure(why)
    draws = drawn(task, tables, run.inputs.options)
    metrics = figures(task, draws)
    references = guarded(task, lambda: reader.references(task, entry), "tables")
    options = run.inputs.options
    known = guarded(task, lambda: _constants(task), "constants")
    known |= {label: figures(task, drawn(task, own, options), task.only_of_coders) for label, own in references.items()}
    details = guarded(task, lambda: reader.details(task, entry, tables, draws), "details")
    details = plain(task, details) | ({"controls without figures": lost} if lost else {})
    details |= {MEASURED: beside.measured} if beside.measured else {}
    n_latents = entry.coder.info.n_latents
    said_beside = guarded(task, lambda: list(task.cautions(tables, n_latents)), "cautions")
    of_sae, beside_of_sae = fidelity.said(run.cast, task, entry)
    tied = guarded(task, lambda: fidelity.tie(task, *beside.permuted), f"the metric {task.fidelity}")
    details |= beside_of_sae
    # a control that was asked for by name, and paid for
    unheard = [f"control {name} has no figures: {why}" for name, why in lost.items() if task.spec.judge]
    if cautions := [*said_beside, *of_sae, *([tied] if tied else []), *unheard]:
        details["cautions"] = cautions
    content = {"metrics": metrics, "controls": known | beside.figures, "details": details}
    return content, tables | beside.tables


def _tables(run: Run, reader: Reader, task: Task, entry: Entry, sae: Entry | None = None) -> dict[str, Units]:
    """The tables of one coder on one task; of a control, beside an SAE. Raises CoderFailure, TaskFailure, Deferred."""
    if (why := run.state.failures.get(entry.key)) is not None:
        raise CoderFailure(why, entry.key)
    if (why := reader.failure(task, entry)) is not None:
        raise TaskFailure(why)
    own = partial(reader.tables, task, entry) if sae is None else partial(reader.beside, task, entry, sae)
    tables = guarded(task, own, "tables")
    if not isinstance(tables, dict) or not all(isinstance(table, Units) for table in tables.values()):
        raise TaskFailure(f"task {task.spec.id}: tables must return tables of units by name")
    lacking = sorted({metric.table for metric in task.spec.metrics.values()} - tables.keys())
    if lacking:
        raise TaskFailure(f"task {task.spec.id}: its metrics are made of the table {lacking[0]}, which is not made")
    return tables


def plain(task: Task, details: Any) -> dict[str, Any]:
    """The details of a task, if they are plain JSON. Raises TaskFailure."""
    try:
        json.dumps(details, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TaskFailure(f"task {task.spec.id}: details must be plain JSON, but {said(error)}") from error
    if not isinstance(details, dict):
        raise TaskFailure(f"task {task.spec.id}: details must be an object, not {type(details).__name__}")
    return details


def skipped(
    record: CoderRecord,
    spec: TaskSpec,
    identity: tuple[str, Protocol],
    reason: str,
    provenance: dict[str, Any],
    options: Options,
) -> Result:
    """The result of a task that cannot be measured here; ``identity`` is its protocol, with the hash."""
    digest, protocol = identity
    full = Provenance(
        **_common(protocol, options),
        n_calibration_documents=0,
        n_calibration_tokens=0,
        counters={},
        **provenance,
    )
    common: dict[str, Any] = {"sae": record, "task": spec.id, "version": spec.version, "protocol": digest}
    return Result(**common, definition=spec, status="skipped", reason=reason, provenance=full)


def _common(protocol: Protocol, options: Options) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "resamples": options.resamples,
        "confidence": CONFIDENCE,
        "controls": options.controls,
        "control_rules": CONTROL_RULES,
    }


def _constants(task: Task) -> dict[str, dict[str, MetricValue]]:
    """Scores that are known without a measurement."""
    found: dict[str, dict[str, MetricValue]] = {}
    for label, values in task.constants.items():
        for name, value in values.items():
            spec = task.spec.metrics[name]
            known = MetricValue(value=value, low=None, high=None, unit=spec.unit, better=spec.better, n_units=0)
            found.setdefault(label, {})[name] = known
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
        e = guarded(
            task,
            partial(kinds.estimate, draws[spec.table], task.metrics[name], interval=spec.interval),
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
        )
    return found


@dataclass
class _Beside:
    """What stands beside an SAE: ``figures`` and ``tables`` of its controls, and why those that are ``lost`` have none.

    ``measured`` says of each what it was matched to and on how much text. ``permuted``: the draws of the SAE and of
    that control on the same documents, where the task holds one against the other.
    """

    figures: dict[str, dict[str, MetricValue]] = field(default_factory=dict)
    tables: dict[str, Units] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    permuted: tuple[Mapping[str, Draws], Mapping[str, Draws] | None] = ({}, None)


def _controls(run: Run, reader: Reader, task: Task, entry: Entry, own: dict[str, Units]) -> _Beside:
    """All controls of an SAE."""
    found = _Beside()
    found.lost = {name: why for name, why in run.cast.unmade.get(entry.key, {}).items() if task.wants_control(name)}
    entries = {e.key: e for e in run.cast.controls}
    for name, key in run.cast.controls_of.get(entry.key, {}).items():
        if not task.wants_control(name):
            continue
        if not reader.has_rows(entries[key]):
            found.lost[name] = "it has no latents, which this task measures"
            continue
        if (why := run.state.failures.get(key)) is not None:
            found.lost[name] = why
            continue
        try:
            _control(run, reader, task, (entry, entries[key]), own, found)
        except TaskFailure as failure:
            if isinstance(failure.__cause__, SaeBenchError) and not isinstance(failure.__cause__, TaskError):
                raise  # a judge that is gone is gone for all
            found.lost[name] = str(failure)
        except CoderFailure as failure:
            if failure.key == entry.key:
                raise
            found.lost[name] = str(failure)
    return found


def _control(
    run: Run, reader: Reader, task: Task, pair: tuple[Entry, Entry], own: dict[str, Units], found: _Beside
) -> None:
    """One control of an SAE, the ``pair``. Raises TaskFailure, CoderFailure."""
    sae, control = pair
    name, options = control.label, run.inputs.options
    tables = _tables(run, reader, task, control, sae)
    if why := guarded(task, partial(task.unusable, tables), "unusable"):
        found.lost[name] = why
        return
    n, lacking = reader.measured_on(task, control, sae), ""
    if n is not None:
        tables = {kind: table for kind, table in tables.items() if kind not in stream(task.stream).whole}
        lacking = f"it is a figure over all of the text, and this control was measured on {n} documents of it"
    draws = drawn(task, tables, options)
    found.figures[name] = figures(task, draws, lacking=lacking)
    same = {kind: _rows_of(own[kind], table) for kind, table in tables.items() if kind in own}
    if name == PERMUTED and task.fidelity:
        found.permuted = drawn(task, same, options), draws
    for kind, table in tables.items():
        shared = same[kind].columns if kind in same and len(same[kind]) == len(table) else {}
        columns = {c: v for c, v in table.columns.items() if not _equal(shared.get(c), v)}
        found.tables[f"control/{name}/{kind}"] = replace(table, columns=columns)
    asked, had = control.coder.info.provenance.get("l0"), reader.l0_of(control)
    said = {"l0_asked_for": asked, "l0": had, "documents": n}
    if any(value is not None for value in said.values()):
        found.measured[name] = {what: value for what, value in said.items() if value is not None}


def _rows_of(own: Units, control: Units) -> Units:
    """The rows of an SAE's table that a control's has too; the same table where the control has all."""
    return own if own.ids == control.ids else own.where(set(control.ids).__contains__)


def _equal(a: Any, b: Any) -> bool:
    return a is b or (a is not None and a.shape == b.shape and bool((a == b).all()))
