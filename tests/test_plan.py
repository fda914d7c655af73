"""The plan of the house holds: each concept has one owner, and nobody else asks what kind a thing is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sae_bench import registry

PACKAGE = Path(registry.__file__).parent
FILES = {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}


def hits(pattern: str, *, outside: tuple[str, ...] = ()) -> list[str]:
    """Lines of the package that match, but for those of files or folders that own the concept."""
    found = []
    for name, file in FILES.items():
        if name.startswith(outside):
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{name}:{number}: {line.strip()}")
    return found


def test_nobody_asks_what_kind_of_task_a_task_is() -> None:
    assert (
        hits(r"isinstance\([^)]*(\w+Task|Autointerp|DownstreamSparsity|Sparsity|Reconstruction|LossRecovered)\b") == []
    )
    assert hits(r"\.stream\s*(==|!=|in\b|not in\b)", outside=("streams/", "session/run.py")) == []
    assert hits(r"(==|!=|\bin\b|\bnot in\b)\s*[\w.]*\.stream\b", outside=("streams/", "judge/wire.py")) == []


def test_the_run_compares_streams_with_the_registry_alone() -> None:
    assert hits(r"\.stream\s*(==|!=)", outside=("streams/",)) == [
        line for line in hits(r"made\.stream == name", outside=("streams/",))
    ]


@pytest.mark.parametrize("task", sorted(registry.tasks()))
def test_no_task_has_a_name_in_the_code_of_others(task: str) -> None:
    """Its own files, and the place where the order of tasks is stated, may hold it."""
    owners = (f"tasks/{task}", f"metrics/{task}", "registry.py", "builtin.py", "demo/")
    compared = hits(rf"(==|!=|\bin\b|\bnot in\b)\s*\(?[\"']{task}[\"']", outside=owners)
    # a parameter has a value of that name, and a column may have one
    assert [line for line in compared if ".base ==" not in line and " for name in " not in line] == []
    assert hits(rf"[\"']{task}[\"']\s*(==|!=|\bin\b|\bnot in\b)", outside=owners) == []


@pytest.mark.parametrize("kind", sorted(registry.units()))
def test_no_kind_of_unit_is_compared_by_its_name(kind: str) -> None:
    """What follows from a kind stands in units/kinds.py; tables are named where they are made."""
    owners = ("units/", "builtin.py")
    assert hits(rf"(==|!=)\s*[\"']{kind}[\"']", outside=owners) == []
    made = (*owners, "tasks/", "streams/", "metrics/", "kernels/", "data/", "demo/", "show/", "saes/", "models/")
    assert hits(rf"[\"']{kind}[\"']", outside=made) == []


def test_which_files_are_results_has_one_answer() -> None:
    assert hits(r"@v\*\.json", outside=("results/store.py",)) == []


SHIPPED = ("board/page.py", "cli/ls.py")  # read files of the package itself
NOT_A_USERS = (  # parse what is no file of a user's
    "engine/checkpoint.py",  # what a run has written itself
    "judge/outcomes.py",  # replies of an endpoint
    "judge/events.py",  # the same in pieces
    "judge/replies.py",  # what a model wrote in them
    "models/tokenizer_identity.py",  # a tokenizer in memory
)
CHECKED = ("saes/source.py", "saes/pickles.py", "saes/npz.py")  # have asked files.py before, a line or a function above


def test_files_of_a_user_are_opened_by_one_owner() -> None:
    """A link to /dev/zero takes all memory, a pipe is waited for, a key may stand twice: files.py sees to all of it."""
    owners = ("files.py", "locks.py")  # the latter opens what it locks, to write
    assert hits(r"\.read_text\(|\.read_bytes\(", outside=(*owners, *SHIPPED)) == []
    writes = hits(r"(?<![\w.])(?<!def )open\(|\.open\([\"']r|\bos\.open\(", outside=owners)
    assert [line for line in writes if not line.startswith("cli/streams.py") and "devnull" not in line] == []
    assert hits(r"json\.loads?\(|tomllib\.load\(", outside=("files.py", *SHIPPED, *NOT_A_USERS)) == []
    by_path = r"\bsafe_open\(|\bload_file\(|np\.load\(|\bParquetFile\(|\bZipFile\(|= torch\.load\("
    opened = hits(by_path, outside=("files.py", *NOT_A_USERS, *CHECKED))
    assert [line for line in opened if "regular(" not in line] == []
    for name in CHECKED:
        text = FILES[name].read_text(encoding="utf-8")
        assert "regular(file, CoderError)" in text or "opened(file, CoderError)" in text


def test_what_reads_does_not_run_back_ends_by_name() -> None:
    assert hits(r"isinstance\([^)]*(HuggingFaceSubject|TransformerLensSubject)") == []
    assert hits(r"backend\s*(==|!=)\s*[\"']") == []


def test_files_and_functions_fit_a_screen() -> None:
    long = [f"{name}: {n}" for name, file in FILES.items() if (n := len(file.read_text().splitlines())) > 320]
    assert long == []
