"""What a run has measured so far, on disk, so that a killed run goes on where it was.

Rows of units are appended in files of their own; sums, counters and the number of finished batches are one small file
that is replaced atomically. A batch counts as done only when the state file says so, so rows of a batch that was
interrupted are measured again, in the same order, to the same bits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from sae_bench.files import write_atomically, writing
from sae_bench.saes.controls import Moments

FORMAT = 2  # of the files here: a run that an older version began is begun anew
Key = tuple[str, str, str]  # task, coder or hook point, column
Arrays = dict[Key, NDArray[Any]]
_MOMENTS = ("mean", "covariance", "sample")


@dataclass
class State:
    """Progress of a run."""

    done: dict[str, int] = field(default_factory=dict)  # steps, by reader
    totals: Arrays = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # of coders
    task_failures: dict[str, dict[str, str]] = field(default_factory=dict)  # by task, then coder or @hook point
    counters: dict[str, int] = field(default_factory=dict)
    row_files: list[str] = field(default_factory=list)


def added(counters: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Both together; unlike the sum of two Counters it keeps a count of 0."""
    return {**counters, **{name: counters.get(name, 0) + n for name, n in more.items()}}


class Checkpoint:
    """A folder of a run in progress, or, without a folder, the same in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, Arrays] = {}
        if folder is not None:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> State:
        """The last state, or a fresh one."""
        if self.folder is None or not (file := self.folder / "state.safetensors").exists():
            return State()
        arrays, extra = _read(file)
        return State(totals=arrays, **extra)

    def save(self, state: State, rows: Arrays) -> None:
        """Append ``rows`` (columns with one entry a row, such as a sequence), then the state."""
        if rows:
            name = f"rows-{len(state.row_files):06d}"
            state.row_files.append(name)
            if self.folder is None:
                self._memory[name] = rows
            else:
                _write(self.folder / f"{name}.safetensors", rows, {})
        if self.folder is not None:
            extra = {name: value for name, value in vars(state).items() if name != "totals"}
            _write(self.folder / "state.safetensors", state.totals, extra)

    def rows(self, state: State, wanted: set[tuple[str, str]]) -> Arrays:
        """All rows so far of the columns of ``wanted``: (task, coder or hook point)."""

        def asked_for(key: Key) -> bool:
            return key[:2] in wanted

        found: dict[Key, list[NDArray[Any]]] = {}
        for name in state.row_files:
            if self.folder is None:
                arrays = {key: array for key, array in self._memory[name].items() if asked_for(key)}
            else:
                arrays = _read(self.folder / f"{name}.safetensors", asked_for)[0]
            for key, array in arrays.items():
                found.setdefault(key, []).append(array)
        return {key: np.concatenate(parts) for key, parts in found.items()}

    def load_moments(self, device: torch.device) -> tuple[dict[str, Moments], dict[str, int]] | None:
        """Calibration of this run, if it was finished."""
        if self.folder is None or not (file := self.folder / "calibration.safetensors").exists():
            return None
        arrays, extra = _read(file)
        moments = {}
        for hook, (rms, n_tokens) in extra["hooks"].items():
            mean, covariance, sample = (torch.from_numpy(arrays["", hook, name]) for name in _MOMENTS)
            moments[hook] = Moments(mean.to(device), covariance.to(device), sample.to(device), rms, n_tokens)
        return moments, extra["counters"]

    def save_moments(self, moments: Mapping[str, Moments], counters: Mapping[str, int]) -> None:
        """Keep the calibration, so that controls are the same to the bit after a kill."""
        if self.folder is None:
            return
        arrays: Arrays = {}
        for hook, m in moments.items():
            for name in _MOMENTS:
                tensor: Tensor = getattr(m, name)
                wide = tensor if tensor.dtype == torch.float64 else tensor.float()
                arrays["", hook, name] = wide.cpu().numpy()
        hooks = {hook: (m.rms, m.n_tokens) for hook, m in moments.items()}
        _write(self.folder / "calibration.safetensors", arrays, {"hooks": hooks, "counters": dict(counters)})

    def remove(self) -> None:
        """The run is finished and its results are written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
                self.folder.parent.rmdir()


def plan_of(folder: Path, saes: list[str], tasks: list[str]) -> tuple[list[str], list[str]]:
    """What the run in this folder measures: what it was begun with, or, if it begins now, these SAEs and tasks.

    A run that is killed while it writes results must go on with all that it measured, also where results are there.
    """
    file = folder / "plan.json"
    if file.exists():
        plan = json.loads(file.read_text(encoding="utf-8"))
        return plan["saes"], plan["tasks"]
    write_atomically(file, json.dumps({"saes": saes, "tasks": tasks}).encode())
    return saes, tasks


def _write(file: Path, arrays: Arrays, extra: dict[str, Any]) -> None:
    keys = list(arrays)
    tensors = {str(i): np.ascontiguousarray(arrays[key]) for i, key in enumerate(keys)}
    write_atomically(file, save(tensors, {"index": json.dumps({"keys": keys, "extra": extra})}))


def _read(file: Path, wanted: Callable[[Key], bool] = lambda key: True) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file whose key is ``wanted``; the others are not read."""
    with safe_open(file, framework="numpy") as opened:
        index = json.loads(opened.metadata()["index"])
        keys = [tuple(key) for key in index["keys"]]
        return {key: opened.get_tensor(str(i)) for i, key in enumerate(keys) if wanted(key)}, index["extra"]
