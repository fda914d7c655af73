"""A stream: the first tokens of every document, in a pass of their own, summed over windows.

Its tasks derive from :class:`OpeningTask`. Nobody but this file knows how openings are cut and read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch
from sae_bench.engine.plan import Batches
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.streams.base import (
    Inputs,
    Part,
    Planned,
    Population,
    Progress,
    Reader,
    Run,
    Stream,
    of_text,
    some_documents,
)
from sae_bench.streams.guard import Columns, TaskFailure, guarded
from sae_bench.tasks.base import Task, View
from sae_bench.units import Column, Units, merge

OPENING, WIDTH = 24, 8  # tokens of an opening, and of each window of it


class OpeningTask(Task):
    """Base class of tasks on openings."""

    stream = "openings"

    def tokens(self, view: View) -> dict[str, Tensor]:
        """Columns with a number for every token ``[T]``, which are summed over the kept ones of each window."""
        raise NotImplementedError

    def tables(self, rows: Units, totals: Mapping[str, Column]) -> dict[str, Units]:
        """The table "window"."""
        return {"window": rows}


class Openings(Stream):
    """Tasks that read how documents begin."""

    name = "openings"
    whole = frozenset()

    def population(self, inputs: Inputs) -> Population:
        """The openings."""
        tokens = openings_of(inputs.corpus.evaluation)
        return of_text(inputs.corpus, tokens.n_units, tokens.n_tokens)

    def parameters(self, inputs: Inputs) -> dict[str, Any]:
        """How they are cut belongs to the protocol, since it changes what is measured."""
        return {"opening": OPENING, "window": WIDTH}

    def cost(self, planned: Planned) -> dict[str, Any]:
        """How much text that is."""
        return {"tokens of openings": openings_of(planned.inputs.corpus.evaluation).n_tokens}

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """One reader for all tasks."""
        reader = OpeningReader(run, tasks)
        run.readers[reader.name] = reader
        return dict.fromkeys(tasks, reader)

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these documents."""
        return some_documents(inputs, chosen)


def openings_of(tokens: TokenSet) -> TokenSet:
    """The first tokens of every document."""
    first = np.unique(tokens.units, return_index=True)[1]
    ids = [tokens[int(i)].ids[:OPENING] for i in first]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    return TokenSet(np.concatenate(ids), offsets, tokens.units[first], tokens.unit_ids)


class OpeningReader(Reader):
    """One pass over the openings."""

    label, prefix = "openings", "openings_"
    tasks: Mapping[str, OpeningTask]

    def __init__(self, run: Run, tasks: Mapping[str, Task]) -> None:
        super().__init__(Openings.name, run, tasks)
        self.batches = Batches.of(openings_of(run.inputs.corpus.evaluation), run.size)
        self._columns = Columns()

    def __len__(self) -> int:
        return len(self.batches)

    def step(self, index: int, progress: Progress) -> Part:
        """One batch of openings."""
        options, part = self.run.inputs.options, Part()
        tensors = self.batches.tensors(index, options)
        batch = Batch(self.work, *tensors, names=self.batches.names(index), seed=options.seed)
        for entry in self.run.cast.entries:
            if entry.key in self.run.state.failures:
                continue
            view = CoderView(SiteView(batch, entry.hook_out), entry)
            try:
                own = self._own(entry, view)
            except CoderFailure as failure:
                part.failures[entry.key] = str(failure)
                continue
            part.rows |= own.rows
            part.task_failures |= own.task_failures
        return part

    def _own(self, entry: Entry, view: CoderView) -> Part:
        """What all tasks make of one coder on one batch. Raises CoderFailure."""
        part, batch = Part(), view.batch
        row, position = batch.attention.nonzero(as_tuple=True)
        names = [f"token {p} of {batch.names[r]}" for r, p in zip(row.tolist(), position.tolist(), strict=True)]
        for name, task in self.tasks.items():
            if self.failure(task, entry) is not None:
                continue
            try:
                found = guarded(task, partial(task.tokens, view), "tokens", entry.key)
                columns = self._columns.rows(task, "tokens", found, len(names), entry.key, names.__getitem__)
            except TaskFailure as failure:
                part.task_failures[name, entry.key] = str(failure)
                continue
            sums = {column: windowed(torch.from_numpy(values), batch) for column, values in columns.items()}
            part.rows |= {(name, entry.key, column): values.numpy() for column, values in sums.items()}
        return part

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """One row a window, sorted by id, so that it does not matter which sequences ran together."""
        rows = self.run.checkpoint.rows(self.run.state, {(task.spec.id, entry.key)})
        tokens = self.batches.tokens
        sequences = [tokens[i] for group in self.batches.groups for i in group]
        ids = (f"{tokens.unit_ids[one.unit]}@{at}" for one in sequences for at in range(0, len(one.ids), WIDTH))
        return task.tables(merge(Units(tuple(ids), {key[2]: column for key, column in rows.items()})), {})


def windowed(values: Tensor, batch: Batch) -> Tensor:
    """Float64 sums over the kept tokens of each window, ``[T, ...]`` to ``[windows, ...]``, by sequence and place."""
    row, position = batch.attention.nonzero(as_tuple=True)
    window = row * batch.attention.shape[1] + position // WIDTH
    kept = torch.where(batch.kept.reshape(-1, *[1] * (values.ndim - 1)).cpu(), values.double(), 0)
    lengths = torch.unique_consecutive(window, return_counts=True)[1].cpu()
    return torch.segment_reduce(kept, "sum", lengths=lengths, unsafe=True)
