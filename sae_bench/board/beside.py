"""What stands on a plot beside the SAEs: their controls, the bands of L0 in which they are ranked, their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.collect import Entry
from sae_bench.board.columns import L0
from sae_bench.results import at_l0
from sae_bench.schema import MEASURED

if TYPE_CHECKING:
    from sae_bench.board.figures import Axis

MOST = 60  # SAEs at one place whose controls are on the page: each has about ten, on every axis
Controls = dict[str, dict[SaeKey, list[float | None]]]
_SOFT = "#8a93a0"


def controls_of(entries: Sequence[Entry], axes: Sequence[Axis]) -> Controls:
    """By control and SAE its values on every axis; its L0 also where only other tasks measured it."""
    newest = max((e.result.provenance.control_rules for e in entries), default=0)
    found: Controls = {}
    for e in (e for e in entries if e.result.provenance.control_rules == newest):
        key = key_of(e.result.sae)
        for place, axis in enumerate(axes):
            task, _, metric = axis.id.partition(".")
            if axis.protocol == e.result.protocol and e.result.task == task and key in axis.values:
                for control, values in e.controls.items():
                    if metric in values:
                        found.setdefault(control, {}).setdefault(key, [None] * len(axes))[place] = values[metric]
    _fill_l0(found, entries, [place for place, axis in enumerate(axes) if axis.id == L0])
    return found


def _fill_l0(found: Controls, entries: Sequence[Entry], places: Sequence[int]) -> None:
    for e in entries:
        measured = e.result.details.get(MEASURED)
        for control, said in measured.items() if isinstance(measured, dict) else ():
            l0 = said.get("l0") if isinstance(said, dict) else None
            values = found.get(control, {}).get(key_of(e.result.sae))
            if values is None or not isinstance(l0, int | float) or isinstance(l0, bool):
                continue
            for place in places[:1]:
                values[place] = float(l0) if values[place] is None else values[place]


def points(
    controls: Mapping[str, Mapping[SaeKey, Sequence[float | None]]], keys: Sequence[SaeKey]
) -> Iterator[tuple[str, SaeKey, list[float | None]]]:
    """Control, SAE and its values, to six digits; nothing of more than MOST SAEs."""
    for control, of_sae in controls.items() if len(keys) <= MOST else ():
        for key in (key for key in keys if key in of_sae):
            yield control, key, [None if v is None else float(f"{v:.6g}") for v in of_sae[key]]


def bands(l0s: Sequence[float | None]) -> list[tuple[float, float, int]]:
    """From which L0 to which SAEs are ranked among each other, and how many; of bands within others the widest."""
    known = [one for one in l0s if one is not None]
    if len(known) < 2:
        return []
    order, begin, end = at_l0.windows(known)
    spans = sorted({(int(a), int(b)) for a, b in zip(begin, end, strict=True) if b - a > 1})
    widest = [(a, b) for a, b in spans if not any(c <= a and b <= d and (a, b) != (c, d) for c, d in spans)]
    return [(known[order[a]], known[order[b - 1]], b - a) for a, b in widest]


def on_page(spec: dict[str, Any]) -> dict[str, Any]:
    """The plot with empty layers for bands, controls and names, which the page's script fills."""
    text = {"fontSize": 11, "color": _SOFT}
    tooltip = [{"field": "control"}, {"field": "sae", "title": "of"}, *({"field": n, "format": ".4~g"} for n in "xy")]
    layers = [
        {"name": "bands", "mark": {"type": "rect", "color": "#3b82c4", "opacity": 0.1}, "encoding": {}},
        {
            "name": "levels",
            "mark": {"type": "rule", "color": _SOFT, "strokeDash": [2, 3], "opacity": 0.8},
            "encoding": {"tooltip": [{"field": "label", "title": "control"}, {"field": "level", "format": ".4~g"}]},
        },
        {
            "name": "level-names",
            "mark": {"type": "text", **text, "fontStyle": "italic", "align": "left", "dx": 4, "dy": -6},
            "encoding": {"text": {"field": "label"}},
        },
        {
            "name": "controls",
            "mark": {"type": "point", "shape": "cross", "filled": True, "color": _SOFT, "size": 38, "opacity": 0.75},
            "encoding": {"tooltip": tooltip},
        },
        {
            "name": "control-names",
            "mark": {"type": "text", **text, "fontStyle": "italic", "align": "left", "dx": 6, "dy": -6},
            "encoding": {"text": {"field": "label"}},
        },
    ]
    names = [
        {
            "name": f"names-{side}",
            "mark": {"type": "text", "fontSize": 11, "align": align, "dx": dx, "dy": -6},
            "encoding": {"text": {"field": "label"}},
        }
        for side, align, dx in (("right", "left", 8), ("left", "right", -8))
    ]
    for layer in (*layers, *names):
        layer["data"] = {"values": []}
    for name, layer in zip(("frontier", "across", "along", "saes"), spec["layer"], strict=True):
        layer["name"] = name
    return spec | {"layer": [*layers, *spec["layer"], *names]}
