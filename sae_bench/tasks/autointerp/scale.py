"""In what a judge counts, decided over all that it answered about one coder.

A single reply of zeros and ones may be verdicts or percentages. All replies together, and what the judge answered to a
question whose answer is known, tell it; what they leave open is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sae_bench.judge import Ratings
from sae_bench.tasks.autointerp.asking import UNREADABLE, Outcome

ENOUGH = 20  # answers from which low ones alone are suspicious
LOW = 10  # the highest number of scales of 0 to 10, 1 to 10 and 1 to 5
SURE = 50  # an answer of so much to a question shows that the judge counts to 100
RARE = 0.01  # share of answers that may be above LOW by a slip
ASTRAY = 0.1  # share of answers below 0 or above 100 from which on the others are not trusted either
UNCLEAR = "unclear: "


@dataclass(frozen=True)
class Scale:
    """What numbers of the judge mean.

    Attributes:
        full: the number that means surely: 100, or 1.
        words: the scale, or "unclear: ..." with the reason.
    """

    full: Literal[100, 1]
    words: str

    def probabilities(self, said: Ratings) -> dict[str, float] | None:
        """From 0 to 1, by id; None for a reply that may be in another scale."""
        if self.full == 100 and said.counts != "percent" and any(said.numbers.values()):
            return None  # 0 is 0 in any scale
        return {name: number / self.full for name, number in said.numbers.items()}

    def read(self, outcomes: Iterable[Outcome[Ratings]]) -> list[Outcome[dict[str, float]]]:
        """The outcomes with probabilities; a reply that this scale leaves out is unreadable."""
        return [self._read(outcome) for outcome in outcomes]

    def _read(self, outcome: Outcome[Ratings]) -> Outcome[dict[str, float]]:
        if outcome.value is None:
            return Outcome(outcome.status, None, outcome.completions)
        found = self.probabilities(outcome.value)
        return Outcome(UNREADABLE if found is None else outcome.status, found, outcome.completions)


def decided(said: Sequence[Ratings], evidence: Sequence[Ratings] = ()) -> Scale:
    """The scale of a judge.

    Args:
        said: all that it answered about a coder.
        evidence: what it answered to questions whose answers are known to be high for some.

    Any reply that is plainly in percent makes it 0 to 100; then a reply of fractions, and one of zeros and ones that
    holds a one, are left out. Without one it is 0 to 1.
    """
    numbers = [number for one in said for number in one.numbers.values()]
    outside = sum(one.outside for one in said)
    percent = any(one.counts == "percent" for one in (*said, *evidence))
    scale = Scale(100, "0 to 100") if percent else Scale(1, "0 to 1")
    if not numbers:
        return replace(scale, words="unknown: there is no answer")
    if outside > ASTRAY * (outside + len(numbers)):
        why = f"{outside} of {outside + len(numbers)} numbers are below 0 or above 100"
        return replace(scale, words=UNCLEAR + why)
    above = sum(number > LOW for number in numbers)
    known = any(number >= SURE for one in evidence for number in one.numbers.values())
    if percent and not known and len(numbers) >= ENOUGH and above <= RARE * len(numbers):
        some = "none" if not above else f"{above}"
        why = f"{some} of {len(numbers)} numbers is above {LOW}, so it may count to {LOW} or 5 and not to 100"
        return replace(scale, words=UNCLEAR + why)
    left_out = sum(scale.probabilities(one) is None for one in said)
    if left_out:
        many = f"{left_out} of {len(said)} replies"
        return replace(scale, words=f"{scale.words}; {many}, which may count to 1, are left out")
    return scale


def doubted(words: str) -> str | None:
    """Why figures from answers on this scale, in :attr:`Scale.words`, are not to be trusted; None where they are."""
    if not words.startswith(UNCLEAR):
        return None
    return f"the scale of the judge's answers is {words}; give a --judge-model that answers from 0 to 100"
