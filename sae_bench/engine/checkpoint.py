"""What a run has measured so far, on disk, so that a killed run goes on where it was.

Rows of units are appended in files of their own (:mod:`sae_bench.engine.rows`); sums, counters and the number of
finished batches are one small file that is replaced atomically. A batch counts as done only when the state file says
so, so rows of a batch that was interrupted are measured again, in the same order, to the same bits. Every file holds
its own digest, and row files the name of the process's run: what is damaged, or not of this run, never becomes part of
a figure.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sae_bench.engine.moments import packed, unpacked
from sae_bench.engine.rows import Arrays, Damaged, Key, Rows
from sae_bench.errors import ResultError, said
from sae_bench.files import read_json, regular, write_atomically, writing
from sae_bench.saes.calibration import Moments

FORMAT = 6  # of the files here: a run that an older version began is begun anew
__all__ = ["FORMAT", "MOMENTS", "PLAN", "STATE", "Arrays", "Checkpoint", "Damaged", "Key", "State", "added"]
PLAN, STATE, MOMENTS = "plan.json", "state.safetensors", "calibration.safetensors"


@dataclass
class State:
    """Progress of a run."""

    done: dict[str, int] = field(default_factory=dict)  # steps, by reader
    totals: Arrays = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # of coders
    task_failures: dict[str, dict[str, str]] = field(default_factory=dict)  # by task, then coder or @hook point
    counters: dict[str, int] = field(default_factory=dict)
    row_files: list[str] = field(default_factory=list)
    confirmed: dict[str, dict[str, list[str]]] | None = None  # by task and SAE: controls that all documents are for


def added(counters: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Both together; unlike the sum of two Counters it keeps a count of 0."""
    return {**counters, **{name: counters.get(name, 0) + n for name, n in more.items()}}


class Checkpoint:
    """A folder of a run in progress, which this process alone may use, or, without a folder, the same in memory.

    A folder in which anything is damaged is emptied, with a warning: the run begins anew.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._rows = Rows(folder)
        self._run = secrets.token_hex(4)
        if folder is None:
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        why = None
        try:
            self._check(folder)
        except Damaged as damage:
            why = str(damage)
        if why is not None:  # not before here, as an error keeps files open that are then removed
            self._begin_anew(folder, why)

    def _begin_anew(self, folder: Path, why: str) -> None:
        warnings.warn(f"{why}; the run begins anew", stacklevel=3)
        self._rows.close()
        with writing(folder):
            for file in _files(folder):
                shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()

    def _check(self, folder: Path) -> None:
        """Read every file once. Raises Damaged."""
        if (file := folder / PLAN).exists():
            _plan(file)
        if (file := folder / MOMENTS).exists():
            read_arrays(file, check=True)
        if (file := folder / STATE).exists():
            self._rows.check(_state(file, check=True).row_files)

    def plan(
        self, saes: list[str], tasks: list[str], *, all_saes: list[str], all_tasks: list[str]
    ) -> tuple[list[str], list[str]]:
        """What the run measures of ``all_saes`` and ``all_tasks``: what it was begun with, or ``saes`` and ``tasks``.

        A run that is killed while it writes results must go on with all that it measured, also where results are
        there. It begins anew if something is missing now that it did not measure: a result that was removed meanwhile.
        """
        if self.folder is None:
            return saes, tasks
        file = self.folder / PLAN
        if file.exists():
            begun = _plan(file)
            if set(saes) <= set(begun["saes"]) <= set(all_saes) and set(tasks) <= set(begun["tasks"]) <= set(all_tasks):
                return begun["saes"], begun["tasks"]
            self._begin_anew(self.folder, f"{file} is not the plan of what is missing now")
        write_atomically(file, json.dumps({"saes": saes, "tasks": tasks}).encode())
        return saes, tasks

    def load(self) -> State:
        """The last state, or a fresh one."""
        if self.folder is None or not (file := self.folder / STATE).exists():
            return State()
        return _state(file)

    def append(self, state: State, rows: Arrays) -> None:
        """Append ``rows`` (columns with one entry a row, such as a sequence); they count once the state is saved."""
        if rows:
            name = f"rows-{self._run}-{len(state.row_files):06d}.safetensors"
            self._rows.append(name, rows)
            state.row_files.append(name)

    def save(self, state: State, rows: Arrays | None = None) -> None:
        """Append ``rows``, then write the state."""
        self.append(state, rows or {})
        if self.folder is not None:
            extra = {name: value for name, value in vars(state).items() if name != "totals"}
            write_arrays(self.folder / STATE, state.totals, extra)

    def rows(self, state: State, wanted: set[tuple[str, str]]) -> Arrays:
        """All rows so far of the columns of ``wanted``: (task, coder or hook point). Raises Damaged."""
        return self._rows.of(state.row_files, wanted)

    def load_moments(self, device: torch.device) -> tuple[dict[str, Moments], dict[str, int]] | None:
        """Calibration of this run, if it was finished."""
        if self.folder is None or not (file := self.folder / MOMENTS).exists():
            return None
        arrays, extra = read_arrays(file)
        return unpacked(arrays, extra["hooks"], device), extra["counters"]

    def save_moments(self, moments: Mapping[str, Moments], counters: Mapping[str, int]) -> None:
        """Keep the calibration, so that controls are the same to the bit after a kill."""
        if self.folder is None:
            return
        arrays, hooks = packed(moments)
        write_arrays(self.folder / MOMENTS, arrays, {"hooks": hooks, "counters": dict(counters)})

    def remove(self) -> None:
        """The run is finished and its results are written."""
        if self.folder is not None:
            self._rows.close()
            for name in (PLAN, STATE):  # first, so that nothing that is left could be taken for a run in progress
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix in (".json", ".safetensors")]


def _plan(file: Path) -> dict[str, list[str]]:
    """SAEs and tasks of a run in progress, by name. Raises Damaged."""
    try:
        plan = read_json(file)
        if not all(isinstance(name, str) for what in ("saes", "tasks") for name in [*plan[what]]):
            raise TypeError("a name is no text")
    except (ResultError, KeyError, TypeError) as error:
        raise Damaged(file, said(error, file=False)) from error
    return {what: list(plan[what]) for what in ("saes", "tasks")}


def _state(file: Path, *, check: bool = False) -> State:
    """Raises Damaged."""
    totals, extra = read_arrays(file, check=check)
    try:
        return State(totals=totals, **extra)
    except TypeError as error:
        raise Damaged(file, said(error, file=False)) from error


def write_arrays(file: Path, arrays: Arrays, extra: dict[str, Any]) -> None:
    """A file of arrays and what else there is (plain JSON), with the digest of both. Raises ResultError."""
    keys = list(arrays)
    tensors = {str(i): np.ascontiguousarray(arrays[key]) for i, key in enumerate(keys)}
    index = json.dumps({"keys": keys, "extra": extra})
    write_atomically(file, save(tensors, {"index": index, "digest": _digest(index, [*tensors.values()])}))


def _digest(index: str, arrays: list[NDArray[Any]]) -> str:
    digest = hashlib.blake2b(index.encode(), digest_size=16)
    for array in arrays:
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read_arrays(file: Path, *, check: bool = False, most: int | None = None) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file, and what else it holds; ``check`` compares both with its digest. Raises Damaged."""
    try:
        with safe_open(regular(file, most=most), framework="numpy") as opened:
            metadata = opened.metadata()
            index = json.loads(metadata["index"])
            arrays: Arrays = {tuple(key): opened.get_tensor(str(i)) for i, key in enumerate(index["keys"])}
        right = not check or _digest(metadata["index"], [*arrays.values()]) == metadata["digest"]
    except (ResultError, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(file, said(error, file=False)) from error
    if not right:
        raise Damaged(file, "its content is not what was written")
    return arrays, index["extra"]
