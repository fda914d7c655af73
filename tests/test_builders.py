"""What tests share lies in ``tests/builders``; a test module that is changed or removed breaks no other."""

from __future__ import annotations

import ast
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
