"""The board for programs: CSV with a row a score, and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from sae_bench.board.cells import Cell
from sae_bench.board.columns import Column
from sae_bench.board.layout import Board, Row, Table
from sae_bench.schema import MetricValue
from sae_bench.show.text import json_text, line

SCHEMA = 2  # of the JSON; rises when a field is renamed or removed

FIELDS = (
    *("model", "hook", "group", "conditions", "sae", "weights_sha256", "architecture", "width", "l0"),
    *("task", "version", "protocol", "metric", "unit", "better", "value", "low", "high", "n_units", "reason"),
    *("no_interval", "optimistic", "design_effect"),
    *("rank_low", "rank_high", "rank_of", "rank_l0_low", "rank_l0_high", "front", "unranked"),
    *("checked", "control", "mark"),
    *("suite", "official"),
)


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\u2212")


def as_csv(board: Board) -> str:
    """RFC 4180, a row a score; controls are rows too, with their lowest and highest score as the interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(FIELDS)
    for table in board.tables:
        official = {"official": "yes" if table.official else "no"}
        for record in (one | official for one in (*_scores(table), *_references(table))):
            writer.writerow([_guarded(record.get(field)) for field in FIELDS])
    return stream.getvalue()


def _guarded(value: Any) -> Any:
    """Text as one printable line that no program takes for more than text.

    A spreadsheet takes text with such a first letter, also behind spaces or of full width, for a formula: a quote
    before it makes it text again.
    """
    if not isinstance(value, str):
        return value
    shown = line(value)
    return f"'{shown}" if shown.lstrip()[:1] in _FORMULA or value[:1] in _FORMULA else shown


def _shared(table: Table) -> dict[str, Any]:
    return {
        **{"model": table.model, "hook": table.hook, "group": table.group, "conditions": table.conditions},
        **{"suite": table.suite, "official": table.official},
    }


def _identity(row: Row) -> dict[str, Any]:
    sae = row.sae
    return {
        "sae": sae.name,
        "weights_sha256": sae.weights_sha256,
        "architecture": sae.architecture,
        "width": sae.n_latents,
        "l0": None if row.l0 is None else row.l0.value,
    }


def _scores(table: Table) -> Iterator[dict[str, Any]]:
    of_task = {protocol.task: (digest, protocol.version) for digest, protocol in table.protocols.items()}
    for row in table.rows:
        for column in table.columns:
            if column.id in row.cells:
                cell = row.cells[column.id]
                protocol, version = of_task[column.task]
                low, high = cell.rank or (None, None)
                of, l0_low, l0_high = cell.group or (None, None, None)
                yield {
                    **_shared(table),
                    **_identity(row),
                    **_figure(cell.value),
                    "mark": "" if cell.mark is None else cell.mark.word,
                    **{"task": column.task, "version": version, "protocol": protocol, "metric": column.metric},
                    **{"rank_low": low, "rank_high": high, "checked": row.checked, "control": ""},
                    **{"rank_of": of, "rank_l0_low": l0_low, "rank_l0_high": l0_high},
                    **{"front": {None: "", True: "yes", False: "no"}[cell.front], "unranked": _unranked(cell, column)},
                }


def _unranked(cell: Cell, column: Column) -> str | None:
    """Why a score has no rank where its column has a direction."""
    return cell.unranked or (column.spec.unranked if column.spec.better != "none" else None)


def _references(table: Table) -> Iterator[dict[str, Any]]:
    of_task = {protocol.task: (digest, protocol.version) for digest, protocol in table.protocols.items()}
    for reference in table.references:
        for column in table.columns:
            if column.id in reference.cells:
                low, high = reference.cells[column.id]
                protocol, version = of_task[column.task]
                yield {
                    **_shared(table),
                    **{"task": column.task, "version": version, "protocol": protocol, "metric": column.metric},
                    **{"unit": column.spec.unit, "better": column.spec.better, "control": reference.name},
                    **{"low": low, "high": high, "value": low if low == high else None},
                    "mark": reference.marks.get(column.id, ""),
                }


def _figure(value: MetricValue) -> dict[str, Any]:
    return value.model_dump(mode="json")


def _ranks(cell: Cell) -> dict[str, Any]:
    """Its rank, and of one at an L0 among how many of which L0, why there is none, and whether it is on the front."""
    group = None if cell.group is None else {"n": cell.group.n, "l0": [cell.group.low, cell.group.high]}
    more = {"among": group, "unranked": cell.unranked, "front": cell.front}
    rank = None if cell.rank is None else list(cell.rank)
    return {"rank": rank} | {name: value for name, value in more.items() if value is not None}


def as_json(board: Board) -> str:
    """Strict JSON: tables with rows, cells, controls and notes, and what could not be shown."""
    content = {"schema": SCHEMA, "tables": [_table(table) for table in board.tables], "problems": board.problems}
    return json_text(content, allow_nan=False) + "\n"


def _table(table: Table) -> dict[str, Any]:
    return {
        **_shared(table),
        "protocols": {digest: p.model_dump(mode="json") for digest, p in table.protocols.items()},
        "columns": [
            {
                **{"task": c.task, "metric": c.metric, "label": c.label, "unit": c.spec.unit, "better": c.spec.better},
                **{"ranked": c.spec.ranking, "claims": c.spec.claims, "unranked": c.spec.unranked},
            }
            for c in table.columns
        ],
        "rows": [
            {
                **_identity(row),
                "checked": row.checked,
                "scores": {
                    column: _figure(cell.value) | _ranks(cell) | ({} if cell.mark is None else cell.mark.to_json())
                    for column, cell in row.cells.items()
                },
            }
            for row in table.rows
        ],
        "controls": [
            {
                "name": r.name,
                "scores": {
                    column: {"lowest": a, "highest": b} | ({"mark": r.marks[column]} if column in r.marks else {})
                    for column, (a, b) in r.cells.items()
                },
            }
            for r in table.references
        ],
        "notes": list(table.notes),
    }
