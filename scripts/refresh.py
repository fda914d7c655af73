"""Make again what follows from the code: the lock of definitions, tables of documents, results, the board.

    python scripts/refresh.py             the lock and the tables that need no measurement
    python scripts/refresh.py --check     say what is not current, and change nothing (exit code 1)
    python scripts/refresh.py --results   also measure results/ and the demo's tables again, then the board, its picture

Nobody edits these by hand. A table stands between ``<!-- sae-bench ... -->``, the command that prints it, and
``<!-- end -->``; so do the parameters of a task in its card (``<!-- parameters -->``), and the tasks in the README
(``<!-- tasks -->``).

The lock, ``tasks/versions.lock``, has a line ``id version digest [release]`` for every definition. A definition that a
release has shipped never changes under its version. Until CHANGELOG names that release, a task has one unreleased
version, whose definition may change: versions do not rise with every commit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from sae_bench import registry
from sae_bench.cli.main import main as sae_bench
from sae_bench.parameters import TaskParameters
from sae_bench.schema import TaskSpec
from sae_bench.streams import stream

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "tasks" / "versions.lock"
RESULTS = ["--suite", "demo-v1"]
MEASURED = "sae-bench run "  # how the commands begin that take minutes
TABLE = re.compile(r"(<!-- (?P<what>sae-bench [^\n]*?|parameters|tasks) -->\n)(?P<old>.*?)(<!-- end -->)", re.DOTALL)


class Locked(NamedTuple):
    """A line of the lock; ``release`` is empty for a version that no release has shipped."""

    task: str
    version: int
    digest: str
    release: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.task, str(self.version), self.digest, self.release)))


def released(changelog: str) -> str:
    """The newest release that CHANGELOG names with a date, empty before the first."""
    found = re.search(r"^## (\S+) - \d{4}-\d{2}-\d{2}", changelog, re.MULTILINE)
    return found[1] if found else ""


def relocked(before: list[Locked], specs: list[TaskSpec], release: str) -> list[Locked]:
    """The lock as it must be now. Raises SystemExit for a definition that its version does not allow."""
    after = []
    for spec in specs:
        own = [line for line in before if line.task == spec.id]
        digest = registry.definition_sha256(spec)
        shipped = [line._replace(release=line.release or release) for line in own if line.release or release]
        newest = max((line.version for line in shipped), default=0)
        if any(line.version == spec.version and line.digest != digest for line in shipped):
            raise SystemExit(f"{spec.id} changed under version {spec.version}, which is released: make it {newest + 1}")
        if spec.version not in (newest, newest + 1):
            raise SystemExit(f"{spec.id} must have version {newest + 1}, the only unreleased one, not {spec.version}")
        after += shipped
        if spec.version > newest:
            after.append(Locked(spec.id, spec.version, digest))
    return after


def read_lock(text: str) -> list[Locked]:
    """The lines of a lock."""
    parts = (line.split() for line in text.splitlines())
    return [Locked(p[0], int(p[1]), p[2], *p[3:4]) for p in parts]


def tables(file: Path, *, measure: bool) -> str:
    """The text of a document with its tables made again; measured ones only if ``measure``."""

    def made(found: re.Match[str]) -> str:
        what = found["what"]
        if what == "parameters":
            new = parameters(file.parent.name)
        elif what == "tasks":
            new = tasks()
        elif what.startswith(MEASURED) and not measure:
            return found[0]
        else:
            new = printed(what)
        return f"{found[1]}{new.strip()}\n{found[4]}"

    return TABLE.sub(made, file.read_text(encoding="utf-8"))


def parameters(task: str) -> str:
    """The parameters of a task as a table."""
    spec = registry.tasks()[task]
    record: type[TaskParameters] = registry.load(spec.figures).Parameters
    rows = [(f"`{name}`", f"`{default!r}`", record.about(name)) for name, default in spec.parameters.items()]
    return tabulate(rows, headers=["parameter", "default", "what it does"], tablefmt="github", disable_numparse=True)


def tasks() -> str:
    """The tasks that ship as a table, with the question of each and what it needs beside a language model."""
    rows = []
    for name, spec in registry.tasks().items():
        labelled = stream(registry.load(spec.code).stream).labels
        needs = "text, a judge" if spec.judge else "labelled texts" if labelled else "text"
        rows.append((f"[`{name}`](tasks/{name}/README.md)", spec.question, needs))
    return tabulate(rows, headers=["task", "question", "needs"], tablefmt="github")


def printed(command: str) -> str:
    """What a command prints in an empty folder; a run's table as it stands in a terminal."""
    out = io.StringIO()
    with in_empty_folder(), contextlib.redirect_stdout(out):
        if sae_bench(command.split()[1:]):
            raise SystemExit(f"{command} failed")
    text = "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())
    return f"```text\n{text}\n```" if command.startswith(MEASURED) else text


@contextlib.contextmanager
def in_empty_folder() -> Iterator[Path]:
    """Stand in a folder that is gone afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def measure_results() -> None:
    """Measure the demo's SAEs for results/, and make the board of them."""
    with in_empty_folder() as folder:
        if sae_bench(["run", "--sae", "demo/*", *RESULTS, "--out", str(folder / "results")]):
            raise SystemExit("the demo failed; results/ is as it was")
        shutil.rmtree(ROOT / "results")
        shutil.copytree(folder / "results", ROOT / "results")
    board = ROOT / "leaderboard" / "README.md"
    sae_bench(["board", str(ROOT / "results"), "--format", "github", "--out", str(board)])
    subprocess.run([sys.executable, str(ROOT / "scripts" / "picture.py")], check=False)  # it says itself what it lacks


def wanted(*, measure: bool) -> dict[Path, str]:
    """Every file that this script makes but results/ and the board, with what it must hold."""
    release = released((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    lines = relocked(read_lock(LOCK.read_text()), list(registry.tasks().values()), release)
    found = {LOCK: "".join(f"{line}\n" for line in lines)}
    documents = (
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "tasks").glob("*/README.md")),
    )
    for file in documents:
        found[file] = tables(file, measure=measure)
    return found


def main() -> int:
    """Refresh, or say what is not current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something is not current")
    parser.add_argument("--results", action="store_true", help="also measure results/ and the demo (minutes)")
    given = parser.parse_args()
    os.environ["SAE_BENCH_CALIBRATION_CACHE"] = ""  # what results count is what a first run takes
    stale = {f: text for f, text in wanted(measure=given.results).items() if f.read_text(encoding="utf-8") != text}
    for file in stale:
        print(f"{file.relative_to(ROOT)} {'is not current: python scripts/refresh.py' if given.check else 'is new'}")
    if given.check:
        return 1 if stale else 0
    for file, text in stale.items():
        file.write_text(text, encoding="utf-8")
    if given.results:
        measure_results()
    return 0


if __name__ == "__main__":
    sys.exit(main())
