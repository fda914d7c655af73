"""The pass over labelled texts: each text once through the model, pooled codes of every coder, then all sets.

Sets that share texts form a group. The pooled codes of one group are in memory, sparse; once its sets are measured they
are dropped. The residual channels run as if they were a coder: they are the floor of every score, and what the ceiling
is computed from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.data.labelled import Suite
from sae_bench.engine.batch import Batch
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.plan import Batches
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.errors import UsageError
from sae_bench.metrics.labelled import OVER_SETS
from sae_bench.precision import one_thread
from sae_bench.saes.protocol import HasPreActivations
from sae_bench.streams.base import Inputs, Part, Planned, Population, Progress, Reader, Run, Stream
from sae_bench.streams.channels import channels_entry
from sae_bench.streams.guard import Columns, TaskFailure, guarded
from sae_bench.streams.labelled_tables import (
    append,
    ceiling_key,
    labelled_tables,
    measured_as,
    reference_tables,
    refit_rows,
    wanted_keys,
)
from sae_bench.streams.pooled import Pooled, SetView, TokenStore, TrainWeights
from sae_bench.streams.prefixes import Prefixes
from sae_bench.streams.whole import check_rows
from sae_bench.tasks.base import Task
from sae_bench.tasks.labelled import LabelledTask
from sae_bench.units import Units, nested
from sae_bench.units.kinds import Draws


class LabelledStream(Stream):
    """Tasks that read labelled texts."""

    name = "labelled"
    counts = "labelled sets"
    whole = frozenset({"dataset"})
    labels = True

    def why_not(self, inputs: Inputs) -> str | None:
        """Without a tokenizer there are no sets; and of a suite that is mostly missing the rest is no score."""
        suite = inputs.suite
        if suite is None:
            return "labelled texts need a tokenizer, and there is none for this model; give one (--model FOLDER)"
        if suite.stands_for_all:
            return None
        if suite.lacking:
            return f"{suite.lacking}, or give a folder of sets with --probe-data"
        there = f", or name those that are there with --probe-sets {suite.sets[0].name},..." if suite.sets else ""
        return (
            f"{suite.coverage} sets available (run once with a network, which downloads them, or give a folder of sets "
            f"with --probe-data{there})"
        )

    def check(self, entries: Sequence[Entry], tasks: Mapping[str, Task]) -> None:
        """Refuse SAEs without the pre-activations that a task was told to read. Raises UsageError."""
        asking = [name for name, task in tasks.items() if cast(LabelledTask, task).source == "pre_activations"]
        lacking = [entry.label for entry in entries if not isinstance(entry.encoder, HasPreActivations)]
        if asking and lacking:
            raise UsageError(f"{lacking[0]} offers no pre-activations; leave {asking[0]}.source at codes")

    def population(self, inputs: Inputs) -> Population:
        """The sets; without any, the text."""
        if inputs.suite is None:
            return super().population(inputs)
        suite, tokens = inputs.suite, inputs.suite.tokens
        return Population(suite.name, suite.sha256, tokens.n_units, tokens.n_tokens, suite.details(), suite.bos)

    def cost(self, planned: Planned) -> dict[str, Any]:
        """How much labelled text there is."""
        suite = planned.inputs.suite
        return {
            "labelled sets": len(suite.sets) if suite else 0,
            "labelled texts": suite.tokens.n_units if suite else 0,
            "labelled tokens": suite.tokens.n_tokens if suite else 0,
        }

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """One reader for all tasks."""
        reader = LabelledReader(run, {name: cast(LabelledTask, task) for name, task in tasks.items()})
        run.readers[reader.name] = reader
        return dict.fromkeys(tasks, reader)

    def pool(self, inputs: Inputs) -> list[int]:
        """The sets."""
        return list(range(len(_suite(inputs).sets)))

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these sets."""
        suite = _suite(inputs)
        sets = tuple(suite.sets[i] for i in chosen)
        return dataclasses.replace(inputs, suite=dataclasses.replace(suite, sets=sets))


def _suite(inputs: Inputs) -> Suite:
    assert inputs.suite is not None, "a run without labelled sets skips these tasks"
    return inputs.suite


class LabelledReader(Reader):
    """Every group of sets: its texts through the model, then every task on every coder."""

    label = "labelled sets"
    prefix = "labelled_"
    tasks: Mapping[str, LabelledTask]

    def __init__(self, run: Run, tasks: Mapping[str, LabelledTask]) -> None:
        super().__init__("labelled", run, tasks)
        self.cast, self.options, self.suite = run.cast, run.inputs.options, _suite(run.inputs)
        self.groups = self.suite.groups()
        hooks = dict.fromkeys(entry.hook_in for entry in self.cast.entries)
        self.floors = [channels_entry(self.work, hook) for hook in hooks]
        own = [e for e in self.cast.entries if e.coder.info.n_latents and measured_as(e, self.cast) == e.key]
        self.entries = [*self.floors, *own]
        self._columns = Columns()

    def __len__(self) -> int:
        return len(self.groups)

    def place(self, done: int) -> tuple[int, int]:
        """Sets, not groups."""
        sizes = [len(group) for group in self.groups]
        return sum(sizes[:done]), sum(sizes)

    def step(self, index: int, progress: Progress) -> Part:
        """One group of sets that share texts."""
        group, part = self.groups[index], Part()
        done, total = self.place(index)
        sets = [self.suite.sets[i] for i in group]
        texts = np.unique(np.concatenate([half.texts for one in sets for half in (one.train, one.test)]))
        numbers = np.full(self.suite.tokens.n_units, -1, dtype=np.int64)
        numbers[texts] = np.arange(len(texts))
        stores = self._stores(len(texts))
        pooled = self._pooled(texts, part, stores)
        weights = TrainWeights(tuple(self.suite.tokens.unit_ids[i] for i in texts), self.options.seed)
        with one_thread():
            for i, (number, one) in enumerate(zip(group, sets, strict=True)):
                progress(self.label, done + i, total)
                for entry in self._left(part):
                    store = stores.get(entry.hook_in)
                    view = SetView(one, numbers, pooled[entry.key], self.options.seed, entry, weights, store)
                    self._set(entry, view, number, part)
        for store in stores.values():
            store.close()
        return part

    def _left(self, part: Part) -> list[Entry]:
        failed = {*self.run.state.failures, *part.failures}
        return [entry for entry in self.entries if entry.key not in failed]

    def _stores(self, n_texts: int) -> dict[str, TokenStore]:
        """Where the tokens of each hook point go: all of them for pre-activations, some for a ceiling, or none."""
        tasks, dtype = self.tasks.values(), self.work.subject.dtype
        whole = any(task.source == "pre_activations" for task in tasks)
        if not whole and not any(task.reads_tokens for task in tasks):
            return {}
        return {floor.hook_in: TokenStore(floor.coder.info.d_in, n_texts, dtype, whole=whole) for floor in self.floors}

    def _set(self, entry: Entry, view: SetView, number: int, part: Part) -> None:
        """All tasks on one set of one coder."""
        for name, task in self.tasks.items():
            failed = {*self.run.state.task_failures.get(name, {}), *(k for t, k in part.task_failures if t == name)}
            if entry.key in failed:
                continue
            try:
                append(part.rows, self._measure(name, task, entry, view, number))
            except CoderFailure as failure:
                part.failures[entry.key] = str(failure)
                return
            except TaskFailure as failure:
                keys = [entry.key, *([ceiling_key(entry.hook_in)] if entry in self.floors else [])]
                part.task_failures |= {(name, key): str(failure) for key in keys}

    def _measure(self, name: str, task: LabelledTask, entry: Entry, view: SetView, number: int) -> Arrays:
        found: Arrays = {}
        test = view.one.test
        n = len(test.texts)

        def text_of(row: int) -> str:
            return f"text {row} of set {view.set_name}"

        made = guarded(task, lambda: task.examples(view), f"examples of set {view.set_name}", entry.key)
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping)):
            raise TaskFailure(f"task {name}: examples must return columns and numbers, not {type(made).__name__}")
        tables = {entry.key: self._columns.rows(task, "examples", made[0], n, entry.key, text_of)}
        facts = {entry.key: made[1]}
        refits = {entry.key: self._refits(task, task.refits, view, entry.key, tables[entry.key])}
        if entry in self.floors:
            key = ceiling_key(entry.hook_in)
            rows = guarded(task, lambda: task.ceiling(view), f"ceiling of set {view.set_name}")
            tables[key] = self._columns.rows(task, "ceiling", rows, n, entry.hook_in, text_of)
            facts[key] = guarded(task, lambda: task.about_ceiling(view), f"about_ceiling of set {view.set_name}")
            refits[key] = self._refits(task, task.ceiling_refits, view, entry.hook_in, tables[key])
        for key, columns in tables.items():
            found[name, key, "example.set"] = np.full(len(test.texts), float(number))
            found[name, key, "example.text"] = test.texts.astype(np.float64)
            found |= {(name, key, f"example.{c}"): column for c, column in columns.items()}
            found[name, key, "refit.set"] = np.full(task.n_refits, float(number))
            found[name, key, "refit.number"] = np.arange(task.n_refits, dtype=np.float64)
            found |= {(name, key, f"refit.{c}"): column for c, column in refits[key].items()}
            found[name, key, "dataset.set"] = np.array([float(number)])
            found |= {(name, key, f"dataset.{c}"): np.array([float(value)]) for c, value in facts[key].items()}
        return found

    def _refits(
        self, task: LabelledTask, ask: Callable[[SetView], Any], view: SetView, owner: str, columns: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """The rows of refits, one of every column of ``columns``: zeros where the task says nothing of it."""
        what = f"{ask.__name__} of set {view.set_name}"
        sums = guarded(task, lambda: ask(view), what, owner)
        if sums is None:
            return refit_rows({}, columns, task.n_refits)
        found = self._columns.rows(task, ask.__name__, sums, task.n_refits, owner, lambda row: f"refit {row} of {what}")
        if unknown := sorted(found.keys() - columns.keys()):
            raise TaskFailure(f"task {task.spec.id}: {what} gives the column {unknown[0]}, which no example has")
        return refit_rows(found, columns, task.n_refits)

    def _pooled(self, texts: NDArray[np.int64], part: Part, stores: dict[str, TokenStore]) -> dict[str, Pooled]:
        """The pooled codes of every coder on these texts."""
        asked = {task.pooling for task in self.tasks.values()}
        channels = (*(("last",) if "last" in asked else ()), *(("mean", "high", "low") if asked != {"last"} else ()))
        pooled = {
            entry.key: Pooled(
                entry.coder.info.n_latents,
                len(texts),
                asked,
                self.work.subject.device,
                channels=channels if entry in self.floors else (),
            )
            for entry in self.entries
        }
        mean = {entry.hook_in: self.work.moments[entry.hook_in].mean for entry in self.floors}
        batches = Batches.of(self.suite.tokens, self.run.size, texts.tolist())
        numbers = {int(text): i for i, text in enumerate(texts)}
        device = self.work.subject.device
        with Prefixes([self.suite.tokens[i].ids for i in texts.tolist()]) as alike:
            for index, members in enumerate(batches.groups):
                batch = Batch(self.work, *batches.tensors(index, self.options))
                of_text = torch.tensor([numbers[i] for i in members], device=device)
                shared = alike.of([numbers[i] for i in members], device)
                x = {hook: alike.activations(hook, batch.activations(hook), shared) for hook in mean}
                for hook, store in stores.items():
                    store.add(x[hook][0], batch, of_text)
                for entry in self._left(part):
                    activations, prefix = x[entry.hook_in]
                    view = CoderView(SiteView(batch, entry.hook_in), entry)
                    try:
                        if entry in self.floors:
                            pooled[entry.key].add_channels(activations - mean[entry.hook_in], batch, of_text)
                        else:
                            codes = alike.codes(entry.key, view.codes, prefix)
                            pooled[entry.key].add_codes(codes, batch, of_text)
                    except CoderFailure as failure:
                        part.failures[entry.key] = str(failure)
        return pooled

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """The tables "example" and "dataset"."""
        return labelled_tables(self._checked(task, entry), task.spec.id, entry, self.cast, self.suite)

    def _checked(self, task: Task, entry: Entry) -> Arrays:
        """The rows of a coder, of floor and of ceiling, each of which has every text of every set once."""
        rows, sets = self._rows(task, entry), self.suite.sets
        texts = np.concatenate([one.test.texts for one in sets])
        of = np.repeat(np.arange(len(sets)), [len(one.test.texts) for one in sets])
        for key in wanted_keys(entry, self.cast):
            own = [rows.get((task.spec.id, key, f"example.{name}"), np.zeros(0)) for name in ("set", "text")]
            named = list(zip(own, (len(sets), self.suite.tokens.n_units), strict=True))
            check_rows(task, "texts of labelled sets", named, (of, texts))
        return rows

    def references(self, task: Task, entry: Entry) -> dict[str, dict[str, Units]]:
        """The best channels and the full residual stream: what sets floor and ceiling."""
        return reference_tables(self._rows(task, entry), task.spec.id, entry, self.cast, self.suite)

    def _rows(self, task: Task, entry: Entry) -> Arrays:
        keys = {(task.spec.id, key) for key in wanted_keys(entry, self.cast)}
        return self.run.checkpoint.rows(self.run.state, keys)

    def failure(self, task: Task, entry: Entry) -> str | None:
        """A set needs its floor and ceiling too."""
        failed = self.run.state.task_failures.get(task.spec.id, {})
        return next((failed[key] for key in wanted_keys(entry, self.cast) if key in failed), None)

    def details(
        self, task: Task, entry: Entry, tables: Mapping[str, Units], draws: Mapping[str, Draws]
    ) -> dict[str, Any]:
        """What the task shows, and the headline figures of each set."""
        found = task.details(tables)
        examples = draws.get("example")
        if not isinstance(examples, nested.Draws) or not isinstance(found.get("sets"), dict):
            return found
        for name, spec in task.spec.metrics.items():
            if not spec.headline:
                continue
            if examples.given and (wide := nested.over_sets(examples, task.metrics[name])).low is not None:
                found.setdefault(OVER_SETS, {})[name] = {"value": wide.value, "low": wide.low, "high": wide.high}
            for unit, e in nested.each_set(examples, task.metrics[name]).items():
                own = found["sets"].setdefault(unit.partition("@")[0], {}).setdefault("metrics", {})
                own[name] = {"value": e.value, "low": e.low, "high": e.high}
                own[name] |= {"reason": e.reason} if e.reason else {}
        return found
