"""What the README says is what the program says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sae_bench.cli.main import main

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the checkout")
def test_the_table_of_layouts_is_that_of_the_registry(capsys):
    """Mend it with: sae-bench ls formats --markdown, pasted between the marks."""
    assert main(["ls", "formats", "--markdown"]) == 0
    text = (ROOT / "README.md").read_text(encoding="utf-8")
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
