"""The stream of documents: one pass of the model over the text, every coder and every task on each batch.

Other streams may ride along: what they collect of a batch costs no pass of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, cast

import numpy as np

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch, CoderView, SiteView
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.plan import Batches
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.streams.at_hook import AtHook
from sae_bench.streams.base import Inputs, Part, Planned, Progress, Reader, Run, Stream
from sae_bench.streams.guard import Columns, TaskFailure, guarded
from sae_bench.streams.whole import check_sequences, check_tokens, kept_tokens
from sae_bench.tasks.base import Task
from sae_bench.units import Units

NAME = "documents"
UNIT = ("", "", "unit")  # the document of every row


class Rider(Protocol):
    """What collects something from every batch of the pass over the documents."""

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
            suffixes["spliced (controls, at most)"] = len(saes) * len(controls)
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
        run.readers[NAME] = DocumentsReader(run)
    return cast(DocumentsReader, run.readers[NAME])


class DocumentsReader(Reader):
    """One pass over the batches."""

    def __init__(self, run: Run) -> None:
        super().__init__(NAME, run, {}, run.work)
        self.batches = Batches.of(run.inputs.corpus.evaluation, run.size)
        self.riders: list[Rider] = []
        self._columns = Columns()
        self._at_hook = AtHook(run)

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
        views = {entry.key: CoderView(sites[entry.hook_out], entry) for entry in cast.entries}
        batch.saes = {sae.key: views[sae.key] for sae in cast.saes}
        batch.failed = state.failures
        for task in self.tasks.values():
            for hook, site in sites.items():
                self._shared(task, hook, site, part)
        for entry in cast.entries:
            if entry.key in state.failures:
                continue
            try:
                own = self._own(entry, views[entry.key], self.batches.groups[index], part)
            except CoderFailure as failure:
                part.failures[entry.key] = str(failure)
                continue
            part.rows |= own.rows
            part.totals |= own.totals
            part.task_failures |= own.task_failures
        return part

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

    def _own(self, entry: Entry, view: CoderView, sequences: tuple[int, ...], shared: Part) -> Part:
        """What the tasks and the riders make of one coder. Raises CoderFailure."""
        part = Part()
        for name, task in self.tasks.items():
            hook = (name, f"@{entry.hook_out}")
            if self._failed(name, entry.key) or self._failed(*hook) or hook in shared.task_failures:
                continue
            try:
                view.task = name
                rows = guarded(task, partial(task.measure, view), "measure", entry.key)
                columns = self._columns.rows(
                    task, "measure", rows, len(view.batch.names), entry.key, _document_of(view)
                )
                sums = guarded(task, partial(task.totals, view), "totals", entry.key)
                totals = self._columns.totals(task, sums, entry.key)
                if not columns and not totals and not any(key[:2] == hook for key in shared.rows):
                    raise TaskFailure(f"task {name}: measure, shared and totals return no column at all")
            except TaskFailure as failure:
                part.task_failures[name, entry.key] = str(failure)
                continue
            part.rows |= {(name, entry.key, c): v for c, v in columns.items()}
            part.totals |= {(name, entry.key, c): v for c, v in totals.items()}
        for rider in self.riders:
            part.rows |= rider.collect(view, sequences)
        return part

    def _failed(self, task: str, owner: str) -> bool:
        return owner in self.run.state.task_failures.get(task, {})

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """The document table, and what the task makes of it and of its totals."""
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

    @cached_property
    def _kept(self) -> dict[str, int]:
        return kept_tokens(self.run.inputs.corpus.evaluation, self.run.inputs.options)

    def has_rows(self, control: Entry) -> bool:
        """Every control reconstructs."""
        return True
