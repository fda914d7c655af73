"""The documents that controls were not measured on, for those controls that an SAE could not be told from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from sae_bench import registry
from sae_bench.engine.plan import Batches
from sae_bench.engine.views import CoderView
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.streams.base import Part, Progress, Reader, Run
from sae_bench.streams.beside import told_apart
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.streams.opened import Opened
from sae_bench.tasks.base import Task
from sae_bench.units import Units

NAME = "controls on all documents"

Own = Callable[[Entry, CoderView, dict[str, Task], str], Part]


def rest_key(control: str) -> str:
    """The key under which a control is measured on the documents that are no part of the sample."""
    return f"{control} @other documents"


class Confirming(Reader):
    """A second pass over the text without the sample; it has no step where every SAE was told from its controls.

    ``own`` measures tasks on a view, as the pass over the documents does.
    """

    label = NAME
    prefix = "confirm_"

    def __init__(self, run: Run, documents: Reader, sample: frozenset[int], own: Own) -> None:
        super().__init__(NAME, run, {})
        self._documents, self._own = documents, own
        tokens = run.inputs.corpus.evaluation
        others = [i for i, unit in enumerate(tokens.units.tolist()) if unit not in sample]
        self.batches = Batches.of(tokens, run.size, others)

    def __len__(self) -> int:
        return len(self.batches) if self._asked() else 0

    def confirmed(self, task: Task, control: str, sae: Entry) -> bool:
        """Whether a control, by its name, is measured on all documents for an SAE."""
        return control in (self.run.state.confirmed or {}).get(task.spec.id, {}).get(sae.key, [])

    def _asked(self) -> dict[str, dict[str, Task]]:
        """The tasks that each control is measured in, by its key."""
        state, cast = self.run.state, self.run.cast
        if state.confirmed is None:
            state.confirmed = self._decided()
        found: dict[str, dict[str, Task]] = {}
        for name, of_sae in state.confirmed.items():
            for sae, controls in of_sae.items():
                for control in controls:
                    found.setdefault(cast.controls_of[sae][control], {})[name] = self._documents.tasks[name]
        return found

    def _decided(self) -> dict[str, dict[str, list[str]]]:
        """By task and SAE the controls that it cannot be told from on the sample."""
        found: dict[str, dict[str, list[str]]] = {}
        for name, task in self._documents.tasks.items():
            for sae in self.run.cast.saes if task.fidelity else ():
                if controls := self._not_told(task, sae):
                    found.setdefault(name, {})[sae.key] = controls
        return found

    def _not_told(self, task: Task, sae: Entry) -> list[str]:
        assert task.fidelity is not None
        kind, cast = task.spec.metrics[task.fidelity.metric].table, self.run.cast
        entries = {entry.key: entry for entry in cast.controls}
        if (own := self._table(task, sae, kind)) is None:
            return []
        found = []
        known = registry.controls()
        for name, key in cast.controls_of.get(sae.key, {}).items():
            if name in known and known[name].bound:
                continue  # that an SAE reaches what it could is no reason to measure more
            if not task.wants_control(name) or (control := self._table(task, entries[key], kind)) is None:
                continue  # what cannot be measured has its reason in the result
            try:
                told = guarded(task, partial(told_apart, task, name, own, control, self.run.inputs.options), "fidelity")
            except TaskFailure:
                continue
            if not told:
                found.append(name)
        return found

    def _table(self, task: Task, entry: Entry, kind: str) -> Units | None:
        """A table of a coder, None where there is none."""
        if entry.key in self.run.state.failures or self._documents.failure(task, entry) is not None:
            return None
        try:
            return guarded(task, partial(self._documents.tables, task, entry), "tables").get(kind)
        except (CoderFailure, TaskFailure):
            return None

    def step(self, index: int, progress: Progress) -> Part:
        """One batch of further documents."""
        state, cast = self.run.state, self.run.cast
        _, sites = Opened(self.run, self.batches, self.work).next(index)
        part, asked = Part(), self._asked()
        for entry in cast.controls:
            key = rest_key(entry.key)
            if entry.key not in asked or {entry.key, key} & state.failures.keys():
                continue
            try:
                own = self._own(entry, CoderView(sites[entry.hook_out], entry), asked[entry.key], key)
            except CoderFailure as failure:
                part.failures[key] = str(failure)
                continue
            part.rows |= own.rows | {("", key, "unit"): np.array(self.batches.units(index))}
            part.totals |= own.totals
            part.task_failures |= own.task_failures
        return part
