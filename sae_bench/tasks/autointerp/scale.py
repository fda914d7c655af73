"""In what a judge counts, decided over all that it answered about one coder.

A single reply of zeros and ones may be verdicts or percentages. All replies together, and what the judge answered to a
question whose answer is known, tell it; what they leave open is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sae_bench.judge import Ratings
from sae_bench.tasks.autointerp.asking import UNREADABLE, Outcome
from sae_bench.units import Units

ENOUGH = 20  # answers from which low ones alone are suspicious
LOW = 10  # the highest number of scales of 0 to 10, 1 to 10 and 1 to 5
SURE = 50  # an answer of so much to a question shows that the judge counts to 100
RARE = 0.01  # share of answers that may be above LOW by a slip
ASTRAY = 0.1  # share of answers below 0 or above 100 from which on the others are not trusted either
MOST_LOST = 0.1  # share of replies that may be left out: they are not drawn by chance
SPARSE = 0.1  # share of windows left out of replies from which the rest is no sample: silent ones may be passed over
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


def ratings(outcomes: Iterable[Outcome[Ratings]]) -> list[Ratings]:
    """Those that there are."""
    return [outcome.value for outcome in outcomes if outcome.value is not None]


def decided(said: Sequence[Ratings], beside: Sequence[Ratings] = (), evidence: Sequence[Ratings] = ()) -> Scale:
    """The scale of a judge.

    Args:
        said: what it answered about the latents of a coder.
        beside: what it answered in the same run to null explanations, and to other questions in this form.
        evidence: what it answered to questions whose answers are known to be high for some.

    Any reply that is plainly in percent makes it 0 to 100; then a reply of fractions, and one of zeros and ones that
    holds a one, are left out. Without one it is 0 to 1.
    """
    replies = [*said, *beside]
    percent = any(one.counts == "percent" for one in (*replies, *evidence))
    scale = Scale(100, "0 to 100") if percent else Scale(1, "0 to 1")
    if not any(one.numbers for one in replies):
        return replace(scale, words="unknown: there is no answer")
    if (doubt := _doubt(scale, said, replies, evidence)) is not None:
        return replace(scale, words=UNCLEAR + doubt)
    if lost := sum(scale.probabilities(one) is None for one in replies):
        return replace(
            scale, words=f"{scale.words}; {lost} of {len(replies)} replies, which may count to 1, are left out"
        )
    return scale


def _doubt(
    scale: Scale, said: Sequence[Ratings], replies: Sequence[Ratings], evidence: Sequence[Ratings]
) -> str | None:
    """Why it may be yet another scale, or None."""
    numbers = [number for one in replies for number in one.numbers.values()]
    outside = sum(one.outside for one in replies)
    if outside > ASTRAY * (outside + len(numbers)):
        return f"{outside} of {outside + len(numbers)} numbers are below 0 or above 100"
    if scale.full == 1:
        return None
    above = sum(number > LOW for number in numbers)
    known = any(number >= SURE for one in evidence for number in one.numbers.values())
    if not known and len(numbers) >= ENOUGH and above <= RARE * len(numbers):
        few = f"{above or 'none'} of {len(numbers)} numbers is above {LOW}"
        return f"{few}, so it may count to {LOW} or 5 and not to 100"
    lost = sum(scale.probabilities(one) is None for one in said)
    if lost > MOST_LOST * len(said):
        return f"{lost} of {len(said)} replies hold no number above 1 beside percentages"
    return None


def doubted(words: str) -> str | None:
    """Why figures from answers on this scale, in :attr:`Scale.words`, are not to be trusted; None where they are."""
    if not words.startswith(UNCLEAR):
        return None
    return f"the scale of the judge's answers is {words}; ask another --judge-model"


def distrusted(details: Mapping[str, Any]) -> str | None:
    """Why the answers that there are must not be trusted, or None."""
    if (doubt := doubted(details.get("judge", {}).get("scale", ""))) is not None:
        return doubt
    if (share := details.get("left_out") or 0.0) <= SPARSE:
        return None
    return (
        f"the judge's replies leave out {100 * share:.0f} % of the excerpts that it was asked about, and those are not "
        "left out by chance; ask another --judge-model, or about fewer at once with --param "
        "autointerp.windows_a_request=5"
    )


def never_likely(windows: Units) -> str | None:
    """That no window was given more than a tenth, as by a judge that counts otherwise or sees nothing; or None."""
    given = windows.columns["probability"]
    given = given[given >= 0]
    if len(given) < ENOUGH or given.max() > LOW / 100:
        return None
    return f"the judge gave none of {len(given)} windows more than {LOW} of 100: look at its answers before its figures"
