"""A figure of points as data: panels of points, curves and controls, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sae_bench.plot.style import COLOURS, DASHES, SHAPES
from sae_bench.schema import CoderRecord, MetricValue
from sae_bench.show.text import line, shortened

Intervals = Literal["bars", "bands", "none"]
Names = Literal["auto", "yes", "numbers", "no"]


@dataclass(frozen=True)
class Spot:
    """A coordinate of a point: its figure, the ends of its interval if it has one, and whether that is too narrow.

    ``bare``: it is a figure that should have an interval and has none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    narrow: bool = False
    bare: bool = False

    @staticmethod
    def of(figure: MetricValue) -> Spot:
        """The coordinate of a figure that has a value."""
        assert figure.value is not None, "whoever selects leaves out what has none"
        none = figure.low is None or figure.high is None
        return Spot(figure.value, figure.low, figure.high, bool(figure.optimistic), none)

    @property
    def ends(self) -> list[float]:
        """All that must be within the axis."""
        return [one for one in (self.value, self.low, self.high) if one is not None]


@dataclass(frozen=True)
class Point:
    """An SAE in a panel; ``joined``: the curve of its series goes through it."""

    sae: CoderRecord
    name: str
    series: str
    x: Spot
    y: Spot
    joined: bool = False


@dataclass(frozen=True)
class Control:
    """A control in a panel: one level for all SAEs, or its figure beside each of them at that SAE's place.

    ``joined`` False: its places are of its own x, and no line goes through them.
    """

    name: str
    places: tuple[tuple[float, float], ...]
    joined: bool = True

    @property
    def level(self) -> float | None:
        """The figure, where it is the same (to one part in a thousand) beside every SAE; single marks have none."""
        if not self.joined:
            return None
        values = [y for _, y in self.places]
        low, high = min(values), max(values)
        return sum(values) / len(values) if high - low <= 1e-3 * max(abs(low), abs(high)) else None


@dataclass(frozen=True)
class Panel:
    """What was measured alike; ``header`` tells it from the other panels, and is empty where there are none."""

    header: str
    points: tuple[Point, ...]
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True)
class Series:
    """How SAEs of one kind are drawn."""

    name: str
    colour: str
    shape: str
    dash: tuple[float, ...]


@dataclass(frozen=True)
class Figure:
    """Panels with the same two axes; ``whole``: x are layers. ``log``: of x and of y."""

    x: str
    y: str
    panels: tuple[Panel, ...]
    series: tuple[Series, ...]
    log: tuple[bool, bool]
    intervals: Intervals = "bars"
    names: Names = "auto"
    whole: bool = False

    @property
    def points(self) -> list[Point]:
        """Those of all panels."""
        return [point for panel in self.panels for point in panel.points]


@dataclass(frozen=True)
class Drawn:
    """A specification, the numbers that stand for names in it, and the names that found no place."""

    spec: dict[str, Any]
    numbers: dict[int, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def series_of(saes: Sequence[CoderRecord]) -> dict[tuple[str, int], str]:
    """A name for each training architecture and width; the width stands in it where an architecture has several."""
    widths: dict[str, set[int]] = {}
    for sae in saes:
        widths.setdefault(sae.architecture, set()).add(sae.n_latents)
    return {
        (kind, n): shortened(line(kind), 28) + (f", {n} latents" if len(own) > 1 else "")
        for kind, own in sorted(widths.items())
        for n in sorted(own)
    }


def styles(named: Sequence[tuple[str, str]]) -> tuple[Series, ...]:
    """How each series is drawn, given with what its colour stands for; marks and dashes differ between all."""
    kinds = list(dict.fromkeys(kind for _, kind in named))
    return tuple(
        Series(name, COLOURS[kinds.index(kind) % len(COLOURS)], SHAPES[i % len(SHAPES)], DASHES[i % len(DASHES)])
        for i, (name, kind) in enumerate(named)
    )


def short_names(saes: Sequence[CoderRecord]) -> list[str]:
    """Names to stand at points: without the folders that all have in common, never two alike for two SAEs.

    They come from files that we do not trust, and are printable and on one line.
    """
    made = without_common([line(sae.name) for sae in saes])
    weights: dict[str, set[str]] = {}
    for name, sae in zip(made, saes, strict=True):
        weights.setdefault(name, set()).add(f"{sae.name} {sae.weights_sha256}")
    return [
        f"{name} ({sae.weights_sha256[:6]})" if len(weights[name]) > 1 else name
        for name, sae in zip(made, saes, strict=True)
    ]


def without_common(names: Sequence[str]) -> list[str]:
    """Names without the folders that all of them have in common."""
    parts = [name.split("/") for name in names]
    common = 0
    while len(set(names)) > 1 and all(len(p) > common + 1 for p in parts) and len({p[common] for p in parts}) == 1:
        common += 1
    return [shortened("/".join(p[common:]), 40) for p in parts]
