"""Figures over layers: a metric of SAEs of many hook points, with a line for those that belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sae_bench.board.alike import SaeKey
from sae_bench.board.collect import Entry
from sae_bench.board.columns import Column
from sae_bench.board.layout import hook_of
from sae_bench.errors import UsageError
from sae_bench.plot import select
from sae_bench.plot.controls import beside
from sae_bench.plot.kinds import Look, Made, because, scaled, value_of
from sae_bench.plot.model import Figure, Panel, Point, Spot, series_of, short_names, styles, without_common
from sae_bench.plot.select import Alike, Only
from sae_bench.show.results import few
from sae_bench.show.text import line, shortened

_LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|layer|h|block)\.(\d+)(?=\.|:|$)")
_NUMBER = re.compile(r"(?<![\w.])(\d+)(?![\w])|(?<=\.)(\d+)(?=\.|:|$)")


def depth(entries: Sequence[Entry], column: Column, only: Only, look: Look) -> Made:
    """A metric over layers: a line for each architecture, width and site (:func:`_families`).

    Raises UsageError where no hook point is in a layer.
    """
    notes: list[str] = []
    panels: list[tuple[Alike]] = []
    made: list[Panel] = []
    lines: list[tuple[dict[SaeKey, int], dict[SaeKey, tuple[str, bool]]]] = []
    groups = select.chosen(select.alike(entries, column, depth=True), only)
    for one in groups:
        found = {key: at for key, e in one.entries.items() if (at := layer_of(_hook(e))) is not None}
        lost = [e.result.sae.name for key, e in one.entries.items() if key not in found]
        if lost:
            notes.append(f"{few(lost)}: their hook point is in no layer; left out")
        if found:
            kept = replace(one, entries={k: e for k, e in one.entries.items() if k in found})
            panels.append((kept,))
            lines.append((found, _families(kept, found, notes)))
    if not panels:
        raise UsageError(f"no result of {column.id} is of a hook point in a numbered layer" + because(notes))
    kinds: dict[str, str] = {}
    saes = [e.result.sae for (one,) in panels for e in one.entries.values()]
    names = iter(short_names(saes))
    headers = select.headers(panels, depth=True)
    for header, (one,), (found, families) in zip(headers, panels, lines, strict=True):
        points = []
        for key, e in one.entries.items():
            family, joined = families[key]
            kinds.setdefault(family, e.result.sae.architecture)
            spots = Spot(float(found[key])), Spot.of(value_of(e, column))
            points.append(Point(e.result.sae, next(names), family, *spots, joined))
        where = {key: float(at) for key, at in found.items()}
        made.append(Panel(header, tuple(points), tuple(beside(one, column, where, look.controls))))
    series = styles(sorted(kinds.items(), key=lambda item: (item[1], item[0])))
    figure = Figure("layer", column.heading, tuple(made), series, (False, False), look.intervals, look.names, True)
    return Made(scaled(figure, look.log, ("layer", column.id), notes), tuple(panels), tuple(dict.fromkeys(notes)))


def _hook(entry: Entry) -> str:
    return hook_of(entry.result.provenance.protocol)


def layer_of(hook: str) -> int | None:
    """The number of the layer in the name of a hook point; None where it has none."""
    found = _LAYER.search(hook) or _NUMBER.search(hook)
    return None if found is None else int(next(part for part in found.groups() if part is not None))


def _families(one: Alike, layers: Mapping[SaeKey, int], notes: list[str]) -> dict[SaeKey, tuple[str, bool]]:
    """For each SAE the line that it is on, and whether there is one through it.

    SAEs of one architecture, width and site are a line if each layer has one of them. Where a layer has several, those
    are a line whose names differ by the layer's number alone; what then still shares a layer is no line.
    """
    made: dict[SaeKey, tuple[str, bool]] = {}
    saes = {key: e.result.sae for key, e in one.entries.items()}
    kinds = series_of(list(saes.values()))
    sites = {key: _site(_hook(e), layers[key]) for key, e in one.entries.items()}
    groups: dict[tuple[str, int, str], list[SaeKey]] = {}
    for key, sae in saes.items():
        groups.setdefault((sae.architecture, sae.n_latents, sites[key]), []).append(key)
    for (kind, width, site), keys in sorted(groups.items()):
        name = kinds[kind, width] + (f", {line(shortened(site, 40))}" if len(set(sites.values())) > 1 else "")
        if _once(keys, layers):
            made |= {key: (name, len(keys) > 1) for key in keys}
            continue
        patterns: dict[str, list[SaeKey]] = {}
        for key in keys:
            patterns.setdefault(_site(line(saes[key].name), layers[key]), []).append(key)
        short = dict(zip(patterns, without_common(list(patterns)), strict=True))
        for pattern, own in sorted(patterns.items()):
            line_here = len(own) > 1 and _once(own, layers)
            made |= {key: (f"{name}: {short[pattern]}" if len(own) > 1 else name, line_here) for key in own}
        if alone := [
            saes[key].name for own in patterns.values() for key in own if not _once(own, layers) or len(own) < 2
        ]:
            notes.append(
                f"{few(alone)}: several SAEs of {name} are in one layer, so no line joins them; a line needs names "
                "that differ by the layer's number alone, or --sae"
            )
    return made


def _once(keys: Sequence[SaeKey], layers: Mapping[SaeKey, int]) -> bool:
    return len({layers[key] for key in keys}) == len(keys)


def _site(hook: str, layer: int) -> str:
    return re.sub(rf"(?<!\d)0*{layer}(?!\d)", "*", hook)
