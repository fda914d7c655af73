"""``sae-bench compare --format latex``: one table of all SAEs and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from sae_bench import registry
from sae_bench.results.at_l0 import close, l0_of
from sae_bench.results.compare import Difference
from sae_bench.results.compare_sides import Comparison, Match, Side, label
from sae_bench.schema import MetricSpec
from sae_bench.show import latex, trust
from sae_bench.show.text import ARROWS, number, shortened, span

MOST_COLUMNS = 7  # of metrics; more are rows, unless there are more SAEs than that
Grid = list[list[Difference | None]]  # of one metric: [a][b] is b - a, None where the two were not compared


def as_latex(
    sides: Sequence[Side],
    matches: Sequence[Match],
    found: Sequence[Comparison],
    notes: Sequence[str],
    options: latex.Options,
) -> str:
    """All SAEs in one table. Raises UsageError for a label or a control that cannot be.

    Figures are those of the results, differences those from the first SAE. Bold and ranks take every pair.
    """
    specs = {(m.task, name): spec for m in matches for name, spec in m.results[0].spec.metrics.items()}
    shown = [(row.task, row.metric) for row in found[0].rows]
    l0s = [l0_of(loaded.result for loaded in side.results) for side in sides]
    grids = [_grid(len(sides), found, k) for k in range(len(shown))]
    whole = len(found) == len(sides) * (len(sides) - 1) // 2
    held, leading = [], []
    for grid, key in zip(grids, shown, strict=True):
        held.append([_held(grid, specs[key], l0s, i) for i in range(len(sides))])
        leading.append(_leaders(grid, held[-1]) if whole and specs[key].orders else set())
    figures = [
        [_figure(grid, i, held[k][i], leading[k], options, specs[shown[k]], whole) for k, grid in enumerate(grids)]
        for i in range(len(sides))
    ]
    below = [[_difference(grid[0][i]) if i else "" for grid in grids] for i in range(len(sides))]
    headings = [latex.escaped(_heading(key, specs[key], shown)) for key in shown]
    controls = _controls(matches, shown, options.controls)
    lay = _upright if len(shown) > MOST_COLUMNS and len(sides) <= MOST_COLUMNS else _flat
    head, blocks, align = lay(sides, l0s, headings, figures, below, controls, options.intervals)
    lines = latex.table(
        head,
        blocks,
        align,
        (_caption(sides, options), latex.label(options.label)),
        [*_reading(found, any(leading), options), *([latex.escaped(n) for n in notes] if options.notes else [])],
    )
    return "\n".join([latex.PACKAGES, *lines, *([] if options.notes else latex.commented(notes))])


Cells = list[list[str]]
Layout = tuple[list[str], list[Cells], str]  # head, blocks of rows, alignment


def _flat(
    sides: Sequence[Side],
    l0s: Sequence[float | None],
    headings: list[str],
    figures: Cells,
    below: Cells,
    controls: dict[str, list[str]],
    intervals: latex.Intervals,
) -> Layout:
    """A row an SAE and a column a metric; differences stand below the figures."""
    rows = []
    for i, side in enumerate(sides):
        names = [label(i), latex.escaped(shortened(side.sae.name)), latex.figure(number(l0s[i]))]
        rows.append([*names, *figures[i]])
        if intervals == "yes" and any(below[i]):
            rows.append(["", "", "", *(f"{{\\scriptsize {one}}}" if one else "" for one in below[i])])
    last = [["", name, "", *cells] for name, cells in controls.items()]
    return ["", "SAE", "L0", *headings], [rows, last], "llr" + "r" * len(headings)


def _upright(
    sides: Sequence[Side],
    l0s: Sequence[float | None],
    headings: list[str],
    figures: Cells,
    below: Cells,
    controls: dict[str, list[str]],
    intervals: latex.Intervals,
) -> Layout:
    """A row a metric, and a column an SAE with another for its differences: of many metrics."""
    apart = intervals == "yes"
    head = ["metric", label(0)]
    lead = [["", latex.escaped(shortened(sides[0].sae.name, 24))], ["L0", latex.figure(number(l0s[0]))]]
    rows = [[heading, figures[0][k]] for k, heading in enumerate(headings)]
    for i, side in enumerate(sides[1:], 1):
        head += [label(i), *([f"{label(i)} $-$ {label(0)}"] if apart else [])]
        lead[0] += [latex.escaped(shortened(side.sae.name, 24)), *([""] if apart else [])]
        lead[1] += [latex.figure(number(l0s[i])), *([""] if apart else [])]
        for k, row in enumerate(rows):
            row += [figures[i][k], *([below[i][k]] if apart else [])]
    for name, cells in controls.items():
        head.append(name)
        lead[0].append("")
        lead[1].append("")
        for k, row in enumerate(rows):
            row.append(cells[k])
    return head, [lead, rows], "l" + "r" * (len(head) - 1)


def _grid(n: int, found: Sequence[Comparison], k: int) -> Grid:
    made: Grid = [[None] * n for _ in range(n)]
    for one in found:
        made[one.a][one.b] = one.rows[k]
    return made


def _verdict(grid: Grid, i: int, j: int) -> str | None:
    """What side j is against side i: "better", "worse", something else, or None where they were not compared."""
    if (row := grid[i][j]) is not None:
        return row.verdict
    row = grid[j][i]
    return None if row is None else {"better": "worse", "worse": "better"}.get(row.verdict, row.verdict)


def _held(grid: Grid, spec: MetricSpec, l0s: Sequence[float | None], i: int) -> list[int]:
    """The others against which one counts: all, or of a metric at equal L0 those of about its own."""
    others = [j for j in range(len(grid)) if j != i and _verdict(grid, i, j) not in (None, "not compared")]
    if not spec.at_equal_l0:
        return others
    own = l0s[i]
    return [j for j in others if own is not None and (other := l0s[j]) is not None and close(own, other)]


def _leaders(grid: Grid, held: Sequence[Sequence[int]]) -> set[int]:
    """The sides than which nobody is surely better, where that is not everybody they are held against."""
    first = {i for i, others in enumerate(held) if others and not any(_verdict(grid, i, j) == "better" for j in others)}
    return {i for i in first if set(held[i]) - first}


def _figure(
    grid: Grid,
    i: int,
    held: Sequence[int],
    leading: set[int],
    options: latex.Options,
    spec: MetricSpec,
    whole: bool,
) -> str:
    """The figure of a side, with what was asked for behind it."""
    row = grid[0][i] if i else next((one for one in grid[0] if one is not None), None)
    if row is None:
        return ""
    value = latex.figure(number(row.b if i else row.a))
    value = f"\\textbf{{{value}}}" if i in leading else value
    sure = {"better": "+", "worse": "-"}.get(row.verdict if 0 in held else "", "")
    value += f"$^{{{sure}}}$" if sure else ""
    if i and options.intervals == "subscript" and (made := _difference(row)):
        value += f"$_{{\\hbox{{\\scriptsize {made}}}}}$"
    mark = row.marks[1 if i else 0]
    parts = [value, *([latex.escaped(mark.word)] if mark else [])]
    if options.ranks and whole and spec.orders and held:
        better = sum(_verdict(grid, i, j) == "better" for j in held)
        worse = sum(_verdict(grid, i, j) == "worse" for j in held)
        low, high = 1 + better, len(held) + 1 - worse
        of = f" of {len(held) + 1}" if spec.at_equal_l0 else ""
        parts.append(f"({low if low == high else f'{low}--{high}'}{of})")
    return " ".join(parts)


def _difference(row: Difference | None) -> str:
    """A difference from the first SAE with its interval, as LaTeX."""
    if row is None or row.value is None:
        return ""
    shown = trust.signed(span(row.value, row.low, row.high), row)
    shown = shown if shown.startswith("-") else f"+{shown}"
    return latex.with_interval(shown, bold=False, intervals="yes")


def _heading(key: tuple[str, str], spec: MetricSpec, shown: Sequence[tuple[str, str]]) -> str:
    """The name of a metric, with its task where two of the table have one name."""
    twice = sum(metric == key[1] for _, metric in shown) > 1
    return f"{spec.name}{f' ({key[0]})' if twice else ''} {ARROWS[spec.better]}".rstrip()


def _caption(sides: Sequence[Side], options: latex.Options) -> str:
    if options.caption is not None:
        return latex.caption(options.caption)
    p = sides[0].results[0].result.provenance.protocol
    where = f"{shortened(p.model)}, {shortened(' + '.join(p.hooks_in))}"
    return latex.escaped(f"{len(sides)} SAEs of {where}; differences are from {label(0)}.")


def _controls(matches: Sequence[Match], shown: Sequence[tuple[str, str]], said: str) -> dict[str, list[str]]:
    """The figures of each control beside all SAEs, one or from the lowest to the highest, by its name as LaTeX."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for m in matches:
        for loaded in m.results:
            for name, values in loaded.result.controls.items():
                for metric, one in values.items():
                    if (m.task, metric) in shown and one.value is not None:
                        found.setdefault(name, {}).setdefault((m.task, metric), []).append(one.value)
    if said == "none" or not found:
        return {}
    made = {}
    for name in registry.choose(said, found, "control of these results"):
        cells = []
        for key in shown:
            own = found[name].get(key, [])
            ends = dict.fromkeys([number(min(own)), number(max(own))]) if own else {}
            cells.append(f"\\textit{{{latex.figure(' to '.join(ends))}}}" if ends else "")
        made[f"\\textit{{{latex.escaped(shortened(f'control: {name}'))}}}"] = cells
    return made


def _reading(found: Sequence[Comparison], bold: bool, options: latex.Options) -> list[str]:
    """How the table is read; this is LaTeX."""
    said = []
    if bold:
        said.append(latex.BOLD)
    verdicts = {row.verdict for one in found if one.a == 0 for row in one.rows}
    if verdicts & {"better", "worse"}:
        said.append(f"$^{{+}}$, $^{{-}}$: surely better, surely worse than {label(0)}.")
    if options.intervals != "no":
        said.append(
            f"Below or behind a figure: how it differs from {label(0)} on common units, with the 95 \\% interval."
        )
    said.append(
        "Verdicts are of pairs, adjusted over the metrics of a pair (Holm), and at equal L0 where a figure needs that."
    )
    return [" ".join(said)]
