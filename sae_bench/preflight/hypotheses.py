"""The table of usual mistakes in evaluating an SAE. To add one, write a function that yields trials, and a row here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sae_bench.preflight import about_input, about_weights
from sae_bench.preflight.case import Case, Trial
from sae_bench.preflight.measure import Score


@dataclass(frozen=True)
class Hypothesis:
    """A kind of mistake.

    ``rank``: of two explanations that are about as good, the one of the lower rank is reported first.
    ``sees_weights``: the trials need the weights and the rule, which only a linear coder shows.
    """

    cause: str
    title: str
    rank: int
    trials: Callable[[Case], Iterator[Trial]]
    sees_weights: bool = False


@dataclass(frozen=True)
class Outcome:
    """A trial with its score, and by how much it is better than what the SAE says (see :meth:`Score.gain`)."""

    hypothesis: Hypothesis
    claim: str
    settle: str
    score: Score
    gain: float


HYPOTHESES = (
    Hypothesis("other_place", "another hook point", 0, about_input.other_place),
    Hypothesis("other_tokens", "BOS before texts, or not", 0, about_input.other_tokens),
    Hypothesis(
        "decoder_bias", "b_dec subtracted from the input, or not", 1, about_weights.decoder_bias, sees_weights=True
    ),
    Hypothesis("output_scale", "output off by a factor", 1, about_input.output_scale),
    Hypothesis("scale", "activations scaled in and out", 2, about_input.scale),
    Hypothesis("centred", "centred activations", 2, about_input.centred),
    Hypothesis("normalisation", "normalisation of every token", 4, about_input.normalisation),
    Hypothesis("head_order", "order of heads in hook_z", 1, about_input.head_order),
    Hypothesis("selection", "selection by decoder norm", 2, about_weights.selection, sees_weights=True),
    Hypothesis("activation", "sign of latents", 2, about_weights.activation, sees_weights=True),
    Hypothesis("another_k", "number of latents kept", 3, about_weights.another_k, sees_weights=True),
    Hypothesis("threshold", "threshold", 3, about_weights.threshold, sees_weights=True),
    Hypothesis("skip", "orientation of W_skip", 1, about_weights.skip, sees_weights=True),
    Hypothesis("input_scale", "activations scaled in alone", 3, about_input.input_scale),
    Hypothesis(
        "folded_norms", "decoder norms folded without the selection", 4, about_weights.folded_norms, sees_weights=True
    ),
)


def outcomes(case: Case) -> list[Outcome]:
    """Every trial that can be measured on this SAE, the best first. Raises CoderFailure."""
    found = []
    for hypothesis in HYPOTHESES:
        if hypothesis.sees_weights and case.linear is None:
            continue
        for trial in hypothesis.trials(case):
            score = case.score(trial)
            if score is not None:
                found.append(Outcome(hypothesis, trial.claim, trial.settle, score, case.gain(score)))
    return sorted(found, key=lambda outcome: -outcome.gain)


def not_tried(case: Case) -> list[str]:
    """Titles of the mistakes that cannot be looked for, because weights and rule are not seen."""
    return [h.title for h in HYPOTHESES if h.sees_weights and case.linear is None]
