"""Two SAEs side by side: for each metric of an overview their difference, as far as their units are there.

A difference has an interval only where both were measured alike and on common units. Where units are missing, that is
what is said, and the figures stand beside each other without a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_bench.board.figures import rounded
from sae_bench.board.overview import Overview
from sae_bench.errors import SaeBenchError
from sae_bench.results import store
from sae_bench.show.text import line

MOST = 1500  # differences on a page, at about 5 ms each
_LONGEST = 200  # characters of a reason

Made = list[list[Any]]  # rows of place, place, column; value, low, high, verdict; or in their place the reason


class Pairs:
    """Makes the differences of one page; ``task_dir`` has further task definitions."""

    def __init__(self, task_dir: str | None = None, most: int = MOST) -> None:
        self._left, self._task_dir = most, task_dir
        self._cache: dict[Path, Any] = {}

    def of(self, overview: Overview) -> tuple[Made, bool]:
        """The differences of an overview, and whether some were left out because there are too many.

        Neighbours in L0 come first.
        """
        made: Made = []
        having = with_units(overview)
        for a, b in _nearest(overview, having):
            both = [place for place in having[a] if place in having[b]]
            self._left -= max(1, len(both))
            if self._left < 0:
                return made, True
            made += [[a, b, place, *self._difference(overview, a, b, place)] for place in both]
        return made, False

    def _difference(self, overview: Overview, a: int, b: int, place: int) -> list[Any]:
        """Value, ends and verdict of B minus A; a list of one reason where there is none."""
        from sae_bench.results import compare

        column = overview.columns[place]
        try:
            one, other = (self._loaded(overview.rows[i].files[column.id]) for i in (a, b))
            found = compare.difference(one, other, column.metric)
        except SaeBenchError as error:
            return [line(str(error))[:_LONGEST]]
        if found.value is None:
            return [line(found.reason or "there is no difference")[:_LONGEST]]
        return [*(rounded(value) for value in (found.value, found.low, found.high)), found.verdict]

    def _loaded(self, file: Path) -> Any:
        from sae_bench.results import compare

        if file not in self._cache:
            self._cache[file] = compare.load(file, self._task_dir)
        return self._cache[file]


def with_units(overview: Overview) -> list[dict[int, None]]:
    """Of each row the places of the columns in which it has a figure and its units, in order."""
    files = {file for row in overview.rows for file in row.files.values()}
    having = {file for file in files if store.units_of(file).exists()}
    return [
        {
            place: None
            for place, column in enumerate(overview.columns)
            if row.files.get(column.id) in having and row.cells[column.id].value.value is not None
        }
        for row in overview.rows
    ]


def _nearest(overview: Overview, having: Sequence[Mapping[int, None]]) -> Iterator[tuple[int, int]]:
    """All pairs of places of rows with units, neighbours in L0 first; what has no L0 comes last."""
    l0s = [math.inf if row.l0 is None or row.l0.value is None else row.l0.value for row in overview.rows]
    order = sorted((place for place in range(len(l0s)) if having[place]), key=lambda place: (l0s[place], place))
    for apart in range(1, len(order)):
        for a, b in zip(order, order[apart:], strict=False):
            yield min(a, b), max(a, b)
