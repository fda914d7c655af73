"""The summary of results: one line an SAE, as lines for a terminal, as Markdown and as JSON.

What stands in it is made by :mod:`sae_bench.board.summary`; here it is drawn, and nothing is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_bench.schema import Result
from sae_bench.show.fitted import ranges, table, unlike, width, wrapped
from sae_bench.show.text import ARROWS, code, line, markdown

TIE, WORSE, CLOSE, GAP = "~", "!", "*", "?"  # behind a figure; notes say what they mean
SHORTEST = 24  # columns of a name before figures move closer together
NAME = 16  # columns of a name where some figures stand below
BEST = "best control"
LEAST = 10  # columns of a name beside all figures; with less, some stand below


@dataclass(frozen=True)
class Column:
    """A figure of the summary under one protocol, with its heading over two lines.

    ``again``: there are such columns of other protocols before it. ``sign`` is what would stand behind all its figures.
    """

    task: str
    metric: str
    protocol: str
    heading: tuple[str, str]
    better: str = "none"
    again: str = ""
    sign: str = ""

    @property
    def key(self) -> str:
        """``task.metric``, unlike that of any other column."""
        return f"{self.task}.{self.metric}{self.again}"

    @property
    def heads(self) -> tuple[str, str]:
        """The two lines of the heading, with the arrow of the better direction."""
        arrow = ARROWS.get(self.better, "").strip()
        return self.heading[0], f"{self.heading[1]}{self.again}{self.sign} {arrow}".strip()

    @property
    def name(self) -> str:
        """The heading as a sentence names it."""
        return _joined(self.heading) + self.again


def _joined(heading: tuple[str, str]) -> str:
    """A heading of two lines on one: a word that was broken between them is whole again."""
    return " ".join(one for one in heading if one).replace("- ", "")


@dataclass(frozen=True)
class Line:
    """An SAE: its number, name, figures as they are shown by ``Column.key``, range of ranks and verdict.

    ``figures`` are the values themselves, None where there is none. ``control`` is the one that the verdict is about,
    ``results`` are the results, or their heads, that the line is made of.
    """

    number: int
    name: str
    weights_sha256: str
    cells: Mapping[str, str]
    figures: Mapping[str, float | None]
    rank: str = "-"
    verdict: str = "-"
    control: str | None = None
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Note:
    """What the table must not be read without; ``lines``: the numbers of the SAEs that it is said of, if not of all."""

    text: str
    lines: tuple[int, ...] = ()


@dataclass(frozen=True)
class Summary:
    """SAEs that were measured alike: one model, hook point, text and suite.

    ``suite`` is the sealed one that they are of, or says that they are of none (not ``official``).
    ``by`` is the key of the column that rank and verdict are of, None where none of the figures orders SAEs.
    """

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[Note, ...] = ()
    by: str | None = None
    ranked: bool = False
    judged: bool = False
    suite: str = ""
    official: bool = False

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON."""
        return {
            "title": line(self.title),
            "suite": line(self.suite),
            "official": self.official,
            "by": self.by,
            "columns": [one.key for one in self.columns],
            "saes": [
                {
                    "line": one.number,
                    "sae": one.name,
                    "weights_sha256": one.weights_sha256,
                    "figures": dict(one.figures),
                    "rank": one.rank if self.ranked else None,
                    "verdict": one.verdict if self.judged else None,
                }
                for one in self.lines
            ],
            "notes": [{"lines": list(one.lines), "text": line(one.text)} for one in self.notes],
        }


def drawn(summary: Summary, columns: int | None, without: Collection[str] = ()) -> list[str]:
    """The summary as lines of at most so many columns (None: as many as it takes), without notes of such texts."""
    heads, rows, gap = *_cells(summary), 2
    if columns is not None:
        names = [row[1] for row in rows]
        enough = min(SHORTEST, max(map(width, names), default=0))
        gap = 2 if columns - _taken(heads, rows, 2) >= enough else 1
        room = columns - _taken(heads, rows, gap)
        if room < min(LEAST, enough):  # some columns stand below: what decides does not
            heads, rows = _deciding_first(summary, heads, rows)
            room = NAME
        short = unlike(names, room)
        rows = [[row[0], short[row[1]], *row[2:]] for row in rows]
    left = frozenset({1, *(i for i, head in enumerate(heads) if head[0] == BEST)})
    made = table(heads, rows, columns=columns, left=left, keep=2, gap=gap)
    notes = [one for one in summary.notes if one.lines or one.text not in without]
    below = [piece for one in notes for piece in wrapped(_said(one), columns, then="  ")]
    return [*wrapped(summary.title, columns, then="  "), *made, *([""] if below else []), *below]


def _deciding_first(
    summary: Summary, heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]
) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Rank and verdict behind the figure that they are of."""
    last = len(heads) - summary.ranked - summary.judged
    behind = 2 + next((place for place, one in enumerate(summary.columns, 1) if one.key == summary.by), 0)
    order = [*range(behind), *range(last, len(heads)), *range(behind, last)]
    return [heads[i] for i in order], [[row[i] for i in order] for row in rows]


def _said(note: Note) -> str:
    return f"{_whose(note.lines)}: {note.text}" if note.lines else note.text


def _whose(numbers: Sequence[int]) -> str:
    return f"{'line' if len(set(numbers)) == 1 else 'lines'} {ranges(numbers)}"


def _taken(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], gap: int) -> int:
    """What all columns but the names take."""
    sizes = [max(map(width, [*heads[i], *(row[i] for row in rows)])) for i in range(len(heads))]
    return sum(sizes) - sizes[1] + gap * (len(heads) - 1)


def _aligned(cells: Sequence[str]) -> list[str]:
    """Figures with room for the signs that stand behind some of them, so that digits stand below digits."""
    signs = [len(cell) - len(cell.rstrip(TIE + WORSE + CLOSE + GAP)) for cell in cells]
    return [cell + " " * (max(signs) - own) for cell, own in zip(cells, signs, strict=True)]


def _cells(summary: Summary) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Headings and rows, the number and the name of each SAE first."""
    by = next((f"by {one.name}" for one in summary.columns if one.key == summary.by), "")
    heads = [("", "#"), ("", "SAE"), *(one.heads for one in summary.columns)]
    heads += [("rank", by)] * summary.ranked + [(BEST, by)] * summary.judged
    cells = [_aligned([one.cells.get(column.key, "") for one in summary.lines]) for column in summary.columns]
    rows = []
    for place, one in enumerate(summary.lines):
        row = [str(one.number), line(one.name), *(own[place] for own in cells)]
        rows.append(row + [one.rank] * summary.ranked + [one.verdict] * summary.judged)
    return heads, rows


def as_markdown(summary: Summary) -> list[str]:
    """The same table and notes as lines of Markdown, names as code and in full."""
    heads, rows = _cells(summary)
    titles = [markdown(_joined(head)) for head in heads]
    left = {1, *(i for i, head in enumerate(heads) if head[0] == BEST)}
    lines = [f"| {' | '.join(titles)} |"]
    lines.append("|" + "|".join(":--" if i in left else "--:" for i in range(len(heads))) + "|")
    for row in rows:
        cells = [code(cell) if i == 1 else markdown(cell.strip()) for i, cell in enumerate(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *(f"- {markdown(_said(one))}" for one in summary.notes)]


def shown(summaries: Sequence[Summary], columns: int | None) -> str:
    """All summaries as text, a blank line between them; what is said of every one stands once, at the end."""
    general = [{note.text: None for note in one.notes if not note.lines} for one in summaries]
    common = [text for text in general[0] if all(text in one for one in general)] if len(general) > 1 else []
    parts = [drawn(one, columns, common) for one in summaries]
    parts += [[piece for text in common for piece in wrapped(text, columns, then="  ")]] if common else []
    return "\n\n".join("\n".join(one) for one in parts)
