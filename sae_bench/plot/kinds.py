"""Figures of one metric against another, from results: against L0 (``pareto``) or any other (``scatter``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sae_bench.board.collect import Entry
from sae_bench.board.columns import L0, Column
from sae_bench.board.figures import scale_type
from sae_bench.errors import UsageError
from sae_bench.plot import controls, select
from sae_bench.plot.model import Figure, Intervals, Names, Panel, Point, Spot, series_of, short_names, styles
from sae_bench.plot.select import Alike, Only
from sae_bench.results import at_l0
from sae_bench.schema import MetricValue
from sae_bench.show.results import few
from sae_bench.show.text import line


@dataclass(frozen=True)
class Look:
    """What a user chooses of a figure: ``log`` None is by the figures; ``controls``: "best", "none", "all" or names."""

    log: str | None = None
    controls: str = controls.BEST
    intervals: Intervals = "bars"
    names: Names = "auto"


@dataclass(frozen=True)
class Made:
    """A figure, the results in it by panel, and sentences about what is not in it."""

    figure: Figure
    panels: tuple[tuple[Alike, ...], ...]
    notes: tuple[str, ...]


def against(entries: Sequence[Entry], axes: tuple[Column, Column], only: Only, look: Look, *, curves: bool) -> Made:
    """One metric against another, with ``curves`` along what no SAE of an architecture beats in both.

    Where the metric has no better direction, curves go through all SAEs of an architecture in the order of x. Raises
    UsageError where no SAE has both.
    """
    x, y = axes
    notes: list[str] = []
    others, panels = select.alike(entries, x), []
    for one in select.chosen(select.alike(entries, y), only):
        other = select.beside(one, others)
        if other is None or not one.entries.keys() & other.entries.keys():
            notes.append(f"{few([name for name, _ in one.entries])}: no {x.id} was measured beside {y.id}; left out")
            continue
        if lacking := [name for name, _ in one.entries if (name, _) not in other.entries]:
            notes.append(f"{few(lacking)}: no {x.id} was measured alike; left out")
        panels.append((one, other))
    if not panels:
        raise UsageError(f"no SAE has both {x.id} and {y.id}, measured at one hook point" + because(notes))
    saes = {k: e.result.sae for one, other in panels for k, e in one.entries.items() if k in other.entries}
    names = dict(zip(saes, short_names(list(saes.values())), strict=True))
    kinds = series_of(list(saes.values()))
    series = styles([(name, kind) for (kind, _), name in kinds.items()])
    made = []
    for header, (one, other) in zip(select.headers(panels), panels, strict=True):
        points = [
            Point(
                saes[key],
                names[key],
                kinds[saes[key].architecture, saes[key].n_latents],
                Spot.of(value_of(other.entries[key], x)),
                Spot.of(value_of(one.entries[key], y)),
            )
            for key in one.entries
            if key in other.entries
        ]
        points = _joined(points, x, y) if curves else points
        if x.id == L0:
            where = {key: value_of(e, x).value or 0.0 for key, e in other.entries.items()}
            beside = controls.beside(one, y, where, look.controls)
        else:
            beside = controls.at_own_x(one, other, (x, y), look.controls, notes)
        made.append(Panel(header, tuple(points), tuple(beside)))
    figure = Figure(x.heading, y.heading, tuple(made), series, (False, False), look.intervals, look.names)
    return Made(scaled(figure, look.log, (x.id, y.id), notes), tuple(panels), tuple(dict.fromkeys(notes)))


def because(notes: Sequence[str]) -> str:
    """The first of what was noted, as the end of a refusal."""
    return f": {notes[0]}" if notes else ""


def value_of(entry: Entry, column: Column) -> MetricValue:
    """The figure of a result."""
    return entry.result.metrics[column.metric]


def _joined(points: Sequence[Point], x: Column, y: Column) -> list[Point]:
    """The points with those marked that the curve of their series goes through."""
    from sae_bench.results.compare import ROUNDING

    made = list(points)
    for series in dict.fromkeys(p.series for p in points):
        own = [i for i, p in enumerate(points) if p.series == series]
        costs = [controls.cost(points[i].y.value, y) for i in own]
        on = [True] * len(own)
        known = [one for one in costs if one is not None]
        if len(known) == len(own):
            on = at_l0.on_front([_few(points[i].x.value, x) for i in own], known, ROUNDING)
        for i, joins in zip(own, on, strict=True):
            made[i] = replace(points[i], joined=joins)
    return made


def _few(value: float, x: Column) -> float:
    """What a front makes small along x: fewer active latents, or what is better."""
    found = controls.cost(value, x)
    return value if found is None else found


def scaled(figure: Figure, log: str | None, ids: tuple[str, str], notes: list[str]) -> Figure:
    """The figure with its axes linear or logarithmic, as asked or as the figures ask. Raises UsageError."""
    asked = None if log is None else {part for part in log.split(",") if part}
    if asked is not None and not asked <= {"x", "y", "none"}:
        raise UsageError(f"--log must be x, y, x,y or none; got {line(log or '')[:40]!r}")
    chosen = []
    for axis in (0, 1):
        spots = [(p.x, p.y)[axis] for p in figure.points]
        if axis == 0 and figure.whole:
            if asked is not None and "x" in asked:
                raise UsageError("--log x: layers are counted, and are not on a logarithmic axis")
            chosen.append(False)
        elif asked is None:
            chosen.append(scale_type([end for spot in spots for end in spot.ends]) == "log")
        else:
            chosen.append("xy"[axis] in asked)
            if chosen[-1] and (below := sum(spot.value <= 0 for spot in spots)):
                raise UsageError(
                    f"--log {'xy'[axis]}: {below} of {len(spots)} figures of {ids[axis]} are 0 or less, which no "
                    "logarithmic axis has; leave it out"
                )
    panels = []
    for panel in figure.panels:
        kept = tuple(c for c in panel.controls if not chosen[1] or min(y for _, y in c.places) > 0)
        if lost := [c.name for c in panel.controls if c not in kept]:
            notes.append(f"control {few(lost)}: 0 or less, so it is not on the logarithmic axis")
        if chosen[0]:
            kept = tuple(c for c in kept if c.level is not None or min(x for x, _ in c.places) > 0)
        panels.append(replace(panel, controls=kept))
    return replace(figure, log=(chosen[0], chosen[1]), panels=tuple(panels))
