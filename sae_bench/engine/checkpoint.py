"""What a run has measured so far, on disk, so that a killed run goes on where it was.

Rows of units are appended in files of their own; sums, counters and the number of finished batches are one small file
that is replaced atomically. A batch counts as done only when the state file says so, so rows of a batch that was
interrupted are measured again, in the same order, to the same bits.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import Tensor

from sae_bench.errors import ResultError
from sae_bench.saes.controls import Moments

Key = tuple[str, str, str]  # task, coder or hook point, column
Arrays = dict[Key, NDArray[Any]]
_MOMENTS = ("mean", "covariance", "sample")


@dataclass
class State:
    """Progress of a run."""

    done: int = 0
    totals: Arrays = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    row_files: list[str] = field(default_factory=list)


class Checkpoint:
    """A folder of a run in progress, or, without a folder, the same in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, Arrays] = {}
        if folder is not None:
            with _writing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> State:
        """The last state, or a fresh one."""
        if self.folder is None or not (file := self.folder / "state.safetensors").exists():
            return State()
        arrays, extra = _read(file)
        return State(totals=arrays, **extra)

    def save(self, state: State, rows: Arrays) -> None:
        """Append ``rows`` (columns with one entry a sequence, and the column ``("", "", "unit")``), then the state."""
        if rows:
            name = f"rows-{len(state.row_files):06d}"
            state.row_files.append(name)
            if self.folder is None:
                self._memory[name] = rows
            else:
                _write(self.folder / f"{name}.safetensors", rows, {})
        if self.folder is not None:
            extra = {name: getattr(state, name) for name in ("done", "failures", "counters", "row_files")}
            _write(self.folder / "state.safetensors", state.totals, extra)

    def rows(self, state: State, wanted: set[tuple[str, str]]) -> Arrays:
        """All rows so far of the columns of ``wanted`` (task, coder or hook point), and the column of units."""
        found: dict[Key, list[NDArray[Any]]] = {}
        for name in state.row_files:
            arrays = self._memory[name] if self.folder is None else _read(self.folder / f"{name}.safetensors")[0]
            for key, array in arrays.items():
                if key[:2] in wanted or key == ("", "", "unit"):
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


def _write(file: Path, arrays: Arrays, extra: dict[str, Any]) -> None:
    keys = list(arrays)
    content = save(
        {str(i): np.ascontiguousarray(arrays[key]) for i, key in enumerate(keys)},
        {"index": json.dumps({"keys": keys, "extra": extra})},
    )
    temporary = file.with_suffix(".tmp")
    with _writing(file):
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def _read(file: Path) -> tuple[Arrays, dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        index = json.loads(opened.metadata()["index"])
    arrays = load_file(file)
    return {tuple(key): arrays[str(i)] for i, key in enumerate(index["keys"])}, index["extra"]


class _writing:
    """Turns what the file system refuses into one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise ResultError(
                f"cannot write {self.path}: {error.strerror or error}; make room or give another folder with --out"
            ) from error
