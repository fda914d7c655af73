"""The one loop: the steps of a reader, saved as they go, so that a killed run goes on where it was."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.engine.checkpoint import Key, added
from sae_bench.streams.base import Part, Progress, Reader


def read(reader: Reader, progress: Progress) -> None:
    """Measure the steps that are left of a reader."""
    done, total = reader.run.state.done.get(reader.name, 0), len(reader)
    if done == total:
        return
    reader.begin(progress)
    if done:  # a run that goes on has counted what comes before its first step already
        reader.work.counters.clear()
    loop = _Loop(reader)
    begun: deque[_Begun] = deque()  # steps whose end nobody has waited for; a kill loses them, and they are made again
    try:
        for index in range(done, total):
            progress(reader.label, *reader.place(index))
            begun.append(loop.begin(index, progress))
            if len(begun) > reader.ahead:
                loop.record(begun.popleft())
            if index + 1 < total:
                loop.save_if_long()
        while begun:
            loop.record(begun.popleft())
        reader.finish()
        loop.complete = True
    finally:
        if loop.complete or (reader.atomic and not loop.recording):
            loop.save()
    progress(reader.label, *reader.place(total))


_Begun = tuple[Callable[[], Part], Counter[str]]  # what waits for a step's end, and what the step cost

SHARE = 100  # a save may take this part of the time until the next one


@dataclass
class _Loop:
    """What was measured since the last save; ``recording`` while a step is half recorded, ``cost`` of the last save."""

    reader: Reader
    pending: dict[Key, list[NDArray[Any]]] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)
    cost: float = 0.0  # seconds
    recording: bool = False
    complete: bool = False

    def begin(self, index: int, progress: Progress) -> _Begun:
        work = self.reader.work
        before = work.counters.copy()
        try:
            end = self.reader.launch(index, progress)
        except BaseException:
            work.counters = before
            raise
        cost, work.counters = work.counters, Counter()
        return end, cost

    def record(self, begun: _Begun) -> None:
        end, cost = begun
        part = end()
        self.recording = True
        reader, state = self.reader, self.reader.run.state
        for key in [key for key in self.pending if key[1] in part.failures or key[:2] in part.task_failures]:
            del self.pending[key]
        for key, column in part.rows.items():
            self.pending.setdefault(key, []).append(column)
        for key, array in part.totals.items():
            state.totals[key] = state.totals[key] + array if key in state.totals else array
        state.failures |= part.failures
        for (task, owner), why in part.task_failures.items():
            state.task_failures.setdefault(task, {})[owner] = why
        counts = {f"{reader.prefix}{n.removeprefix(reader.prefix)}": c for n, c in cost.items()}
        state.counters = added(state.counters, counts)
        state.done[reader.name] = state.done.get(reader.name, 0) + 1
        self.recording = False

    def save_if_long(self) -> None:
        """Save where that is due; it is after every step if the user wants one after 0 seconds."""
        seconds = self.reader.run.inputs.options.checkpoint_seconds
        if seconds <= 0 or time.monotonic() - self.saved >= max(seconds, SHARE * self.cost):
            start = time.perf_counter()
            self.reader.run.state.totals |= self.reader.sums()
            self.save()
            self.cost = time.perf_counter() - start
            self.saved = time.monotonic()

    def save(self) -> None:
        """Rows, then the state; rows that are written are not written again if only the state was interrupted."""
        checkpoint, state = self.reader.run.checkpoint, self.reader.run.state
        checkpoint.append(state, {key: np.concatenate(parts) for key, parts in self.pending.items()})
        self.pending = {}
        checkpoint.save(state)
