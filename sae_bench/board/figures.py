"""Plots of two metrics: Vega-Lite specifications, drawn in the page by its own copy of Vega, or to SVG and PNG."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sae_bench.board import beside
from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.collect import UNOFFICIAL, Collection, Entry
from sae_bench.board.columns import L0, Column, Columns
from sae_bench.board.layout import Board, hook_of
from sae_bench.errors import UsageError
from sae_bench.files import write_atomically
from sae_bench.schema import CoderRecord, MetricValue
from sae_bench.show import judges, marks
from sae_bench.show.text import line

VEGA_LITE = "5.21"  # the version whose code the page holds and that draws the files
_FONT = "Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Axis:
    """One metric under one protocol, for all SAEs of a model's hook point.

    ``sign`` is 1 where less is better, -1 where more is, 0 where neither is or nobody is ranked by it. Fewer active
    latents count as better: the frontier of a plot against L0 is what nobody beats with as few. A metric at equal L0
    (``at_equal_l0``) has no other frontier: between SAEs of different L0 it says nothing.
    """

    id: str
    protocol: str
    title: str
    sign: int
    at_equal_l0: bool
    values: Mapping[SaeKey, MetricValue]


@dataclass(frozen=True)
class Place:
    """A model and a hook point with the SAEs measured there, by one suite or none.

    ``plots`` are pairs of positions in ``axes``. ``controls`` are by name and SAE their values on every axis.
    """

    model: str
    hook: str
    saes: Mapping[SaeKey, CoderRecord]
    axes: tuple[Axis, ...]
    plots: tuple[tuple[int, int], ...]
    controls: Mapping[str, Mapping[SaeKey, Sequence[float | None]]] = field(default_factory=dict)
    suite: str = UNOFFICIAL


def places(board: Board, collection: Collection, columns: Columns) -> list[Place]:
    """What can be plotted, a record a suite, model and hook point that the board shows."""
    shown = {(t.suite, digest): (t.suite, t.model, t.hook) for t in board.tables for digest in t.protocols}
    entries: dict[tuple[str, str, str], list[Entry]] = {(t.suite, t.model, t.hook): [] for t in board.tables}
    for e in (e for e in collection.entries if marks.ranked(e.result)):
        where = shown.get((e.suite, e.result.protocol))
        model = e.result.provenance.protocol.model_sha256
        where = where or next(
            (
                (table.suite, table.model, table.hook)
                for table in board.tables
                if table.suite == e.suite
                and table.hook == hook_of(e.result.provenance.protocol)
                and model in {p.model_sha256 for p in table.protocols.values()}
            ),
            None,
        )
        if where is not None:
            entries[where].append(e)
    made = []
    for (suite, model, hook), own in entries.items():
        axes = _axes(own, columns)
        ids = [axis.id for axis in axes]
        plots = tuple((ids.index(x), ids.index(y)) for x, y in columns.plots if x in ids and y in ids)
        saes = {key_of(e.result.sae): e.result.sae for e in own}
        made.append(Place(model, hook, saes, axes, plots, beside.controls_of(own, axes), suite))
    return made


def _axes(entries: Sequence[Entry], columns: Columns) -> tuple[Axis, ...]:
    """All columns that have values, L0 first; a metric under several protocols is several axes, the fullest first.

    So is one of several judges, whom the protocols of older results do not tell apart.
    """
    found: dict[str, dict[tuple[str, tuple[str, ...]], dict[SaeKey, MetricValue]]] = {}
    for e in entries:
        for name, value in e.result.metrics.items():
            if value.value is not None:
                by_protocol = found.setdefault(f"{e.result.task}.{name}", {})
                key = e.result.protocol, judges.identity(e.result)
                by_protocol.setdefault(key, {})[key_of(e.result.sae)] = value
    definitions = {e.result.protocol: e.result.provenance.protocol.task_sha256 for e in entries}
    axes = []
    for column in columns.plotted:
        protocols = sorted(found.get(column.id, {}).items(), key=lambda item: (-len(item[1]), item[0]))
        for i, ((digest, _), values) in enumerate(protocols, 1):
            twice = sum(other == digest for (other, _), _ in protocols) > 1
            suffix = f" ({digest[:8]}{f', judge {i}' if twice else ''})" if len(protocols) > 1 else ""
            own = column.measured_as(definitions[digest])
            title = f"{column.heading}{suffix}"
            axes.append(Axis(column.id, digest, title, _sign(own), column.spec.at_equal_l0, values))
    return tuple(axes)


def _sign(column: Column) -> int:
    if column.id == L0:
        return 1
    return {"lower": 1, "higher": -1, "none": 0}[column.spec.better] if column.spec.orders else 0


def rounded(value: float | None) -> float | None:
    """Six significant digits: more than a picture shows."""
    return None if value is None else float(f"{value:.6g}")


def points(place: Place, x: Axis, y: Axis) -> list[dict[str, Any]]:
    """A record for every SAE that has both metrics; ``cx`` and ``cy`` are what the frontier makes small."""
    made = []
    fair = L0 in (x.id, y.id) or not (x.at_equal_l0 or y.at_equal_l0)
    for key, sae in place.saes.items():
        if key in x.values and key in y.values:
            point = {"sae": line(sae.name), "architecture": line(sae.architecture), "width": sae.n_latents}
            for name, axis in (("x", x), ("y", y)):
                value = axis.values[key]
                point |= {name: rounded(value.value), f"{name}l": rounded(value.low), f"{name}h": rounded(value.high)}
                point[f"c{name}"] = _cost(value.value, axis) if fair else None
            made.append(point)
    return made


def _cost(value: float | None, axis: Axis) -> float | None:
    return None if value is None or axis.sign == 0 else rounded(axis.sign * value)


def scale_type(values: Sequence[float]) -> str:
    """Logarithmic where all is above 0 and spans more than a factor of 8."""
    return "log" if values and min(values) > 0 and max(values) > 8 * min(values) else "linear"


def pareto(data: Sequence[Mapping[str, Any]], titles: tuple[str, str]) -> dict[str, Any]:
    """Points with intervals in both directions, and a line along those that no other beats in both metrics."""
    ends = {n: [p[f"{n}{e}"] for p in data for e in ("", "l", "h") if p[f"{n}{e}"] is not None] for n in "xy"}
    scales = [{"type": scale_type(ends[name]), "zero": False, "nice": False, "padding": 14} for name in "xy"]
    x, y = (
        {"field": name, "type": "quantitative", "title": title, "scale": scale}
        for name, title, scale in zip("xy", titles, scales, strict=True)
    )
    shape = {"field": "architecture", "type": "nominal", "title": "architecture"}
    grey = {"color": "#6b7280", "opacity": 0.7}
    order = [{"field": "cx"}, {"field": "cy"}]
    frontier = [
        {"filter": "isValid(datum.cx) && isValid(datum.cy)"},
        {"window": [{"op": "min", "field": "cy", "as": "least"}], "sort": order, "frame": [None, 0]},
        {"window": [{"op": "lag", "field": "least", "as": "before"}], "sort": order},
        {"filter": "!isValid(datum.before) || datum.cy < datum.before"},
    ]
    tooltip = [{"field": name, "title": title} for name, title in (("sae", "SAE"), ("architecture", "architecture"))]
    tooltip += [{"field": "width", "title": "width", "type": "quantitative"}]
    for name, title in zip("xy", titles, strict=True):
        tooltip += [
            {"field": f"{name}{end}", "title": f"{title}{what}", "type": "quantitative", "format": ".4~g"}
            for end, what in (("", ""), ("l", ", low"), ("h", ", high"))
        ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 420,
        "height": 300,
        "background": "white",
        "data": {"name": "points", "values": list(data)},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "transform": frontier,
                "mark": {"type": "line", "strokeDash": [5, 4], "color": "#374151", "strokeWidth": 1.3},
                "encoding": {"order": {"field": "x", "type": "quantitative"}},
            },
            {
                "transform": [{"filter": "isValid(datum.xl)"}],
                "mark": {"type": "rule", **grey},
                "encoding": {"x": {**x, "field": "xl"}, "x2": {"field": "xh"}},
            },
            {
                "transform": [{"filter": "isValid(datum.yl)"}],
                "mark": {"type": "rule", **grey},
                "encoding": {"y": {**y, "field": "yl"}, "y2": {"field": "yh"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
                "encoding": {"color": shape, "shape": shape, "tooltip": tooltip},
            },
        ],
        "config": {"font": _FONT, "axis": {"gridColor": "#eceff3", "titleFontWeight": 500}, "view": {"stroke": None}},
    }


def histogram() -> dict[str, Any]:
    """Bars of ``low``, ``high`` and ``count``; the page gives data and titles."""
    x = {"field": "low", "type": "quantitative", "bin": {"binned": True}, "title": ""}
    return _small(
        {"type": "bar", "color": "#4c78a8"},
        {
            "x": x,
            "x2": {"field": "high"},
            "y": {"field": "count", "type": "quantitative", "title": ""},
            "tooltip": [{"field": name, "type": "quantitative"} for name in ("low", "high", "count")],
        },
    )


def lines() -> dict[str, Any]:
    """A line for each ``series`` of points ``x`` and ``y``; the page gives data and titles."""
    axes = {name: {"field": name, "type": "quantitative", "title": "", "scale": {"zero": False}} for name in "xy"}
    series = {"field": "series", "type": "nominal", "title": None}
    tooltip = [{"field": name} for name in ("series", "x", "y")]
    return _small({"type": "line", "point": True}, {**axes, "color": series, "tooltip": tooltip})


def _small(mark: Any, encoding: dict[str, Any]) -> dict[str, Any]:
    """A small chart in the details of an SAE."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 420,
        "height": 150,
        "background": "white",
        "data": {"name": "values", "values": []},
        "mark": mark,
        "encoding": encoding,
        "config": {"font": _FONT, "axis": {"gridColor": "#eceff3", "titleFontWeight": 500}, "view": {"stroke": None}},
    }


def drawer() -> ModuleType:
    """The library that draws and holds Vega's code. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("vl_convert")
    except ImportError as error:
        raise UsageError(
            f"the page and the plots need the extra 'board' ({error}); pip install 'sae-bench-suite[board]'"
        ) from error


def write_plots(board: Board, collection: Collection, columns: Columns, folder: Path) -> list[Path]:
    """Every plot of ``columns.toml`` for every model and hook point as SVG and PNG; returns the files.

    Raises UsageError where no place has both metrics of a plot.
    """
    draw = drawer()
    files = []
    for place in places(board, collection, columns):
        for x, y in place.plots:
            a, b = place.axes[x], place.axes[y]
            data = points(place, a, b)
            if not data:
                continue
            spec = json.dumps(pareto(data, (a.title, b.title)))
            parts = (place.model, place.hook, b.id.partition(".")[2], "against", a.id.partition(".")[2])
            stem = folder / re.sub(r"[^\w.+-]+", "_", "-".join(parts)).strip("._")[:150]
            svg = draw.vegalite_to_svg(spec, vl_version=VEGA_LITE)
            png = draw.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=3)
            for suffix, content in ((".svg", svg.encode()), (".png", png)):
                files.append(stem.with_name(stem.name + suffix))
                write_atomically(files[-1], content)
    if not files:
        raise UsageError("there is nothing to plot: no SAE has both metrics of a [[plot]] in columns.toml")
    return files
