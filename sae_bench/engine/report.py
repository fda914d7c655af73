"""From what was measured to results: figures with intervals, controls beside them, provenance."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sae_bench.engine.batch import CoderFailure, Entry, guarded
from sae_bench.engine.plan import Options
from sae_bench.engine.run import Measured
from sae_bench.saes.wrap import content_sha256
from sae_bench.schema import CoderRecord, MetricValue, Protocol, Provenance, Result
from sae_bench.statistics import CONFIDENCE, estimate, resample
from sae_bench.tasks.base import Task
from sae_bench.units import Units

PACKAGES = ("sae-bench-suite", "torch", "transformers", "transformer-lens", "numpy", "scipy", "safetensors")


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
    provenance: dict[str, Any],
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
            full = Provenance(
                protocol=protocol,
                versions=versions(),
                platform=f"{platform.system()} {platform.machine()}",
                resamples=options.resamples,
                confidence=CONFIDENCE,
                n_tokens=measured.evaluation.n_tokens,
                n_calibration_documents=measured.calibration_documents,
                n_calibration_tokens=measured.moments[entry.hook_in].n_tokens,
                counters=dict(sorted(measured.state.counters.items())),
                **provenance,
            )
            if entry.key in measured.state.failures:
                reason = measured.state.failures[entry.key]
                yield Result(**common, status="error", reason=reason, provenance=full), {}
                continue
            tables = measured.tables(name, entry)
            controls, control_tables = _controls(measured, task, entry, tables, options)
            yield (
                Result(
                    **common,
                    status="ok",
                    metrics=figures(task, tables, options),
                    controls=controls,
                    details=task.details(tables),
                    provenance=full,
                ),
                tables | control_tables,
            )


def figures(task: Task, tables: dict[str, Units], options: Options) -> dict[str, MetricValue]:
    """All metrics of a task from its tables of units."""
    found = {}
    draws = {kind: resample(t, seed=options.seed, resamples=options.resamples) for kind, t in tables.items() if len(t)}
    for name, spec in task.spec.metrics.items():
        e = estimate(
            tables[spec.table],
            task.metrics[name],
            interval=spec.interval,
            seed=options.seed,
            resamples=options.resamples,
            draws=draws.get(spec.table),
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


def _controls(
    measured: Measured, task: Task, entry: Entry, own: dict[str, Units], options: Options
) -> tuple[dict[str, dict[str, MetricValue]], dict[str, Units]]:
    scores, kept = {}, {}
    entries = {e.key: e for e in measured.cast.controls}
    for name, key in measured.cast.controls_of.get(entry.key, {}).items():
        if key in measured.state.failures:
            continue
        tables = measured.tables(task.spec.id, entries[key])
        scores[name] = figures(task, tables, options)
        for kind, table in tables.items():
            same = own[kind].columns
            columns = {c: v for c, v in table.columns.items() if not _equal(same.get(c), v)}
            kept[f"control/{name}/{kind}"] = Units(table.ids, columns)
    return scores, kept


def _equal(a: Any, b: Any) -> bool:
    return a is not None and a.shape == b.shape and bool((a == b).all())
