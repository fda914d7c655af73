"""How an SAE does against what stands beside it, in a sentence a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae_bench import registry
from sae_bench.schema import Against, Result, TaskSpec
from sae_bench.show.text import span

BETTER = {"higher": 1, "lower": -1}


def sentences(results: Sequence[Result], specs: Mapping[str, TaskSpec]) -> list[str]:
    """Of every task its headline figures, each against the control that comes nearest to the SAE, or passes it."""
    found = []
    for result in results:
        spec = specs.get(result.task)
        shown = [
            name for name in result.metrics if spec is None or (name in spec.metrics and spec.metrics[name].headline)
        ]
        if said := [one for name in shown if (one := _nearest(result, name)) is not None]:
            found.append(f"{result.task}, in pairs: {'; '.join(said)}")
    return found


def _nearest(result: Result, metric: str) -> str | None:
    """What the strongest of the controls says of a figure; neither a copy nor what an SAE could reach is one."""
    sign, known = BETTER.get(result.metrics[metric].better, 0), registry.controls()
    rivals = {
        name: held[metric]
        for name, held in result.against.items()
        if metric in held and name != "identity" and not (name in known and known[name].bound)
    }
    if not rivals or not sign:
        return None
    name = min(rivals, key=lambda name: sign * rivals[name].value)
    return f"{metric} {in_words(name, rivals[name])}"


def in_words(name: str, held: Against) -> str:
    """For instance "better than random_fit by 0.21 [0.19, 0.23]"."""
    if held.verdict == "cannot be told apart":
        return f"cannot be told from {name} ({span(held.value, held.low, held.high)})"
    ends = [end for end in (held.low, held.high) if end is not None]
    low, high = (min(map(abs, ends)), max(map(abs, ends))) if len(ends) == 2 else (None, None)
    return f"{held.verdict} than {name} by {span(abs(held.value), low, high)}"
