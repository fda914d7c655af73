"""Blocks as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

from sae_bench.show.blocks import AnyBlock, Cell, Context, Contexts, Histogram, Plot, Table, Text
from sae_bench.show.fitted import width, wrapped
from sae_bench.show.text import line, number

MOST = 20  # rows of a block
LONGEST = 240  # characters of a cell
WIDEST = 150  # characters of a table; a wider one is written a row at a time
NARROW = 24  # characters of a cell that stands beside others
BAR = 40


def drawn(block: AnyBlock, most: int = MOST, columns: int | None = None) -> list[str]:
    """The block as lines that may be printed, and how much was left out.

    Lines are broken at so many ``columns`` (None: at none), and a table that is wider is written a row at a time.
    """
    short = block.shortened(most)
    lines = [] if isinstance(short, Table) and short.pairs and not short.more else [f"  {bounded(short.title)}:"]
    lines += _body(short, min(WIDEST, columns or WIDEST))
    if short.more:
        lines.append(f"  and {short.more} more (--json shows them)")
    return [piece for one in lines for piece in _broken(one, columns)]


def _broken(text: str, columns: int | None) -> list[str]:
    """A line within so many columns, what does not fit a little further in."""
    text = line(text)
    if columns is None or width(text) <= columns:
        return [text]
    indent = " " * (len(text) - len(text.lstrip(" ")))
    return wrapped(text.lstrip(" "), columns, first=indent, then=f"{indent}  ")


def _body(block: AnyBlock, widest: int) -> Iterator[str]:
    if isinstance(block, Table):
        yield from _table(block, widest)
    elif isinstance(block, Histogram):
        top = max((count for _, _, count in block.bins), default=0) or 1
        for low, high, count in block.bins:
            if count:
                yield f"  {number(low):>9} to {number(high):>9} {number(count):>8} {'#' * _bar(count / top)}"
    elif isinstance(block, Text):
        yield from (f"  {bounded(one)}" for one in block.lines)
    elif isinstance(block, Contexts):
        yield from _contexts(block)
    else:
        yield from _plot(block)


def _bar(share: float) -> int:
    return max(1, round(BAR * share)) if share > 0 else 0


def cell(value: Cell) -> str:
    """A cell as one bounded line."""
    return number(value) if isinstance(value, float) else bounded("-" if value is None else str(value))


def bounded(text: str) -> str:
    """One line of a bounded length."""
    shown = line(text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def _table(block: Table, widest: int) -> Iterator[str]:
    rows = [[cell(one) for one in row] for row in block.rows]
    head = [bounded(name) for name in block.head]
    if block.pairs:
        yield from (f"  {what}: {value}" for what, value in rows)
        return
    shown = tabulate(rows, headers=head, tablefmt="simple", disable_numparse=True).splitlines()
    if max(map(len, shown), default=0) <= widest:
        yield from (f"  {one}" for one in shown)
        return
    for row in rows:
        yield from _record(head, row)


def _record(head: list[str], row: list[str]) -> Iterator[str]:
    """A row of a wide table: what is short on one line, and what is long below it."""
    given = [(name, value) for name, value in zip(head, row, strict=True) if value]
    short = "; ".join(f"{name} {value}" for name, value in given[1:] if len(value) <= NARROW)
    yield f"  {given[0][0]} {given[0][1]}: {short}" if given else ""
    yield from (f"    {name}: {value}" for name, value in given[1:] if len(value) > NARROW)


def _contexts(block: Contexts) -> Iterator[str]:
    """<< >> stand around the tokens on which a latent fires, with the strength in tenths, and [ ] around the marked."""
    before = None
    for row in block.rows:
        if row.group and row.group != before:
            yield f"  {bounded(row.group)}:"
        before = row.group
        caption = f"{bounded(row.caption)}  " if row.caption else ""
        yield f"    {caption}{in_text(row)}"


def in_text(row: Context) -> str:
    """A context as text."""
    shown = []
    for place, (token, strength) in enumerate(zip(row.tokens, row.strengths, strict=True)):
        text = f"<<{token}>>({max(1, round(9 * strength))})" if strength > 0 else token
        shown.append(f"[{text}]" if place == row.marked else text)
    return "".join(shown)[: 20 * LONGEST]


def _plot(block: Plot) -> Iterator[str]:
    """A small table: a column for x and one for each series."""
    places: dict[float, dict[int, float]] = {}
    for i, one in enumerate(block.series):
        for x, y in one.points:
            places.setdefault(x, {})[i] = y
    head = [bounded(block.x), *(bounded(one.name or block.y) for one in block.series)]
    rows: list[list[Any]] = [
        [number(x), *(number(own[i]) if i in own else "" for i in range(len(block.series)))]
        for x, own in sorted(places.items())
    ]
    yield from (f"  {one}" for one in tabulate(rows, head, tablefmt="simple", disable_numparse=True).splitlines())
    if block.y and any(one.name for one in block.series):
        yield f"  (of {bounded(block.y)})"
