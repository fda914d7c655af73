"""From what was measured to results: figures with intervals, controls beside them, provenance."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sae_bench.engine.plan import Options
from sae_bench.engine.run import Measured
from sae_bench.engine.workspace import CoderFailure, Entry, guarded
from sae_bench.judge import JudgeError
from sae_bench.saes.wrap import content_sha256
from sae_bench.schema import CoderRecord, MetricValue, Protocol, Provenance, Result, Status, TaskSpec
from sae_bench.tasks.autointerp.asking import Deferred
from sae_bench.tasks.base import Task
from sae_bench.tasks.labelled import LabelledTask
from sae_bench.units import Units, kinds, nested
from sae_bench.units.bootstrap import CONFIDENCE
from sae_bench.units.kinds import Draws

PACKAGES = (
    "sae-bench-suite",
    "torch",
    "transformers",
    "transformer-lens",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
)


def coder_record(entry: Entry, source: str) -> CoderRecord:
    """Who was measured."""
    info = entry.coder.info
    digest = info.provenance.get("sha256")
    if digest is None:
        try:
            digest = guarded(entry, lambda: content_sha256(entry.coder))
        except CoderFailure:
            digest = "0" * 64
    return CoderRecord(
        name=entry.key,
        source=source,
        format=info.format,
        architecture=info.architecture,
        weights_sha256=digest,
        n_latents=info.n_latents,
        d_in=info.d_in,
        d_out=info.d_out,
        hooks_in=info.hooks_in,
        hooks_out=info.hooks_out,
        provenance={k: v for k, v in info.provenance.items() if k != "sha256"},
    )


@cache
def versions() -> dict[str, str]:
    """Installed versions of what numbers depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def results(
    measured: Measured,
    records: dict[str, CoderRecord],
    protocols: dict[tuple[str, str], tuple[str, Protocol]],
    provenance: dict[str, dict[str, Any]],
    options: Options,
) -> Iterator[tuple[Result, dict[str, Units]]]:
    """A result for every SAE and task, with its tables of units.

    Tables are called ``document``, ``latent``, and ``control/<name>/document`` and so on for controls, whose tables
    leave out the columns that they share with the SAE.
    """
    for entry in measured.cast.saes:
        record = records[entry.key]
        for name, task in measured.tasks.items():
            digest, protocol = protocols[entry.key, name]
            common: dict[str, Any] = {"sae": record, "task": name, "version": task.spec.version, "protocol": digest}
            common["definition"] = task.spec
            full = Provenance(
                **_common(protocol, options),
                n_calibration_documents=measured.calibration_documents,
                n_calibration_tokens=measured.moments[entry.hook_in].n_tokens,
                counters=measured.counters(name, entry),
                **provenance[name],
            )
            if entry.key in measured.state.failures:
                reason = measured.state.failures[entry.key]
                yield Result(**common, status="error", reason=reason, provenance=full), {}
                continue
            try:
                tables = measured.tables(name, entry)
                controls, control_tables = _controls(measured, task, entry, tables, options)
            except (JudgeError, Deferred) as stop:
                status: Status = "skipped" if isinstance(stop, Deferred) else "error"
                yield Result(**common, status=status, reason=str(stop), provenance=full), {}
                continue
            if why := task.unusable(tables):
                yield Result(**common, status="error", reason=why, provenance=full), {}
                continue
            full = full.model_copy(update={"counters": measured.counters(name, entry)})  # with explanations
            draws = drawn(task, tables, options)
            references = measured.references(name, entry)
            controls = {label: _reference(task, own, options) for label, own in references.items()} | controls
            controls = _constants(task) | controls
            yield (
                Result(
                    **common,
                    status="ok",
                    metrics=figures(task, draws),
                    controls=controls,
                    details=_details(task, _whole(measured, name, entry, tables, controls), draws),
                    provenance=full,
                ),
                tables | control_tables,
            )


def skipped(
    record: CoderRecord,
    digest: str,
    protocol: Protocol,
    reason: str,
    provenance: dict[str, Any],
    options: Options,
    definition: TaskSpec | None = None,
) -> Result:
    """The result of a task that cannot be measured here."""
    full = Provenance(
        **_common(protocol, options),
        n_calibration_documents=0,
        n_calibration_tokens=0,
        counters={},
        **provenance,
    )
    common: dict[str, Any] = {"sae": record, "task": protocol.task, "version": protocol.version, "protocol": digest}
    return Result(**common, definition=definition, status="skipped", reason=reason, provenance=full)


def _common(protocol: Protocol, options: Options) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "resamples": options.resamples,
        "confidence": CONFIDENCE,
        "controls": options.controls,
    }


def _details(task: Task, details: dict[str, Any], draws: Mapping[str, Draws]) -> dict[str, Any]:
    """What the task shows beside its metrics; of labelled sets also the figures of each."""
    examples = draws.get("example")
    if not isinstance(examples, nested.Draws):
        return details
    for name, spec in task.spec.metrics.items():
        if not spec.headline:
            continue
        for unit, e in nested.each_set(examples, task.metrics[name]).items():
            own = details["sets"][unit.partition("@")[0]].setdefault("metrics", {})
            own[name] = {"value": e.value, "low": e.low, "high": e.high} | ({"reason": e.reason} if e.reason else {})
    return details


def _whole(
    measured: Measured, task: str, entry: Entry, tables: dict[str, Units], controls: Mapping[str, Any]
) -> dict[str, Any]:
    """The details of an SAE, which say so if a control that stands beside it is not complete."""
    details = measured.details(task, entry, tables)
    if measured.tasks[task].stream != "watched":
        return details
    entries = {e.key: e for e in measured.cast.controls}
    for name, key in measured.cast.controls_of.get(entry.key, {}).items():
        why = measured.details(task, entries[key], {}).get("incomplete") if name in controls else None
        details = details | ({"incomplete": f"control {name}: {why}"} if why else {})
    return details


def _reference(task: Task, tables: dict[str, Units], options: Options) -> dict[str, MetricValue]:
    without = task.only_of_coders if isinstance(task, LabelledTask) else frozenset()
    return figures(task, drawn(task, tables, options), without)


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
    """The resampled sums of every table that the task's metrics are made of."""
    return kinds.drawn(task.spec, tables, seed=options.seed, resamples=options.resamples)


def figures(task: Task, draws: Mapping[str, Draws], without: frozenset[str] = frozenset()) -> dict[str, MetricValue]:
    """All metrics of a task (``without`` some) from what :func:`drawn` gave for its tables of units."""
    found = {}
    for name, spec in task.spec.metrics.items():
        if name in without:
            continue
        e = kinds.estimate(draws[spec.table], task.metrics[name], interval=spec.interval)
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


def _controls(
    measured: Measured, task: Task, entry: Entry, own: dict[str, Units], options: Options
) -> tuple[dict[str, dict[str, MetricValue]], dict[str, Units]]:
    scores, kept = {}, {}
    entries = {e.key: e for e in measured.cast.controls}
    for name, key in measured.cast.controls_of.get(entry.key, {}).items():
        if key in measured.state.failures or not _measured(task, entries[key]) or not task.wants_control(name):
            continue
        tables = measured.tables(task.spec.id, entries[key])
        if task.unusable(tables):
            continue
        scores[name] = figures(task, drawn(task, tables, options))
        for kind, table in tables.items():
            same = own[kind].columns
            columns = {c: v for c, v in table.columns.items() if not _equal(same.get(c), v)}
            kept[f"control/{name}/{kind}"] = Units(table.ids, columns)
    return scores, kept


def _measured(task: Task, control: Entry) -> bool:
    """Whether a control has rows: a coder without latents has nothing to probe or to ablate."""
    return task.stream == "documents" or control.coder.info.n_latents > 0


def _equal(a: Any, b: Any) -> bool:
    return a is not None and a.shape == b.shape and bool((a == b).all())
