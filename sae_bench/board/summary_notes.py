"""What a summary must not be read without, each thing said once, with the numbers of the lines that it is said of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sae_bench.board.alike import SaeKey
from sae_bench.board.cells import Cell
from sae_bench.board.summary_columns import Columns, held
from sae_bench.board.summary_parts import Found
from sae_bench.results.environment import sentence
from sae_bench.schema import Result
from sae_bench.show import against, judges, marks, trust, truth
from sae_bench.show.fitted import ranges
from sae_bench.show.results import bounded_cautions, lost_controls
from sae_bench.show.summary import GAP, TIE, WORSE, Note
from sae_bench.show.text import shortened, some

LONGEST = 200  # characters of what a note quotes
_NUMBER = re.compile(r"\d[\d.,]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class Told:
    """What notes are made of: the results of each line, and how they were ranked (``how``; ``others``: among whom)."""

    numbers: Mapping[SaeKey, int]
    of_sae: Mapping[SaeKey, Sequence[Found]]
    columns: Columns
    cells: Mapping[SaeKey, Cell]
    others: frozenset[SaeKey]
    how: Sequence[str]

    def results(self) -> Iterator[tuple[int, Result]]:
        """Every result with the number of its line."""
        for sae, number in self.numbers.items():
            yield from ((number, one.result) for one in self.of_sae[sae])


def notes_of(told: Told) -> list[Note]:
    """All notes: how to read the table first, then what is wrong with figures in it."""
    return [
        *_unranked(told),
        *_ranks(told),
        *_verdicts(told),
        *_signs(told),
        *_protocols(told),
        *gathered(_cautions(told)),
        *gathered(_gaps(told)),
        *gathered(_missing(told)),
        *gathered(_failed(told)),
        *_intervals(told),
        *gathered(_controls(told)),
        *_left_out(told),
    ]


def gathered(said: Iterable[tuple[int, str]]) -> list[Note]:
    """Sentences of single lines, those that differ in their numbers alone as one: that of the first line."""
    found: dict[str, dict[str, list[int]]] = {}
    for number, text in said:
        found.setdefault(_NUMBER.sub("#", text), {}).setdefault(text, []).append(number)
    notes = []
    for texts in found.values():
        first = min(texts, key=lambda text: min(texts[text]))
        lines = tuple(sorted({number for own in texts.values() for number in own}))
        which = f" (figures of line {min(texts[first])})" if len(texts) > 1 else ""
        notes.append(Note(first + which, lines))
    return notes


def _unranked(told: Told) -> list[Note]:
    """By which figures nobody is ranked though one could expect it, and why."""
    said = truth.unranked((column.label, column.spec) for column in told.columns.passed_over())
    return [Note(f"{one[0].lower()}{one[1:]}") for one in said]


def _ranks(told: Told) -> list[Note]:
    """Among whom an SAE is ranked, and what better means there."""
    key = told.columns.by
    ranked = {sae for sae, cell in told.cells.items() if cell.rank is not None or cell.unranked is not None}
    if key is None or not ranked:
        return []
    spec, name = told.columns.spec(key), told.columns.shown[key].name
    lines, others = len(ranked & set(told.numbers)), len(ranked & told.others)
    who = f"the {lines} SAEs of this table" if lines > 1 else "the SAE of this table"
    who += f" and {others} more in the same folder under the same protocol" if others else ""
    near = ", of those whose L0 is within 10 % of its own" if spec is not None and spec.at_equal_l0 else ""
    how = " ".join(one for one in told.how if one.startswith("Ranks of"))
    notes = [Note(f"rank: by {name} among {who}{near}. {how}".rstrip())]
    without: dict[str, list[int]] = {}
    for sae, number in told.numbers.items():
        cell = told.cells.get(sae)
        if cell is not None and cell.unranked is not None:
            without.setdefault(cell.unranked, []).append(number)
    notes += [Note(f"no rank, because {why}", tuple(own)) for why, own in sorted(without.items())]
    return notes + [Note(one) for one in told.how if one.startswith("Ranks of") is False and "ranked by" in one]


def _verdicts(told: Told) -> list[Note]:
    """Which control is the best one, and why there may be none."""
    key = told.columns.by
    if key is None:
        return []
    name = told.columns.shown[key].name
    compared, without = 0, list[tuple[int, str]]()
    for sae, number in told.numbers.items():
        found = held(told.of_sae[sae], key)
        if found is None or found[1].value is None:
            continue
        compared += 1
        if against.nearest(found[0].result, key[1]) is None:
            without.append((number, f"no verdict against controls: {_without(found[0].result)}"))
    if len(without) == compared:
        return gathered(without)
    said = (
        f"best control: the strongest that an SAE has to beat in {name} (no copy and no bound), by pairs on the same "
        "units; beats and below: p < 0.05 adjusted for all controls, ties: cannot be told apart"
    )
    return [Note(said), *gathered(without)]


def _without(result: Result) -> str:
    """Why a result says of no control that has to be beaten how the SAE does against it."""
    if result.against:
        return "too few groups, or no control that has to be beaten has figures"
    if result.provenance.controls:
        return "the result holds no pair with one: an older sae-bench wrote it, or no control has figures"
    return "none was measured"


def _signs(told: Told) -> list[Note]:
    """Who is no better than the best control in another figure, by sign and figure."""
    found: dict[str, dict[tuple[str, str], list[int]]] = {TIE: {}, WORSE: {}}
    for key, column in told.columns.shown.items():
        if key == told.columns.by or not told.columns.orders(key):
            continue
        for sae, number in told.numbers.items():
            own = held(told.of_sae[sae], key)
            best = None if own is None else against.nearest(own[0].result, key[1])
            sign = {"cannot be told apart": TIE, "worse": WORSE}.get(best[1].verdict if best else "")
            if best is not None and sign is not None:
                found[sign].setdefault((column.name, best[0]), []).append(number)
    what = {TIE: "cannot be told from its best control", WORSE: "worse than its best control"}
    notes = []
    for sign, by in ((sign, by) for sign, by in found.items() if by):
        said = [f"{name} of {ranges(own)} ({control})" for (name, control), own in by.items()]
        notes.append(Note(f"{sign} {what[sign]}: {'; '.join(said)}"))
    return notes


def _protocols(told: Told) -> list[Note]:
    """That columns of one name are of different protocols."""
    several: dict[tuple[str, str], list[str]] = {}
    for key, column in told.columns.shown.items():
        several.setdefault(key[:2], []).append(f"{column.name} is of {key[2][:8]}")
    said = [", ".join(own) for own in several.values() if len(own) > 1]
    return [Note(f"{one}: other protocols, whose figures are not compared") for one in said]


def _cautions(told: Told) -> Iterator[tuple[int, str]]:
    """What results must not be read without: outliers among tokens and channels, few latents, ties and the like."""
    for number, result in told.results():
        for caution in bounded_cautions(result):
            yield number, f"{result.task}: {shortened(caution, LONGEST)}"


def _gaps(told: Told) -> Iterator[tuple[int, str]]:
    for number, result in told.results():
        if (mark := marks.of(result)) is not None:
            yield number, f"{GAP} {result.task} is {shortened(mark.sentence, LONGEST)}"


def _missing(told: Told) -> Iterator[tuple[int, str]]:
    """Why figures of the table have no value; columns of one reason together."""
    for sae, number in told.numbers.items():
        reasons: dict[str, list[str]] = {}
        for key, column in told.columns.shown.items():
            own = held(told.of_sae[sae], key)
            if own is not None and own[1].reason is not None:
                reasons.setdefault(own[1].reason, []).append(column.name)
        for why, names in reasons.items():
            yield number, f"{', '.join(names)}: no value, because {shortened(why, LONGEST)}"


def _failed(told: Told) -> Iterator[tuple[int, str]]:
    for number, result in told.results():
        if not result.measured:
            yield number, f"{result.task}: {result.status}: {shortened(result.reason or 'no reason is given', LONGEST)}"


def _intervals(told: Told) -> list[Note]:
    """Which intervals, on which ranks and verdicts rest, the sample itself calls too narrow; once for all figures."""
    figures = [
        (column.name, own[1])
        for key, column in told.columns.shown.items()
        for sae in told.numbers
        if (own := held(told.of_sae[sae], key)) is not None
    ]
    return [Note(one) for one in trust.legend(figures)]


def _controls(told: Told) -> Iterator[tuple[int, str]]:
    """Controls that are not there say nothing of themselves."""
    key = told.columns.by
    for number, result in told.results():
        if key is not None and result.task == key[0]:
            for name, why in lost_controls(result).items():
                yield number, f"control {name} has no figures in {result.task}: {shortened(why, LONGEST)}"


def _left_out(told: Told) -> list[Note]:
    """What was measured and has no column, who judged, and in which environments, if in several."""
    judged = {
        f"{result.task}: judged by {judges.in_words(result)}": None
        for _, result in told.results()
        if judges.judged(result)
    }
    environments = sentence([result for _, result in told.results() if result.measured])
    notes = [Note(one) for one in (*judged, *environments)]
    if told.columns.left_out:
        notes.append(Note(f"measured too: {some(told.columns.left_out)} (not in this table)"))
    return notes
