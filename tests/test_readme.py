"""What README and documents say is what the program says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_bench.cli.main import main, parser
from sae_bench.errors import UsageError

ROOT = Path(__file__).parent.parent
WITH_COMMANDS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "tasks").glob("*/*.md"))]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of ours in blocks of shell, and in steps of a workflow."""
    for block in re.findall(r"^```(?:sh|yaml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|- run:", line):
                words = shlex.split(part, comments=True) if "sae-bench" in part else []
                if words and words[0].rpartition("/")[2] == "sae-bench":
                    yield words[1:]


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_of_documents_can_be_given(document: Path) -> None:
    """A reader who copies one is told of no unknown flag, and of no argument that is missing."""
    wrong = []
    for words in commands(document.read_text(encoding="utf-8")):
        try:
            parser().parse_args(words)
        except UsageError as error:
            wrong.append(f"sae-bench {shlex.join(words)}: {error}")
    assert wrong == []


def test_commands_are_found() -> None:
    text = "```sh\nx=1; sae-bench run \\\n  --sae a # b\n.venv/bin/sae-bench ls tasks && pip install\n```\n"
    assert list(commands(text)) == [["run", "--sae", "a"], ["ls", "tasks"]]
    assert [words[0] for words in commands((ROOT / "README.md").read_text(encoding="utf-8"))][:3] == [
        "run",
        "run",
        "check",
    ]


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the checkout")
def test_the_table_of_layouts_is_that_of_the_registry(capsys):
    """Mend it with: python scripts/refresh.py."""
    assert main(["ls", "formats", "--markdown"]) == 0
    text = (ROOT / "docs" / "saes.md").read_text(encoding="utf-8")
    pasted = re.search(r"<!-- sae-bench ls formats --markdown -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert pasted is not None
    assert pasted[1].strip() == capsys.readouterr().out.strip()


@pytest.mark.skipif(not (ROOT / "CONTRIBUTING.md").is_file(), reason="needs the checkout")
@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_command_of_newcomers_leaves_slow_tests_out(document: str) -> None:
    lines = [line for line in (ROOT / document).read_text(encoding="utf-8").splitlines() if "[dev]" in line]
    assert len(lines) == 1
    assert lines[0].endswith('.venv/bin/pytest -n auto -m "not slow"')


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")
def test_slow_tests_run_by_name(tmp_path: Path) -> None:
    """Leaving them out is said on the command line alone, so that ``pytest FILE::TEST`` runs what it names."""
    (tmp_path / "test_it.py").write_text("import pytest\n\n@pytest.mark.slow\ndef test_one():\n    pass\n")

    def outcome(*arguments: str) -> str:
        program = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
        program += ["-p", "no:cacheprovider", "-p", "xdist", "-p", "no:randomly", "-v", *arguments]
        environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout

    assert "1 passed" in outcome("test_it.py::test_one")
    assert "1 passed" in outcome("test_it.py", "-m", "slow")
    assert "1 deselected" in outcome("test_it.py", "-m", "not slow")
