"""``sae-bench compare`` of several SAEs: a row an SAE, a column a figure, and letters for who cannot be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sae_bench.board.summary import figure
from sae_bench.board.summary_columns import HEADLINES
from sae_bench.cli.compare_tables import methods, side_lines
from sae_bench.results.at_l0 import close, l0_of
from sae_bench.results.compare import Difference
from sae_bench.results.compare_letters import columns_of, of_column
from sae_bench.results.compare_sides import Comparison, Match, Side, label
from sae_bench.show import marks, trust
from sae_bench.show.fitted import WIDE, columns_of_output, for_output, table, unlike, width, wrapped
from sae_bench.show.results import few
from sae_bench.show.text import ARROWS, code, number
from sae_bench.show.text import markdown as escaped

MOST = 60  # SAEs of which every pair is compared where nobody says which: 1770 pairs, at about a millisecond a figure
LONGEST = 40  # columns of a name beside its letter


@dataclass(frozen=True)
class Matrix:
    """The figures of all sides and their letters, by place of the column and side; ``pairs`` are all differences."""

    names: tuple[tuple[str, str], ...]  # task and metric of each column
    better: tuple[str, ...]
    values: tuple[Mapping[int, float | None], ...]
    letters: tuple[Mapping[int, str], ...]
    pairs: tuple[Mapping[tuple[int, int], Difference], ...]
    marked: tuple[Mapping[int, str], ...]


def narrowed(chosen: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The headline metrics that a summary shows, or all where it shows none of them."""
    own = {task: [m for m in metrics if (task, m) in HEADLINES] for task, metrics in chosen.items()}
    return own if any(own.values()) else {task: list(metrics) for task, metrics in chosen.items()}


def matrix(sides: Sequence[Side], matches: Sequence[Match], found: Sequence[Comparison]) -> Matrix:
    """From every pair of sides to the matrix; their order changes neither figures nor who shares a letter.

    Columns are in the order of the summary, then those that it does not show.
    """
    of_task, places = {match.task: match.results for match in matches}, list(HEADLINES)
    made = [(row, column) for row, column in zip(found[0].rows, columns_of(found), strict=True)]
    made.sort(key=lambda one: places.index(key) if (key := (one[0].task, one[0].metric)) in places else len(places))
    rows, pairs = [row for row, _ in made], [column for _, column in made]
    values, letters, marked = [], [], []
    for row, column in made:
        own = {i: one.result.metrics[row.metric].value for i, one in enumerate(of_task[row.task])}
        sign = 0.0 if not row.ranked else 1.0 if row.better == "lower" else -1.0  # 0: letters in the order of names
        known = [(sign * value, *_identity(sides[i]), i) for i, value in own.items() if value is not None]
        values.append(own)
        letters.append(of_column(column, [place for *_, place in sorted(known)]))
        words = {i: mark.word for i, one in enumerate(of_task[row.task]) if (mark := marks.of(one.result)) is not None}
        marked.append(words)
    names = tuple((row.task, row.metric) for row in rows)
    better = tuple(row.better for row in rows)
    return Matrix(names, better, tuple(values), tuple(letters), tuple(pairs), tuple(marked))


def _identity(side: Side) -> tuple[str, str]:
    return side.sae.name, side.sae.weights_sha256


def as_text(sides: Sequence[Side], made: Matrix, notes: Sequence[str]) -> str:
    """The matrix for a terminal, at most 100 columns of it; what does not fit stands below."""
    columns = min(WIDE, columns_of_output(WIDE) or WIDE)
    heads, rows = _cells(sides, made)
    # "A name": the letter and the name are one column, which every part of a wide matrix repeats
    room = min(
        LONGEST, max(12, columns - sum(max(map(width, [*h, *(r[i] for r in rows)])) + 2 for i, h in _others(heads)))
    )
    short = unlike([side.sae.name for side in sides], room)
    rows = [[row[0], short[side.sae.name], *row[2:]] for row, side in zip(rows, sides, strict=True)]
    top = [piece for one in side_lines(sides, markdown=False) for piece in wrapped(one, columns, then="   ")]
    below = [piece for one in notes for piece in wrapped(one, columns, then="  ")]
    drawn = table(heads, rows, columns=columns, left=frozenset({0, 1}), keep=2)
    return for_output("\n".join([*top, "", *drawn, "", *below]))


def _others(heads: Sequence[tuple[str, str]]) -> list[tuple[int, tuple[str, str]]]:
    return [(i, head) for i, head in enumerate(heads) if i != 1]


def as_markdown(sides: Sequence[Side], made: Matrix, notes: Sequence[str]) -> str:
    """The matrix as Markdown."""
    heads, rows = _cells(sides, made)
    lines = [f"| {' | '.join(escaped(' '.join(part for part in head if part)) for head in heads)} |"]
    lines.append("|:--|:--|" + "--:|" * (len(heads) - 2))
    for row in rows:
        lines.append(
            f"| {escaped(row[0])} | {code(row[1])} | {' | '.join(escaped(cell.strip()) for cell in row[2:])} |"
        )
    return "\n".join([*side_lines(sides, markdown=True), "", *lines, "", *(f"- {escaped(note)}" for note in notes)])


def _cells(sides: Sequence[Side], made: Matrix) -> tuple[list[tuple[str, str]], list[list[str]]]:
    every = trust.all_marked(one for column in made.pairs for one in column.values())  # then a sentence says it of all
    signs = [trust.SIGN * any(one.optimistic and not every for one in column.values()) for column in made.pairs]
    heads = [("", ""), ("", "SAE"), *map(_head, made.names, made.better, signs)]
    rows = [[label(i), side.sae.name] for i, side in enumerate(sides)]
    for values, letters, marked in zip(made.values, made.letters, made.marked, strict=True):
        longest = max(map(len, letters.values()), default=0)
        for i, row in enumerate(rows):
            mark = f" {marked[i]}" if i in marked else ""
            row.append(f"{figure(values[i])}{mark} {letters.get(i, '').ljust(longest)}")
    return heads, rows


def _head(name: tuple[str, str], better: str, sign: str) -> tuple[str, str]:
    above, below = HEADLINES.get(name, ("", name[1]))
    if below == "@":  # the share of dead latents, at a number of tokens which each result has for itself
        above, below = "", above
    return above, f"{below}{sign} {ARROWS.get(better, '')}".strip()


def to_json(made: Matrix) -> dict[str, dict[str, str]]:
    """The letters by ``task.metric`` and label."""
    return {
        f"{task}.{metric}": {label(side): own for side, own in sorted(letters.items())}
        for (task, metric), letters in zip(made.names, made.letters, strict=True)
    }


def reading(made: Matrix, found: Sequence[Comparison]) -> list[str]:
    """How letters are read, and what differences must not be read without."""
    n = len(found)
    rows = [row for one in found for row in one.rows]
    if not any(made.letters):
        return _apart(made)
    said = [
        "Two SAEs that share a letter cannot be told apart in that figure, two that share none are: by pairs on common "
        f"units, p < 0.05 adjusted for the {n} pairs of a column (Holm). 'a' is the group of the best, or of the most "
        "where neither is better; an SAE with two letters is between two groups. To share a letter does not mean to be "
        "equal: --pairs first shows intervals, and which difference would be found."
    ]
    said += trust.legend([(row.metric, row) for row in rows])
    return [*said, *_apart(made), *methods(found)]


def families(made: Matrix) -> list[str]:
    """That letters and verdicts of pairs may differ, where both are given."""
    if not any(made.letters):
        return []
    return [
        "letters are by p adjusted for all pairs of SAEs in a metric (Holm), p_adjusted and verdict of a comparison "
        "for all metrics of its two SAEs: near 0.05 one may tell apart what the other does not"
    ]


def _apart(made: Matrix) -> list[str]:
    """Pairs that could not be compared, which share no letter for that reason alone."""
    lost: dict[tuple[str, str], list[str]] = {}
    for (_, metric), pairs in zip(made.names, made.pairs, strict=True):
        for (a, b), one in pairs.items():
            if one.value is None:
                lost.setdefault((metric, one.reason or "no reason is given"), []).append(f"{label(a)} and {label(b)}")
    return [f"{metric}, not compared: {few(own)}: {why}" for (metric, why), own in lost.items()]


def at_l0(sides: Sequence[Side], matches: Sequence[Match], made: Matrix) -> list[str]:
    """That some figures order only SAEs of about one L0, where these are not."""
    specs = {match.task: match.results[0].spec.metrics for match in matches}
    own = [metric for task, metric in made.names if specs[task][metric].at_equal_l0]
    l0s = [l0_of(loaded.result for loaded in side.results) for side in sides]
    known = [one for one in l0s if one is not None]
    unknown = [label(i) for i, one in enumerate(l0s) if one is None]
    if not own:
        return []
    said = []
    if unknown:
        said.append(f"the L0 of {few(unknown)} is not among these results (task sparsity)")
    if known and not close(min(known), max(known)):
        said.append(f"L0 is from {number(min(known))} to {number(max(known))}")
    if not said:
        return []
    return [
        f"{'; '.join(said)}: more active latents alone make {', '.join(own)} better, so that letters there order SAEs "
        "within 10 % of one L0, and no others"
    ]
