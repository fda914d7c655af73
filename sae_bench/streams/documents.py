"""The stream of documents: one pass of the model over the text, every coder and every task on each batch.

Other streams may ride along: what they collect of a batch costs no pass of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch, CoderView, SiteView
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.streams.at_hook import AtHook
from sae_bench.streams.base import Inputs, Part, Planned, Progress, Reader, Run, Stream
from sae_bench.streams.beside import DOCUMENTS, Parts, control_documents
from sae_bench.streams.captures import of_documents
from sae_bench.streams.confirm import Confirming, rest_key
from sae_bench.streams.guard import Columns, TaskFailure, guarded
from sae_bench.streams.whole import check_sequences, check_tokens, kept_tokens
from sae_bench.tasks.base import Task
from sae_bench.units import Units, concatenate

NAME = "documents"
UNIT = ("", "", "unit")  # the document of every row


class Rider(Protocol):
    """What collects something from every batch of the pass over the documents, of controls only in ``documents``."""

    documents: frozenset[int]

    def wants(self, entry: Entry) -> bool:
        """Whether anything is collected of a coder."""

    def collect(self, view: CoderView, sequences: tuple[int, ...]) -> Arrays:
        """Rows of one coder from one batch; ``sequences`` are its rows. Raises CoderFailure."""


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
        return {"forwards of the rest of the model, a document": suffixes}

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


def some_documents(inputs: Inputs, chosen: Sequence[int]) -> Inputs:
    """The same inputs with these documents alone to evaluate; calibration stays."""
    tokens = inputs.corpus.evaluation
    place = {unit: i for i, unit in enumerate(chosen)}
    rows = [i for i, unit in enumerate(tokens.units.tolist()) if unit in place]
    ids = [tokens[i].ids for i in rows]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    of_row = np.array([place[int(tokens.units[i])] for i in rows], dtype=np.int32)
    ends = frozenset(row for row, i in enumerate(rows) if i in tokens.padded_ends)
    kept = TokenSet(np.concatenate(ids), offsets, of_row, tuple(tokens.unit_ids[unit] for unit in chosen), ends)
    return dataclasses.replace(inputs, corpus=dataclasses.replace(inputs.corpus, evaluation=kept))


def _document_of(site: SiteView) -> Callable[[int], str]:
    """What a failure calls a row of the batch."""
    return lambda row: f"document {site.batch.names[row]}"


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
        self.riders: list[Rider] = []
        self._columns = Columns()
        self._sample = control_documents(tokens, run.inputs.options.seed)
        self._at_hook = AtHook(run)
        self.confirming: Confirming | None = None
        if run.cast.controls and len(self._sample) < tokens.n_units:
            self.confirming = Confirming(run, self, self._sample, self._again)

    def __len__(self) -> int:
        return len(self.batches)

    def step(self, index: int, progress: Progress) -> Part:
        """One batch."""
        options, state = self.run.inputs.options, self.run.state
        tensors = self.batches.tensors(index, options, self.work.subject.device)
        batch = Batch(self.work, *tensors, names=self.batches.names(index), seed=options.seed)
        part = Part(rows={UNIT: np.array(self.batches.units(index))})
        cast = self.run.cast
        sites = {hook: SiteView(batch, hook) for hook in {entry.hook_out for entry in cast.entries}}
        views = {entry.key: CoderView(sites[entry.hook_out], entry) for entry in cast.saes}
        batch.saes, batch.failed = views, state.failures
        for task in self.tasks.values():
            for hook, site in sites.items():
                if not self._known(task, hook, self.batches.groups[index], part):
                    self._shared(task, hook, site, part)
        parts = Parts(batch, sites, cast.saes)
        for entry in cast.entries:
            if entry.key in state.failures:
                continue
            try:
                view = views.get(entry.key)
                own = self._sae(view, index, part) if view else self._control(entry, parts, index, part)
            except CoderFailure as failure:
                part.failures[entry.key] = str(failure)
                continue
            part.rows |= own.rows
            part.totals |= own.totals
            part.task_failures |= own.task_failures
        self.run.captures.offer(self.batches.groups[index], batch)
        return part

    def _known(self, task: Task, hook: str, sequences: tuple[int, ...], part: Part) -> bool:
        """Take what an earlier run kept of these sequences; False where there is nothing."""
        key = (task.spec.id, f"@{hook}")
        known = self.run.known.get(key, {})
        part.rows |= {(*key, name): column[list(sequences)] for name, column in known.items()}
        return bool(known)

    def _sae(self, view: CoderView, index: int, shared: Part) -> Part:
        """One SAE: all that there is in the batch. Raises CoderFailure."""
        part = self._own(view.entry, view, self.tasks, shared)
        for rider in self.riders:
            if rider.wants(view.entry):
                part.rows |= rider.collect(view, self.batches.groups[index])
        return part

    def _control(self, entry: Entry, parts: Parts, index: int, shared: Part) -> Part:
        """One control: riders where they want it, tasks in the documents of the sample. Raises CoderFailure."""
        units, group, ridden = self.batches.units(index), self.batches.groups[index], Arrays()
        for rider in self.riders:  # first: their documents are the more, and what is encoded for them is known then
            rows = [row for row, unit in enumerate(units) if unit in rider.documents]
            if rows and rider.wants(entry):
                ridden |= rider.collect(parts.view(entry, rows), tuple(group[row] for row in rows))
        rows = [row for row, unit in enumerate(units) if unit in self._sample]
        tasks = {name: task for name, task in self.tasks.items() if task.wants_control(entry.label)}
        if not rows or not tasks:
            return Part(rows=ridden)
        view = parts.view(entry, rows)
        part = self._own(entry, view, tasks, shared)
        if "l0" in entry.coder.info.provenance:
            active = view.codes.counts()[view.kept].sum()
            part.totals["", entry.key, "active"] = np.array([int(active), int(view.kept.sum())], dtype=np.float64)
        part.rows |= ridden | {("", entry.key, "unit"): np.array([units[row] for row in rows])}
        return part

    def _again(self, entry: Entry, view: CoderView, tasks: dict[str, Task], key: str) -> Part:
        """One control in further documents, under another key. Raises CoderFailure."""
        return self._own(entry, view, tasks, None, key)

    def _shared(self, task: Task, hook: str, site: SiteView, part: Part) -> None:
        key = (task.spec.id, f"@{hook}")
        if self._failed(*key):
            return
        try:
            found = guarded(task, lambda: task.shared(site), "shared")
            columns = self._columns.rows(task, "shared", found, len(site.batch.names), key[1], _document_of(site))
        except TaskFailure as failure:
            part.task_failures[key] = str(failure)
            return
        part.rows |= {(*key, name): column for name, column in columns.items()}

    def _own(
        self, entry: Entry, view: CoderView, tasks: Mapping[str, Task], shared: Part | None, key: str = ""
    ) -> Part:
        """What tasks make of one coder, under its key or another one. Raises CoderFailure.

        ``shared`` is what was measured for all coders; None where that was done before.
        """
        part, key = Part(), key or entry.key
        for name, task in tasks.items():
            hook = (name, f"@{entry.hook_out}")
            lost = shared is not None and hook in shared.task_failures
            if self._failed(name, key) or self._failed(name, entry.key) or self._failed(*hook) or lost:
                continue
            try:
                view.task = name
                rows = guarded(task, partial(task.measure, view), "measure", entry.key)
                columns = self._columns.rows(
                    task, "measure", rows, len(view.batch.names), entry.key, _document_of(view)
                )
                sums = guarded(task, partial(task.totals, view), "totals", entry.key)
                totals = self._columns.totals(task, sums, entry.key)
                if not columns and not totals and shared and not any(k[:2] == hook for k in shared.rows):
                    raise TaskFailure(f"task {name}: measure, shared and totals return no column at all")
            except TaskFailure as failure:
                part.task_failures[name, key] = str(failure)
                continue
            part.rows |= {(name, key, c): v for c, v in columns.items()}
            part.totals |= {(name, key, c): v for c, v in totals.items()}
        return part

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
        check_sequences(task, np.concatenate(units), tokens, None if len(keys) > 1 else self._sample)
        joined, all_units = concatenate(parts), np.concatenate(units)
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
