"""Standard output and error as they may be: another encoding, closed, full, nobody reading. Results are kept."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_bench.cli import streams
from sae_bench.cli.exits import Exit
from sae_bench.cli.main import VERBS, main
from tests.builders.boards import put
from tests.builders.marks import slow_but, slow_but_each

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PROGRAM = (sys.executable, "-m", "sae_bench.cli.main")
NAME = "é-ł-😀-x"
RUN = ("run", "--sae", "demo", "--limit", "8", "--resamples", "50", "--controls", "none", "--tasks", "reconstruction")
VERIFIED = ("--sae", "demo/topk_k16", "--share", "0.01", "--seed", "0")


def environment(**more: str) -> dict[str, str]:
    """As on a machine without any wish about encodings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONIO", "PYTHONUTF8", "LC_", "LANG"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def command(*arguments: Any, folder: Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    env = environment(**options.pop("env", {}))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([*PROGRAM, *map(str, arguments)], cwd=folder, env=env, check=False, timeout=300, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two SAEs whose names no small code page has."""
    made = tmp_path_factory.mktemp("streams")
    for name in (NAME, "other"):
        put(made / "results" / name, name, "reconstruction", {"fvu": 0.1}, model="mödel→")
    (made / "answers.jsonl").write_text("")
    return made


VIEWS: dict[str, list[str]] = {
    "run": list(RUN),
    "ls": ["ls", "results", "--out", "results"],
    "ls formats": ["ls", "formats"],
    "show": ["show", "results"],
    "show --json": ["show", "results", "--json"],
    "show task": ["show", "sparsity"],
    "inspect": ["inspect", "demo", "--model", "demo", "--tokens", "64"],
    "compare": ["compare", f"{RESULTS}/demo__topk_k16", f"{RESULTS}/demo__relu"],
    "check": ["check", f"{RESULTS}/demo__topk_k16"],
    "board": ["board", "results"],
    "board csv": ["board", "results", "--format", "csv"],
    "board json": ["board", "results", "--format", "json"],
    "verify": ["verify", "FILE", *VERIFIED],
    "submit": ["submit", f"{RESULTS}/demo__topk_k16", "--check-only"],
    "card": ["card", "results"],
    "plot": ["plot", f"{RESULTS}", "--out", "figure.json"],
    "suite": ["suite", "show", "demo-v1"],
    "probes": ["probes", "list"],
    "validate": ["validate", "--quick", "--metric", "sparsity.l0"],
    "judge": ["judge", "import", "answers.jsonl", "--judge-cache", "cache.sqlite"],
    "help": ["--help"],
}
ENCODINGS: dict[str, dict[str, str]] = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "LC_ALL=C": {"LC_ALL": "C"},
    "C without coercion": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
}


def arguments_of(view: str) -> list[str]:
    (file,) = RESULTS.glob("demo__topk_k16/*/reconstruction@v*.json")
    return [str(file) if one == "FILE" else one for one in VIEWS[view]]


def test_every_verb_is_tried() -> None:
    assert {verb.__name__.rpartition(".")[2] for verb in VERBS} <= {view.split()[0] for view in VIEWS}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("encoding", slow_but(1, ["cp1252", "ascii"]))
def test_no_verb_dies_of_an_encoding(folder: Path, tmp_path: Path, view: str, encoding: str) -> None:
    """In this process, with a stream of a caller: each verb prints, whatever the stream lacks."""
    raw, before = io.BytesIO(), (sys.stdout, Path.cwd())
    sys.stdout = io.TextIOWrapper(raw, encoding=encoding)
    os.chdir(folder)
    try:
        code = main([*arguments_of(view), *(["--out", str(tmp_path)] if view == "run" else [])])
        sys.stdout.flush()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        own, sys.stdout = sys.stdout, before[0]
        os.chdir(before[1])
    assert code == 0
    said = raw.getvalue().decode(encoding)
    assert own.errors == streams.ESCAPED
    if view in ("show", "show --json", "board csv"):
        assert "\\u2192" in said, "an arrow in the name of the model"
        assert "\\ud83d\\ude00" in said
    if "json" in view:
        assert NAME in json.dumps(json.loads(said), ensure_ascii=False), "what is escaped is the same in JSON"


@pytest.mark.parametrize("encoding", slow_but_each(2, ENCODINGS))
@pytest.mark.parametrize("view", ["board", pytest.param("run", marks=pytest.mark.slow), "show --json"])
def test_a_redirected_command_writes_what_was_asked_for(folder: Path, view: str, encoding: str, tmp_path: Path) -> None:
    """UTF-8, unless an encoding was named."""
    arguments = [*arguments_of(view), *(["--out", str(tmp_path / "out")] if view == "run" else [])]
    done = command(*arguments, folder=folder, env=ENCODINGS[encoding])
    assert done.returncode == 0, done.stderr
    named = ENCODINGS[encoding].get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    said = done.stdout.decode(named)
    if named.startswith("utf"):
        assert ("↓" if view == "run" else NAME) in said
    elif view == "show --json":
        assert json.loads(said)["results"]
    else:
        assert ("FVU v" if view == "run" else "\\ud83d\\ude00") in said  # an arrow has a letter
    assert b"Traceback" not in done.stderr


def test_a_page_is_utf_8_as_it_says(folder: Path) -> None:
    pytest.importorskip("vl_convert")
    done = command("board", "results", "--format", "html", folder=folder, env={"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    assert NAME in done.stdout.decode("utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("view", slow_but(2, ["board", "help", "ls", "show", "board json"]))
def test_a_full_disk_behind_standard_output_is_a_sentence(folder: Path, view: str) -> None:
    with open("/dev/full", "wb") as full:
        done = command(*arguments_of(view), folder=folder, stdout=full)
    assert done.returncode == Exit.BAD_INPUT
    (line,) = done.stderr.decode().splitlines()
    assert line == "sae-bench: standard output cannot be written: No space left on device"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_run_whose_table_cannot_be_printed_keeps_its_results(folder: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = command(*RUN, "--quiet", "--out", tmp_path, folder=folder, stdout=full)
        assert done.returncode == Exit.BAD_INPUT
        assert len(list(tmp_path.rglob("*@v*.json"))) == 1
        again = command(*RUN, "--out", tmp_path, folder=folder, stderr=full)
    assert again.returncode == 0, "a message that nobody can read stops nothing"
    assert "FVU ↓" in again.stdout.decode()


@pytest.mark.parametrize("closed", slow_but(1, ["<&- >&- 2>&-", ">&-", "2>&-"]))
@pytest.mark.parametrize(("arguments", "code"), [("ls", 0), ("show nothing", 2), ("--help", 0), ("ls --nonsense", 2)])
def test_closed_streams_change_no_exit_code(folder: Path, closed: str, arguments: str, code: int) -> None:
    line = f"exec '{sys.executable}' -m sae_bench.cli.main {arguments} {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=environment(), capture_output=True, check=False)
    assert done.returncode == code
    assert b"Traceback" not in done.stdout + done.stderr
    if "2>&-" in closed and code:
        assert not done.stdout, "what belongs on standard error does not go to standard output"


def test_nothing_is_written_into_a_file_that_took_the_place_of_a_closed_stream(folder: Path) -> None:
    line = f"exec '{sys.executable}' -m sae_bench.cli.main board results --out out.txt >&- 2>&-"
    done = subprocess.run(["sh", "-c", line], cwd=folder, env=environment(), capture_output=True, check=False)
    assert done.returncode == 0
    said = command("board", "results", folder=folder)
    assert (folder / "out.txt").read_bytes() == said.stdout


@pytest.mark.parametrize(
    "arguments", slow_but(1, [["ls", "formats"], ["board", "results", "--format", "json"], ["--help"]])
)
def test_a_reader_that_has_gone_is_no_fault(folder: Path, arguments: list[str]) -> None:
    gone, end = os.pipe()
    os.close(gone)
    done = command(*arguments, folder=folder, stdout=end)
    os.close(end)
    assert (done.returncode, done.stderr) == (0, b"")
