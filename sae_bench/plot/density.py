"""How often latents are active: histograms of log10 frequency, several SAEs over each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sae_bench.board.collect import Entry
from sae_bench.board.columns import Column
from sae_bench.errors import SaeBenchError, UsageError
from sae_bench.plot import select
from sae_bench.plot.layers import Frame, legend_of
from sae_bench.plot.model import Drawn, series_of, short_names
from sae_bench.plot.scales import Scale, round_
from sae_bench.plot.select import Alike, Only
from sae_bench.plot.style import COLOURS, DASHES, GREY, Paper, wrapped
from sae_bench.plot.xy import assembled
from sae_bench.results import heads
from sae_bench.schema import CoderRecord

TASK, METRIC, HISTOGRAM = "sparsity", "l0", "density_histogram"
APART = 7  # SAEs that colours and dashes tell apart; more are coloured by their L0, a panel each architecture
X, Y = "log10 of firing frequency", "share of latents a decade"


@dataclass(frozen=True)
class Curve:
    """The latents of one SAE: the share of all a decade in bins between ``edges``, and the share of the dead."""

    name: str
    sae: CoderRecord
    l0: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    dead: float
    tokens: int


@dataclass(frozen=True)
class Densities:
    """Panels of curves; ``graded``: coloured by L0."""

    panels: tuple[tuple[str, tuple[Curve, ...]], ...]
    graded: bool


def densities(
    column: Column, entries: Sequence[Entry], only: Only
) -> tuple[Densities, tuple[tuple[Alike, ...], ...], tuple[str, ...]]:
    """The curves of all SAEs by how they were measured, what stands in each panel, and sentences on what is left out.

    Raises UsageError where no result has its histogram.
    """
    notes: list[str] = []
    groups = select.chosen(select.alike(entries, column), only)
    curves = [_curves(one, column, notes) for one in groups]
    kept = [(one, own) for one, own in zip(groups, curves, strict=True) if own]
    if not kept:
        raise UsageError("no result of sparsity has its histogram of density" + (f": {notes[0]}" if notes else ""))
    saes = {(c.sae.name, c.sae.weights_sha256): c.sae for _, own in kept for c in own}
    graded = len(saes) > APART
    headers = select.headers([(one,) for one, _ in kept])
    kinds = series_of(list(saes.values()))
    panels, measured = [], []
    for header, (one, own) in zip(headers, kept, strict=True):
        by_kind: dict[str, list[Curve]] = {}
        for curve in own:
            kind = kinds[curve.sae.architecture, curve.sae.n_latents]
            by_kind.setdefault(kind if graded else "", []).append(curve)
        for kind, some in sorted(by_kind.items()):
            panels.append(("; ".join(part for part in (kind, header) if part), tuple(some)))
            measured.append((one,))
    if len(panels) > select.MOST_PANELS:
        raise UsageError(
            f"these SAEs need {len(panels)} panels, and a figure has at most {select.MOST_PANELS}; choose by --sae, "
            "--model, --hook, --suite or --protocol"
        )
    return Densities(tuple(panels), graded), tuple(measured), tuple(dict.fromkeys(notes))


def _curves(one: Alike, column: Column, notes: list[str]) -> list[Curve]:
    """The curves of SAEs that were measured alike."""
    made = []
    names = short_names([e.result.sae for e in one.entries.values()])
    for name, e in zip(names, one.entries.values(), strict=True):
        try:
            details = heads.whole(e.file, e.result).details
        except SaeBenchError as error:
            notes.append(f"{error}; left out")
            continue
        read = _read(details)
        if read is None:
            notes.append(f"{e.file}: 'details.{HISTOGRAM}' is not what this sae-bench writes; left out")
            continue
        edges, shares, dead, tokens = read
        l0 = e.result.metrics[column.metric].value or 0.0
        made.append(Curve(name, e.result.sae, l0, edges, shares, dead, tokens))
    return made


def _read(details: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...], float, int] | None:
    """The histogram of a result from elsewhere; None where it is not one."""
    content, never, tokens = details.get(HISTOGRAM), details.get("never_active"), details.get("tokens")
    if not isinstance(content, dict) or not _counts([never, tokens]):
        return None
    edges, counts = content.get("log10_edges"), content.get("latents")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1 or not counts:
        return None
    if not _counts(counts) or not all(isinstance(one, int | float) and math.isfinite(one) for one in edges):
        return None
    total = sum(counts) + never  # type: ignore[operator]
    if not total or any(b <= a for a, b in pairwise(edges)):
        return None
    shares = tuple(n / total / (b - a) for n, (a, b) in zip(counts, pairwise(edges), strict=True))
    return tuple(map(float, edges)), shares, never / total, int(tokens)  # type: ignore[operator, arg-type]


def _counts(values: Sequence[Any]) -> bool:
    return all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in values)


def draw(made: Densities, titles: tuple[str, str], paper: Paper, size: tuple[float, float]) -> Drawn:
    """The whole figure, with panels whose inner part has that size in points."""
    every = [curve for _, own in made.panels for curve in own]
    low = min((c.edges[i] for c in every for i, share in enumerate(c.shares) if share), default=-7.0)
    high = max((c.edges[i + 1] for c in every for i, share in enumerate(c.shares) if share), default=0.0)
    x = Scale.around([low, high], log=False)
    top = max((share for c in every for share in c.shares), default=1.0) or 1.0
    y = Scale(0.0, 1.05 * top, False)
    frame = Frame(x, y, titles, size)
    views = [_panel(made, header, own, frame, paper) for header, own in made.panels]
    return Drawn(assembled(views, paper, ""))


def _panel(made: Densities, header: str, curves: Sequence[Curve], frame: Frame, paper: Paper) -> dict[str, Any]:
    encoding = frame.channels()
    rows = [row for curve in curves for row in _steps(curve, made)]
    look = _graded(made, paper) if made.graded else _told_apart(made, paper)
    mark = {"type": "line", "interpolate": "step-after", "strokeWidth": 0.8 if made.graded else 1.1, "clip": True}
    layers = [*_once(curves, frame, paper), {"data": {"values": rows}, "mark": mark, "encoding": encoding | look}]
    view: dict[str, Any] = {"width": round_(frame.size[0]), "height": round_(frame.size[1]), "layer": layers}
    if header:
        view["title"] = {"text": wrapped(header, frame.size[0], paper.small)}
    return view


def _steps(curve: Curve, made: Densities) -> list[dict[str, Any]]:
    """The corners of a curve, from the first to the last bin that holds a latent."""
    used = [i for i, share in enumerate(curve.shares) if share]
    if not used:
        return []
    own = (
        {"sae": legend_text(curve), "l0": round_(curve.l0), "order": curve.name}
        if made.graded
        else {"sae": legend_text(curve)}
    )
    first, last = used[0], used[-1]
    rows: list[dict[str, Any]] = [{"x": round_(curve.edges[first]), "y": 0.0}]
    rows += [{"x": round_(curve.edges[i]), "y": round_(curve.shares[i])} for i in range(first, last + 1)]
    rows += [{"x": round_(curve.edges[last + 1]), "y": 0.0}]
    return [{**row, **own} for row in rows]


def legend_text(curve: Curve) -> str:
    """An SAE, and how many of its latents are on no token and so in no bin."""
    return f"{curve.name} ({100 * curve.dead:.2g} % dead)"


def _told_apart(made: Densities, paper: Paper) -> dict[str, Any]:
    """A colour and a dash for each SAE, with one legend."""
    names = list(dict.fromkeys(legend_text(curve) for _, own in made.panels for curve in own))
    legend = legend_of(names, paper) | {"symbolType": "stroke", "symbolSize": 160, "symbolStrokeWidth": 1.3}
    look = {"field": "sae", "type": "nominal", "legend": legend, "sort": names}
    places = range(len(names))
    colours, dashes = [COLOURS[i % len(COLOURS)] for i in places], [list(DASHES[i % len(DASHES)]) for i in places]
    return {
        "color": {**look, "scale": {"domain": names, "range": colours}},
        "strokeDash": {**look, "scale": {"domain": names, "range": dashes}},
    }


def _graded(made: Densities, paper: Paper) -> dict[str, Any]:
    """A colour from light to dark by L0, and a line for each SAE."""
    l0s = [curve.l0 for _, own in made.panels for curve in own]
    scale = Scale.around(l0s, log=min(l0s) > 0)
    legend = {"orient": "top", "direction": "horizontal", "title": "L0", "gradientLength": round_(0.4 * paper.width)}
    legend |= {
        "gradientThickness": 7,
        "titleOrient": "left",
        "values": scale.ticks(4),
        "format": ".4~g",
        "tickCount": 4,
    }
    domain = {"domain": [round_(min(l0s)), round_(max(l0s))], "scheme": {"name": "viridis", "extent": [0.92, 0.0]}}
    return {
        "color": {
            "field": "l0",
            "type": "quantitative",
            "scale": {"type": "log" if min(l0s) > 0 else "linear", **domain},
            "legend": legend,
        },
        "detail": {"field": "order", "type": "nominal"},
    }


def _once(curves: Sequence[Curve], frame: Frame, paper: Paper) -> list[dict[str, Any]]:
    """Where a latent lies that is active on a single token, where that is within the axis: below it nothing can be."""
    made = []
    for tokens in sorted({curve.tokens for curve in curves if curve.tokens > 0}):
        place = -math.log10(tokens)
        if frame.x.low < place < frame.x.high:
            made.append({"x": round_(place), "y": round_(frame.y.high)})
    if not made:
        return []
    rule: dict[str, Any] = {"type": "rule", "color": GREY, "strokeWidth": 0.6, "strokeDash": [2, 2]}
    text: dict[str, Any] = {
        "type": "text",
        "align": "left",
        "baseline": "top",
        "dx": 2,
        "fontSize": paper.small,
        "color": GREY,
    }
    both = frame.channels()
    return [
        {"data": {"values": made}, "mark": rule, "encoding": {"x": both["x"]}},
        {
            "data": {"values": made[:1]},
            "mark": {**text, "fontSize": paper.small, "text": "one token"},
            "encoding": both,
        },
    ]
