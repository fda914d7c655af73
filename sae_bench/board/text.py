"""The board as tables to read: in the terminal and in GitHub Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from sae_bench.board.cells import Cell
from sae_bench.board.columns import Column
from sae_bench.board.layout import Board, Reference, Row, Table
from sae_bench.schema import MetricValue
from sae_bench.show import trust
from sae_bench.show.text import code, line, markdown, number, shortened, span


@dataclass(frozen=True)
class _Style:
    """How one format writes prose (``plain``), figures, names from files (``name``) and cells of reference rows."""

    plain: Callable[[str], str]
    figure: Callable[[str], str]
    name: Callable[[str], str]
    reference: Callable[[str], str]


def as_text(board: Board) -> str:
    """Tables for a terminal."""
    style = _Style(line, line, lambda name: line(shortened(name)), lambda cell: cell)
    parts = []
    for table in board.tables:
        head, body = _grid(table, style)
        notes = [line(note) for note in (*table.notes, protocols(table))]
        drawn = tabulate(body, headers=head, tablefmt="simple", disable_numparse=True)
        parts.append("\n".join([line(table.title), "", drawn, *notes]))
    return "\n\n\n".join(parts) + "\n"


def as_github(board: Board) -> str:
    """GitHub Markdown, with the header of ``columns.toml``: names are code, so that nothing in them is a link."""
    style = _Style(markdown, str, markdown_name, lambda cell: f"*{cell}*")
    parts = [board.header] if board.header else []
    for table in board.tables:
        head, body = _grid(table, style)
        rows = [head, ["---"] * len(head), *body]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        about = f"{markdown_name(table.model)}, {markdown_name(table.hook)}; {markdown(table.conditions)}"
        notes = [f"- {markdown(note)}" for note in (*table.notes, protocols(table))]
        parts.append("\n".join([f"## {markdown(table.group)}", "", about, "", *lines, "", *notes]))
    return "\n\n".join(parts) + "\n"


def _grid(table: Table, style: _Style) -> tuple[list[str], list[list[str]]]:
    """Head and body, ready for a format: what identifies an SAE, its scores, how far they were checked."""
    head = ["SAE", "architecture", "width", "L0", *(column.heading for column in table.columns), "checked"]
    body = [_row(row, table.columns, style) for row in table.rows]
    for reference in table.references:
        name = f"control: {reference.name}"
        cells = [*("" for _ in range(3)), *(reference_text(reference, c) for c in table.columns), ""]
        shown = [style.reference(style.figure(cell)) if cell else "" for cell in cells]
        body.append([style.reference(style.name(name)), *shown])
    return [style.plain(cell) for cell in head], body


def _row(row: Row, columns: Sequence[Column], style: _Style) -> list[str]:
    figures = [str(row.sae.n_latents), "-" if row.l0 is None else number(row.l0.value)]
    figures += [cell_text(row.cells.get(column.id), column) for column in columns]
    names = [style.name(row.sae.name), style.plain(shortened(row.sae.architecture))]
    return [*names, *map(style.figure, figures), style.plain(row.checked)]


def cell_text(cell: Cell | None, column: Column) -> str:
    """A score as "0.0934 [0.0921, 0.0947] rank 1-2"; empty where nothing was measured."""
    if cell is None:
        return ""
    return " ".join(part for part in (score_text(cell, column), mark_text(cell), rank_text(cell)) if part)


def score_text(cell: Cell, column: Column) -> str:
    """A score with its interval, to the column's decimals, and a sign where that is too narrow."""
    return trust.signed(_with_interval(cell.value, column), cell.value)


def _with_interval(v: MetricValue, column: Column) -> str:
    if v.value is None or column.decimals is None:
        return span(v.value, v.low, v.high)
    decimals = column.decimals
    if v.low is None or v.high is None:
        return f"{v.value:.{decimals}f}"
    return f"{v.value:.{decimals}f} [{v.low:.{decimals}f}, {v.high:.{decimals}f}]"


def rank_text(cell: Cell) -> str:
    """A range of ranks as "rank 1-3", or "rank 2" where it is certain; empty where there is none.

    Of ranks at an L0 that and its group, "rank 1-3 of 4 at L0 29-32", and "front" if none is better with as few.
    """
    said = [] if cell.rank is None else [f"rank {_span(*map(str, cell.rank))}"]
    if said and cell.group is not None:
        said[0] += f" of {cell.group.n} at L0 {_span(number(cell.group.low), number(cell.group.high))}"
    return ", ".join([*said, "front"] if cell.front else said)


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low}-{high}"


def mark_text(cell: Cell) -> str:
    """The word beside a score that is not whole; empty for others."""
    return "" if cell.mark is None else cell.mark.word


def reference_text(reference: Reference, column: Column) -> str:
    """The scores of a control beside all SAEs of a table: one figure, or from the lowest to the highest."""
    if column.id not in reference.cells:
        return ""
    low, high = (number(value) for value in reference.cells[column.id])
    shown = low if low == high else f"{low} to {high}"
    return f"{shown} {reference.marks.get(column.id, '')}".rstrip()


def protocols(table: Table) -> str:
    """Which protocol each task of the table followed, with the parameters that differ from its definition."""
    parts = []
    for digest, protocol in table.protocols.items():
        changed = ", ".join(f"{name} = {value}" for name, value in sorted(protocol.parameters.items()))
        parts.append(f"{protocol.task} v{protocol.version} {digest[:8]}{f' ({changed})' if changed else ''}")
    return f"Protocols: {'; '.join(parts)}."


def markdown_name(name: str) -> str:
    """A name of a table as code: in a code span no markup, link or mention works."""
    return code(shortened(name))
