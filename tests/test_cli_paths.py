"""SAEs without a flag, and verbs that read where ``run`` wrote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_bench.cli import places
from sae_bench.cli.main import parser
from sae_bench.cli.run_flags import saes
from sae_bench.saes.load import expand
from tests.builders.tiny_saes import tiny_coder, write_native
from tests.conftest import Run

READERS: dict[str, list[str]] = {
    **{"board": [], "show": [], "compare": [], "check": [], "verify": ["--sae", "demo"]},
    "ls": ["results"],
    **{"card": [], "plot": []},
}


def given(*arguments: str) -> list[str]:
    return saes(parser().parse_args(["run", *arguments]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "b", "--tasks", "sparsity"],
        ["--tasks", "sparsity", "a", "b"],
        ["a", "--tasks", "sparsity", "b"],
        ["--quiet", "a", "--tasks", "sparsity", "b"],
        ["a", "--sae", "b"],
        ["--sae", "b", "a"],
        ["--sae", "a", "--sae", "b"],
        ["a", "--tasks", "sparsity", "--", "b"],
    ],
    ids=" ".join,
)
def test_saes_need_no_flag_and_stand_anywhere(arguments: list[str]) -> None:
    assert given(*arguments) == ["a", "b"]


def test_a_path_may_begin_with_a_dash(cli: Run) -> None:
    assert given("--quiet", "--", "-a", "b") == [f".{os.sep}-a", "b"]
    assert given(f".{os.sep}-a") == [f".{os.sep}-a"]
    code, _, said = cli("run", "-a")
    assert code == 2
    assert "unrecognized arguments: -a (a path that begins with a dash stands behind --, or is written ./-PATH)" in said


def test_no_sae_is_refused_before_anything_is_loaded(cli: Run) -> None:
    code, out, said = cli("run", "--tasks", "sparsity")
    assert (code, out) == (2, "")
    assert (
        said
        == "sae-bench: give at least one SAE: sae-bench run PATH, a folder or file, or 'demo'; see --help for more\n"
    )


def test_an_sae_that_is_given_twice_is_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_native(tiny_coder(), tmp_path / name)
    one = str(tmp_path / "a")
    assert expand(given(one, "--sae", one, f"{one}/", "--sae", str(tmp_path / "[a]"))) == [one]
    assert expand(given(str(tmp_path / "*"))) == [one, str(tmp_path / "b")]


def test_verbs_read_where_run_wrote(cli: Run) -> None:
    small = ["--tasks", "sparsity", "--tier", "smoke", "--limit", "8", "--resamples", "20", "--controls", "none"]
    code, _, _ = cli("run", "demo/topk_k16", *small, "demo", "--quiet")
    assert code == 0
    assert {one.name for one in Path(places.RUNS).iterdir()} == {"demo__topk_k16", "demo__topk_k32"}
    for verb in ("board", "show", "ls", "compare"):
        code, out, said = cli(verb, *READERS[verb])
        assert code == 0, said
        assert "demo/topk_k16" in out
    for verb in ("check", "verify"):  # of one SAE
        code, _, said = cli(verb, *READERS[verb])
        assert code == 2
        assert "runs holds results of 2 SAEs" in said
    shutil.rmtree(Path(places.RUNS) / "demo__topk_k16")
    for verb in ("check", "verify"):
        code, _, said = cli(verb, *READERS[verb])
        assert code == 0, said


@pytest.mark.parametrize("there", ["not here", "empty"])
@pytest.mark.parametrize("verb", READERS)
def test_one_sentence_where_nothing_was_measured(verb: str, there: str, cli: Run) -> None:
    if there == "empty":
        Path(places.RUNS).mkdir()
    code, out, said = cli(verb, *READERS[verb])
    assert (code, out) == (2, "")
    assert said.startswith(f"sae-bench: the folder runs is {there}, into which sae-bench run writes")
    assert said.count("\n") == 1


def test_a_verb_with_verbs_of_its_own_takes_flags_anywhere() -> None:
    args: Any = parser().parse_args(["suite", "build", "--out", "x/demo-v1.toml", "demo-v1", "--device", "cpu"])
    assert (args.what, args.name, args.out, args.device) == ("build", "demo-v1", "x/demo-v1.toml", "cpu")


def test_flags_of_every_verb_stand_between_paths(tmp_path: Path) -> None:
    args: Any = parser().parse_args(["compare", "a", "--format", "json", "b", "--other-text", "c"])
    assert args.results == ["a", "b", "c"]
    args = parser().parse_args(["inspect", "a", "--tokens", "64", "b"])
    assert args.sae == ["a", "b"]
    help_of = subprocess.run(
        [sys.executable, "-m", "sae_bench.cli.main", "compare", "--help"], capture_output=True, text=True, check=False
    )
    assert help_of.returncode == 0
    assert "[RESULT ...]" in help_of.stdout
