"""Fresh environments with the package of ``examples/``, and entry points that tests make up."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sae_bench import demo, registry

ROOT = Path(__file__).parents[2]
EXTRAS = ROOT / "examples" / "sae-bench-extras"
HEAVY = ("torch", "transformers", "datasets")  # what nothing that only reads results may import
READ = f"""
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from sae_bench.cli.main import main

found = []
for arguments in json.loads(sys.argv[1]):
    out, error = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        code = main(arguments)
    found.append([code, out.getvalue(), error.getvalue()])
print(json.dumps([found, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""


@dataclass(frozen=True)
class Point:
    """An entry point of no package."""

    name: str
    value: str
    group: str
    dist: None = None


def extras_points() -> list[Point]:
    """What the package of ``examples/`` registers."""
    groups = tomllib.loads((EXTRAS / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    return [Point(name, value, group) for group, points in groups.items() for name, value in points.items()]


def register(monkeypatch: pytest.MonkeyPatch, *points: Point) -> None:
    """Let these be all entry points; whoever calls it clears ``registry._tasks`` afterwards."""
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    registry._tasks.cache_clear()


def environment(folder: Path) -> Path:
    """The interpreter of a fresh environment that sees this checkout and what is installed here, without a download."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    seen = dict.fromkeys([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (folder / "lib" / version / "site-packages" / "outer.pth").write_text("\n".join(seen) + "\n")
    return folder / "bin" / "python"


def run(python: Path, *arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """An interpreter in a folder, with no path of modules but its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(python), *map(str, arguments)],
        cwd=cwd,
        env={**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def read(python: Path, *commands: list[Any], cwd: Path) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of commands that must import nothing heavy, all in one process."""
    done = run(python, "-c", READ, json.dumps([[str(a) for a in one] for one in commands]), cwd=cwd)
    assert done.returncode == 0, done.stderr
    found, heavy = json.loads(done.stdout)
    assert heavy == [], "what only reads results imported it"
    return [tuple(one) for one in found]


def short_texts(folder: Path, n: int = 90) -> list[Any]:
    """Flags of a run on short texts of the demo world, and on two small labelled sets made of them."""
    made = demo.documents(n)
    texts = [" ".join(document.text.split()[: 8 + i % 9]) + f" {i}" for i, document in enumerate(made)]
    file = folder / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    for name in ("language_en", "has_question"):
        rows = [(text, int(document.attributes[name])) for text, document in zip(texts, made, strict=True)]
        (folder / "sets" / name).mkdir(parents=True)
        for part, own in (("train", rows[: n // 2]), ("test", rows[n // 2 :])):
            with (folder / "sets" / name / f"{part}.csv").open("w", newline="", encoding="utf-8") as out:
                csv.writer(out).writerows([("text", "label"), *own])
    return ["--data", file, "--probe-data", folder / "sets", "--tier", "smoke", "--resamples", "50", "--quiet"]
