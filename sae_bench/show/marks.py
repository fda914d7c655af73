"""What stands beside a figure that is not whole: one word, the same in every table, page and file.

*partial*: some of what the judge was asked has no answer, so a figure is a mean over what was answered. *degraded*:
what was answered is too little to stand for the rest.

A degraded result is never ranked. A partial one that waits (for the end of a limit, for a batch, for a network) is not
ranked either: which latents were answered first is no random choice, its interval does not know of the others, and the
same command makes it whole. A partial one in which some replies were refused or could not be read is ranked, with its
mark: asking again may change nothing, and more than a few lost latents make it degraded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sae_bench.schema import Result
from sae_bench.show.text import line, shortened

Word = Literal["partial", "degraded"]

LONGEST = 400  # characters of a reason
MARKED = "controls_marked"  # name in the details: by control, the word and why
SAID = ("budget", "incomplete", "degraded", "unanswered", MARKED)  # names in the details that make marks
_OF_A_CONTROL = "control "  # how a reason begins that is of a control alone
_WHAT = {"partial": "over what was answered", "degraded": "over those that have a score"}


@dataclass(frozen=True)
class Mark:
    """The word beside a figure, why it is there, and whether the figure may be ranked all the same."""

    word: Word
    why: str
    ranked: bool = False

    @property
    def sentence(self) -> str:
        """What the word means here, to stand under a table."""
        unranked = "" if self.ranked else ", and are not ranked"
        return f"{self.word}: {self.why}; its figures are {_WHAT[self.word]}{unranked}"

    def to_json(self) -> dict[str, str]:
        """The mark as plain JSON."""
        return {"mark": self.word, "why": self.why}


def of(result: Result) -> Mark | None:
    """The mark of a result's own figures, None where they are whole. Errors and what was skipped have none to mark."""
    if result.status == "degraded":
        return Mark("degraded", _text(result.reason) or "its task says so")
    return of_details(result.details) if result.measured else None


def of_details(details: Mapping[str, Any]) -> Mark | None:
    """The mark that details ask for. They come from elsewhere: whatever stands there makes a mark rather than none."""
    waits = [_text(details[name]) for name in ("budget", "incomplete") if _own(details.get(name))]
    if waits:
        return Mark("partial", "; ".join(dict.fromkeys(waits)))
    if _own(details.get("degraded")):
        return Mark("degraded", _text(details["degraded"]))
    if n := _count(details.get("unanswered")):
        what = "request has" if n == 1 else "requests have"
        return Mark("partial", f"{n} {what} no complete, readable answer; the same command asks again", ranked=True)
    return None


def of_controls(result: Result) -> dict[str, Mark]:
    """The marks of controls, by name; of results that name no others those that wait for an answer."""
    found: dict[str, Mark] = {}
    for name in ("budget", "incomplete"):
        said = result.details.get(name)
        if isinstance(said, str) and said.startswith(_OF_A_CONTROL):
            control, _, why = said.removeprefix(_OF_A_CONTROL).partition(": ")
            found.setdefault(control, Mark("partial", _text(why) or "its judge was not asked in full"))
    marked = result.details.get(MARKED)
    for control, one in marked.items() if isinstance(marked, dict) else ():
        word: Word = "degraded" if isinstance(one, dict) and one.get("mark") == "degraded" else "partial"
        found[control] = Mark(word, _text(one.get("why") if isinstance(one, dict) else one))
    return found


def beside(figure: str, mark: Mark | None) -> str:
    """The figure with its mark behind it."""
    return figure if mark is None else f"{figure} {mark.word}"


def sentences(result: Result) -> list[str]:
    """What the marks of a result mean, to stand under a table that shows it."""
    own = of(result)
    said = [] if own is None else [own.sentence]
    return said + [f"control {name} is {mark.sentence}" for name, mark in of_controls(result).items()]


def grouped(results: Sequence[Result]) -> list[str]:
    """The same for several SAEs: a sentence a mark, with the SAE that it is said of."""
    return [f"{r.task} of {r.sae.name}: {said}" for r in results for said in sentences(r)]


def ranked(result: Result) -> bool:
    """Whether the figures of a result may be ranked, plotted and submitted."""
    mark = of(result)
    return result.measured and (mark is None or mark.ranked)


def to_json(result: Result) -> dict[str, Any]:
    """All marks of a result as plain JSON; empty where all is whole."""
    own, controls = of(result), of_controls(result)
    made: dict[str, Any] = {} if own is None else own.to_json()
    return made | ({MARKED: {name: mark.to_json() for name, mark in controls.items()}} if controls else {})


def _own(said: object) -> bool:
    """Whether something is said, and of the result itself rather than of a control beside it."""
    return bool(said) and not (isinstance(said, str) and said.startswith(_OF_A_CONTROL))


def _text(said: object) -> str:
    return shortened(line(said if isinstance(said, str) else str(said)), LONGEST) if said else ""


def _count(said: object) -> int:
    """How many are unanswered; 0 for nothing and for what is no number."""
    return int(said) if isinstance(said, int | float) and said > 0 else 0
