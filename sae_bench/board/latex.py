"""The board as tables for LaTeX, a float for each with caption and label; what surely is best is bold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sae_bench import registry
from sae_bench.board.cells import Cell
from sae_bench.board.columns import Column
from sae_bench.board.layout import Board, Reference, Row, Table
from sae_bench.board.text import mark_text, protocols, reference_text, score_text
from sae_bench.show import trust
from sae_bench.show.latex import (
    PACKAGES,
    Options,
    caption,
    commented,
    escaped,
    figure,
    label,
    table,
    with_interval,
)
from sae_bench.show.text import number, shortened

HEAD = ("SAE", "architecture", "width", "L0")
FRONT = "$^{\\dagger}$"


def as_latex(board: Board, options: Options | None = None) -> str:
    """One ``table`` of booktabs for each of the board. Raises UsageError for a label or a control that cannot be."""
    options = options or Options()
    labels, names = _labels(board, label(options.label)), _controls(board, options.controls)
    parts = []
    for place, one in zip(labels, board.tables, strict=True):
        notes = [note for note in one.notes if options.intervals != "no" or not note.startswith(trust.SIGN)]
        notes = [*notes, protocols(one)]
        title = f"{one.group}: {shortened(one.model)}, {shortened(one.hook)}; {one.conditions}."
        text = escaped(title) if options.caption is None else caption(options.caption)
        if options.caption is not None and len(board.tables) > 1:
            text += f" {escaped(title)}"
        shown = [escaped(note) for note in notes] if options.notes else []
        references = [reference for reference in one.references if reference.name in names]
        lines = table(
            [
                escaped(cell)
                for cell in ("SAE", "architecture", "width", "L0", *(c.heading for c in one.columns), "checked")
            ],
            [_rows(one, options), [_reference(reference, one.columns) for reference in references]],
            "ll" + "r" * (2 + len(one.columns)) + "l",
            (text, place),
            [sentence for sentence in [_reading(one, options)] if sentence] + shown,
        )
        parts.append("\n".join([*lines, *([] if options.notes else commented(notes))]))
    return PACKAGES + "\n" + "\n\n".join(parts) + "\n"


def _labels(board: Board, given: str) -> list[str]:
    """A label for each table: the one that was given, with a number where there are several."""
    n = len(board.tables)
    return [given] if n == 1 else [f"{given}-{i}" for i in range(1, n + 1)]


def _controls(board: Board, said: str) -> set[str]:
    """The controls that are shown. Raises UsageError for one that no table has."""
    there = dict.fromkeys(reference.name for one in board.tables for reference in one.references)
    if said == "none" or not there:
        return set()
    return set(registry.choose(said, there, "control of this board"))


def _rows(one: Table, options: Options) -> list[list[str]]:
    leading = {column.id: leaders(one, column) for column in one.columns}
    made = []
    for place, row in enumerate(one.rows):
        cells = [
            cell_latex(row.cells.get(column.id), column, options, bold=place in leading[column.id])
            for column in one.columns
        ]
        names = [escaped(shortened(row.sae.name)), escaped(shortened(row.sae.architecture))]
        l0 = "-" if row.l0 is None else number(row.l0.value)
        made.append([*names, str(row.sae.n_latents), figure(l0), *cells, escaped(row.checked)])
    return made


def leaders(one: Table, column: Column) -> set[int]:
    """The places of the rows that surely are best in a column: nobody is surely better than they are.

    They are a tie where they are several. There is none where that would be all with whom they are held, of whom then
    none is surely worse: all SAEs of the table, or in a figure at equal L0 those of about its own L0.
    """
    ranked = {
        i: cell
        for i, row in enumerate(one.rows)
        if (cell := row.cells.get(column.id)) is not None and cell.rank is not None
    }
    first = {i for i, cell in ranked.items() if cell.rank is not None and cell.rank[0] == 1}
    found = set()
    for i in first:
        held = {j for j in ranked if _held(one.rows[j], ranked[i])}
        if held - first:
            found.add(i)
    return found


def _held(row: Row, cell: Cell) -> bool:
    """Whether a cell's rank is among others of which this row is one."""
    if cell.group is None:
        return True
    return row.l0 is not None and row.l0.value is not None and cell.group.low <= row.l0.value <= cell.group.high


def cell_latex(cell: Cell | None, column: Column, options: Options, *, bold: bool) -> str:
    """A score as it stands in the table; empty where nothing was measured."""
    if cell is None:
        return ""
    shown = with_interval(score_text(cell, column), bold=bold, intervals=options.intervals)
    parts = [shown + (FRONT if cell.front and options.ranks else ""), escaped(mark_text(cell))]
    if options.ranks and cell.rank is not None:
        low, high = cell.rank
        of = "" if cell.group is None else f" of {cell.group.n}"
        parts.append(f"({low if low == high else f'{low}--{high}'}{of})")
    return " ".join(part for part in parts if part)


def _reference(reference: Reference, columns: Sequence[Column]) -> list[str]:
    cells = [reference_text(reference, column) for column in columns]
    name = escaped(shortened(f"control: {reference.name}"))
    shown = [f"\\textit{{{figure(re.sub(r'[^0-9A-Za-z.,+ -]', '?', cell))}}}" if cell else "" for cell in cells]
    return [f"\\textit{{{name}}}", "", "", "", *shown, ""]


def _reading(one: Table, options: Options) -> str:
    """What bold, parentheses and the sign of the front mean, as far as the table has them; this is LaTeX."""
    cells = [cell for row in one.rows for cell in row.cells.values()]
    said = []
    if any(leaders(one, column) for column in one.columns):
        said.append(
            "\\textbf{Bold}: no other is surely better, and some other surely is not as good; several are a tie."
        )
    if options.ranks and any(cell.rank is not None for cell in cells):
        grouped = any(cell.group is not None for cell in cells)
        said.append(f"In parentheses: ranks{', among so many of about the same L0' if grouped else ''}.")
    if options.ranks and any(cell.front for cell in cells):
        said.append(f"{FRONT}: no other has as few active latents and a better figure.")
    return " ".join(said)
