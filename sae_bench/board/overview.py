"""One row an SAE over all headline metrics: what the tables of one place say, each metric from one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.cells import Cell
from sae_bench.board.columns import Column
from sae_bench.board.layout import Board, Reference, Row, Table
from sae_bench.results.verified import STATES


@dataclass(frozen=True)
class Overview:
    """All SAEs of a suite, a model and a hook point.

    A metric that was measured under several conditions is that of the table with the most SAEs: ``sources`` says which
    table each column is from, with ranks as they are there. ``elsewhere`` are the SAEs, by column, that have the metric
    under other conditions alone.
    """

    suite: str
    model: str
    hook: str
    columns: tuple[Column, ...]
    sources: Mapping[str, Table]
    rows: tuple[Row, ...]
    references: tuple[Reference, ...]
    elsewhere: Mapping[str, frozenset[SaeKey]]


def overviews(board: Board) -> list[Overview]:
    """One for each place of each suite, in the order of the board."""
    places: dict[tuple[str, str, str], list[Table]] = {}
    for table in board.tables:
        places.setdefault((table.suite, table.model, table.hook), []).append(table)
    return [_overview(tables) for tables in places.values()]


def _overview(tables: Sequence[Table]) -> Overview:
    having: dict[str, list[tuple[Column, Table]]] = {}
    for table in tables:
        for column in table.columns:
            having.setdefault(column.id, []).append((column, table))
    if any(found[0][0].spec.headline for found in having.values()):
        having = {id_: found for id_, found in having.items() if found[0][0].spec.headline}
    columns = tuple(found[0][0] for found in having.values())
    sources = {id_: max(found, key=lambda one: _n(*one))[1] for id_, found in having.items()}
    elsewhere = {
        id_: frozenset(key_of(row.sae) for c, t in found for row in t.rows if c.id in row.cells)
        - frozenset(key_of(row.sae) for row in sources[id_].rows if id_ in row.cells)
        for id_, found in having.items()
    }
    first = tables[0]
    return Overview(
        suite=first.suite, model=first.model, hook=first.hook, columns=columns, sources=sources,
        rows=_rows(tables, sources), references=_references(sources), elsewhere=elsewhere,
    )  # fmt: skip


def _n(column: Column, table: Table) -> int:
    return sum(column.id in row.cells for row in table.rows)


def _rows(tables: Sequence[Table], sources: Mapping[str, Table]) -> tuple[Row, ...]:
    """All SAEs, in the order of the first table that they are in."""
    of_sae: dict[SaeKey, list[Row]] = {}
    for table in tables:
        for row in table.rows:
            of_sae.setdefault(key_of(row.sae), []).append(row)
    cells: dict[SaeKey, dict[str, Cell]] = {key: {} for key in of_sae}
    files: dict[SaeKey, dict[str, Path]] = {key: {} for key in of_sae}
    for id_, table in sources.items():
        for row in table.rows:
            if id_ in row.cells:
                cells[key_of(row.sae)][id_] = row.cells[id_]
                files[key_of(row.sae)][id_] = row.files[id_.partition(".")[0]]
    return tuple(
        Row(
            own[0].sae,
            next((row.l0 for row in own if row.l0 is not None), None),
            cells[key],
            min((row.checked for row in own), key=STATES.index),
            files[key],
        )
        for key, own in of_sae.items()
    )


def _references(sources: Mapping[str, Table]) -> tuple[Reference, ...]:
    """The controls, each with its figures beside every metric."""
    cells: dict[str, dict[str, tuple[float, float]]] = {}
    words: dict[str, dict[str, str]] = {}
    for id_, table in sources.items():
        for reference in table.references:
            if id_ in reference.cells:
                cells.setdefault(reference.name, {})[id_] = reference.cells[id_]
                if id_ in reference.marks:
                    words.setdefault(reference.name, {})[id_] = reference.marks[id_]
    return tuple(Reference(name, own, words.get(name, {})) for name, own in cells.items())
