"""Checking somebody's result: metrics from its units, its inputs by their digests, and a random part of its rows anew.

A result claims three things: that its metrics follow from its table of units, that the table was measured with the
weights, model and data that it names, and how. The first is recomputed in full; the second is compared by digest with
what the verifier has; of the third a random part is measured again, chosen when the check is made, so nobody can know
beforehand which rows to leave alone.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.stats import binom

from sae_bench.api import REPEAT, Session
from sae_bench.engine.workspace import CoderFailure
from sae_bench.errors import ResultError, UsageError
from sae_bench.files import at_home
from sae_bench.known_digests import afresh
from sae_bench.results import store
from sae_bench.results.environment import environment, listed
from sae_bench.results.recompute import differences, unchecked
from sae_bench.schema import Protocol, Provenance, Result
from sae_bench.session.report import tables_of
from sae_bench.session.run import measure
from sae_bench.settings import Settings
from sae_bench.show import judges
from sae_bench.show.text import some
from sae_bench.streams import stream
from sae_bench.streams.base import Progress
from sae_bench.streams.guard import TaskFailure
from sae_bench.units import Units
from sae_bench.units.kinds import alike

# Rows in another environment: most agree to CLOSE; a latent at its threshold may flip, which moves a row, but not to
# FAR. Rounding alone is far below both: other batch sizes and threads move float32 rows of the demo by at most 2e-6.
CLOSE, FAR = 1e-3, 5e-2
FLIPS = 0.05  # share of rows of a column that may lie between CLOSE and FAR
ROUNDING = ("noise_l2_squared", "noise_token_l2_squared")  # columns that measure rounding itself
SHARES = (0.01, 0.05, 0.2)


@dataclass
class Report:
    """What was checked: sentences, and those that say what is wrong."""

    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rows: int = 0


@afresh()
def verify(
    file: str | Path,
    sae: Any,
    *,
    share: float = 0.05,
    seed: int | None = None,
    progress: Progress = lambda what, done, total: None,
    **given: Any,
) -> Report:
    """Check the result ``file`` against ``sae`` (as for ``evaluate``); ``given`` are settings that it cannot hold.

    What the result calls its SAE is not compared: a name may be told, and says nothing of what was measured.
    ``share`` of the units is measured again (1: all of them), chosen by ``seed``, which is fresh unless given. Raises
    ResultError for a result without units, and what a run raises.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share to measure again must be above 0 and at most 1, not {share}")
    file = at_home(file)
    result = store.read(file)
    if not result.measured:
        raise ResultError(f"{file} has the status {result.status}, so there is nothing to verify: {result.reason}")
    tables = store.read_units(file)
    if not tables:
        raise ResultError(f"{file} has no table of units beside it ({file.stem}.units.safetensors), so nothing follows")
    report = Report()
    n, wrong = differences(result, tables, given.get("task_dir"))
    report.checked.append(f"{n} figures with their intervals were computed again from the units")
    if beside := unchecked(result, tables):
        report.checked.append(f"those of {some(beside)} beside it were not: no units of theirs are kept")
    report.wrong += wrong
    if why := store.units_problem(file, result):
        report.wrong.append(why)
    if "partners" in result.provenance.protocol.parameters:
        raise ResultError(f"{file} was measured beside other SAEs, which verify cannot be given: no row can be checked")
    session = Session(sae, _settings(result, given))
    if _inputs(result, session, report):
        _rows(result, tables, session, report, share, secrets.randbits(32) if seed is None else seed, progress)
    return report


def _settings(result: Result, given: Mapping[str, Any]) -> Settings:
    kept = dict(result.provenance.settings)
    if unknown := sorted(set(kept) - set(REPEAT)):  # also those that say where a verifier would read or send
        raise ResultError(f"provenance.settings holds {unknown[0]!r}, which is no setting that a result keeps")
    try:
        _kept().validate_python(kept)
    except ValidationError as error:
        first = error.errors()[0]
        raise ResultError(f"provenance.settings: {first['loc'][0]!r}: {first['msg']}") from error
    if kept.get("parameters"):  # those of the other tasks of that run are nothing here
        own = {name: value for name, value in kept["parameters"].items() if name.startswith(f"{result.task}.")}
        kept["parameters"] = own
    chosen = {name: value for name, value in given.items() if value is not None}
    return Settings(**(kept | chosen | {"tasks": result.task, "controls": "none", "suite": "none", "out": None}))


@cache
def _kept() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)  # what checks the types of all settings; made once, for it takes longer than to use it


def _inputs(result: Result, session: Session, report: Report) -> bool:
    """Whether what the verifier has is what the result names."""
    work = session.work[0]
    digest, protocol = _judged_as(result, session, *work.protocols[result.task])
    if work.record.weights_sha256 != result.sae.weights_sha256:
        report.wrong.append(
            f"other weights: the result names {result.sae.weights_sha256[:12]}, the SAE given here has "
            f"{work.record.weights_sha256[:12]}"
        )
    theirs, ours = result.provenance.protocol.model_dump(), protocol.model_dump()
    older = [name for name in theirs if theirs[name] is None and ours[name] is not None and theirs["backend"] is None]
    if older:
        report.wrong.append(
            f"the result is of an older sae-bench, and does not say {', '.join(older)}; measure it again"
        )
    for name in theirs:
        if name not in ("model", "data", *older) and theirs[name] != ours[name]:
            report.wrong.append(f"other {name}: {_short(theirs[name])} in the result, {_short(ours[name])} here")
    for name in ("architecture", "n_latents", "d_in", "d_out"):
        a, b = getattr(result.sae, name), getattr(work.record, name)
        if a != b:
            report.wrong.append(f"other {name} of the SAE: {_short(a)} in the result, {_short(b)} here")
    report.checked += _elsewhere(result, session)
    if result.protocol == digest and not report.wrong:
        report.checked.append("weights, model, data, hook points and protocol are those that the result names")
    if result.provenance.protocol.seed != 0:
        report.wrong.append(
            f"the seed is {result.provenance.protocol.seed}; results are compared at seed 0, since a seed can be chosen"
        )
    return result.protocol == digest and work.record.weights_sha256 == result.sae.weights_sha256


def _judged_as(result: Result, session: Session, digest: str, protocol: Protocol) -> tuple[str, Protocol]:
    """The protocol with the judge that the result names: whether that one judged cannot be seen from here."""
    if not session.tasks[result.task].spec.judge:
        return digest, protocol
    said = {name: value for name, value in result.provenance.protocol.parameters.items() if name in judges.FIELDS}
    own = {name: value for name, value in protocol.parameters.items() if name not in judges.FIELDS}
    judged = protocol.model_copy(update={"parameters": own | said})
    return store.protocol_hash(judged), judged


def _elsewhere(result: Result, session: Session) -> list[str]:
    """A sentence where the result was measured in another environment, with what that may do to rows."""
    here = Provenance(**result.provenance.model_dump() | session.surroundings())
    differ = listed([environment(result.provenance), environment(here)])
    said = (
        f"it was measured in another environment than this one ({differ}); rows may differ by {CLOSE:g} of their size, "
        f"and {FLIPS:.0%} of a column's rows by up to {FAR:g}"
    )
    return [said] if differ else []


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _rows(
    result: Result,
    tables: Mapping[str, Units],
    session: Session,
    report: Report,
    share: float,
    seed: int,
    progress: Progress,
) -> None:
    """Measure a random part again and compare."""
    task, inputs = session.tasks[result.task], session.inputs
    of = stream(task.stream)
    if task.spec.judge:
        report.checked.append("no row was measured again: a judge does not answer twice alike")
        return
    if not of.partial and share < 1:
        report.checked.append(
            "no row was measured again: those of this task need the whole text (--share 1 measures it)"
        )
        return
    pool = of.pool(inputs)
    _complete(tables, of.expected(inputs), report)
    n = max(1, round(share * len(pool)))
    if share < 1:
        inputs = of.part(inputs, sorted(np.random.default_rng(seed).choice(pool, n, replace=False).tolist()))
    entry = session.work[0].entry
    measured = measure(session.subject, inputs, [entry], {result.task: task}, progress=progress)
    try:
        found = tables_of(measured, task, entry)
    except (CoderFailure, TaskFailure) as failure:
        report.wrong.append(f"the SAE fails here: {failure}")
        return
    for kind, table in found.items():
        # per latent there are sums over all of the text; of labelled sets, "dataset" is there for those measured
        if kind in tables and (share == 1 or kind not in of.whole):
            claimed, again = alike(kind, tables[kind]), alike(kind, table)
            report.rows += _compare(kind, claimed, again, report, whole=share == 1)
    what = of.counts
    if share < 1 and (
        left := sorted(of.whole & {metric.table for metric in task.spec.metrics.values()} & tables.keys())
    ):
        made = [name for name, metric in task.spec.metrics.items() if metric.table in left]
        report.checked.append(
            f"rows of the {some(left)} table were not measured again, which needs the whole text (--share 1): "
            f"{some(made)} are made of them"
        )
    report.checked.append(f"{n} of {len(pool)} {what} were measured again ({report.rows} rows; chosen by seed {seed})")
    if share < 1:
        report.checked += dict.fromkeys(_odds(part, len(pool), n, what) for part in SHARES)


def _complete(tables: Mapping[str, Units], expected: Mapping[str, set[str]], report: Report) -> None:
    """Which rows there are is sometimes known without measuring them."""
    for kind, ours in expected.items():
        theirs = set(tables[kind].ids) if kind in tables else ours
        if theirs != ours:
            report.wrong.append(
                f"{len(theirs - ours)} {kind} rows are of no {kind} of the text, and {len(ours - theirs)} {kind}s "
                f"have no row, for instance {min(theirs ^ ours)}"
            )


def _compare(kind: str, claimed: Units, again: Units, report: Report, *, whole: bool) -> int:
    """How many rows were compared."""
    if whole and (more := sorted(set(claimed.ids) - set(again.ids))):
        report.wrong.append(f"{len(more)} {kind} rows of the result are not measured here, for instance {more[0]}")
    place = {unit: i for i, unit in enumerate(claimed.ids)}
    missing = [unit for unit in again.ids if unit not in place]
    if missing:
        report.wrong.append(f"{len(missing)} {kind} rows are not in the result, for instance {missing[0]}")
    rows = [i for i, unit in enumerate(again.ids) if unit in place]
    theirs = claimed.select([place[again.ids[i]] for i in rows])
    ours = again.select(rows)
    for name, column in ours.columns.items():
        if name in ROUNDING or not rows:
            continue
        if name in theirs.columns and theirs.columns[name].shape != column.shape:
            report.wrong.append(f"the column {name} of the {kind} table has another shape in the result")
            continue
        if name not in theirs.columns:
            report.wrong.append(f"the column {name} of the {kind} table is not in the result")
            continue
        a, b = (c.reshape(len(rows), -1) for c in (theirs.columns[name], column))
        scale = np.maximum(np.abs(b), np.median(np.abs(claimed.columns[name])))
        with np.errstate(invalid="ignore"):
            off = (np.abs(a - b) / np.where(scale > 0, scale, 1)).max(axis=1, initial=0)
        far = np.flatnonzero(~(off <= FAR))
        if len(far):
            report.wrong.append(
                f"{kind} {ours.ids[far[0]]}: {name} differs by {off[far[0]]:.2g} of its size "
                f"({len(far)} of {len(rows)} rows do)"
            )
        elif (flips := int((off > CLOSE).sum())) > binom.ppf(0.999, len(off), FLIPS):  # more than chance gives few rows
            part = 100 * flips / len(off)
            report.wrong.append(f"{kind}: {name} differs by over {CLOSE:g} of its size in {part:.0f} % of rows")
    return len(rows)


def _odds(part: float, total: int, looked_at: int, what: str) -> str:
    """How likely a forgery in so many documents (or sets) would have been seen."""
    forged = max(1, round(part * total))
    clean = total - forged
    missed = 0.0
    if looked_at <= clean:
        logs = [math.lgamma(x + 1) for x in (clean, total - looked_at, clean - looked_at, total)]
        missed = math.exp(logs[0] + logs[1] - logs[2] - logs[3])
    return f"rows forged in {forged} of the {total} {what} would have been seen with probability {1 - missed:.2f}"
