"""How an SAE does against what stands beside it, in a sentence a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae_bench import registry
from sae_bench.schema import Against, Result, TaskSpec
from sae_bench.show.text import span

BETTER = {"higher": 1, "lower": -1}
ALPHA = 0.05
WHOLE = ("identity", "full_residual")  # all that an SAE could keep: a bound, and no rival


def sentences(results: Sequence[Result], specs: Mapping[str, TaskSpec]) -> list[str]:
    """Of every task its headline figures, each against the control that comes nearest to the SAE, or passes it.

    Which one that is can only be said of a figure that orders SAEs.
    """
    found = []
    for result in results:
        spec, digest = specs.get(result.task), result.provenance.protocol.task_sha256
        own = {} if spec is None else spec.measured_as(digest).metrics
        shown = [name for name in result.metrics if name in own and own[name].headline and own[name].orders]
        held = [(name, one) for name in shown if (one := nearest(result, name)) is not None]
        if said := [f"{name} {in_words(*one)}" for name, one in held]:
            found.append(f"{result.task}, in pairs: {'; '.join(said)}")
    return found


def nearest(result: Result, metric: str) -> tuple[str, Against] | None:
    """The best control of a figure, and how the SAE does against it: the strongest of those that it has to beat.

    It is the one that comes nearest to the SAE, or passes it by most. Neither a copy nor what an SAE could reach is
    one. None where the figure has no direction, or nothing was held against it. Only for figures that order SAEs: there
    what was written as "differs", before anybody was ranked, is better or worse.
    """
    sign, known = BETTER.get(result.metrics[metric].better, 0), registry.controls()
    rivals = {
        name: held[metric]
        for name, held in result.against.items()
        if metric in held
        and held[metric].low is not None  # nobody was held against anybody where too few groups tell
        and name not in WHOLE
        and not (name in known and known[name].bound)
    }
    if not rivals or not sign:
        return None
    name = min(rivals, key=lambda name: (sign * rivals[name].value, name))
    return name, _directed(rivals[name], sign)


def _directed(held: Against, sign: int) -> Against:
    if held.verdict != "differs":
        return held
    return held.model_copy(update={"verdict": "better" if sign * held.value > 0 else "worse"})


def as_ranked(result: Result, specs: Mapping[str, TaskSpec]) -> Result:
    """The result with no SAE better or worse than a control in a figure by which nobody is ranked (any more)."""
    spec, digest = specs.get(result.task), result.provenance.protocol.task_sha256
    own = {} if spec is None else spec.measured_as(digest).metrics
    held = {
        control: {
            name: one.model_copy(update={"verdict": "differs"})
            if one.verdict in ("better", "worse") and not (name in own and own[name].orders)
            else one
            for name, one in metrics.items()
        }
        for control, metrics in result.against.items()
    }
    return result.model_copy(update={"against": held})


def in_words(name: str, held: Against) -> str:
    """For instance "better than random_fit by 0.21 [0.19, 0.23]".

    An interval is for one pair alone, a verdict also for there being several: where they part, both are said.
    """
    if held.verdict == "cannot be told apart":
        shown = span(held.value, held.low, held.high)
        if held.low is None or held.high is None or held.low <= 0 <= held.high or held.p is None:
            return f"cannot be told from {name} ({shown})"
        if held.p < ALPHA:
            return f"cannot be told from {name} ({shown}, which is rounding)"
        return f"cannot be told from {name} ({shown} for this pair alone; p {held.p:.2f} among all pairs)"
    if held.verdict == "differs":
        return f"differs from {name} by {span(held.value, held.low, held.high)}"
    ends = [end for end in (held.low, held.high) if end is not None]
    low, high = (min(map(abs, ends)), max(map(abs, ends))) if len(ends) == 2 else (None, None)
    return f"{held.verdict} than {name} by {span(abs(held.value), low, high)}"
