"""The stream of documents: one pass of the model over the text, every coder and every task on each batch.

Other streams may ride along: what they collect of a batch costs no pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.engine.block import block_tokens
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.views import CoderView
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.streams.at_hook import UNIT, AtHook
from sae_bench.streams.base import Inputs, Part, Planned, Progress, Reader, Run, Stream, some_documents
from sae_bench.streams.beside import DOCUMENTS, Parts, control_documents
from sae_bench.streams.captures import of_documents
from sae_bench.streams.confirm import Confirming, rest_key
from sae_bench.streams.forecast import of_controls
from sae_bench.streams.found import Found, Rider
from sae_bench.streams.guard import Columns, TaskFailure
from sae_bench.streams.opened import Opened
from sae_bench.streams.whole import check_sequences, check_tokens, kept_tokens
from sae_bench.tasks.base import Task
from sae_bench.units import Units, concatenate

NAME = "documents"


class Documents(Stream):
    """Tasks that read every document of the text."""

    name = NAME

    def cost(self, planned: Planned) -> dict[str, Any]:
        """How often the rest of the model runs over a document."""
        tasks, saes, controls = planned.tasks, planned.saes, planned.controls
        fixed = {name for task in tasks.values() for name in task.replacements}
        own = sum(task.passes() for task in tasks.values())
        suffixes: dict[str, int] = {}
        if fixed or own:
            suffixes["clean"] = 1
        if fixed & {"zero", "mean"}:
            suffixes["zero and mean, at most"] = 2 * len({entry.hook_out for entry in saes})
        if "spliced" in fixed:
            suffixes["spliced (SAEs)"] = len(saes)
            n = min(DOCUMENTS, planned.inputs.corpus.evaluation.n_units)
            suffixes[f"spliced (controls, on {n} documents, at most)"] = len(saes) * len(controls)
        if own:
            suffixes["replacements of tasks, at most"] = own * len(saes) * (1 + len(controls))
        return {"forwards of the rest of the model, a document": suffixes} | of_controls(planned)

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """One reader for all tasks."""
        reader = pass_over(run)
        reader.tasks = dict(tasks)
        return dict.fromkeys(tasks, reader)

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these documents."""
        return some_documents(inputs, chosen)

    def expected(self, inputs: Inputs) -> dict[str, set[str]]:
        """Which documents there are is known without measuring them."""
        return {"document": set(inputs.corpus.evaluation.unit_ids)}


def pass_over(run: Run) -> DocumentsReader:
    """The pass over the documents of a run: the one that is there already, else a new one."""
    if NAME not in run.readers:
        reader = run.readers[NAME] = DocumentsReader(run)
        if reader.confirming is not None:
            run.readers[reader.confirming.name] = reader.confirming
    return cast(DocumentsReader, run.readers[NAME])


class DocumentsReader(Reader):
    """One pass over the batches; controls are measured in the documents of a sample."""

    def __init__(self, run: Run) -> None:
        super().__init__(NAME, run, {}, run.work)
        tokens = run.inputs.corpus.evaluation
        self.batches = of_documents(tokens, run.inputs.options, run.size)
        self.ahead = 0 if self.work.waits else 1
        self._opened = Opened(run, self.batches, self.work, block_tokens(run.cast.saes) if self.work.waits else 0)
        self.riders: list[Rider] = []
        self._columns = Columns()
        self._sample = control_documents(tokens, run.inputs.options.seed)
        self._at_hook = AtHook(run)
        self.confirming: Confirming | None = None
        if run.cast.controls and len(self._sample) < tokens.n_units:
            self.confirming = Confirming(run, self, self._sample, self._again)

    def __len__(self) -> int:
        return len(self.batches)

    def begin(self, progress: Progress) -> None:
        """What the device would else be waited for in the first batch."""
        if not self.work.waits:
            self.work.prepare()

    def step(self, index: int, progress: Progress) -> Part:
        """One batch."""
        return self.launch(index, progress)()

    def launch(self, index: int, progress: Progress) -> Callable[[], Part]:
        """Begin one batch: all that the device has to do for it, and the copy of what it finds."""
        state, cast = self.run.state, self.run.cast
        batch, sites = self._opened.next(index)
        found = Found(self.work.waits)
        for task in self.tasks.values():
            for hook, site in sites.items():
                key = (task.spec.id, f"@{hook}")
                if not self._failed(*key) and not self.run.known.get(key):
                    found.ask(task, key[1], "shared", partial(task.shared, site), batch.names)
        parts = Parts(batch, sites, cast.saes)
        for entry in cast.entries:
            if entry.key in state.failures:
                continue
            try:
                if (view := batch.saes.get(entry.key)) is not None:
                    self._sae(view, index, found)
                else:
                    self._control(entry, parts, index, found)
            except CoderFailure as failure:
                found.failures[entry.key] = str(failure)
        self.run.captures.offer(self.batches.groups[index], batch)
        found.start(batch)
        return partial(self._part, index, list(sites), found)

    def _known(self, index: int) -> Arrays:
        """What an earlier run kept of the hook points, in the sequences of a batch."""
        sequences, known = list(self.batches.groups[index]), self.run.known.items()
        return {(*key, name): column[sequences] for key, columns in known for name, column in columns.items()}

    def _sae(self, view: CoderView, index: int, found: Found) -> None:
        """One SAE: all that there is in the batch. Raises CoderFailure."""
        self._ask(view, self.tasks, found, view.entry.key)
        for rider in self.riders:
            if rider.wants(view.entry):
                found.rides(view.entry.key, rider.collect(view, self.batches.groups[index]))

    def _control(self, entry: Entry, parts: Parts, index: int, found: Found) -> None:
        """One control: riders where they want it, tasks in the documents of the sample. Raises CoderFailure."""
        units, group = self.batches.units(index), self.batches.groups[index]
        for rider in self.riders:  # first: their documents are the more, and what is encoded for them is known then
            rows = [row for row, unit in enumerate(units) if unit in rider.documents]
            if rows and rider.wants(entry):
                found.rides(entry.key, rider.collect(parts.view(entry, rows), tuple(group[row] for row in rows)))
        rows = [row for row, unit in enumerate(units) if unit in self._sample]
        tasks = {name: task for name, task in self.tasks.items() if task.wants_control(entry.label)}
        if not rows or not tasks:
            return
        view = parts.view(entry, rows)
        self._ask(view, tasks, found, entry.key)
        if "l0" in entry.coder.info.provenance:
            active = torch.where(view.kept, view.codes.counts(), 0).sum()
            found.adds(("", entry.key, "active"), torch.stack([active, view.kept.sum()]).double())
        found.rides(entry.key, {("", entry.key, "unit"): np.array([units[row] for row in rows])})

    def _ask(self, view: CoderView, tasks: Mapping[str, Task], found: Found, key: str) -> None:
        """What tasks make of one coder, under its key or another one. Raises CoderFailure."""
        entry = view.entry
        for name, task in tasks.items():
            hook = f"@{entry.hook_out}"
            failed = any(self._failed(name, owner) for owner in (key, entry.key, hook))
            if failed or found.raised(name, hook):
                continue
            view.task = name
            found.ask(task, key, "measure", partial(task.measure, view), view.batch.names, entry.key)
            if not found.raised(name, key):
                found.ask(task, key, "totals", partial(task.totals, view), view.batch.names, entry.key)

    def _part(self, index: int, hooks: list[str], found: Found) -> Part:
        """What was found in a batch, once it is there. Raises ModelError."""
        found.settle()
        rows = {UNIT: np.array(self.batches.units(index))} | self._known(index)
        part = Part(rows=rows, failures=found.failures)
        for task in self.tasks.values():
            for hook in hooks:
                self._read(task, f"@{hook}", found, part)
        for entry in self.run.cast.entries:
            if entry.key in self.run.state.failures or entry.key in part.failures:
                continue
            for task in self.tasks.values():
                self._read(task, entry.key, found, part, entry)
            part.rows |= found.ridden(entry.key)
            part.totals |= found.added(entry.key)
        return part

    def _again(self, entry: Entry, view: CoderView, tasks: dict[str, Task], key: str) -> Part:
        """One control in further documents, under another key. Raises CoderFailure."""
        found, part = Found(waits=True), Part()
        self._ask(view, tasks, found, key)
        for task in tasks.values():
            self._read(task, key, found, part, entry, alone=True)
        return part

    def _read(
        self, task: Task, key: str, found: Found, part: Part, entry: Entry | None = None, *, alone: bool = False
    ) -> None:
        """The checked columns of a task for a hook point, or columns and totals for a coder, ``entry``.

        ``alone``: what was measured for all coders is not there, since that was done before.
        """
        name, totals = task.spec.id, {}
        hook = key if entry is None else f"@{entry.hook_out}"
        if not found.asked(name, key) or self._failed(name, key) or self._failed(name, hook):
            return
        if (name, hook) in part.task_failures:
            return
        what, owner = ("shared", key) if entry is None else ("measure", entry.key)
        rows = found.names(name, key)
        try:
            columns = self._columns.rows(
                task, what, found.read(name, key, what), len(rows), owner, lambda row: f"document {rows[row]}"
            )
            if entry is not None:
                totals = self._columns.totals(task, found.read(name, key, "totals"), owner)
                if not columns and not totals and not alone and not any(row[:2] == (name, hook) for row in part.rows):
                    raise TaskFailure(f"task {name}: measure, shared and totals return no column at all")
        except TaskFailure as failure:
            part.task_failures[name, key] = str(failure)
            return
        part.rows |= {(name, key, column): values for column, values in columns.items()}
        part.totals |= {(name, key, column): values for column, values in totals.items()}

    def _failed(self, task: str, owner: str) -> bool:
        return owner in self.run.state.task_failures.get(task, {})

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """The document table, and what the task makes of it and of its totals; of a control in the sample alone."""
        if entry in self.run.cast.controls:
            return self._of_control(task, entry, [entry.key])
        own, state = (task.spec.id, entry.key), self.run.state
        rows = self.run.checkpoint.rows(state, {UNIT[:2], own})
        units = rows.pop(UNIT, np.zeros(0, dtype=np.int64))
        check_sequences(task, units, self.run.inputs.corpus.evaluation)
        merging = self._at_hook.merging(units)
        common = self._at_hook.common(task.spec.id, entry.hook_out, merging)
        columns = {**common.columns, **merging.columns({key[2]: column for key, column in rows.items()})}
        documents = Units(merging.ids, columns, common)
        totals = {key[2]: array for key, array in state.totals.items() if key[:2] == own}
        check_tokens(task, documents, self._kept)
        return task.tables(documents, totals)

    def beside(self, task: Task, control: Entry, sae: Entry) -> dict[str, Units]:
        """The tables of a control, on all documents where the SAE cannot be told from it in the sample.

        Raises CoderFailure, TaskFailure.
        """
        keys = [control.key]
        if self.confirming is not None and self.confirming.confirmed(task, control.label, sae):
            keys.append(rest := rest_key(control.key))
            if (why := self.run.state.failures.get(rest)) is not None:
                raise CoderFailure(why, control.key)
            if (why := self.run.state.task_failures.get(task.spec.id, {}).get(rest)) is not None:
                raise TaskFailure(why)
        return self._of_control(task, control, keys)

    def measured_on(self, task: Task, control: Entry, sae: Entry) -> int | None:
        """On how many documents a control is measured beside an SAE, if not on all."""
        if self.confirming is None or self.confirming.confirmed(task, control.label, sae):
            return None
        return len(self._sample)

    def l0_of(self, control: Entry) -> float | None:
        """That in the documents of the sample."""
        active, tokens = self.run.state.totals.get(("", control.key, "active"), np.zeros(2))
        return float(active / tokens) if tokens else None

    def _of_control(self, task: Task, control: Entry, keys: list[str]) -> dict[str, Units]:
        """What was measured under some keys, beside what belongs to the hook point in the same documents."""
        state, tokens, name = self.run.state, self.run.inputs.corpus.evaluation, task.spec.id
        rows = self.run.checkpoint.rows(state, {(of, key) for key in keys for of in ("", name)})
        units, parts = [], []
        totals: dict[str, NDArray[Any]] = {}
        for key in keys:
            units.append(rows.get(("", key, "unit"), np.zeros(0, dtype=np.int64)))
            parts.append(self._named(units[-1], {c: v for (of, own, c), v in rows.items() if (of, own) == (name, key)}))
            for (of, own, c), array in state.totals.items():
                if (of, own) == (name, key):
                    totals[c] = totals[c] + array if c in totals else array
        joined, all_units = concatenate(parts), np.concatenate(units)
        check_sequences(task, all_units, tokens, None if len(keys) > 1 else self._sample)
        merging = self._at_hook.merging(all_units)
        common = self._at_hook.of(task.spec.id, control.hook_out, merging.ids)
        documents = Units(merging.ids, {**common.columns, **merging.columns(joined.columns)}, common)
        check_tokens(task, documents, self._kept)
        return task.tables(documents, totals)

    def _named(self, units: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> Units:
        unit_ids = self.run.inputs.corpus.evaluation.unit_ids
        return Units(tuple(unit_ids[i] for i in units), columns)

    @cached_property
    def _kept(self) -> dict[str, int]:
        return kept_tokens(self.run.inputs.corpus.evaluation, self.run.inputs.options)

    def has_rows(self, control: Entry) -> bool:
        """Every control reconstructs."""
        return True
