"""A file that is a pipe, a device, a socket or far too large is one sentence: nothing waits, no memory is filled."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_bench import demo
from sae_bench.errors import ResultError, UsageError
from sae_bench.files import LINE, at_home, below, lines, opened, read_json, strict_json
from tests.builders.marks import slow_but
from tests.builders.strange_files import STRANGE
from tests.builders.tiny_models import tiny_gpt2
from tests.conftest import Run

RESULTS = Path(__file__).parents[1] / "results"
SMALL = ("--limit", 8, "--resamples", 50, "--quiet", "--controls", "none", "--tasks", "reconstruction")


def one_sentence(found: tuple[int, str, str], code: int = 2) -> str:
    """The one line on standard error of a command that was refused."""
    assert found[0] == code, found
    assert not found[1]
    lines = found[2].splitlines()
    assert len(lines) == 1, found[2]
    assert lines[0].startswith("sae-bench: ")
    assert lines[0].isprintable()
    return lines[0]


def stored(sae: str, folder: Path, task: str = "reconstruction") -> Path:
    """A copy of a result of this repository with its units."""
    (file,) = (RESULTS / f"demo__{sae}").glob(f"*/{task}@v*.json")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file.with_suffix(".units.safetensors"), folder)
    return Path(shutil.copy(file, folder))


READERS: dict[str, list[Any]] = {
    "board": ["board", "STRANGE"],
    "show": ["show", "STRANGE"],
    "ls": ["ls", "results", "--out", "STRANGE"],
    "compare": ["compare", "GOOD", "STRANGE"],
    "check": ["check", "STRANGE"],
    "check --baseline": ["check", "GOOD", "--baseline", "STRANGE"],
    "submit": ["submit", "STRANGE", "--to", "there"],
    "verify": ["verify", "STRANGE", "--sae", "demo"],
    "check --gates": ["check", "GOOD", "--gates", "STRANGE"],
    "board --columns": ["board", "GOOD", "--columns", "STRANGE"],
    "judge import": ["judge", "import", "STRANGE", "--judge-cache", "cache.sqlite"],
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("reader", READERS)
def test_no_verb_waits_for_a_file_or_reads_one_without_an_end(cli: Run, tmp_path: Path, reader: str, kind: str) -> None:
    good = stored("topk_k16", tmp_path / "good")
    strange = tmp_path / "reconstruction@v1-00000000.json"
    STRANGE[kind](strange)
    before = sorted(tmp_path.rglob("*"))
    arguments = [{"GOOD": good, "STRANGE": strange}.get(one, one) for one in READERS[reader]]
    said = one_sentence(cli(*arguments))
    assert strange.name in said
    after = [file for file in sorted(tmp_path.rglob("*")) if not file.name.startswith("cache.sqlite")]
    assert after == before


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", ["x@v1-0.units.safetensors", "x@v1-0.verified"])
def test_what_lies_beside_a_result_is_opened_with_the_same_care(cli: Run, tmp_path: Path, name: str, kind: str) -> None:
    good = stored("topk_k16", tmp_path / "good")
    beside = good.with_suffix("." + name.split(".", 1)[1])
    beside.unlink(missing_ok=True)
    STRANGE[kind](beside)
    code, out, err = cli("board", good.parent, "--format", "csv")
    assert code == 0
    assert "demo/topk_k16" in out
    assert "Traceback" not in err
    if "units" in name and kind not in ("nowhere", "circle"):  # such a link is no file at all
        other = stored("relu", tmp_path / "other")
        assert beside.name in one_sentence(cli("compare", good, other))


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", slow_but(3, ["a.txt", "a.jsonl.gz", "a.parquet", "a.jsonl", "a.npy", "a.safetensors"]))
def test_data_that_is_no_file(cli: Run, tmp_path: Path, name: str, kind: str) -> None:
    if kind == "huge" and name in ("a.txt", "a.npy", "a.safetensors"):
        pytest.skip("data may be large: it is mapped, and read in pieces")
    STRANGE[kind](tmp_path / name)
    assert name in one_sentence(cli("run", "--sae", "demo", "--data", tmp_path / name, *SMALL))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind != "nowhere"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_model_whose_files_are_none(cli: Run, tmp_path: Path, name: str, kind: str) -> None:
    if kind == "circle" and name in ("tokenizer.json", "generation_config.json"):
        pytest.skip("such a link is no file at all")
    tiny_gpt2().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    STRANGE[kind](tmp_path / "model" / name)
    arguments = ("--sae", "demo", "--hook-in", "blocks.1.hook_resid_post", "--data", "demo")
    said = one_sentence(cli("run", *arguments, "--model", tmp_path / "model", *SMALL))
    assert "model" in said


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", ["sae_bench.json", "weights.safetensors"])
def test_an_sae_whose_files_are_none(cli: Run, tmp_path: Path, name: str, kind: str) -> None:
    shutil.copytree(demo.sae_path(demo.DEFAULT_SAE), tmp_path / "sae")
    (tmp_path / "sae" / name).unlink()
    STRANGE[kind](tmp_path / "sae" / name)
    assert str(tmp_path / "sae") in one_sentence(cli("inspect", tmp_path / "sae", "--model", "demo"))


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind not in ("nowhere", "circle")])
def test_a_cache_and_a_task_that_are_no_files(cli: Run, tmp_path: Path, kind: str) -> None:
    (tmp_path / "tasks" / "mine").mkdir(parents=True)
    STRANGE[kind](tmp_path / "tasks" / "mine" / "task.toml")
    assert "task.toml" in one_sentence(cli("ls", "--task-dir", tmp_path / "tasks"))
    STRANGE[kind](tmp_path / "cache")
    (tmp_path / "answers.jsonl").write_text("")
    assert "cache" in one_sentence(
        cli("judge", "import", tmp_path / "answers.jsonl", "--judge-cache", tmp_path / "cache")
    )


@pytest.mark.parametrize("verb", slow_but(2, ["board", "show", "ls", "compare"]))
@pytest.mark.parametrize("damage", ["truncated", "binary", "list", "key twice", *STRANGE])
def test_one_damaged_file_does_not_hide_the_others(cli: Run, tmp_path: Path, verb: str, damage: str) -> None:
    stored("topk_k16", tmp_path / "a")
    stored("relu", tmp_path / "b")
    bad = tmp_path / "a" / "sparsity@v1-00000000.json"
    text = next((tmp_path / "a").glob("*.json")).read_text(encoding="utf-8")
    content = {
        "truncated": text[:-40].encode(),
        "binary": b"\xff\x00\x1b[31m",
        "list": b"[1, 2]",
        "key twice": text.replace('"task":', '"task": "sparsity", "task":', 1).encode(),
    }
    if damage in content:
        bad.write_bytes(content[damage])
    else:
        STRANGE[damage](bad)
    arguments = {
        "board": ["board", tmp_path],
        "show": ["show", tmp_path],
        "ls": ["ls", "results", "--out", tmp_path],
        "compare": ["compare", tmp_path / "a", tmp_path / "b"],
    }[verb]
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert "demo/topk_k16" in out
    assert "demo/relu" in out
    (line,) = (line for line in err.splitlines() if bad.name in line)
    assert "passed over" in line
    assert line.isprintable()
    named = {"board": ["board", bad], "show": ["show", bad], "ls": ["ls", "results", "--out", bad]}
    one_sentence(cli(*named.get(verb, ["compare", bad, tmp_path / "b"])))


@pytest.mark.parametrize("verb", ["check", "submit", "verify"])
def test_a_gate_passes_over_no_damaged_file(cli: Run, tmp_path: Path, verb: str) -> None:
    stored("topk_k16", tmp_path / "a")
    (tmp_path / "a" / "sparsity@v1-00000000.json").write_text("{")
    arguments = {"check": [], "submit": ["--check-only"], "verify": ["--sae", "demo"]}[verb]
    assert "sparsity@v1" in one_sentence(cli(verb, tmp_path / "a", *arguments))


def test_a_folder_in_which_nothing_can_be_read_is_refused(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "sparsity@v1-00000000.json").write_text("{")
    for arguments in (["show", "a"], ["ls", "results", "--out", "a"], ["compare", "a", "a"]):
        sentence = one_sentence(cli(*arguments))
        assert "none of 1 results" in sentence
        assert "passed over" not in sentence


# --- the owner -------------------------------------------------------------------------------------------------------


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path: Path) -> None:
    """/proc says of its files that they are empty."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    with pytest.raises(ResultError, match="more than 10 bytes"):
        read_json(Path("/proc/self/maps"), most=10)


def test_links_to_regular_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert read_json(tmp_path / "b.json") == [1]


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": null, "a": 2}}]', '{"a": 1, "\\u0061": 2}'])
def test_a_key_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="'a' stands twice"):
        strict_json(text)


def test_json_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        strict_json("[" * 100_000)


def test_lines_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345\n123\n1234567")
    with opened(tmp_path / "a") as file:
        found = lines(file, tmp_path / "a", UsageError, 6)
        assert [next(found), next(found)] == [b"12345\n", b"123\n"]
        with pytest.raises(UsageError, match="line 3"):
            next(found)
    assert LINE >= 1 << 20


@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "y/" * 3000, "ü" * 200])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="no file can be called"):
        at_home(name)
    assert at_home("x" * 255) == Path("x" * 255)


@pytest.mark.parametrize(
    ("name", "inside"),
    [("a.bin", True), ("b/a.bin", True), ("../a", False), ("/etc/x", False), ("b/../../a", False), ("c:\\x", False),
     ("..\\x", False), ("", False), (None, False), (3, False), ("a\0", False)],
)  # fmt: skip
def test_which_names_lie_below_a_folder(name: Any, inside: bool) -> None:
    assert below(Path("x"), name) is inside


@pytest.mark.parametrize("flags", [["--out"], ["--judge-model", "m", "--judge-batch"]])
@pytest.mark.parametrize("place", ["pipe", "pipe/below", "file/below"])
def test_where_nothing_can_be_written_is_refused_before_anything_is_loaded(
    cli: Run, tmp_path: Path, flags: list[str], place: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    code, out, err = cli("run", "--sae", "demo", "--quiet", *flags, tmp_path / place)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "cannot write" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]
    assert (tmp_path / "file").read_text() == "mine"
