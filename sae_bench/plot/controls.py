"""Controls in a figure: which are drawn, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from sae_bench import registry
from sae_bench.board.alike import SaeKey
from sae_bench.board.columns import Column
from sae_bench.plot.model import Control
from sae_bench.plot.select import Alike
from sae_bench.show.against import WHOLE
from sae_bench.show.text import line, shortened

BEST = "best"  # the word for the best of the controls that an SAE has to beat


def cost(value: float, column: Column) -> float | None:
    """What is small where the figure is good; None of a figure by which nobody is ranked, or without a direction."""
    if not column.spec.orders:
        return None
    return {"lower": value, "higher": -value, "none": None}[column.spec.better]


def beside(one: Alike, y: Column, where: Mapping[SaeKey, float], said: str) -> list[Control]:
    """The controls that ``said`` asks for, each at the x of the SAE beside which it was measured."""
    found = _found(one, y, where)
    made = []
    for name in _wanted(found, y, said):
        control = Control(_name(name), tuple(found[name].values()))
        upright = (
            control.level is None and len({x for x, _ in control.places}) < 2
        )  # where there is one layer, or one L0
        made.append(replace(control, joined=not upright))
    return made


def at_own_x(one: Alike, other: Alike, axes: tuple[Column, Column], said: str, notes: list[str]) -> list[Control]:
    """Likewise at their own figures of both metrics; what is no level and has no x is left out, and that is noted."""
    x, y = axes
    found = _found(one, y, {key: other.entries[key].result.metrics[x.metric].value or 0.0 for key in other.entries})
    made = []
    for name in _wanted(found, y, said):
        level = Control(_name(name), tuple(found[name].values()))
        own = {key: other.entries[key].controls.get(name, {}) for key in found[name]}
        pairs = [(values[x.metric], found[name][key][1]) for key, values in own.items() if x.metric in values]
        if pairs:
            made.append(Control(level.name, tuple(pairs), joined=False))
        elif level.level is not None:
            made.append(level)
        else:
            notes.append(f"control {level.name}: has no {x.id}, so it is left out")
    return made


def _name(control: str) -> str:
    return line(shortened(control, 30))


_Places = dict[str, dict[SaeKey, tuple[float, float]]]  # by control and SAE


def _found(one: Alike, y: Column, where: Mapping[SaeKey, float]) -> _Places:
    """All controls that have the metric."""
    found: _Places = {}
    for key, e in one.entries.items():
        for name, values in e.controls.items():
            if y.metric in values and key in where:
                found.setdefault(name, {})[key] = (where[key], values[y.metric])
    return found


def _wanted(found: _Places, y: Column, said: str) -> list[str]:
    """Which controls are drawn. Raises UsageError for one that no result has.

    The best is the one that has the best figure beside half of the SAEs; neither a copy nor what an SAE could reach is
    one, and in a metric by which nobody is ranked there is none.
    """
    if said == "none" or not found:
        return []
    if said != BEST:
        return sorted(registry.choose(said, dict.fromkeys(sorted(found)), "control of these results"))
    known = registry.controls()
    costs = {
        name: [cost(value, y) for _, value in places.values()]
        for name, places in found.items()
        if name not in WHOLE and not (name in known and known[name].bound)
    }
    bars = {name: median(own) for name, every in costs.items() if (own := [c for c in every if c is not None])}
    return [min(bars, key=lambda name: (bars[name], name))] if bars and y.spec.orders else []
