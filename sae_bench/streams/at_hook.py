"""What belongs to a hook point in the tables of a run: read, merged and summed once for all coders there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sae_bench.streams.base import Run
from sae_bench.units import Column, Common, Units
from sae_bench.units.table import Merging

UNIT = ("", "", "unit")  # the document of every row
KEPT = 8  # sets of rows whose merging is kept: all documents, and parts of them


class AtHook:
    """The columns that tasks measured at one hook point at a time: memory does not grow with the hook points."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._merging: dict[bytes, Merging] = {}
        self._hook: str | None = None
        self._common: dict[tuple[str, Merging], Common] = {}
        self._parts: dict[tuple[str, tuple[str, ...]], Common] = {}

    def merging(self, units: NDArray[np.int64]) -> Merging:
        """How rows of these units (places of documents, one a sequence) become rows of documents."""
        key = units.tobytes()
        if key not in self._merging:
            if len(self._merging) >= KEPT:
                self._merging.clear()
            unit_ids = self._run.inputs.corpus.evaluation.unit_ids
            self._merging[key] = Merging.of([unit_ids[i] for i in units.tolist()])
        return self._merging[key]

    def common(self, task: str, hook: str, merging: Merging) -> Common:
        """The columns of a task at a hook point, merged. Raises Damaged."""
        if hook != self._hook:
            self._common.clear()
            self._parts.clear()
            self._hook = hook
        key = (task, merging)
        if key not in self._common:
            rows = self._run.checkpoint.rows(self._run.state, {(task, f"@{hook}")})
            columns: dict[str, Column] = {}
            for row in list(rows):  # one after the other, since all of them twice are much memory
                columns |= merging.columns({row[2]: rows.pop(row)})
            self._common[key] = Common(merging.ids, columns)
        return self._common[key]

    def of(self, task: str, hook: str, ids: tuple[str, ...]) -> Common:
        """The columns of a task at a hook point in the documents ``ids``, sorted. Raises Damaged."""
        units = self._run.checkpoint.rows(self._run.state, {UNIT[:2]}).get(UNIT, np.zeros(0, dtype=np.int64))
        whole = self.common(task, hook, self.merging(units))
        if ids == whole.ids:
            return whole
        if (task, ids) not in self._parts:
            part = Units(whole.ids, whole.columns).where(set(ids).__contains__)
            self._parts[task, ids] = Common(part.ids, part.columns)
        return self._parts[task, ids]
