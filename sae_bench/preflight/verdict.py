"""Which mistakes are worth reporting: margins, order, and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sae_bench.preflight.case import Case
from sae_bench.preflight.hypotheses import Outcome
from sae_bench.preflight.measure import HEALTHY_FACTOR, MOST_FVU, Score

# A gain is a fall of log FVU (plus 0.4 times that of log L0). The largest of a healthy SAE that was seen is 0.05; that
# of a mistake that changes FVU by 15 % is 0.14.
POSSIBLE, LIKELY = 0.10, 0.25
POSSIBLE_IF_DECLARED = 0.03  # for BOS, where the files say what the trial says
POSSIBLE_IF_WEAK = 0.20  # for k and thresholds: these trials trade FVU for L0, so a healthy SAE comes nearer
TIE = 0.05  # gains that differ by less are equal, and the simpler cause comes first
MOST_FVU_SHRUNK = 0.45  # the same where a smaller reconstruction alone would help a wrong dictionary
WRONG_FVU = 0.75  # more is unexplained only if something is wrong
MOST_FINDINGS = 2

_SHRINKING = ("input_scale", "another_k", "threshold")

Confidence = Literal["likely", "possible"]


@dataclass(frozen=True)
class Finding:
    """A likely or possible cause: ``says`` is a sentence with its evidence, ``settle`` what to do or to try."""

    cause: str
    confidence: Confidence
    says: str
    settle: str = ""


def findings(case: Case, outcomes: Sequence[Outcome], known: Sequence[Finding]) -> list[Finding]:
    """The best one or two explanations: first what is ``known`` without a trial, then the best trials."""
    chosen = [_with_threshold(finding, outcomes) for finding in known]
    causes = {finding.cause for finding in chosen} | {"threshold" for f in chosen if f.cause == "threshold_unset"}
    plausible = [o for o in outcomes if o.hypothesis.cause not in causes and _plausible(case, o)]
    plausible = _best_of_each(plausible)
    if plausible:
        best = max(o.gain for o in plausible)
        ordered = sorted(plausible, key=lambda o: (o.hypothesis.rank if o.gain > best - TIE else math.inf, -o.gain))
        chosen += [_finding(case, o) for o in ordered if o.gain >= best / 2]
    if not chosen and case.base.fvu >= WRONG_FVU:
        chosen = [_nothing_helps(case, outcomes)]
    return chosen[:MOST_FINDINGS]


def _with_threshold(finding: Finding, outcomes: Sequence[Outcome]) -> Finding:
    """A threshold that was never set, and no L0 is promised: the best that was tried is at least a start."""
    tried = next((o for o in outcomes if o.hypothesis.cause == "threshold"), None)
    if finding.cause != "threshold_unset" or finding.settle or tried is None:
        return finding
    fvu, l0 = tried.score.fvu, tried.score.l0
    return replace(finding, settle=f"{tried.settle}, for example (FVU {fvu:.3g}, L0 {l0:.1f} on these tokens)")


def _best_of_each(outcomes: Sequence[Outcome]) -> list[Outcome]:
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.hypothesis.cause not in best or outcome.gain > best[outcome.hypothesis.cause].gain:
            best[outcome.hypothesis.cause] = outcome
    return list(best.values())


def _plausible(case: Case, outcome: Outcome) -> bool:
    """Whether the gain is large enough for this cause, and enough of the variance is explained."""
    cause, slope = outcome.hypothesis.cause, case.base.slope
    if cause == "output_scale" and 1 / HEALTHY_FACTOR < slope < HEALTHY_FACTOR:
        return False
    declared = case.info.prepend_bos
    least = POSSIBLE
    if cause == "other_tokens" and declared is not None and declared != case.activations.text.begins_with_bos:
        least = POSSIBLE_IF_DECLARED
    if _weak(case, outcome):
        least = POSSIBLE_IF_WEAK
    shrinks = cause in _SHRINKING or (cause == "output_scale" and slope < 1)
    return outcome.gain >= least and outcome.score.fvu < (MOST_FVU_SHRUNK if shrinks else MOST_FVU)


def _weak(case: Case, outcome: Outcome) -> bool:
    return outcome.hypothesis.cause in ("another_k", "threshold") and case.target_l0 is None


def _finding(case: Case, outcome: Outcome) -> Finding:
    confidence: Confidence = "likely" if outcome.gain >= LIKELY and not _weak(case, outcome) else "possible"
    says = f"{outcome.claim}: {change(case.base, outcome.score)} if so"
    return Finding(outcome.hypothesis.cause, confidence, says, outcome.settle)


def change(base: Score, other: Score) -> str:
    """Both numbers of two scores: ``FVU 0.505 -> 0.229, L0 15.0 -> 7.9``."""
    return f"FVU {base.fvu:.3g} -> {other.fvu:.3g}, L0 {base.l0:.1f} -> {other.l0:.1f}"


def _nothing_helps(case: Case, outcomes: Sequence[Outcome]) -> Finding:
    best = min((o.score.fvu for o in outcomes if o.score.fvu == o.score.fvu), default=math.nan)
    return Finding(
        "nothing_helps",
        "likely",
        f"this is no trained SAE of {case.activations.subject.name} at {case.entry.hook_in}: FVU {case.base.fvu:.3g}, "
        f"and none of {len(outcomes)} hypotheses brings it below {best:.3g}",
        "check that these weights belong to this model, and that training had finished",
    )
