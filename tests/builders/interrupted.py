"""Runs that end in the middle, as if the process had ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_bench import evaluate
from sae_bench.streams.base import Progress
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.token_rows import LENGTH, coder, token_rows

TASKS = "reconstruction,sparsity"


def settings(out: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": tiny_gpt2(),
        "data": token_rows(),
        "tasks": TASKS,
        "resamples": 50,
        "batch_tokens": LENGTH * 3,
        "checkpoint_seconds": 0,
        "controls": "mean",
        "out": out,
    } | more


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


class Stopped(BaseException):
    """Stands for the end of the process."""


def copied_at(at: int, begun: Path, copy: Path, end: type[BaseException] = Stopped) -> Progress:
    """For a run into ``begun``: leaves a copy of what it has written by its step ``at``, and ends it."""
    steps = 0

    def kill(what: str, done: int, total: int) -> None:
        nonlocal steps
        steps += what == "evaluation"
        if steps > at:
            shutil.copytree(begun, copy)
            raise end

    return kill


def interrupted(out: Path, at: int = 3, **more: Any) -> Path:
    """A run that ended in the middle; returns its folder."""
    steps = 0

    def stop(what: str, done: int, total: int) -> None:
        nonlocal steps
        steps += what == "evaluation"
        if steps > at:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(coder(), progress=stop, **settings(out, **more))
    (folder,) = (out / ".partial").iterdir()
    return folder
