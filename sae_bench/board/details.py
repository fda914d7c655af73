"""What a result holds besides its metrics, as blocks for the page: plain JSON with bounded, printable text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_bench import registry
from sae_bench.schema import Result, TaskSpec
from sae_bench.show.blocks import BINS, AnyBlock, Contexts, Table
from sae_bench.show.details import found
from sae_bench.show.terminal import bounded, cell


def blocks(
    file: Path, result: Result, most: int, problems: list[str], installed: Mapping[str, TaskSpec] | None = None
) -> list[dict[str, Any]]:
    """All blocks of a result with at most ``most`` rows each; what is not as it should be goes to ``problems``."""
    made, own = read(file, result, registry.tasks() if installed is None else installed)
    problems += own
    return [on_page(block, most) for block in made]


def read(file: Path, result: Result, installed: Mapping[str, TaskSpec]) -> tuple[tuple[AnyBlock, ...], list[str]]:
    """The blocks of a result, and sentences that name its file."""
    made = found(result, installed)
    return made.blocks, [f"{file}: {problem}" for problem in made.problems]


def on_page(block: AnyBlock, most: int) -> dict[str, Any]:
    """A block as the page's script draws it."""
    short = block.shortened(most)
    if isinstance(short, Table):
        short = short.model_copy(update={"rows": tuple(tuple(map(cell, row)) for row in short.rows)})
    elif isinstance(short, Contexts):
        bound = [{"tokens": row.tokens[:BINS], "strengths": row.strengths[:BINS]} for row in short.rows]
        rows = tuple(row.model_copy(update=own) for row, own in zip(short.rows, bound, strict=True))
        short = short.model_copy(update={"rows": rows})
    return {name: _printable(value) for name, value in short.to_json().items()}


def _printable(content: Any) -> Any:
    """The same with every text as one bounded line."""
    if isinstance(content, dict):
        return {name: _printable(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_printable(one) for one in content]
    return bounded(content) if isinstance(content, str) else content
