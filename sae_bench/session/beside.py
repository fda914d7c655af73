"""What stands beside an SAE: figures and tables of its controls, and why some have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.errors import SaeBenchError, TaskError
from sae_bench.results.against import Side
from sae_bench.saes.fitted import FITTED_ON
from sae_bench.schema import NO_LATENTS, MetricValue
from sae_bench.session.figures import drawn, figures, measured_tables
from sae_bench.streams import Reader, Run, stream
from sae_bench.streams.beside import PERMUTED
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.tasks.base import Task
from sae_bench.units import Units
from sae_bench.units.kinds import Draws


@dataclass
class Beside:
    """What stands beside an SAE: ``figures`` and ``tables`` of its controls, and why those that are ``lost`` have none.

    ``sides`` are the whole tables of those that have figures, and what was drawn of them. ``measured`` says of each
    what it was matched to and on how much text. ``permuted``: the draws of the SAE and of that control on the same
    documents, where the task holds one against the other.
    """

    figures: dict[str, dict[str, MetricValue]] = field(default_factory=dict)
    tables: dict[str, Units] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    sides: dict[str, Side] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    permuted: tuple[Mapping[str, Draws], Mapping[str, Draws] | None] = ({}, None)


def controls(run: Run, reader: Reader, task: Task, entry: Entry, own: dict[str, Units]) -> Beside:
    """All controls of an SAE."""
    found = Beside()
    found.lost = {name: why for name, why in run.cast.unmade.get(entry.key, {}).items() if task.wants_control(name)}
    entries = {e.key: e for e in run.cast.controls}
    for name, key in run.cast.controls_of.get(entry.key, {}).items():
        if not task.wants_control(name):
            continue
        if not reader.has_rows(entries[key]):
            found.lost[name] = NO_LATENTS
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
    run: Run, reader: Reader, task: Task, pair: tuple[Entry, Entry], own: dict[str, Units], found: Beside
) -> None:
    """One control of an SAE, the ``pair``. Raises TaskFailure, CoderFailure."""
    sae, control = pair
    name, options = control.label, run.inputs.options
    own_of = measured_tables(run, reader, task, control, sae)
    if why := guarded(task, partial(task.unusable, own_of), "unusable"):
        found.lost[name] = why
        return
    n, lacking = reader.measured_on(task, control, sae), ""
    if n is not None:
        own_of = {kind: table for kind, table in own_of.items() if kind not in stream(task.stream).whole}
        lacking = f"it is a figure over all of the text, and this control was measured on {n} documents of it"
    draws = drawn(task, own_of, options)
    values = figures(task, draws, task.lacking(name), lacking)
    there = {kind: own[kind].beside(table.ids) for kind, table in own_of.items() if kind in own}
    same = {kind: table for kind, table in there.items() if table is not None}
    if name == PERMUTED and task.fidelity:
        found.permuted = drawn(task, same, options), draws
    found.figures[name] = values
    found.sides[name] = Side(own_of, draws)
    for kind, table in own_of.items():
        shared = same[kind].columns if kind in same else {}
        columns = {c: v for c, v in table.columns.items() if not _equal(shared.get(c), v)}
        found.tables[f"control/{name}/{kind}"] = replace(table, columns=columns)
    asked, had = control.coder.info.provenance.get("l0"), reader.l0_of(control)
    fitted_on = control.coder.info.provenance.get(FITTED_ON)
    said = {"l0_asked_for": asked, "l0": had, "documents": n, FITTED_ON: fitted_on}
    if any(value is not None for value in said.values()):
        found.measured[name] = {what: value for what, value in said.items() if value is not None}


def _equal(a: Any, b: Any) -> bool:
    return a is b or (a is not None and a.shape == b.shape and bool((a == b).all()))
