"""What the script of the page draws from: SAEs, the places of plots, pairs of SAEs; text as one printable line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sae_bench.board import anchors, beside, figures
from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.collect import Collection
from sae_bench.board.columns import L0, Column, Columns
from sae_bench.board.layout import Board
from sae_bench.board.overview import Overview
from sae_bench.board.pairs import Pairs, with_units
from sae_bench.board.text import rank_text, score_text
from sae_bench.results import at_l0
from sae_bench.schema import INFERENCE, CoderRecord
from sae_bench.show.text import line


def content(
    board: Board, collection: Collection, columns: Columns, overviews: Sequence[Overview], names: Mapping[SaeKey, str]
) -> dict[str, Any]:
    """All that the script needs but the details.

    ``names`` are those of SAEs in links, in the order of their numbers.
    """
    numbers = {key: i for i, key in enumerate(names)}
    records = {key_of(row.sae): row.sae for table in board.tables for row in table.rows}
    pairs = Pairs(board.task_dir)
    return {
        "saes": [_sae(records[key], name) for key, name in names.items()],
        "places": [_place(place, numbers) for place in figures.places(board, collection, columns)],
        "overviews": [_overview(one, numbers, pairs) for one in overviews],
        "pareto": beside.on_page(figures.pareto((), ("", ""))),
        "close": 1 + at_l0.CLOSE,
        "histogram": figures.histogram(),
        "plot": figures.lines(),
    }


def _sae(sae: CoderRecord, name: str) -> dict[str, Any]:
    texts = {"name": sae.name, "architecture": sae.architecture, "source": sae.source, "format": sae.format}
    stored = sae.provenance.get(INFERENCE)
    texts |= {"stored": stored} if isinstance(stored, str) and stored != sae.architecture else {}
    bounded = {name: line(text)[:300] for name, text in texts.items()}
    weights = line(sae.weights_sha256)[:64]
    return {**bounded, "width": sae.n_latents, "weights": weights, "key": name}


def _place(place: figures.Place, numbers: Mapping[SaeKey, int]) -> dict[str, Any]:
    keys = [key for key in place.saes if key in numbers]

    def values(key: SaeKey) -> list[Any]:
        found = (axis.values.get(key) for axis in place.axes)
        return [0 if m is None else [figures.rounded(v) for v in (m.value, m.low, m.high)] for m in found]

    return {
        **where(place.suite, place.model, place.hook),
        "saes": [numbers[key] for key in keys],
        "axes": _axes(place.axes),
        "values": [values(key) for key in keys],
        "controls": [[line(name), numbers[key], values] for name, key, values in beside.points(place.controls, keys)],
        "bands": beside.bands([m.value for axis in place.axes if axis.id == L0 for m in axis.values.values()]),
        "plots": place.plots,
    }


def _axes(axes: Sequence[figures.Axis]) -> list[dict[str, Any]]:
    """The axes; ``key`` is the name of one in links, that of its metric, and its number where there are several."""
    made, seen = [], Counter[str]()
    for axis in axes:
        seen[axis.id] += 1
        key = axis.id if seen[axis.id] == 1 else f"{axis.id}~{seen[axis.id]}"
        about = {"title": axis.title, "key": key, "sign": axis.sign}
        made.append(about | {"equal": axis.at_equal_l0, "l0": axis.id == L0})
    return made


def _overview(one: Overview, numbers: Mapping[SaeKey, int], pairs: Pairs) -> dict[str, Any]:
    made, left_out = pairs.of(one)
    having = with_units(one)
    return {
        **where(one.suite, one.model, one.hook),
        "columns": [_column(column) for column in one.columns],
        "saes": [numbers[key_of(row.sae)] for row in one.rows],
        "l0": [None if row.l0 is None else figures.rounded(row.l0.value) for row in one.rows],
        "cells": [[_cell(row.cells.get(column.id), column) for column in one.columns] for row in one.rows],
        "pairs": made,
        "more": left_out,
        "units": [int(bool(places)) for places in having],
    }


def _column(column: Column) -> dict[str, Any]:
    return {"heading": column.heading, "equal": column.spec.at_equal_l0}


def _cell(cell: Any, column: Column) -> Any:
    """Text, rank, value and ends of a score; 0 where there is none."""
    if cell is None:
        return 0
    v = cell.value
    return [score_text(cell, column), rank_text(cell), *(figures.rounded(one) for one in (v.value, v.low, v.high))]


def where(suite: str, model: str, hook: str) -> dict[str, str]:
    """A place of a suite, and its name in links."""
    shown = {"suite": line(suite), "model": line(model), "hook": line(hook)}
    return {**shown, "key": anchors.of_place(suite, model, hook)}
