"""Measuring labelled sets: group by group of those that share texts, every task on every coder.

The pooled codes of one group are in memory, sparse; once its sets are measured they are dropped. The residual channels
run as if they were a coder: they are the floor of every score, and what the ceiling is computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sae_bench.data.labelled import LabelledSet, Suite
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.metrics.labelled import OVER_SETS
from sae_bench.precision import one_thread
from sae_bench.streams.base import Inputs, Part, Progress, Reader, Run
from sae_bench.streams.channels import channels_entry
from sae_bench.streams.guard import Columns, TaskFailure, guarded
from sae_bench.streams.labelled_pass import Passes, pool_batch
from sae_bench.streams.labelled_tables import (
    append,
    ceiling_key,
    encoded_as,
    labelled_tables,
    measured_as,
    reference_tables,
    refit_rows,
    wanted_keys,
)
from sae_bench.streams.pooled import Pooled, SetView, TokenStore, TrainWeights
from sae_bench.streams.token_sets import TokenSets
from sae_bench.streams.token_view import GroupCodes
from sae_bench.streams.whole import check_rows
from sae_bench.streams.written import Asked, read
from sae_bench.tasks.base import Task
from sae_bench.tasks.labelled import LabelledTask
from sae_bench.units import Units, nested
from sae_bench.units.kinds import Draws

T = TypeVar("T")


def suite_of(inputs: Inputs) -> Suite:
    """The labelled sets of a run that measures some."""
    assert inputs.suite is not None, "a run without labelled sets skips these tasks"
    return inputs.suite


class LabelledReader(Reader):
    """Every group of sets: its texts through the model, then every task on every coder."""

    label = "labelled sets"
    prefix = "labelled_"
    tasks: Mapping[str, LabelledTask]

    def __init__(self, run: Run, tasks: Mapping[str, LabelledTask]) -> None:
        super().__init__("labelled", run, tasks)
        self.cast, self.options, self.suite = run.cast, run.inputs.options, suite_of(run.inputs)
        self.passes = Passes(self.work, self.suite, run.size, self.options)
        self.groups = self.suite.groups()
        hooks = dict.fromkeys(entry.hook_in for entry in self.cast.entries)
        self.floors = [channels_entry(self.work, hook) for hook in hooks]
        own = [e for e in self.cast.entries if any(self._measures(task, e) for task in tasks.values())]
        self.entries = [*self.floors, *own]
        written = [e.hook_out for e in self.entries if any(task.sees_decoder for task in tasks.values())]
        self.hooks = list(dict.fromkeys([*hooks, *written]))
        self.located = TokenSets.of(self.suite, self.options.mask, self.options.special_ids)
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
        codes = self._token_codes(group, texts)
        pooled = self._pooled(texts, part, stores, codes)
        weights = TrainWeights(tuple(self.suite.tokens.unit_ids[i] for i in texts), self.options.seed)
        with one_thread():
            for i, (number, one) in enumerate(zip(group, sets, strict=True)):
                progress(self.label, done + i, total)
                memos: dict[str, dict[Any, Any]] = {key: {} for key in pooled}
                views = {}
                for entry in self._left(part):
                    key, store = encoded_as(entry, self.cast), stores.get(entry.hook_in)
                    views[entry.key] = SetView(
                        one, numbers, pooled[key], self.options.seed, entry, weights, store, memos[key]
                    )
                    views[entry.key].firing = codes.view(number, key) if codes else None
                self._read_directions(views, one, part, stores)
                for name, task, entry in self._todo(part):
                    if number not in self._sets_of(task):
                        continue
                    rows = self._try(name, entry, part, partial(self._measure, name, task, entry, views, number))
                    append(part.rows, rows or {})
        for store in stores.values():
            store.close()
        if codes is not None:
            codes.close()
        return part

    def _sets_of(self, task: LabelledTask) -> list[int]:
        """The sets that a task is measured on."""
        return self.located.usable if task.on_tokens else list(range(len(self.suite.sets)))

    def _token_codes(self, group: Sequence[int], texts: NDArray[np.int64]) -> GroupCodes | None:
        """Where the codes of single tokens go, if a task reads them in one of these sets."""
        if not any(task.on_tokens for task in self.tasks.values()) or not set(group) & set(self.located.usable):
            return None
        return GroupCodes(self.located, texts, self.work.subject.dtype, waits=self.run.work.waits)

    def _measures(self, task: LabelledTask, entry: Entry) -> bool:
        """Whether a task has rows of this coder's own."""
        control = entry in self.cast.controls and not task.wants_control(entry.label)
        return bool(entry.coder.info.n_latents) and not control and measured_as(entry, self.cast, task) == entry.key

    def _left(self, part: Part) -> list[Entry]:
        failed = {*self.run.state.failures, *part.failures}
        return [entry for entry in self.entries if entry.key not in failed]

    def _todo(self, part: Part) -> Iterator[tuple[str, LabelledTask, Entry]]:
        """Every task on every coder that it measures, as long as neither has failed."""
        for entry in self.entries:
            for name, task in self.tasks.items():
                failed = {*self.run.state.task_failures.get(name, {}), *(k for t, k in part.task_failures if t == name)}
                own = task.references if entry in self.floors else self._measures(task, entry)
                if own and entry.key not in failed and entry in self._left(part):
                    yield name, task, entry

    def _try(self, name: str, entry: Entry, part: Part, call: Callable[[], T]) -> T | None:
        """What ``call`` returns; None where the coder or the task fails, of which ``part`` then has the reason."""
        try:
            return call()
        except CoderFailure as failure:
            part.failures[entry.key] = str(failure)
        except TaskFailure as failure:
            keys = [entry.key, *([ceiling_key(entry.hook_in)] if entry in self.floors else [])]
            part.task_failures |= {(name, key): str(failure) for key in keys}
        return None

    def _stores(self, n_texts: int) -> dict[str, TokenStore]:
        """Where the tokens of each hook point go: all of them for pre-activations, else as many as may be kept."""
        tasks, work = self.tasks.values(), self.work
        whole = any(task.source == "pre_activations" for task in tasks)
        if not whole and not any(task.reads_tokens or task.sees_decoder for task in tasks):
            return {}
        widths = {hook: len(work.moments[hook].mean) for hook in self.hooks}
        return {hook: TokenStore(width, n_texts, work.subject.dtype, whole=whole) for hook, width in widths.items()}

    def _read_directions(
        self, views: Mapping[str, SetView], one: LabelledSet, part: Part, stores: Mapping[str, TokenStore]
    ) -> None:
        """Tell the views how far the test texts lie along the directions that tasks ask for."""
        asked: list[Asked] = []
        for name, task, entry in self._todo(part):
            if task.sees_decoder:
                found = self._try(name, entry, part, partial(self._asked, task, views[entry.key]))
                asked += [found] if found else []
        if asked:
            numbers, means = asked[0].view.numbers, {hook: self.work.moments[hook].mean for hook in self.hooks}
            read(asked, numbers[one.test.texts], stores, means, partial(self.passes.carried, one.test.texts))

    def _asked(self, task: LabelledTask, view: SetView) -> Asked | None:
        latents = guarded(task, lambda: task.directions(view), f"directions of set {view.set_name}", view.entry.key)
        return Asked.of(view, task.pooling, latents) if len(latents) else None

    def _measure(
        self, name: str, task: LabelledTask, entry: Entry, views: Mapping[str, SetView], number: int
    ) -> Arrays:
        """A task on one set of one coder."""
        found: Arrays = {}
        view = views[entry.key]
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

    def _pooled(
        self, texts: NDArray[np.int64], part: Part, stores: dict[str, TokenStore], tokens: GroupCodes | None
    ) -> dict[str, Pooled]:
        """The pooled codes of every encoder on these texts, by the key of the first coder that has it.

        Those of single tokens go to ``tokens``.
        """
        asked = {task.pooling for task in self.tasks.values() if not task.on_tokens}
        channels = (*(("last",) if "last" in asked else ()), *(("mean", "high", "low") if asked != {"last"} else ()))
        pooled: dict[str, Pooled] = {}
        for entry in self.entries:
            own = channels if entry in self.floors else ()
            made = Pooled(entry.coder.info.n_latents, len(texts), asked, self.work.subject.device, channels=own)
            pooled.setdefault(encoded_as(entry, self.cast), made)

        def failed(entry: Entry, why: str) -> None:
            part.failures |= {other.key: why for other in self.entries if other.encoder is entry.encoder}

        for carried in self.passes.carried(texts, self.hooks):
            encoders: dict[str, Entry] = {}
            for entry in self._left(part):
                if asked or entry not in self.floors:
                    encoders.setdefault(encoded_as(entry, self.cast), entry)
            pool_batch(carried, encoders, pooled, stores, failed, tokens)
        return pooled

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """The tables "example" and "dataset"."""
        return labelled_tables(self._checked(task, entry), cast(LabelledTask, task), entry, self.cast, self.suite)

    def _checked(self, task: Task, entry: Entry) -> Arrays:
        """The rows of a coder, of floor and of ceiling, each of which has every text of every set once."""
        rows, sets, measured = self._rows(task, entry), self.suite.sets, self._sets_of(cast(LabelledTask, task))
        texts = np.concatenate([sets[i].test.texts for i in measured])
        of = np.repeat(measured, [len(sets[i].test.texts) for i in measured])
        for key in wanted_keys(entry, self.cast, cast(LabelledTask, task)):
            own = [rows.get((task.spec.id, key, f"example.{name}"), np.zeros(0)) for name in ("set", "text")]
            named = list(zip(own, (len(sets), self.suite.tokens.n_units), strict=True))
            check_rows(task, "texts of labelled sets", named, (of, texts))
        return rows

    def references(self, task: Task, entry: Entry) -> dict[str, dict[str, Units]]:
        """The best channels and the full residual stream: what sets floor and ceiling."""
        own = cast(LabelledTask, task)
        return reference_tables(self._rows(task, entry), own, entry, self.cast, self.suite) if own.references else {}

    def _rows(self, task: Task, entry: Entry) -> Arrays:
        keys = {(task.spec.id, key) for key in wanted_keys(entry, self.cast, cast(LabelledTask, task))}
        return self.run.checkpoint.rows(self.run.state, keys)

    def failure(self, task: Task, entry: Entry) -> str | None:
        """A set needs its floor and ceiling too."""
        failed = self.run.state.task_failures.get(task.spec.id, {})
        return next(
            (failed[key] for key in wanted_keys(entry, self.cast, cast(LabelledTask, task)) if key in failed), None
        )

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
