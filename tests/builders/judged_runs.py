"""Runs of autointerp from the command line, on a tiny model and SAE: 31 requests, with the first question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_bench.judge import Patience
from sae_bench.results import store
from sae_bench.tasks.autointerp.prompts import first
from tests.builders.explainers import TASK
from tests.builders.judge_server import Server, key_of
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import tiny_coder, write_native

LATENTS, NULLS, GROUPS = 6, 3, 2
REQUESTS = LATENTS + GROUPS * (LATENTS + 2 * NULLS)  # without the first question, which every run asks
SIZES = {"latents": LATENTS, "null_latents": NULLS, "window_tokens": 8, "shown": 6, "contrast": 2, "positives": 4}
SIZES |= {"random": 2, "matched": 2, "windows_a_request": 4, "most_density": 0.1}


def without_key(monkeypatch: pytest.MonkeyPatch, patience: Patience) -> None:
    """No key and no address of the user's own, and so much patience with an endpoint."""
    monkeypatch.setattr("sae_bench.judge.client.Patience", lambda: patience)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def make(folder: Path) -> None:
    """A tiny model, ids and an SAE on disk."""
    tiny_gpt2().save_pretrained(folder / "model")
    rows = np.random.default_rng(0).integers(1, 48, (200, 20))
    rows[:, 0] = 0
    np.save(folder / "ids.npy", rows)
    write_native(tiny_coder("topk"), folder / "sae", model=str(folder / "model"), name="alive")


def run_of(files: Path, tasks: str = TASK) -> list[Any]:
    """Arguments of a run without a judge."""
    given: list[Any] = ["run", "--sae", files / "sae", "--data", files / "ids.npy", "--quiet", "--resamples", 20]
    given += ["--tasks", tasks, "--controls", "none"]
    return given + ([arg for name, value in SIZES.items() for arg in ("--param", f"{TASK}.{name}={value}")])


def judge_of(server: Server, cache: str = "judge.sqlite", model: str = "m") -> list[Any]:
    """A judge behind this server, under one name whatever its port."""
    own = ["--judge-model", model, "--judge-base-url", server.url, "--judge-cache", cache]
    return [*own, "--judge-endpoint", "test"]


def is_first(body: dict[str, Any]) -> bool:
    """Whether a request is the first question of a run."""
    return body["messages"][:2] == list(first().messages) and len(body["messages"]) == 2


def paid(server: Server) -> int:
    """Requests but for the first questions of runs."""
    return sum(not is_first(body) for body in server.bodies)


def answered(server: Server) -> dict[str, int]:
    """How often each request was answered, but for the first questions of runs."""
    firsts = {key_of(body) for body in server.bodies if is_first(body)}
    return {key: n for key, n in server.answered.items() if key not in firsts}


def written(folder: str) -> dict[str, bytes]:
    """The files of a folder of results, without what a run in progress keeps."""
    root = Path(folder)
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def result_in(folder: str, task: str = TASK) -> Any:
    (found,) = [one for one in map(store.read, store.find(Path(folder))) if one.task == task]
    return found


def sentence(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]
