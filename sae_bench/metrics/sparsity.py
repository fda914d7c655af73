"""Figures of the task sparsity, as functions of its sums. See tasks/sparsity/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_bench.show.blocks import Block, Histogram, Plot, Series, Text
from sae_bench.units.bootstrap import Metric, Ratio, Sums
from sae_bench.units.folds import DENSE


def l0(s: Sums) -> Ratio:
    """Mean number of active latents of a token."""
    return Ratio(s.active, s.tokens, "the number of tokens")


def l1(s: Sums) -> Ratio:
    """Mean over tokens of Σ|f|, in units of the latents: it changes when a latent and its direction are rescaled."""
    return Ratio(s.magnitude, s.tokens, "the number of tokens")


def l1_contribution(s: Sums) -> Ratio:
    """Mean over tokens of Σ|f|·‖d‖, in units of the activations: it does not change when a latent is rescaled."""
    return Ratio(s.contribution, s.tokens, "the number of tokens")


def dead_fraction(s: Sums) -> Ratio:
    """Share of latents that are active on no token of the evaluation set; it falls as more tokens are seen."""
    return Ratio(s.dead, s.latents, "the number of latents")


def _dense_fraction(name: str) -> Metric:
    return lambda s: Ratio(getattr(s, f"dense_{name}"), s.latents, "the number of latents")


def _dense_contribution(name: str) -> Metric:
    return lambda s: Ratio(getattr(s, f"contribution_{name}"), s.contribution, "the contribution of all latents")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        "l0": l0,
        "l1": l1,
        "l1_contribution": l1_contribution,
        "dead_fraction": dead_fraction,
        **{f"dense_fraction_{name}": _dense_fraction(name) for name in DENSE},
        **{f"dense_contribution_{name}": _dense_contribution(name) for name in DENSE},
    }


def blocks(details: Mapping[str, Any]) -> list[Block]:
    """The histogram of density, from the first to the last bin that holds a latent, and the curve of dead latents."""
    made: list[Block] = []
    if "density_histogram" in details:
        made.append(_histogram(details["density_histogram"]))
    if "dead_by_tokens" in details:
        made.append(_dead(details["dead_by_tokens"]))
    return made


def _histogram(content: Mapping[str, Any]) -> Block:
    title = "On which share of tokens latents are active"
    edges = [float(edge) for edge in content["log10_edges"]]
    counts = [int(count) for count in content["latents"]]
    used = [i for i, count in enumerate(counts) if count]
    if not used:
        return Text(title=title, lines=("no latent is active",))
    bins = tuple((edges[i], edges[i + 1], counts[i]) for i in range(used[0], used[-1] + 1))
    return Histogram(title=title, x="share of tokens (log10)", of="latents", bins=bins)


def _dead(content: Mapping[str, Any]) -> Plot:
    """The dead fraction on fewer tokens, and on twice as many as the curve goes on."""
    latents = max(1, int(content["latents"]))
    points = [(int(n), float(dead) / latents) for n, dead in zip(content["tokens"], content["expected"], strict=True)]
    series = [Series(name="dead fraction", points=tuple(points))]
    if content["at_twice"] is not None:
        twice = (2 * points[-1][0], float(content["at_twice"]) / latents)
        series.append(Series(name="on twice the tokens, as the curve goes on", points=(twice,)))
    return Plot(title="Latents that are dead on so many tokens", x="tokens", y="dead fraction", series=tuple(series))
