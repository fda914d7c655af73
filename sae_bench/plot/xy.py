"""The Vega-Lite specification of a figure of points: panels with their layers, names that found a place, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sae_bench.plot import labels, layers
from sae_bench.plot.layers import Box, Frame
from sae_bench.plot.model import Drawn, Figure, Panel, Spot
from sae_bench.plot.scales import Scale, round_
from sae_bench.plot.style import GREY, Paper, config, wrapped

_NARROW = "dashed bars: intervals too narrow"
_BARE = "open marks: no interval"
NARROWEST_PANEL = 2.2 * 72  # with its axis
_LEAST_ROOM = 400.0  # square points a name or a number, below which none is tried


def columns(n_panels: int, paper: Paper) -> int:
    """How many panels stand beside each other."""
    return max(1, min(n_panels, int(paper.width / NARROWEST_PANEL)))


def draw(figure: Figure, paper: Paper, size: tuple[float, float]) -> Drawn:
    """The whole figure, with panels whose inner part has that size in points."""
    room = size[0] * size[1] / max(len(panel.points) for panel in figure.panels)
    if figure.names == "auto" and room < _LEAST_ROOM:
        unnamed = draw(replace(figure, names="no"), paper, size)
        return replace(unnamed, left_out=tuple(dict.fromkeys(p.name for p in figure.points)))
    numbered = figure.names == "numbers"
    made = [_panel(figure, panel, paper, size, numbered) for panel in figure.panels]
    if figure.names == "auto" and any(left for _, left in made):
        numbered = True
        made = [_panel(figure, panel, paper, size, numbered) for panel in figure.panels]
    spec = assembled([view for view, _ in made], paper, _key(figure))
    return Drawn(
        spec,
        numbers_of(figure) if numbered else {},
        tuple(dict.fromkeys(name for _, left in made for name in left)),
    )


def assembled(views: Sequence[dict[str, Any]], paper: Paper, key: str) -> dict[str, Any]:
    """A specification of one panel or several, with ``key``, a line of text, below them."""
    spec: dict[str, Any] = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "background": "white"}
    if len(views) == 1:
        spec |= {name: part for name, part in views[0].items() if name != "title"}
    else:
        spec |= {"concat": list(views), "columns": columns(len(views), paper), "spacing": 10}
        spec["resolve"] = {"scale": dict.fromkeys(("color", "shape"), "shared")}
    if key:
        spec["title"] = {
            "text": wrapped(key, paper.width - 20, paper.small),
            "orient": "bottom",
            "anchor": "end",
            "frame": "bounds",
            "color": GREY,
            "offset": 2,
        }
    spec["config"] = config(paper)
    return spec


def _key(figure: Figure) -> str:
    """What the drawing says beside the legend, where there is anything of it."""
    spots = [spot for point in figure.points for spot in (point.x, point.y)]
    narrow = figure.intervals != "none" and any(spot.narrow for spot in spots)
    parts = [_NARROW] if narrow else []
    return "; ".join([*parts, *([_BARE] if any(spot.bare for spot in spots) else [])])


def numbers_of(figure: Figure) -> dict[int, str]:
    """Numbers of the SAEs in the order of their x, the same in all panels."""
    ordered = sorted(figure.points, key=lambda p: (p.x.value, p.y.value, p.name))
    return dict(enumerate(dict.fromkeys(point.name for point in ordered), 1))


def _panel(
    figure: Figure, panel: Panel, paper: Paper, size: tuple[float, float], numbered: bool
) -> tuple[dict[str, Any], list[str]]:
    """One panel, and the names without a place."""
    frame = Frame(*axes(figure, panel), (figure.x, figure.y), size)
    looks = layers.look(figure, paper)
    banded = figure.intervals == "bands"
    barred = [
        p for p in panel.points if figure.intervals == "bars" or (banded and (not p.joined or p.x.narrow or p.y.narrow))
    ]
    made = layers.bands(figure, panel, frame) if banded else []
    made += layers.controls(panel, frame, paper)
    made += layers.curves(figure, panel, frame)
    made += layers.bars(barred, frame)
    made += layers.marks(panel, frame, looks)
    named, left = _names(figure, panel, frame, paper, numbered)
    made += layers.names(named, panel, frame, paper)
    view: dict[str, Any] = {"width": round_(size[0]), "height": round_(size[1]), "layer": made}
    if panel.header:
        view["title"] = {"text": wrapped(panel.header, size[0], paper.small)}
    return view, left


def axes(figure: Figure, panel: Panel) -> tuple[Scale, Scale]:
    """The two axes of a panel, which hold all points, the ends of their intervals and the controls."""
    xs, ys = (_ends([(p.x, p.y)[axis] for p in panel.points], figure, axis) for axis in (0, 1))
    xs += [x for control in panel.controls if control.level is None for x, _ in control.places]
    ys += [y for control in panel.controls for _, y in control.places]
    return Scale.around(xs, log=figure.log[0], whole=figure.whole), Scale.around(ys, log=figure.log[1])


def _ends(spots: Sequence[Spot], figure: Figure, axis: int) -> list[float]:
    """Values, and the ends of intervals that are drawn; on a logarithmic axis at most ten times below their value."""
    made = []
    for spot in spots:
        ends = [spot.value] if figure.intervals == "none" else spot.ends
        made += [max(end, spot.value / 10) if figure.log[axis] else end for end in ends]
    return made


def _names(
    figure: Figure, panel: Panel, frame: Frame, paper: Paper, numbered: bool
) -> tuple[list[labels.Label], list[str]]:
    """Where names or numbers stand, and the names of the SAEs that have none."""
    if figure.names == "no":
        return [], []
    number = {name: str(n) for n, name in numbers_of(figure).items()}
    texts = [number[p.name] if numbered else p.name for p in panel.points]
    places = [frame.at(p.x.value, p.y.value) for p in panel.points]
    boxes = layers.control_boxes(panel, frame, paper)
    made = labels.place(places, texts, frame.size, paper.small, taken=boxes, crossed=_crossed(figure, panel, frame))
    there = {label.place for label in made}
    return made, [p.name for i, p in enumerate(panel.points) if i not in there]


def _crossed(figure: Figure, panel: Panel, frame: Frame) -> list[Box]:
    """Small boxes along bars, curves and the lines of controls."""
    lines = [
        sorted(frame.at(p.x.value, p.y.value) for p in panel.points if p.series == one.name and p.joined)
        for one in figure.series
    ]
    lines += [layers.path(control, frame) for control in panel.controls]
    for p in panel.points if figure.intervals != "none" else ():
        lines.append([frame.at(x, p.y.value) for x in p.x.ends[1:]])
        lines.append([frame.at(p.x.value, y) for y in p.y.ends[1:]])
    return [box for corners in lines for box in layers.along(corners)]
