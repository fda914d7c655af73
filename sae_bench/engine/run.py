"""The loop: one pass of the model over the documents, every coder and every task on each batch."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.data.documents import Corpus
from sae_bench.data.labelled import Suite
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.ablations import AblationLoop, ablation_tables, measured_as, random_key
from sae_bench.engine.batch import Batch, CoderView, SiteView
from sae_bench.engine.calibrate import calibrate
from sae_bench.engine.checkpoint import Arrays, Checkpoint, State
from sae_bench.engine.labelled import LabelledLoop, channels_key, labelled_tables, reference_tables, wanted_keys
from sae_bench.engine.plan import Batches, Cast, Options, batch_tokens, with_controls
from sae_bench.engine.watch import WATCH, Watch, encoder_of
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace
from sae_bench.models.subject import SubjectModel
from sae_bench.modules import as_declared
from sae_bench.saes.controls import Moments
from sae_bench.tasks.base import Task
from sae_bench.tasks.downstream_sparsity import DownstreamSparsity
from sae_bench.tasks.labelled import LabelledTask
from sae_bench.tasks.watched import WatchedTask
from sae_bench.units import Units, merge

Progress = Callable[[str, int, int], None]  # what, done, of how many


@dataclass
class Measured:
    """All that a run has measured; figures are made from it in :mod:`sae_bench.engine.report`."""

    cast: Cast
    tasks: dict[str, Task]
    moments: dict[str, Moments]
    evaluation: TokenSet
    checkpoint: Checkpoint
    state: State
    calibration_documents: int
    suite: Suite | None = None
    watch: Watch | None = None
    seed: int = 0
    _memo: dict[tuple[str, str], tuple[dict[str, Units], dict[str, Any]]] = field(default_factory=dict)
    _explaining: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)  # what explanations cost

    def tables(self, task: str, entry: Entry) -> dict[str, Units]:
        """The tables of units of one coder on one task."""
        if self.suite is not None and self.tasks[task].stream == "labelled":
            return labelled_tables(self._labelled_rows(task, entry), task, entry, self.cast, self.suite)
        made = self.tasks[task]
        if isinstance(made, DownstreamSparsity):
            return self._ablation_tables(made, measured_as(entry))
        if isinstance(made, WatchedTask):
            return self._explained(made, entry)[0]
        shared, own = (task, f"@{entry.hook_out}"), (task, entry.key)
        rows = self.checkpoint.rows(self.state, {shared, own})
        units = rows.pop(("", "", "unit"))
        ids = tuple(self.evaluation.unit_ids[i] for i in units)
        documents = merge(Units(ids, {key[2]: column for key, column in rows.items()}))
        totals = {key[2]: array for key, array in self.state.totals.items() if key[:2] == own}
        return made.tables(documents, totals)

    def details(self, task: str, entry: Entry, tables: dict[str, Units]) -> dict[str, Any]:
        """What a result shows beside its metrics."""
        made = self.tasks[task]
        return self._explained(made, entry)[1] if isinstance(made, WatchedTask) else made.details(tables)

    @as_declared()
    def _explained(self, task: WatchedTask, entry: Entry) -> tuple[dict[str, Units], dict[str, Any]]:
        """Explanations of one coder's latents; made once for all coders that share an encoder."""
        assert self.watch is not None
        key = (task.spec.id, encoder_of(entry, self.cast))
        if key not in self._memo:
            rows = self.checkpoint.rows(self.state, {(WATCH, key[1])})
            task.activation = self.watch.activation(entry)
            self._explaining[key] = self.watch.work.counters = Counter()
            with torch.no_grad():
                self._memo[key] = task.explain(self.watch.watched(entry, self.cast, rows, task.spec.id), self.seed)
        return self._memo[key]

    def counters(self, task: str, entry: Entry) -> dict[str, int]:
        """What the run cost, and what explaining this SAE and its controls took besides, as far as it was done."""
        found = Counter(self.state.counters)
        beside = self.cast.controls_of.get(entry.key, {}).values()
        coders = [entry, *(control for control in self.cast.controls if control.key in beside)]
        for key in dict.fromkeys((task, encoder_of(coder, self.cast)) for coder in coders):
            found.update({f"explain_{name}": n for name, n in self._explaining.get(key, {}).items()})
        return dict(sorted(found.items()))

    def references(self, task: str, entry: Entry) -> dict[str, dict[str, Units]]:
        """Tables of what stands beside an SAE besides controls: what sets floor and ceiling of its task."""
        made = self.tasks[task]
        if isinstance(made, DownstreamSparsity):
            keys = {"all_channels": channels_key(entry.hook_out), "random_directions": random_key(entry)}
            return {label: self._ablation_tables(made, key) for label, key in keys.items()}
        if self.suite is None or self.tasks[task].stream != "labelled":
            return {}
        return reference_tables(self._labelled_rows(task, entry), task, entry, self.cast, self.suite)

    def _ablation_tables(self, task: DownstreamSparsity, key: str) -> dict[str, Units]:
        rows = self.checkpoint.rows(self.state, {(task.spec.id, key)})
        return ablation_tables(rows, self.state.totals, task, key, self.evaluation)

    def _labelled_rows(self, task: str, entry: Entry) -> Arrays:
        return self.checkpoint.rows(self.state, {(task, key) for key in wanted_keys(entry, self.cast)})


def hook_points(subject: SubjectModel, saes: list[Entry]) -> tuple[str, ...]:
    """All hook points of the run, checked against the model; the last one is where the clean pass is resumed."""
    hooks: list[str] = []
    for entry in saes:
        for hook in (entry.hook_in, entry.hook_out):
            subject.width(hook)
            if hook not in hooks:
                hooks.append(hook)
    return tuple(sorted(hooks, key=_depth))


def _depth(hook: str) -> int:
    """Layer of a hook point, -1 before the first block."""
    layer = re.search(r"\d+", hook)
    return int(layer.group()) if layer else -1


@as_declared()
def measure(
    subject: SubjectModel,
    corpus: Corpus,
    saes: list[Entry],
    tasks: dict[str, Task],
    options: Options,
    *,
    suite: Suite | None = None,
    folder: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Measured:
    """Run the model once over the corpus (and the suite's texts) and measure every task on every SAE and its controls.

    With ``folder`` the run can be killed at any moment and called again with the same arguments.
    """
    checkpoint = Checkpoint(folder)
    hooks = hook_points(subject, saes)
    size = batch_tokens(options, subject.vocab_size, subject.device, corpus.evaluation.longest)
    moments, counters = _calibration(subject, corpus, hooks, options, size, checkpoint, progress)
    work = Workspace(subject, hooks, moments)
    cast = with_controls(saes, work, options)
    state = checkpoint.load()
    fresh = not (state.done or state.groups or state.ablations)
    if fresh:
        state.failures = dict(cast.failures)
    of_documents = {name: task for name, task in tasks.items() if task.stream in ("documents", "watched")}
    explained = [task for task in tasks.values() if isinstance(task, WatchedTask)]
    of_labels = {name: task for name, task in tasks.items() if isinstance(task, LabelledTask)}
    with torch.no_grad():
        watch = Watch(work, cast, explained, corpus.evaluation, options) if explained else None
        state.failures |= watch.failures if watch else {}
        if fresh:  # else what comes before the first batch is counted already
            state.counters = counters | {f"calibration_{name}": n for name, n in work.counters.items()}
        work.counters = Counter(state.counters)
        if of_documents:
            batches = Batches.of(corpus.evaluation, size)
            _Loop(work, cast, of_documents, batches, options, checkpoint, state, watch).run(progress)
        if of_labels and suite is not None:
            LabelledLoop(work, cast, of_labels, suite, options, size).run(checkpoint, state, progress)
        for task in tasks.values():
            if isinstance(task, DownstreamSparsity):
                AblationLoop(work, cast, task, corpus.evaluation, options, size).run(checkpoint, state, progress)
    n = corpus.calibration.n_units
    return Measured(cast, tasks, moments, corpus.evaluation, checkpoint, state, n, suite, watch, options.seed)


def _calibration(
    subject: SubjectModel,
    corpus: Corpus,
    hooks: tuple[str, ...],
    options: Options,
    size: int,
    checkpoint: Checkpoint,
    progress: Progress,
) -> tuple[dict[str, Moments], dict[str, int]]:
    if (kept := checkpoint.load_moments(subject.device)) is not None:
        return kept
    batches = Batches.of(corpus.calibration, size)
    work = Workspace(subject, hooks, {})

    def each() -> Iterator[Batch]:
        for i in range(len(batches)):
            progress("calibration", i, len(batches))
            yield Batch(work, *batches.tensors(i, options, subject.device))

    with torch.no_grad():
        moments = calibrate(each(), hooks, len(corpus.calibration))
    progress("calibration", len(batches), len(batches))
    counters = {"calibration_prefix": work.counters["prefix"]}
    checkpoint.save_moments(moments, counters)
    return moments, counters


@dataclass
class _Loop:
    """One pass over the batches."""

    work: Workspace
    cast: Cast
    tasks: dict[str, Task]
    batches: Batches
    options: Options
    checkpoint: Checkpoint
    state: State
    watch: Watch | None = None
    pending: dict[tuple[str, str, str], list[NDArray[Any]]] = field(default_factory=dict)
    recording: bool = False

    def run(self, progress: Progress) -> None:
        saved = time.monotonic()
        total = len(self.batches)
        try:
            for i in range(self.state.done, total):
                progress("evaluation", i, total)
                self._step(i)
                if time.monotonic() - saved >= self.options.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            progress("evaluation", total, total)
        finally:
            if not self.recording:  # else half a batch is recorded, and the last saved state is the one to go on from
                self._save()

    def _step(self, index: int) -> None:
        """One batch. Nothing is recorded unless the whole batch is done."""
        batch = Batch(self.work, *self.batches.tensors(index, self.options, self.work.subject.device))
        before = Counter(self.work.counters)
        rows: Arrays = {("", "", "unit"): np.array(self.batches.units(index))}
        totals: Arrays = {}
        try:
            sites = {hook: SiteView(batch, hook) for hook in {entry.hook_out for entry in self.cast.entries}}
            for name, task in self.tasks.items():
                for hook, site in sites.items():
                    rows |= {(name, f"@{hook}", c): v.cpu().numpy() for c, v in task.shared(site).items()}
            failures = {}
            for entry in self.cast.entries:
                if entry.key in self.state.failures:
                    continue
                try:
                    view = CoderView(sites[entry.hook_out], entry)
                    own, own_totals = self._measure(entry, view)
                    if self.watch is not None:
                        own |= self.watch.collect(view, self.batches.groups[index])
                except CoderFailure as failure:
                    failures[entry.key] = str(failure)
                    continue
                rows |= own
                totals |= own_totals
        except BaseException:
            self.work.counters = before
            raise
        self._record(rows, totals, failures)

    def _measure(self, entry: Entry, view: CoderView) -> tuple[Arrays, Arrays]:
        rows: Arrays = {}
        totals: Arrays = {}
        for name, task in self.tasks.items():
            rows |= {(name, entry.key, c): v.cpu().numpy() for c, v in task.measure(view).items()}
            totals |= {(name, entry.key, c): v.cpu().numpy() for c, v in task.totals(view).items()}
        return rows, totals

    def _record(self, rows: Arrays, totals: Arrays, failures: dict[str, str]) -> None:
        self.recording = True
        for key in [k for k in self.pending if k[1] in failures]:
            del self.pending[key]
        for key, column in rows.items():
            self.pending.setdefault(key, []).append(column)
        for key, array in totals.items():
            self.state.totals[key] = self.state.totals[key] + array if key in self.state.totals else array
        self.state.failures |= failures
        self.state.counters = dict(self.work.counters)
        self.state.done += 1
        self.recording = False

    def _save(self) -> None:
        rows = {key: np.concatenate(parts) for key, parts in self.pending.items()}
        self.checkpoint.save(self.state, rows)
        self.pending = {}
