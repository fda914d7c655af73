"""The pass over labelled texts: each text once through the model, pooled codes of every coder, then all sets.

Sets that share texts form a group. The pooled codes of one group are in memory, sparse; once its sets are measured they
are dropped. The residual channels run as if they were a coder: they are the floor of every score, and what the ceiling
is computed from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.data.labelled import Suite
from sae_bench.engine.batch import Batch, CoderView, SiteView
from sae_bench.engine.checkpoint import Arrays, Checkpoint, State, added
from sae_bench.engine.plan import Batches, Cast, Options
from sae_bench.engine.pooled import Pooled, SetView, TokenStore
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace
from sae_bench.metrics.labelled import CEILING, FLOOR
from sae_bench.saes.controls import ChannelCoder
from sae_bench.saes.protocol import CoderInfo
from sae_bench.tasks.labelled import LabelledTask
from sae_bench.units import Column, Units

Progress = Callable[[str, int, int], None]


def channels_key(hook: str) -> str:
    """The key under which the residual channels at a hook point are measured."""
    return f"@{hook}/channels"


def ceiling_key(hook: str) -> str:
    """The key under which the full residual stream at a hook point is measured."""
    return f"@{hook}/residual"


def channels_entry(work: Workspace, hook: str) -> Entry:
    """All residual channels, as deviations from their mean, as a coder."""
    mean = work.moments[hook].mean
    width = len(mean)
    info = CoderInfo(f"channels of {hook}", width, width, width, (hook,), (hook,), signed=True)
    dtype = torch.float64 if work.subject.dtype == torch.float64 else torch.float32
    return Entry(channels_key(hook), "channels", ChannelCoder(info, mean.to(dtype), width))


def measured_as(entry: Entry, cast: Cast) -> str:
    """The key of the coder whose codes these are, and whose rows are therefore its rows."""
    if entry.coder.info.architecture == "identity" and not entry.coder.info.is_transcoder:
        return channels_key(entry.hook_in)
    for other in cast.entries:
        if other.encoder is entry.encoder:
            return other.key
    return entry.key


class LabelledLoop:
    """Every group of sets: its texts through the model, then every task on every coder."""

    def __init__(
        self, work: Workspace, cast: Cast, tasks: dict[str, LabelledTask], suite: Suite, options: Options, size: int
    ) -> None:
        self.work = Workspace(work.subject, work.hooks, work.moments)
        self.cast, self.tasks, self.suite, self.options, self.size = cast, tasks, suite, options, size
        hooks = dict.fromkeys(entry.hook_in for entry in cast.entries)
        self.floors = [channels_entry(self.work, hook) for hook in hooks]
        own = [e for e in cast.entries if e.coder.info.n_latents and measured_as(e, cast) == e.key]
        self.entries = [*self.floors, *own]

    def run(self, checkpoint: Checkpoint, state: State, progress: Progress) -> None:
        """Measure the groups that are left, saving after each of them that took long."""
        groups = self.suite.groups()
        total = sum(len(group) for group in groups)
        done = sum(len(group) for group in groups[: state.groups])
        pending: dict[tuple[str, str, str], list[NDArray[np.float64]]] = {}
        saved = time.monotonic()
        for group in groups[state.groups :]:
            rows = self._group(group, state, partial(_report, progress, done, total))
            for key, column in rows.items():
                pending.setdefault(key, []).append(column)
            done += len(group)
            state.groups += 1
            state.counters = added(state.counters, self._counts())
            if time.monotonic() - saved >= self.options.checkpoint_seconds:
                checkpoint.save(state, {key: np.concatenate(parts) for key, parts in pending.items()})
                pending, saved = {}, time.monotonic()
        checkpoint.save(state, {key: np.concatenate(parts) for key, parts in pending.items()})
        progress("labelled sets", total, total)

    def _counts(self) -> Counter[str]:
        """What this group cost, under names of its own; and from now on that of the next one."""
        found = Counter({f"labelled_{name}": n for name, n in self.work.counters.items()})
        self.work.counters.clear()
        return found

    def _group(self, group: list[int], state: State, tick: Callable[[int], None]) -> Arrays:
        sets = [self.suite.sets[i] for i in group]
        texts = np.unique(np.concatenate([part.texts for one in sets for part in (one.train, one.test)]))
        numbers = np.full(self.suite.tokens.n_units, -1, dtype=np.int64)
        numbers[texts] = np.arange(len(texts))
        asks = any(task.source == "pre_activations" for task in self.tasks.values())
        stores = {floor.hook_in: self._store(floor, len(texts)) for floor in self.floors} if asks else {}
        pooled = self._pooled(texts, state, stores)
        rows: Arrays = {}
        with one_thread():
            for i, (number, one) in enumerate(zip(group, sets, strict=True)):
                tick(i)
                for entry in [e for e in self.entries if e.key not in state.failures]:
                    store = stores.get(entry.hook_in)
                    view = SetView(one, numbers, pooled[entry.key], self.options.seed, entry, store)
                    try:
                        _append(rows, self._measure(entry, view, number))
                    except CoderFailure as failure:
                        state.failures[entry.key] = str(failure)
        for store in stores.values():
            store.close()
        return rows

    def _store(self, floor: Entry, n_texts: int) -> TokenStore:
        return TokenStore(floor.coder.info.d_in, n_texts, self.work.subject.dtype)

    def _measure(self, entry: Entry, view: SetView, number: int) -> Arrays:
        found: Arrays = {}
        test = view.one.test
        for name, task in self.tasks.items():
            examples, facts = task.examples(view)
            tables = {entry.key: examples}
            if entry in self.floors:
                tables[ceiling_key(entry.hook_in)] = task.ceiling(view)
            for key, rows in tables.items():
                found[name, key, "example.set"] = np.full(len(test.texts), float(number))
                found[name, key, "example.text"] = test.texts.astype(np.float64)
                found |= {(name, key, f"example.{c}"): column.numpy() for c, column in rows.items()}
            found[name, entry.key, "dataset.set"] = np.array([float(number)])
            found |= {(name, entry.key, f"dataset.{c}"): np.array([value]) for c, value in facts.items()}
        return found

    def _pooled(self, texts: NDArray[np.int64], state: State, stores: dict[str, TokenStore]) -> dict[str, Pooled]:
        """The pooled codes of every coder on these texts."""
        asked = {task.pooling for task in self.tasks.values()}
        pooled = {
            entry.key: Pooled(
                entry.coder.info.n_latents,
                len(texts),
                asked | ({"mean"} if entry in self.floors else set()),  # the mean is for the ceiling
                self.work.subject.device,
            )
            for entry in self.entries
        }
        mean = {entry.hook_in: self.work.moments[entry.hook_in].mean for entry in self.floors}
        batches = Batches.of(self.suite.tokens, self.size, texts.tolist())
        numbers = {int(text): i for i, text in enumerate(texts)}
        device = self.work.subject.device
        for index, members in enumerate(batches.groups):
            batch = Batch(self.work, *batches.tensors(index, self.options, device))
            of_text = torch.tensor([numbers[i] for i in members], device=device)
            for hook, store in stores.items():
                store.add(batch.activations(hook), batch, of_text)
            for entry in self.entries:
                if entry.key in state.failures:
                    continue
                view = CoderView(SiteView(batch, entry.hook_in), entry)
                try:
                    if entry in self.floors:
                        pooled[entry.key].add_channels(view.x - mean[entry.hook_in], batch, of_text)
                    else:
                        pooled[entry.key].add_codes(view.codes, batch, of_text)
                except CoderFailure as failure:
                    state.failures[entry.key] = str(failure)
        return pooled


@contextmanager
def one_thread() -> Iterator[None]:
    """For thousands of small fits: a second thread would mostly wait, and slow them down where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _report(progress: Progress, done: int, total: int, more: int) -> None:
    progress("labelled sets", done + more, total)


def _append(rows: Arrays, more: Arrays) -> None:
    for key, column in more.items():
        rows[key] = np.concatenate([rows[key], column]) if key in rows else column


_COMMON = ("set", "text", "examples", "positive")


def wanted_keys(entry: Entry, cast: Cast) -> tuple[str, str, str]:
    """The keys under which a coder's rows, and those of floor and ceiling, are measured."""
    return measured_as(entry, cast), channels_key(entry.hook_in), ceiling_key(entry.hook_in)


def labelled_tables(rows: Arrays, task: str, entry: Entry, cast: Cast, suite: Suite) -> dict[str, Units]:
    """The tables "example" and "dataset" of a coder, with the columns of floor and ceiling beside its own."""
    own = _table(rows, task, measured_as(entry, cast))
    hook = entry.hook_in
    columns = dict(own["example"])
    for prefix, key in ((FLOOR, channels_key(hook)), (CEILING, ceiling_key(hook))):
        shared = _table(rows, task, key)["example"]
        columns |= {prefix + name: c for name, c in shared.items() if name not in _COMMON}
    sets, texts = columns.pop("set"), columns.pop("text")
    names = [f"{one.name}@{one.digest}" for one in suite.sets]
    unit_ids = suite.tokens.unit_ids
    ids = tuple(f"{names[int(s)]}:{unit_ids[int(t)]}" for s, t in zip(sets, texts, strict=True))
    facts = own["dataset"]
    dataset = Units(tuple(names[int(s)] for s in facts["set"]), {n: c for n, c in facts.items() if n != "set"})
    return {"example": Units(ids, columns), "dataset": dataset}


def reference_tables(rows: Arrays, task: str, entry: Entry, cast: Cast, suite: Suite) -> dict[str, dict[str, Units]]:
    """The tables of what stands beside every SAE at its hook point: best channels, and the full residual stream."""
    whole = labelled_tables(rows, task, entry, cast, suite)["example"]
    common: dict[str, Column] = {n: whole.columns[n] for n in ("examples", "positive")}
    found = {}
    for label, prefix in (("best_channels", FLOOR), ("full_residual", CEILING)):
        own = {n.removeprefix(prefix): c for n, c in whole.columns.items() if n.startswith(prefix)}
        shared = {n: c for n, c in whole.columns.items() if n.startswith((FLOOR, CEILING))}
        found[label] = {"example": Units(whole.ids, common | own | shared)}
    return found


def _table(rows: Arrays, task: str, key: str) -> dict[str, dict[str, Column]]:
    tables: dict[str, dict[str, Column]] = {"example": {}, "dataset": {}}
    for (name, owner, column), values in rows.items():
        kind, _, short = column.partition(".")
        if (name, owner) == (task, key) and kind in tables:
            tables[kind][short] = values
    return tables
