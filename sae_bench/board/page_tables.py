"""What the template of the page writes: tables, overviews, contents, choices; text as one printable line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sae_bench import registry
from sae_bench.board import anchors, figures
from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.cells import Cell
from sae_bench.board.collect import UNOFFICIAL
from sae_bench.board.columns import Column
from sae_bench.board.layout import Board, Reference, Row, Table
from sae_bench.board.overview import Overview
from sae_bench.board.page_data import where
from sae_bench.board.text import mark_text, protocols, rank_text, reference_text, score_text
from sae_bench.schema import INFERENCE
from sae_bench.show import truth
from sae_bench.show.text import line, number

_NOTHING = {"text": "", "interval": "", "mark": "", "rank": "", "sort": None, "value": None, "low": None, "high": None}


def choices(board: Board) -> dict[str, list[str]]:
    """What may be chosen by each filter."""
    saes = [row.sae for table in board.tables for row in table.rows]
    suites = list(dict.fromkeys(line(table.suite) for table in board.tables))
    return {
        **({"suite": suites} if suites != [UNOFFICIAL] else {}),
        "model": sorted({line(table.model) for table in board.tables}),
        "hook": sorted({line(table.hook) for table in board.tables}),
        "architecture": sorted({line(sae.architecture) for sae in saes}),
        "width": [str(width) for width in sorted({sae.n_latents for sae in saes})],
    }


def table_view(table: Table, names: Mapping[SaeKey, str]) -> dict[str, Any]:
    """A table; ``sort`` is what a column is ordered by."""
    return {
        **where(table.suite, table.model, table.hook),
        "anchor": f"t-{anchors.of_table(table)}",
        "group": table.group,
        "conditions": line(table.conditions),
        "columns": [_heading(column) for column in table.columns],
        "rows": _rows(table.rows, table.columns, names),
        "references": _references(table.references, table.columns),
        "notes": [line(note) for note in (*table.notes, protocols(table))],
    }


def overview_view(one: Overview, names: Mapping[SaeKey, str], taken: set[str]) -> dict[str, Any]:
    """An overview; ``taken`` are the names of rows that stand in others."""
    here = where(one.suite, one.model, one.hook)
    rows = _rows(one.rows, one.columns, names)
    for row, own in zip(rows, one.rows, strict=True):
        key = key_of(own.sae)
        row["anchor"] = f"row-{row['key']}" + (f"-{here['key']}" if row["key"] in taken else "")
        taken.add(row["key"])
        for cell, column in zip(row["scores"], one.columns, strict=True):
            if not cell["text"] and key in one.elsewhere[column.id]:
                cell["mark"] = "elsewhere"
    groups = [
        {"name": table.group, "n": len(list(found)), "anchor": f"t-{anchors.of_table(table)}"}
        for table, found in groupby((one.sources[column.id] for column in one.columns), key=lambda table: table)
    ]
    conditions = dict.fromkeys(one.sources[c.id].conditions.removeprefix(f"{one.suite}; ") for c in one.columns)
    return {
        **here,
        "anchor": f"o-{here['key']}",
        "groups": groups,
        "conditions": line("; ".join([one.suite, *conditions])),
        "columns": [_heading(column) for column in one.columns],
        "rows": rows,
        "references": _references(one.references, one.columns),
        "elsewhere": any(one.elsewhere.values()),
    }


def truths(board: Board) -> list[dict[str, Any]]:
    """What known truth says of each metric that the tables show, once for all of them."""
    known = registry.tasks(board.task_dir)
    shown = {column.id: column for table in board.tables for column in table.columns}
    made = []
    for id_, column in shown.items():
        spec = known[column.task].metrics.get(column.metric) if column.task in known else None
        said = registry.standings(column.task, board.task_dir) if column.task in known else {}
        own = truth.sentences(spec or column.spec, said.get(column.metric))
        made.append({"id": id_, "label": line(column.label), "said": [line(one) for one in own]})
    return made


def _heading(column: Column) -> dict[str, Any]:
    why = f", because {column.spec.unranked}" if column.spec.unranked is not None else ""
    about = f"{column.id} in {column.spec.unit}: {column.spec.description} (ranked: {column.spec.ranking}{why})"
    return {
        "heading": column.heading,
        "id": column.id,
        "about": about,
        "best": "down" if column.spec.better == "higher" else "up",  # which way it is ordered first
    }


def _rows(rows: Sequence[Row], columns: Sequence[Column], names: Mapping[SaeKey, str]) -> list[dict[str, Any]]:
    numbers = {key: i for i, key in enumerate(names)}
    made = []
    for row in rows:
        l0, key = None if row.l0 is None else row.l0.value, key_of(row.sae)
        stored = row.sae.provenance.get(INFERENCE)
        made.append(
            {
                "id": numbers[key],
                "key": names[key],
                "name": line(row.sae.name),
                "architecture": line(row.sae.architecture),
                "stored": line(stored)[:100] if isinstance(stored, str) and stored != row.sae.architecture else "",
                "width": row.sae.n_latents,
                "l0": {"text": number(l0), "sort": figures.rounded(l0)},
                "scores": [_score(row.cells.get(column.id), column) for column in columns],
                "checked": row.checked,
            }
        )
    return made


def _score(cell: Cell | None, column: Column) -> dict[str, Any]:
    if cell is None:
        return dict(_NOTHING)
    text, v = score_text(cell, column), cell.value
    _, opened, interval = text.partition(" [")
    return {
        "text": text,
        "interval": opened.strip() + interval,
        "mark": mark_text(cell),
        "rank": rank_text(cell),
        "sort": figures.rounded(v.value) if cell.may_lead else None,
        "value": figures.rounded(v.value),
        "low": figures.rounded(v.low),
        "high": figures.rounded(v.high),
    }


def _references(references: Sequence[Reference], columns: Sequence[Column]) -> list[dict[str, Any]]:
    return [{"name": line(r.name), "cells": [reference_text(r, column) for column in columns]} for r in references]
