"""The last resort and the exit codes: what nobody expected is one sentence, with a traceback that holds no secret."""

from __future__ import annotations

import argparse
import base64
import errno
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_bench.cli import ls
from sae_bench.cli.exits import MEANING, Exit, as_markdown, as_text
from sae_bench.cli.main import parser
from sae_bench.errors import SaeBenchError
from tests.builders.boards import put
from tests.builders.marks import slow_but
from tests.conftest import Run

SECRET = 's3cr/t+k"ey é 123'


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes ``ls`` raise; the traceback goes into a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def arrange(error: BaseException) -> None:
        def fail(args: argparse.Namespace) -> list[dict[str, Any]]:
            key = os.environ["OPENAI_API_KEY"]
            raise error if key else AssertionError

        monkeypatch.setitem(ls._ROWS, "tasks", fail)

    return arrange


def left(folder: Path) -> list[Path]:
    return sorted((folder / "state").iterdir())


UNEXPECTED: dict[str, tuple[BaseException, str]] = {
    "any": (RuntimeError("the wheel\nis \x1b[31moff"), "RuntimeError: the wheel"),
    "without words": (AssertionError(), "did not expect (AssertionError)"),
    "memory": (MemoryError(), "out of memory"),
    "memory of a device": (torch.OutOfMemoryError("CUDA out of memory. Tried 3 GiB"), "--batch-tokens"),
    "recursion": (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    "missing file": (FileNotFoundError(errno.ENOENT, "No such file", "x"), "did not expect"),
    "key": (KeyError("a" * 5000), "KeyError"),
    "unicode": (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "UnicodeEncodeError"),
    "surrogate": (ValueError("\ud800"), "ValueError"),
}


@pytest.mark.parametrize("case", UNEXPECTED)
def test_what_nobody_expected_is_one_sentence_and_a_file(cli: Run, raising: Any, tmp_path: Path, case: str) -> None:
    error, mention = UNEXPECTED[case]
    raising(error)
    code, out, err = cli("ls")
    assert (code, out) == (Exit.INTERNAL, "")
    (line,) = err.splitlines()
    assert line.startswith("sae-bench: ")
    assert line.isprintable()
    assert len(line) < 600
    assert mention in line
    (file,) = left(tmp_path)
    assert str(file) in line
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text(encoding="utf-8")
    assert "in fail" in text
    assert type(error).__name__ in text
    assert "locals" not in text


FORMS: dict[str, str] = {
    "plain": SECRET,
    "json": json.dumps(SECRET),
    "json, escaped slash": json.dumps(SECRET).replace("/", "\\/"),
    "repr": repr({"key": SECRET}),
    "percent": urllib.parse.quote(SECRET, safe=""),
    "percent, with slashes": urllib.parse.quote(SECRET),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "url base64": base64.urlsafe_b64encode(SECRET.encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_is_printed_or_kept(cli: Run, raising: Any, tmp_path: Path, form: str) -> None:
    raising(RuntimeError(f"the endpoint says {FORMS[form]} is wrong"))
    _, _, err = cli("ls")
    (file,) = left(tmp_path)
    for text in (err, file.read_text(encoding="utf-8")):
        assert "***" in text
        assert FORMS[form] not in text
        assert "s3cr" not in text


@pytest.mark.parametrize(
    "text",
    ["hf_abcdefghijklmnop", "sk-proj-abcdefgh1234", "Bearer abc.def", "http://me:pass@host/x", "ghp_0123456789ab"],
)
def test_what_looks_like_a_secret_is_left_out_too(cli: Run, raising: Any, tmp_path: Path, text: str) -> None:
    raising(RuntimeError(f"said: {text}"))
    _, _, err = cli("ls")
    (file,) = left(tmp_path)
    for kept in (err, file.read_text(encoding="utf-8")):
        assert text not in kept
        assert "***" in kept


def test_without_a_place_for_the_traceback_the_sentence_says_where(
    cli: Run, raising: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(RuntimeError("off"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    code, _, err = cli("ls")
    assert code == Exit.INTERNAL
    (line,) = err.splitlines()
    assert re.search(r"test_unexpected\.py:\d+", line)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_the_machine_refuses_is_a_sentence_without_a_traceback(
    cli: Run, raising: Any, tmp_path: Path, number: int
) -> None:
    raising(OSError(number, os.strerror(number), "some/file"))
    code, out, err = cli("ls")
    assert (code, out) == (Exit.BAD_INPUT, "")
    (line,) = err.splitlines()
    assert os.strerror(number) in line
    assert "some/file" in line
    assert left(tmp_path) == []


@pytest.mark.parametrize("files", slow_but(2, [3, 4, 6]))
def test_a_process_that_may_open_no_file_says_so(tmp_path: Path, files: int) -> None:
    """Not even the code of the last resort can be imported then."""
    put(tmp_path, "a", "reconstruction", {"fvu": 0.1})
    program = (
        "import resource, sys; from sae_bench.cli.main import main\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n"
        f"sys.exit(main(['show', {str(tmp_path)!r}]))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    if files == 3:
        assert done.returncode in (Exit.BAD_INPUT, Exit.INTERNAL)
        assert len(done.stderr.splitlines()) == 1
        assert "Too many open files" in done.stderr


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_the_documents_and_help_have_the_table_of_the_code(cli: Run) -> None:
    page = (Path(__file__).parents[1] / "docs" / "reading.md").read_text(encoding="utf-8")
    assert as_markdown() in page
    assert len(re.findall(r"^\| code \|", page, re.MULTILINE)) == 1, "the codes stand once"
    assert as_text() in parser().format_help()
    assert set(MEANING) == set(Exit)
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 70, 130]


def test_every_code_that_a_verb_gives_comes_from_the_table() -> None:
    """No verb returns a number of its own."""
    folder = Path(ls.__file__).parent
    for file in sorted(folder.glob("*.py")):
        own = re.findall(r"^\s+return ([1-9]\d*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert own == [], file.name


@pytest.mark.parametrize(
    ("error", "code"),
    [(SaeBenchError("no"), Exit.BAD_INPUT), (KeyboardInterrupt(), Exit.INTERRUPTED), (BrokenPipeError(), Exit.DONE)],
)
def test_how_a_command_ends(cli: Run, raising: Any, error: BaseException, code: int) -> None:
    raising(error)
    found, _, err = cli("ls")
    assert found == code
    assert type(found) is int
    assert len(err.splitlines()) == (code != Exit.DONE)


def test_results_that_differ_and_results_that_got_worse(cli: Run, tmp_path: Path) -> None:
    good = put(tmp_path / "a", "a", "reconstruction", {"fvu": 0.1})
    other = put(tmp_path / "b", "b", "reconstruction", {"fvu": 0.1}, seed=1)
    assert cli("compare", good, other)[0] == Exit.NOT_COMPARABLE
    (stored,) = (Path(__file__).parents[1] / "results").glob("demo__topk_k16/*/reconstruction@v*.json")
    for ceiling, code in ((1e-6, Exit.FAILED), (1.0, Exit.DONE)):
        (tmp_path / "gates.toml").write_text(f"[reconstruction.fvu]\nceiling = {ceiling}\n")
        assert cli("check", stored, "--gates", tmp_path / "gates.toml")[0] == code
