"""A judge behind a real server, ``transformers serve``: its HTTP stack, its streams, its chat templates.

The models are tiny and made here, so none can judge: what counts is that a run ends with a clear outcome and no score.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.judged_runs import LATENTS, make, result_in, run_of
from tests.builders.said import complaints
from tests.builders.tiny_judge import write
from tests.conftest import Run

SAYS = '{"explanation": "fires on 3"}'
NEEDED = ("fastapi", "uvicorn")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in NEEDED),
        reason="needs fastapi and uvicorn, see the extra dev",
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where three models are served, each by the name of its folder."""
    folder = tmp_path_factory.mktemp("models")
    write(folder / "parrot", SAYS)
    write(folder / "without-system", SAYS, system=False)
    write(folder / "random", None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, ids and an SAE on disk."""
    folder = tmp_path_factory.mktemp("files")
    make(folder)
    return folder


def judged(cli: Run, files: Path, address: str, model: str, *more: str) -> tuple[str, str]:
    """The two sentences of a run that gives no score: on the first question, and at the end."""
    where = ["--judge-model", model, "--judge-base-url", address, "--judge-cache", "judge.sqlite"]
    code, _, err = cli(*run_of(files), *where, "--judge-timeout", "300", *more)
    assert code == 1, err
    assert "Traceback" not in err
    first, last = complaints(err)
    assert f"{LATENTS} of {LATENTS} judged latents have no score" in last
    found = result_in("runs")
    assert found.status == "error"
    assert found.provenance.protocol.parameters["judge_model"] == model
    assert all(one.value is None for name, one in found.metrics.items() if name.startswith("detection"))
    return first, last


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("more", [[], ["--judge-param", "stream=true"]])
def test_a_model_that_explains_and_cannot_judge_has_no_score(
    cli: Run, files: Path, address: str, more: list[str]
) -> None:
    """Whole replies and streams of events come to the same."""
    first, last = judged(cli, files, address, "parrot", *more)
    assert f"cannot be read: {SAYS}" in first
    assert f"(parse_failed {LATENTS}); the first reply of them: {SAYS}" in last


def test_a_chat_template_without_a_system_message_is_met(cli: Run, files: Path, address: str) -> None:
    """The server says nothing but "Internal Server Error"."""
    first, last = judged(cli, files, address, "without-system")
    assert f"cannot be read: {SAYS}" in first
    assert f"(parse_failed {LATENTS})" in last
    takes = result_in("runs").provenance.judge["takes"]
    assert takes == {"format": "json_schema", "system message": "merged into the user's"}


def test_a_model_that_never_ends_has_no_score(cli: Run, files: Path, address: str) -> None:
    first, last = judged(cli, files, address, "random", "--reply-tokens", "40")
    assert "cut off; give --reply-tokens a larger number" in first
    assert f"(truncated {LATENTS})" in last
