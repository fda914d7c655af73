"""From what was measured to results: figures with intervals, controls beside them, provenance."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from sae_bench.engine.plan import Options
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.engine.workspace import guarded as guarded_coder
from sae_bench.errors import Deferred, said
from sae_bench.models.subject import SubjectModel, canonical_name
from sae_bench.results.against import Side, against
from sae_bench.saes.wrap import content_sha256
from sae_bench.schema import (
    CONTROL_RULES,
    LOST,
    MEASURED,
    CoderRecord,
    MetricValue,
    Protocol,
    Provenance,
    Result,
    Status,
    TaskSpec,
)
from sae_bench.session import fidelity
from sae_bench.session.beside import controls
from sae_bench.session.figures import drawn, figures, measured_tables
from sae_bench.session.run import Measured
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.tasks.base import Task
from sae_bench.units import Units
from sae_bench.units.bootstrap import CONFIDENCE

KNOWN = "it is known without a measurement"  # why a constant has no interval


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
                content, tables, sides = _measured(measured, task, entry)
                why = guarded(task, partial(task.degraded, content["details"]), "degraded")
                status: Status = "ok" if why is None else "degraded"
                result = Result(**common, status=status, reason=why, **content, provenance=origin())
                held = guarded(task, partial(against, result, task.spec, sides.pop(""), sides), "comparing its figures")
            except (TaskFailure, CoderFailure) as failure:
                yield Result(**common, status="error", reason=str(failure), provenance=origin()), {}
            except Deferred as stop:
                yield Result(**common, status="skipped", reason=str(stop), provenance=origin()), {}
            else:
                yield result.model_copy(update={"against": held}), tables
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
    return measured_tables(measured.run, measured.readers[task.spec.id], task, entry)


def _measured(measured: Measured, task: Task, entry: Entry) -> tuple[dict[str, Any], dict[str, Units], dict[str, Side]]:
    """Figures, controls and details of one SAE, all tables, and the sides of which figures are held against others.

    Those of the SAE are called "". Raises TaskFailure, CoderFailure, Deferred.
    """
    run, reader = measured.run, measured.readers[task.spec.id]
    tables = measured_tables(run, reader, task, entry)
    beside = controls(run, reader, task, entry, tables)
    lost = beside.lost
    if why := guarded(task, lambda: task.unusable(tables), "unusable"):
        raise TaskFailure(why)
    draws = drawn(task, tables, run.inputs.options)
    metrics = figures(task, draws)
    references = guarded(task, lambda: reader.references(task, entry), "tables")
    options = run.inputs.options
    known = guarded(task, lambda: _constants(task), "constants")
    sides = {label: Side(own, drawn(task, own, options), reference=True) for label, own in references.items()}
    known |= {label: figures(task, side.draws, task.lacking(label)) for label, side in sides.items()}
    details = guarded(task, lambda: reader.details(task, entry, tables, draws), "details")
    details = plain(task, details) | ({LOST: lost} if lost else {})
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
    return content, tables | beside.tables, {"": Side(tables, draws)} | sides | beside.sides


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
            common: dict[str, Any] = {"unit": spec.unit, "better": spec.better, "n_units": 0, "no_interval": KNOWN}
            known = MetricValue(value=value, low=None, high=None, **common)
            found.setdefault(label, {})[name] = known
    return found
