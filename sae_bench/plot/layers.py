"""The layers of a panel, as Vega-Lite takes them: intervals, controls, curves, marks, names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sae_bench.plot.labels import Label
from sae_bench.plot.model import Control, Figure, Panel, Point, Series
from sae_bench.plot.scales import Scale, round_
from sae_bench.plot.style import DARK, GREY, RADIUS, Paper, fitted, text_width

Box = tuple[float, float, float, float]  # left, top, right, bottom
Layer = dict[str, Any]
NARROW_DASH = [1.5, 1.2]
_CONTROL_DASHES = ([4, 2], [1, 1.5], [7, 2], [4, 1, 1, 1])
_AREA = 3.1416 * RADIUS**2
_TICK = "abs(datum.value) >= 1e5 ? format(datum.value, '~s') : format(datum.value, '.4~g')"


@dataclass(frozen=True)
class Frame:
    """The inner part of a panel: its axes with their titles, and its size in points."""

    x: Scale
    y: Scale
    titles: tuple[str, str]
    size: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a pair of figures, from the upper left corner."""
        return self.x.share(x) * self.size[0], (1 - self.y.share(y)) * self.size[1]

    def back(self, left: float, top: float) -> dict[str, float]:
        """The figures that are at a place."""
        return {
            "x": round_(self.x.value(left / self.size[0])),
            "y": round_(self.y.value(1 - top / self.size[1])),
        }

    def channels(self, x: str = "x", y: str = "y") -> dict[str, Any]:
        """The two positions, read from these fields; the same axes in every layer."""
        made = {}
        for name, field, scale, title, room, apart in (
            ("x", x, self.x, self.titles[0], self.size[0], 36),
            ("y", y, self.y, self.titles[1], self.size[1], 20),
        ):
            axis = {"values": scale.ticks(max(3, int(room / apart))), "labelExpr": _TICK, "labelOverlap": False}
            axis |= {"titleLimit": 1.3 * room}
            made[name] = {
                "field": field,
                "type": "quantitative",
                "title": title,
                "scale": scale.to_json(),
                "axis": axis,
            }
        return made


def legend_of(names: Sequence[str], paper: Paper) -> Layer:
    """A legend above the panels, in as many columns as fit; a name that is too wide for one is shortened in it."""
    shown = [fitted(name, paper.width - 40, paper.small) for name in names]
    widest = max(text_width(name, paper.small) for name in shown) + 22
    legend: Layer = {"orient": "top", "title": None, "columns": max(1, int((paper.width - 20) / widest))}
    if shown != list(names):
        legend["labelExpr"] = f"{json.dumps(shown)}[indexof({json.dumps(list(names))}, datum.label)]"
    return legend


def look(figure: Figure, paper: Paper) -> dict[str, dict[str, Any]]:
    """Colour and mark of a series, with one legend for both; without one where there is one series."""
    names = [one.name for one in figure.series]
    legend = None
    if len(names) > 1:
        legend = legend_of(names, paper) | {"symbolSize": 1.6 * _AREA, "symbolStrokeWidth": 1, "symbolOpacity": 1}
    values = {"color": [one.colour for one in figure.series], "shape": [one.shape for one in figure.series]}
    return {
        channel: {"field": "series", "type": "nominal", "scale": {"domain": names, "range": own}, "legend": legend}
        for channel, own in values.items()
    }


def _layer(rows: Sequence[dict[str, Any]], mark: dict[str, Any], encoding: dict[str, Any]) -> list[Layer]:
    """A layer, or none where it would be empty."""
    return [{"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}] if rows else []


def bands(figure: Figure, panel: Panel, frame: Frame) -> list[Layer]:
    """The intervals along each curve, as an area."""
    made: list[Layer] = []
    for series, points in _joined(figure, panel):
        rows = [
            {"x": round_(p.x.value), "l": within(p.y.low, frame.y), "h": within(p.y.high, frame.y)}
            for p in points
            if p.y.low is not None
        ]
        mark = {"type": "area", "opacity": 0.2, "clip": True, "color": series.colour}
        made += _layer(rows, mark, {**frame.channels(y="l"), "y2": {"field": "h"}})
    return made


def _joined(figure: Figure, panel: Panel) -> list[tuple[Series, list[Point]]]:
    """The points that the curve of each series goes through, in its order."""
    ordered = sorted((p for p in panel.points if p.joined), key=lambda p: (p.x.value, p.y.value, p.name))
    return [(one, [p for p in ordered if p.series == one.name]) for one in figure.series]


def within(value: float | None, scale: Scale) -> float | None:
    """The value, or the end of the axis that it lies beyond: no logarithm of what is not above 0."""
    return None if value is None else round_(min(max(value, scale.low), scale.high))


def controls(panel: Panel, frame: Frame, paper: Paper) -> list[Layer]:
    """Controls as grey lines that say their name, with a tick for each SAE where they are not one level."""
    layers: list[Layer] = []
    for i, control in enumerate(panel.controls):
        rows = [{"x": round_(a), "y": within(b, frame.y)} for a, b in corners(control, frame)]
        line = {"type": "line", "color": GREY, "strokeWidth": 0.9, "clip": True}
        line["strokeDash"] = _CONTROL_DASHES[i % len(_CONTROL_DASHES)]
        if control.joined:
            layers += _layer(rows, line, frame.channels())
        if control.level is None:
            tick = {"type": "point", "shape": "stroke", "size": 14, "color": GREY, "strokeWidth": 0.9, "clip": True}
            layers += _layer(rows, tick, frame.channels())
    text = {"type": "text", "align": "right", "baseline": "middle", "fontStyle": "italic", "color": GREY}
    named = [
        {**frame.back(box[2], (box[1] + box[3]) / 2), "t": control_text(control)}
        for control, box in zip(panel.controls, control_boxes(panel, frame, paper), strict=True)
    ]
    return layers + _layer(named, {**text, "fontSize": paper.small}, {**frame.channels(), "text": {"field": "t"}})


def control_text(control: Control) -> str:
    """How a control is called in a figure."""
    return f"control: {control.name}"


def corners(control: Control, frame: Frame) -> list[tuple[float, float]]:
    """The corners of a control's line: across the panel where it is one level."""
    if control.level is not None:
        return [(frame.x.low, control.level), (frame.x.high, control.level)]
    return sorted(control.places)


def path(control: Control, frame: Frame) -> list[tuple[float, float]]:
    """The line of a control in the panel, empty where it has none."""
    return [frame.at(*corner) for corner in corners(control, frame)] if control.joined else []


def control_boxes(panel: Panel, frame: Frame, paper: Paper) -> list[Box]:
    """Where the names of controls stand: beside their lines, at the right if there is room, over no mark or line."""
    made: list[Box] = []
    tall = paper.small * 1.05
    marks = [frame.at(p.x.value, p.y.value) for p in panel.points]
    taken = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in marks]
    lines = [box for control in panel.controls for box in along(path(control, frame))]
    for control in panel.controls:
        wide = min(text_width(control_text(control), paper.small), frame.size[0])
        tried = []
        for corner in reversed(corners(control, frame)):
            end, level = frame.at(*corner)
            right = min(max(end, wide), frame.size[0] - 1)
            for rank, top in enumerate(level + step * tall - tall / 2 for step in (-0.7, 0.7, -1.4, 1.4, -2.1, 2.1)):
                kept = min(max(top, 0.0), frame.size[1] - tall)
                box = (right - wide, kept, right, kept + tall)
                over = 50 * sum(overlap(box, other) for other in (*made, *taken))
                over += 3 * sum(overlap(box, other) for other in lines)
                tried.append((over + abs(top - kept) + rank + 0.02 * (frame.size[0] - right), box))
        made.append(min(tried)[1])
    return made


def along(places: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along the line through some places."""
    made = []
    for a, b in pairwise(places):
        n = max(1, int((abs(a[0] - b[0]) + abs(a[1] - b[1])) / 6))
        for i in range(n + 1):
            x, y = a[0] + (b[0] - a[0]) * i / n, a[1] + (b[1] - a[1]) * i / n
            made.append((x - 1, y - 1, x + 1, y + 1))
    return made


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes have anything in common."""
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def curves(figure: Figure, panel: Panel, frame: Frame) -> list[Layer]:
    """A line for each series through the points that it joins."""
    made: list[Layer] = []
    for series, points in _joined(figure, panel):
        rows = [{"x": round_(p.x.value), "y": round_(p.y.value)} for p in points]
        mark = {"type": "line", "strokeWidth": 1.1, "clip": True, "color": series.colour}
        made += _layer(rows, {**mark, "strokeDash": list(series.dash)}, frame.channels())
    return made


def bars(points: Sequence[Point], frame: Frame) -> list[Layer]:
    """A bar for each interval in either direction; one that is too narrow is dashed."""
    layers: list[Layer] = []
    for name in "xy":
        scale = frame.x if name == "x" else frame.y
        for narrow in (False, True):
            rows = []
            for p in points:
                own, across = (p.x, p.y) if name == "x" else (p.y, p.x)
                if own.low is not None and own.narrow == narrow:
                    rows.append({"l": within(own.low, scale), "h": within(own.high, scale), "at": round_(across.value)})
            channels = frame.channels("l", "at") if name == "x" else frame.channels("at", "l")
            mark = {"type": "rule", "color": GREY, "strokeWidth": 0.8, "clip": True}
            mark |= {"strokeDash": NARROW_DASH} if narrow else {}
            layers += _layer(rows, mark, {**channels, f"{name}2": {"field": "h"}})
    return layers


def marks(panel: Panel, frame: Frame, looks: dict[str, Any]) -> list[Layer]:
    """A mark for each SAE, open where a figure should have an interval and has none."""
    layers: list[Layer] = []
    for bare in (False, True):
        rows = [
            {"series": p.series, "x": round_(p.x.value), "y": round_(p.y.value), "sae": p.name}
            for p in panel.points
            if (p.x.bare or p.y.bare) == bare
        ]
        mark = {"type": "point", "size": _AREA, "opacity": 1, "strokeWidth": 1, "filled": not bare}
        mark |= {"fill": "white"} if bare else {}
        layers += _layer(rows, mark, {**frame.channels(), "color": looks["color"], "shape": looks["shape"]})
    return layers


def names(named: Sequence[Label], panel: Panel, frame: Frame, paper: Paper) -> list[Layer]:
    """The names, and the lines that lead from those further off to their points."""
    leads = []
    for one in named:
        point = panel.points[one.place]
        if one.leads:
            end = {"x2": round_(point.x.value), "y2": round_(point.y.value)}
            leads.append({**frame.back(one.x, one.y), **end})
    ends = {"x2": {"field": "x2"}, "y2": {"field": "y2"}}
    layers = _layer(leads, {"type": "rule", "color": GREY, "strokeWidth": 0.4}, {**frame.channels(), **ends})
    for align in ("left", "center", "right"):
        rows = [{**frame.back(one.x, one.y), "t": one.text} for one in named if one.align == align]
        mark = {
            "type": "text",
            "align": align,
            "baseline": "middle",
            "fontSize": paper.small,
            "color": DARK,
            "limit": 0,
        }
        layers += _layer(rows, mark, {**frame.channels(), "text": {"field": "t"}})
    return layers
