"""What must be known to read a figure, as the sentences of a caption: who, on what, how sure, and what is drawn how."""

from __future__ import annotations

from collections.abc import Sequence

from sae_bench.board.collect import Entry
from sae_bench.board.columns import Column
from sae_bench.board.layout import hook_of
from sae_bench.plot import controls, kinds
from sae_bench.plot.density import Densities
from sae_bench.plot.model import Figure
from sae_bench.plot.select import Alike
from sae_bench.results import at_l0
from sae_bench.results.store import protocol_hash
from sae_bench.show.results import few, population
from sae_bench.show.text import number

_BETTER = {"lower": "lower is better", "higher": "higher is better", "none": "neither more nor less is better"}


def of_points(
    made: kinds.Made, columns: Sequence[Column], kind: str, numbers: dict[int, str], entries: Sequence[Entry]
) -> list[str]:
    """The caption of a figure of points."""
    figure = made.figure
    what = " against ".join(
        f"{c.id} ({c.spec.name}{'' if c.id == 'sparsity.l0' else '; ' + _direction(c)})" for c in reversed(columns)
    )
    over = " over layers" if kind == "depth" else ""
    names = dict.fromkeys((p.sae.name, p.sae.weights_sha256) for p in figure.points)
    said = [f"{what}{over}, of {len(names)} {'SAE' if len(names) == 1 else 'SAEs'}.", *_measured(made.panels, kind)]
    said += _drawn(figure, kind, columns[-1])
    if kind == "depth" and columns[-1].spec.at_equal_l0:
        span = l0_range(entries)
        l0 = f"L0 is from {span}" if span else "their L0 was not measured"
        said.append(f"More active latents alone make {columns[-1].spec.name} better; {l0}.")
    if numbers:
        said.append("; ".join(f"{n}: {name}" for n, name in numbers.items()) + ".")
    return said


def of_densities(made: Densities, panels: Sequence[tuple[Alike, ...]]) -> list[str]:
    """The caption of a figure of densities."""
    n = len({(c.sae.name, c.sae.weights_sha256) for _, own in made.panels for c in own})
    said = [f"On which share of tokens latents are active, of {n} {'SAE' if n == 1 else 'SAEs'}; histograms of log10."]
    said += _measured(panels, "density")
    said.append("Dead latents, active on no token, are in no bin; shares are of all latents, with the dead ones.")
    if made.graded:
        said.append("A curve is an SAE, coloured by its L0.")
    return said


def _direction(column: Column) -> str:
    target = column.spec.target
    return f"ideal is {target:g}" if target is not None else _BETTER[column.spec.better]


def _measured(panels: Sequence[tuple[Alike, ...]], kind: str) -> list[str]:
    """On what, under which protocols; one sentence for all panels."""
    every = [one for panel in panels for one in panel]
    first = [next(iter(one.entries.values())).result for one in every]
    parts = [
        few(list(dict.fromkeys(one.protocol.model for one in every))),
        "" if kind == "depth" else few(list(dict.fromkeys(hook_of(one.protocol) for one in every))),
        few(list(dict.fromkeys(population(result) for result in first))),
        few(list(dict.fromkeys(one.suite for one in every))),
    ]
    return [f"Measured on {'; '.join(part for part in parts if part)}; protocols: {_protocols(every, kind)}."]


def _protocols(every: Sequence[Alike], kind: str) -> str:
    """Their digests; over layers, where each hook point has its own, those of a few."""
    digests = [_protocol(one) for one in every]
    if kind == "depth":
        results = [entry.result for one in every for entry in one.entries.values()]
        digests = [f"{r.task} v{r.version} {r.protocol[:8]}" for r in results]
    found = sorted(set(digests), key=digests.index)
    return few(found) if kind != "depth" or len(found) < 4 else f"{len(found)}, one a hook point"


def _protocol(one: Alike) -> str:
    return f"{one.protocol.task} v{one.protocol.version} {protocol_hash(one.protocol)[:8]}"


def _drawn(figure: Figure, kind: str, column: Column) -> list[str]:
    """How intervals, curves and controls are drawn."""
    spots = [spot for p in figure.points for spot in (p.x, p.y)]
    said = []
    if figure.intervals != "none" and any(spot.low is not None for spot in spots):
        drawn = "Bands and bars" if figure.intervals == "bands" else "Bars"
        dashed = (
            "; dashed where the sample itself says that they are too narrow" if any(s.narrow for s in spots) else ""
        )
        said.append(f"{drawn} are 95 % intervals{dashed}.")
    if any(spot.bare for spot in spots):
        said.append("Open marks have no interval.")
    if any(p.joined for p in figure.points):
        front = controls.cost(0.0, column) is not None
        lines = "Lines join the SAEs of one architecture and width"
        if kind == "pareto" and front:
            lines += " that no other of these beats with as few active latents"
        said.append(f"{lines}.")
        if kind == "pareto" and not front:
            said.append(f"There is no front: nobody is ranked by {column.label} ({column.spec.unranked}).")
    names = list(dict.fromkeys(c.name for panel in figure.panels for c in panel.controls))
    if names:
        said.append(f"Grey: what a control scores beside these SAEs ({', '.join(names)}).")
    return said


def l0_range(entries: Sequence[Entry]) -> str | None:
    """The L0 of these SAEs as "16 to 64"; None where none was measured."""
    found = sorted(
        value
        for e in entries
        if e.result.task == at_l0.TASK
        and at_l0.METRIC in e.result.metrics
        and (value := e.result.metrics[at_l0.METRIC].value) is not None
    )
    return " to ".join(dict.fromkeys(map(number, (found[0], found[-1])))) if found else None
