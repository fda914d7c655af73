"""Blocks: what a task found beside its figures, as records that the terminal, the page and JSON all draw.

A task's module of figures may have ``blocks(details)``, a pure function from the details of a result to blocks. Every
``details["name"]`` that it reads is its own; what it does not read is drawn as it stands (``show/details.py``). A block
that stands in the details as JSON, with its kind in ``block``, is drawn too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, TypeAdapter, model_validator

from sae_bench.schema import Record
from sae_bench.show.text import span

Cell = bool | int | FiniteFloat | str | None
BINS = 200  # bins of a histogram, points of a series and tokens of a context that are drawn at most
EACH = 4  # contexts of one group that are drawn, where a block is shortened to a page


class Block(Record):
    """What every block has: a title, and how many rows were left out when it was shortened."""

    title: str
    more: int = Field(default=0, ge=0)

    def to_json(self) -> dict[str, Any]:
        """The block as plain JSON."""
        return self.model_dump(mode="json")

    def shortened(self, most: int) -> Self:
        """The block with at most ``most`` rows, and the number of the others."""
        raise NotImplementedError

    def _with_first(self, rows: str, most: int) -> Self:
        whole: Sequence[Any] = getattr(self, rows)
        return self.model_copy(update={rows: whole[:most], "more": self.more + max(0, len(whole) - most)})


class Table(Block):
    """Rows of numbers and texts; every row has a cell for each name in ``head``."""

    block: Literal["table"] = "table"
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if bad := next((row for row in self.rows if len(row) != len(self.head)), None):
            raise ValueError(f"a row has {len(bad)} cells, and head names {len(self.head)}")
        return self

    @property
    def pairs(self) -> bool:
        """Whether it is a list of names with their values."""
        return self.head == PAIRS

    def shortened(self, most: int) -> Self:
        """The first rows; lists of names with their values are three times as long."""
        return self._with_first("rows", 3 * most if self.pairs else most)


PAIRS = ("what", "value")


class Histogram(Block):
    """How many ``of`` lie from ``low`` to ``high`` of ``x``: bins of (low, high, number)."""

    block: Literal["histogram"] = "histogram"
    x: str = ""
    of: str = "number"
    bins: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...]

    def shortened(self, most: int) -> Self:
        """All bins up to a bound, or none of a block that is to have no row."""
        return self._with_first("bins", BINS if most else 0)


class Text(Block):
    """Lines of text."""

    block: Literal["text"] = "text"
    lines: tuple[str, ...]

    def shortened(self, most: int) -> Self:
        """The first lines, three for each row that a table would have."""
        return self._with_first("lines", 3 * most)


class Context(Record):
    """Tokens, how strongly a latent fires on each (0 to 1), and the place of one that is looked at.

    ``group`` is what it belongs to, such as a latent; ``caption`` stands before it.
    """

    group: str = ""
    caption: str = ""
    tokens: tuple[str, ...]
    strengths: tuple[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)], ...]
    marked: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.strengths) != len(self.tokens):
            raise ValueError(f"there are {len(self.tokens)} tokens and {len(self.strengths)} strengths")
        if self.marked is not None and self.marked >= len(self.tokens):
            raise ValueError(f"marked is {self.marked}, and there are {len(self.tokens)} tokens")
        return self


class Contexts(Block):
    """Pieces of text with coloured tokens."""

    block: Literal["contexts"] = "contexts"
    rows: tuple[Context, ...]

    def shortened(self, most: int) -> Self:
        """The first rows of the first groups; a row without a group is one by itself."""
        seen: dict[Any, int] = {}
        kept = []
        for place, row in enumerate(self.rows):
            group = row.group or place
            if group in seen or len(seen) < most:
                seen[group] = seen.get(group, 0) + 1
                kept += [row] if seen[group] <= max(EACH, most) else []
        return self.model_copy(update={"rows": tuple(kept), "more": self.more + len(self.rows) - len(kept)})


class Series(Record):
    """One line of a plot: points (x, y)."""

    name: str = ""
    points: tuple[tuple[FiniteFloat, FiniteFloat], ...]


class Plot(Block):
    """Lines over a common axis; ``x`` and ``y`` are what the axes show."""

    block: Literal["plot"] = "plot"
    x: str
    y: str
    series: tuple[Series, ...]

    def shortened(self, most: int) -> Self:
        """The first series, with a bounded number of points; ``more`` counts points."""
        kept = tuple(one.model_copy(update={"points": one.points[:BINS]}) for one in self.series[:most])
        whole, left = (sum(len(one.points) for one in series) for series in (self.series, kept))
        return self.model_copy(update={"series": kept, "more": self.more + whole - left})


AnyBlock = Table | Histogram | Text | Contexts | Plot
_READER: TypeAdapter[AnyBlock] = TypeAdapter(Annotated[AnyBlock, Field(discriminator="block")])


def read(content: Any) -> AnyBlock:
    """A block from a record or from JSON. Raises pydantic's ValidationError, which is a ValueError."""
    return _READER.validate_python(content)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table from any rows."""
    return Table(title=title, head=tuple(head), rows=tuple(tuple(row) for row in rows))


def pairs(title: str, content: Mapping[str, Any] | Sequence[Any]) -> Table:
    """Names with their values; values of a list are numbered from 1."""
    items = content.items() if isinstance(content, Mapping) else ((str(i), one) for i, one in enumerate(content, 1))
    return table(title, PAIRS, [(name.replace("_", " "), listed(value)) for name, value in items])


def listed(value: Any) -> Any:
    """A list as one text, anything else as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def interval(found: Mapping[str, Any]) -> str:
    """A figure with ``value``, ``low`` and ``high`` as one text."""
    return span(*(None if found.get(end) is None else float(found[end]) for end in ("value", "low", "high")))


def quoted(token: Any) -> str:
    """A token in quotes, in which its spaces and line breaks are seen."""
    return json.dumps(str(token), ensure_ascii=False)
