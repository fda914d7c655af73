"""What tests share lies in ``tests/builders``; a test module that is changed or removed breaks no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.builders.said import complaints

FOLDER = Path(__file__).parent


def imported(file: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file it stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{name.name}" for name in node.names}
    return found


def test_no_test_module_is_imported() -> None:
    files = [*FOLDER.glob("*.py"), *FOLDER.glob("builders/*.py")]
    assert len(files) > 100
    for file in files:
        wrong = {name for name in imported(file) if ".test_" in name}
        assert not wrong, f"{file.name} imports {wrong}: what tests share belongs into tests/builders"


def test_a_deprecation_of_a_dependency_is_no_complaint() -> None:
    said = "lib/x.py:3: FutureWarning: use y\n  warnings.warn(\n"
    assert complaints(said) == []
    assert complaints(f"{said}sae-bench: no file\n") == ["sae-bench: no file"]
    assert complaints("Traceback (most recent call last):\n  File x\nValueError: y\n") == [
        "Traceback (most recent call last):"
    ]


def test_no_test_asks_for_an_empty_stderr() -> None:
    """A dependency that deprecates something would break it; ``complaints`` says what is wrong."""
    asked = re.compile(r"\b(err|error|stderr)\b[^=\n]*== *(\"\"|\(\d, *\"\"\))")
    lines = [
        f"{file.name}: {line.strip()}"
        for file in FOLDER.glob("*.py")
        if file.name != Path(__file__).name
        for line in file.read_text(encoding="utf-8").splitlines()
        if asked.search(line)
    ]
    assert lines == []
