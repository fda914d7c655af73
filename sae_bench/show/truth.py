"""What known truth says of a metric, in words and as the rows of a table; everything from a lock is one short line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sae_bench.schema import MetricSpec, TaskSpec
from sae_bench.show.text import some
from sae_bench.standing import InWorld, Standing

HEAD = (
    *("metric", "claims", "ranked", "world", "features", "encoder", "decoder", "training", "signal / noise"),
    *("coverage", "false positives", "cannot see", "does not beat", "hangs on"),
)
FEW = 4  # names of SAEs in a cell


def ranked(spec: MetricSpec) -> str:
    """Whether SAEs are ranked by a metric: "yes", "at equal L0", or "no" and why not."""
    return spec.ranking if spec.unranked is None else f"no: {spec.unranked.rstrip('.')}"


def unranked(named: Iterable[tuple[str, MetricSpec]]) -> list[str]:
    """By which of these metrics that could seem to order SAEs nobody is ranked, a sentence for each reason."""
    never: dict[str, list[str]] = {}
    for name, spec in named:
        if (spec.better != "none" or spec.target is not None) and spec.unranked is not None:
            never.setdefault(spec.unranked.rstrip("."), []).append(name)
    return [f"Not ranked: {', '.join(dict.fromkeys(names))} ({why})." for why, names in never.items()]


def sentences(spec: MetricSpec, said: Standing | None) -> list[str]:
    """What a metric claims, whether SAEs are ranked by it, and what each world says of it."""
    claim = f"It claims to measure {spec.claims}." if spec.claims else "It claims nothing of how good an SAE is."
    made = [claim, f"Ranked: {ranked(spec)}."]
    return made + [_in_world(name, one) for name, one in ({} if said is None else said.worlds).items()]


def _in_world(name: str, one: InWorld) -> str:
    """All that one world says, as one line."""
    truths = [
        f"{what} {_share(v)}" for what in ("features", "encoder", "decoder") if (v := getattr(one, what)) is not None
    ]
    parts = [f"it follows the truth of {', '.join(truths)} (Spearman)"] if truths else []
    parts += [f"{_share(one.monotone)} over the checkpoints of a training"] if one.monotone is not None else []
    parts += [f"signal over noise {_signal(one)}"] if one.signal is not None else []
    parts += [f"{_share(one.coverage)} of its intervals hold the value"] if one.coverage is not None else []
    if one.false_positives is not None:
        parts.append(f"compare tells {_share(one.false_positives)} of equal pairs apart")
    parts += [f"it cannot tell from the perfect SAE: {some(one.blind)}"] if one.blind else []
    parts += [f"as good by it as the trained SAE: {some(one.beaten_by)}"] if one.beaten_by else []
    parts += [f"its verdict hangs on: {some(one.fragile)}"] if one.fragile else []
    return f"World {name!r} ({one.rungs} SAEs, {one.draws} draws): {'; '.join(parts) or 'nothing could be said'}."


def rows(spec: TaskSpec, said: Mapping[str, Standing]) -> list[list[str]]:
    """A row for each metric that claims something and each world that speaks of it; see HEAD."""
    made = []
    for name, metric in spec.metrics.items():
        if metric.claims is None:
            continue
        own: list[str] = [f"`{name}`", metric.claims, ranked(metric)]
        worlds = said[name].worlds if name in said else {}
        made += [[*own, world, *_figures(one)] for world, one in worlds.items()]
        made += [] if worlds else [[*own, *[""] * (len(HEAD) - len(own))]]
    return made


def filled(made: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows without the columns in which nobody says anything."""
    kept = [i for i in range(len(HEAD)) if any(row[i] for row in made)]
    return [HEAD[i] for i in kept], [[row[i] for i in kept] for row in made]


def _figures(one: InWorld) -> list[str]:
    shares = [_share(v) for v in (one.features, one.encoder, one.decoder, one.monotone)]
    names = [some(names, FEW) for names in (one.blind, one.beaten_by, one.fragile)]
    return [*shares, _signal(one), _share(one.coverage), _share(one.false_positives), *names]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value + 0.0:.2f}"


def _signal(one: InWorld) -> str:
    if one.signal is None:
        return ""
    ends = (
        "" if one.signal_low is None or one.signal_high is None else f" [{one.signal_low:.3g}, {one.signal_high:.3g}]"
    )
    return f"{one.signal:.3g}{ends}"
