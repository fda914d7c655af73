"""Progress where somebody looks on, none in a log; times of phases; and no line of libraries about their own future."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path

import pytest

from sae_bench.cli import progress, saes
from sae_bench.cli.progress import Bar
from sae_bench.cli.saes import plain_warnings
from tests.conftest import Run

SMALL = ("--tasks", "sparsity", "--tier", "smoke", "--limit", 8, "--resamples", 20, "--controls", "permuted")
BAR = re.compile(r"\d+%\||it/s")
PHASES = ("start", "SAEs", "language model", "text", "calibration", "controls", "evaluation", "intervals")


def test_a_log_gets_no_bars_but_what_must_be_known(cli: Run) -> None:
    code, out, said = cli("run", "demo", *SMALL)
    assert code == 0
    assert not BAR.search(said)
    assert "loading" not in said
    whole = " ".join(said.split())
    assert re.search(r"time: [\d.]+ s \(start", whole)
    for phase in PHASES:
        assert re.search(rf"{phase} [\d.]+ (s|min)", whole), phase
    assert "time:" not in out
    assert all(len(line) <= progress.WIDTH for line in said.splitlines())
    code, again, said = cli("run", "demo", *SMALL)
    assert again == out, "times are no part of what is printed as the result"
    assert "already there: results of 1 SAE in runs" in said
    files = [file.read_text() for file in Path("runs").rglob("*.json")]
    assert not any('"time' in content or '"seconds' in content for content in files)


def test_bars_can_be_asked_for_and_quiet_says_nothing(cli: Run) -> None:
    _, _, said = cli("run", "demo", *SMALL, "--progress", "--batch-tokens", 100)
    assert BAR.search(said)
    assert "time:" in said
    code, out, said = cli("run", "demo", *SMALL, "--quiet", "--json", "--overwrite", "always")
    assert (code, said) == (0, "")
    assert json.loads(out)["results"]
    code, _, said = cli("run", "demo", *SMALL, "--quiet", "--progress")
    assert code == 2
    assert "not allowed with" in said


def test_a_terminal_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress.bar_of(Namespace(quiet=False, progress=False)).shown
    assert not progress.bar_of(Namespace(quiet=True, progress=False)).shown


def test_a_phase_lasts_until_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 3.0, 3.5, 10.0, 20.0, 3750.0])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(now))
    with Bar(shown=False) as bar:
        bar("text", 0, 1)  # at 3
        for done in range(4):
            bar("evaluation", done, 3)  # at 3.5
        bar("judge, explaining", 0, 2)  # at 10
        bar("evaluation", 3, 3)  # at 20, again
        assert bar.times() == (  # at 3750
            "time: 1 h 02 min (start 3.0 s, text 0.5 s, evaluation 1 h 02 min, judge, explaining 10 s)"
        )


@pytest.mark.parametrize(
    ("seconds", "short"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min")],
)
def test_times_read_as_people_say_them(seconds: float, short: str) -> None:
    assert progress._short(seconds) == short


def shown_of(capsys: pytest.CaptureFixture[str], text: str, category: type[Warning], filename: str) -> str:
    with plain_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit(text, category, filename, 1)
    return capsys.readouterr().err


def test_what_libraries_will_change_is_not_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    installed = saes._INSTALLED[0] + "torch/nn/functional.py"
    own = tmp_path / "mine.py"
    own.write_text("")
    futures = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)
    for category in futures:
        for where in (installed, saes.__file__, warnings.__file__, "<frozen importlib._bootstrap>"):
            assert shown_of(capsys, "x is deprecated", category, where) == "", (category, where)
        assert shown_of(capsys, "x is deprecated", category, str(own)) == "sae-bench: x is deprecated\n"
    for words in ("x is deprecated", "x will be removed in 6.0", "in a future release x is y", "Deprecation of x"):
        assert shown_of(capsys, words, UserWarning, installed) == ""
        assert shown_of(capsys, words, UserWarning, str(own)) == f"sae-bench: {words}\n"
        assert shown_of(capsys, words, UserWarning, saes.__file__) == f"sae-bench: {words}\n", "a file may be called so"
    assert (
        shown_of(capsys, "the array is not writable", UserWarning, installed)
        == "sae-bench: the array is not writable\n"
    )


def test_what_libraries_log_of_their_future_is_not_said(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "of_mine.py").write_text(
        "import warnings\n"
        "def make():\n"
        "    import transformers\n"
        "    transformers.utils.logging.get_logger('transformers.models').warning('`torch_dtype` is deprecated!')\n"
        "    warnings.warn('mine is old', FutureWarning)\n"
        "    raise ValueError('no SAE')\n"
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "sae_bench.cli.main", "run", "of_mine:make"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "sae-bench: mine is old",
        "sae-bench: --sae of_mine:make: make() fails: ValueError: no SAE",
    ]
