"""Draws of worlds in processes of their own: they end with whoever asked, and need nothing of what was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sae_bench.cli.main import main
from sae_bench.validity import asked

ROOT = Path(__file__).parents[1]
CHILD = """
import os, tempfile, time
from pathlib import Path

def call(folder, seconds):
    Path(tempfile.mkdtemp(), "left").write_text("x")
    Path(folder, str(os.getpid())).write_text(tempfile.gettempdir())
    time.sleep(seconds)
    return seconds

def fails(folder, seconds):
    call(folder, seconds)
    raise ValueError("this one")

def ends(folder, seconds):
    os._exit(9)
"""
# from standard input, and without a guard: neither can be run again by a child
PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import child
from sae_bench.validity.side_by_side import results
try:
    print(sorted(results(getattr(child, sys.argv[2]), [(sys.argv[1], float(one)) for one in sys.argv[3:]], 2)))
except BaseException as error:
    print(type(error).__name__, error)
"""


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "child.py").write_text(CHILD)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    made = subprocess.Popen(
        [sys.executable, "-", str(folder), *arguments], text=True, env=environment, cwd=folder, **pipes
    )
    assert made.stdin is not None
    made.stdin.write(PARENT)
    made.stdin.close()
    made.stdin = None
    return made


def children(folder: Path) -> list[int]:
    return [int(one.name) for one in folder.iterdir() if one.name.isdigit()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def until(true: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


@pytest.mark.slow
@pytest.mark.parametrize(("call", "said"), [
    ("call", "[0.0, 0.1, 0.2]"), ("fails", "ValueError this one"), ("ends", "SaeBenchError a process that measures"),
])  # fmt: skip
def test_a_program_of_any_kind_may_ask(tmp_path: Path, call: str, said: str) -> None:
    out, error = started(tmp_path, call, "0.2", "0", "0.1").communicate(timeout=170)
    assert (out[: len(said)], error) == (said, "")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on_behind_who_has_gone(tmp_path: Path, how: signal.Signals) -> None:
    parent = started(tmp_path, "call", "500", "500")
    assert until(lambda: len(children(tmp_path)) == 2), parent.poll()
    places = {Path((tmp_path / str(pid)).read_text()) for pid in children(tmp_path)}
    parent.send_signal(how)
    out, error = parent.communicate(timeout=170)
    assert ("KeyboardInterrupt" in out, "Traceback" in error) == (how is signal.SIGINT, False)
    assert until(lambda: not any(map(alive, children(tmp_path))))
    assert until(lambda: not any(one.exists() for one in places), 10), "what they wrote is cleared up"


def test_who_interrupts_is_not_told_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(asked, "standings", interrupted)
    out = tmp_path / "x.lock"
    assert main(["validate", "--metric", "sparsity.l0", "--quiet", "--out", str(out)]) == 130
    said = capsys.readouterr().err
    assert "nothing was written" in said
    assert "checkpoint" not in said
    assert not out.exists()
