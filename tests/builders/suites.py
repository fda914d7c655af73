"""Suites of the demo's model in a folder of their own, as people write them and as they are sealed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_bench.sealing import build
from sae_bench.suites.record import Known, read

SMALL = {"limit": 12, "tier": "smoke", "context": 64, "bos": "yes"}


def toml(value: Any) -> str:
    """A plain value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


def written(
    folder: Path,
    name: str = "small-v1",
    *,
    tasks: tuple[str, ...] = ("reconstruction", "sparsity"),
    model: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    rest: str = "",
    **top: Any,
) -> Path:
    """The file of a suite that is not sealed; ``top`` are further lines above its tables, ``rest`` tables below."""
    said = {"name": name, "title": "A small suite", "tasks": tasks, "controls": "none", "resamples": 20} | top
    tables = {"model": {"id": "demo"} | dict(model or {}), "text": {"source": "demo"} | SMALL | dict(text or {})}
    lines = [f"{key} = {toml(value)}" for key, value in said.items()]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {toml(value)}" for key, value in values.items() if value is not None)]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text("\n".join([*lines, "", rest]) + "\n")
    return file


def sealed(folder: Path, name: str = "small-v1", **said: Any) -> Known:
    """A suite of the demo, sealed where it lies."""
    file = written(folder, name, **said)
    build(str(file), None, lambda what, done, total: None)
    return read(file)
