"""What ``sae-bench compare`` shows: a table a side, or of many sides a table a metric; and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from sae_bench.results.at_l0 import l0_of
from sae_bench.results.at_l0 import said as sentence_at_l0
from sae_bench.results.compare import Difference
from sae_bench.results.compare_sides import Comparison, Match, Side, label
from sae_bench.show import marks, trust, truth
from sae_bench.show.fitted import columns_of_output, for_output, table, wrapped
from sae_bench.show.marks import beside
from sae_bench.show.results import bounded_cautions, few
from sae_bench.show.text import ARROWS, code, line, number, shortened, span
from sae_bench.show.text import markdown as escaped

MANY = 8  # sides that are shown a table each; of more, each metric is a table with a row a side
NAME = 24  # characters of a name in such a row; above all tables each stands in full


def besides(sides: Sequence[Side], matches: Sequence[Match], notes: Sequence[str]) -> list[str]:
    """What differences must not be read without: sides that are not whole, what they lack, what failed."""
    said = [
        (f"{one.task}, ", label(i), f": {said}")
        for one in matches
        for i, loaded in enumerate(one.results)
        for said in (*marks.sentences(loaded.result), *bounded_cautions(loaded.result))
    ]
    failed = [("", label(i), f": {reason}") for i, side in enumerate(sides) for reason in side.failed]
    return [*_gathered(said, len(sides)), *notes, *_gathered(failed, len(sides))]


def at_l0(sides: Sequence[Side], matches: Sequence[Match], found: Sequence[Comparison]) -> list[str]:
    """What must be known of differences between SAEs of different L0; of many sides the same is said once."""
    specs = {(m.task, name): spec for m in matches for name, spec in m.results[0].spec.metrics.items()}
    l0s = [_l0(side) for side in sides]
    said = []
    for one in found:
        own = [r.metric for r in one.rows if specs[r.task, r.metric].at_equal_l0 and r.value is not None]
        if text := sentence_at_l0((label(one.a), label(one.b)), (l0s[one.a], l0s[one.b]), own):
            said.append(
                (text, label(one.b), f": not at the L0 of {label(one.a)}, so {', '.join(own)} do not order them")
            )
    if len(sides) <= MANY:
        return [text for text, _, _ in said]
    return _gathered([("", side, after) for _, side, after in said], len(sides))


def unranked(matches: Sequence[Match], found: Sequence[Comparison]) -> list[str]:
    """By which of the metrics that are compared nobody is ranked, so that what is apart in them only differs."""
    shown = {(row.task, row.metric) for one in found for row in one.rows}
    specs = [(m.task, loaded.spec.metrics) for m in matches for loaded in m.results]
    return truth.unranked((name, own[name]) for task, own in specs for name in own if (task, name) in shown)


def _l0(side: Side) -> float | None:
    return l0_of(loaded.result for loaded in side.results)


def _gathered(said: Sequence[tuple[str, str, str]], n_sides: int) -> list[str]:
    """Sentences with the side that each is said of in the middle; of many sides each sentence once."""
    if n_sides <= MANY:
        return ["".join(one) for one in said]
    found: dict[tuple[str, str], list[str]] = {}
    for before, side, after in said:
        found.setdefault((before, after), []).append(side)
    return [f"{before}{few(list(dict.fromkeys(own)))}{after}" for (before, after), own in found.items()]


def as_json(sides: Sequence[Side], found: Sequence[Comparison], notes: Sequence[str]) -> dict[str, Any]:
    """All that there is to say, as plain JSON; ``marks`` and ``cautions`` by task, of those that have some."""
    results = {
        label(i): {
            "sae": side.sae.name,
            "weights_sha256": side.sae.weights_sha256,
            "path": str(side.path),
            "l0": _l0(side),
            "files": [str(x.file) for x in side.results],
            "marks": {x.result.task: made for x in side.results if (made := marks.to_json(x.result))},
            "cautions": {x.result.task: list(x.result.cautions) for x in side.results if x.result.cautions},
        }
        for i, side in enumerate(sides)
    }
    pairs = [{"a": label(c.a), "b": label(c.b), "differences": [_record(row) for row in c.rows]} for c in found]
    return {"results": results, "comparisons": pairs, "notes": list(notes)}


def _record(row: Difference) -> dict[str, Any]:
    named = {("difference" if name == "value" else name): value for name, value in asdict(row).items()}
    return named | {"marks": [mark and mark.word for mark in row.marks], "verdict": row.verdict}


def as_tables(sides: Sequence[Side], found: Sequence[Comparison], notes: Sequence[str], *, markdown: bool) -> str:
    """Every SAE against the reference in tables, and below them what has to be known to read them."""
    bullet, parts = "- " if markdown else "", side_lines(sides, markdown=markdown)
    if len(sides) <= MANY:
        seen = [*_reading(found), *_trusted(found), *methods(found), *_left_out(found), *reasons(found)]
        parts += [part for one in found for part in ("", _side(one, markdown))]
    else:
        seen = [*_reading_many(found), *_trusted_many(found), *methods(found), *_gathered(_lost(found), len(sides))]
        seen += _gathered(_without(found), len(sides))
        for k in range(len(found[0].rows)):
            title, table = _metric(sides, found, k, markdown)
            parts += ["", f"**{escaped(title)}**" if markdown else line(title), "", table]
    notes = [*dict.fromkeys(seen), *notes]
    if markdown:
        return "\n".join([*parts, "", *(f"{bullet}{escaped(note)}" for note in notes)])
    return "\n".join(
        [*parts, "", *(piece for note in notes for piece in wrapped(note, columns_of_output(None), then="  "))]
    )


def side_lines(sides: Sequence[Side], *, markdown: bool) -> list[str]:
    """A line for each SAE: its letter, its name in full, its weights and where its results are."""
    bullet, name = ("- ", code) if markdown else ("", line)
    return [
        f"{bullet}{label(i)}: {name(side.sae.name)}, weights {name(side.sae.weights_sha256[:12])}, in "
        f"{name(str(side.path))}"
        for i, side in enumerate(sides)
    ]


def _side(one: Comparison, markdown: bool) -> str:
    """One side against the reference: a row a metric."""
    a, b = label(one.a), label(one.b)
    plain, clustered = trust.all_marked(one.rows), any(row.design_effect is not None for row in one.rows)
    rows = []
    for row in one.rows:
        metric = f"{row.metric} {ARROWS[row.better]}".rstrip()
        shown = [_span(row, plain), str(row.n_units), *([trust.effect(row.design_effect)] if clustered else [])]
        shown += [p_text(row.p_adjusted), number(row.detectable)]
        rows.append([row.task, metric, *_figures(row), *shown, _verdict(row, a, b)])
    headers = [
        "task",
        "metric",
        a,
        b,
        f"{b} - {a} [95 % interval]",
        "groups",
        *(["design effect"] if clustered else []),
    ]
    return _drawn([*headers, "p, adjusted", "detectable", f"{b} is"], rows, markdown)


def _span(row: Difference, plain: bool) -> str:
    return trust.signed(span(row.value, row.low, row.high), row, plain=plain)


def _trusted_many(found: Sequence[Comparison]) -> list[str]:
    """The same of many sides: a metric with the first of its marked differences."""
    rows = [row for one in found for row in one.rows]
    effects = trust.counted([(row.task, row.n_units, row.design_effect) for row in rows])
    return trust.legend([(row.metric, row) for row in rows]) + effects


def _trusted(found: Sequence[Comparison]) -> list[str]:
    """Which intervals are too narrow, a sentence for each side where it is not the same of all."""
    each = {f"{label(one.b)} - {label(one.a)}": trust.legend([(row.metric, row) for row in one.rows]) for one in found}
    said = list(dict.fromkeys(sentence for own in each.values() for sentence in own))
    if len(found) > 1 and len({tuple(own) for own in each.values()}) > 1:
        said = [f"{pair}: {sentence}" for pair, own in each.items() for sentence in own]
    clustered = any(row.design_effect is not None for one in found for row in one.rows)
    return said + ([trust.DESIGN] if clustered else [])


def _metric(sides: Sequence[Side], found: Sequence[Comparison], k: int, markdown: bool) -> tuple[str, str]:
    """One metric of all sides, each against the reference: a heading, and a row a side."""
    a, first = label(found[0].a), found[0].rows[k]
    plain = all(trust.all_marked(one.rows) for one in found)
    rows = []
    for one in found:
        row, b = one.rows[k], label(one.b)
        shown = [_figures(row)[1], _span(row, plain), p_text(row.p_adjusted), _verdict(row, a, b)]
        rows.append([b, shortened(sides[one.b].sae.name, NAME), *shown])
    known = sorted({value for one in found if (value := one.rows[k].a) is not None})
    own = " to ".join(dict.fromkeys(map(number, (known[0], known[-1])))) if known else "-"
    title = f"{first.task}, {f'{first.metric} {ARROWS[first.better]}'.rstrip()}: {a} has {beside(own, first.marks[0])}"
    groups = sorted({one.rows[k].n_units for one in found})
    title += f"; {' to '.join(map(str, dict.fromkeys((groups[0], groups[-1]))))} groups"
    return title, _drawn(["", "SAE", "figure", f"minus {a} [95 % interval]", "p", "is"], rows, markdown)


def _figures(row: Difference) -> list[str]:
    return [beside(number(value), mark) for value, mark in zip((row.a, row.b), row.marks, strict=True)]


def _verdict(row: Difference, a: str, b: str) -> str:
    words = ", ".join(f"{name} is {mark.word}" for name, mark in zip((a, b), row.marks, strict=True) if mark)
    return f"{row.verdict} ({words})" if words else row.verdict


def _drawn(headers: list[str], rows: list[list[str]], markdown: bool) -> str:
    if not markdown:
        left = frozenset(range(len(headers)))
        drawn = table([[header] for header in headers], rows, columns=columns_of_output(None), left=left, keep=2)
        return for_output("\n".join(drawn))
    headers, rows = [escaped(h) for h in headers], [[escaped(cell) for cell in row] for row in rows]
    marked: str = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
    return marked


def p_text(p: float | None) -> str:
    """A p-value, with more digits where they decide; below 0.001 only that."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _reading(found: Sequence[Comparison]) -> list[str]:
    tests = sum(row.tested for row in found[0].rows)
    return [
        f"p is adjusted for the {tests} metrics of a table that differ at all (Holm), and with it the verdict; an "
        "interval is for its metric alone. A difference as large as 'detectable' is found 80 times of 100 by such an "
        "interval: 'cannot be told apart' does not mean equal."
    ]


def _reading_many(found: Sequence[Comparison]) -> list[str]:
    return [
        "p is adjusted for the metrics of one SAE that differ from the first at all (Holm), and with it the verdict, "
        f"but not for the number of SAEs, here {len(found)}: of 20 that equal the first, about one has a metric in "
        "which it is told apart by chance. An interval is for its metric alone. 'cannot be told apart' does not mean "
        "equal: which difference would be found stands in --format json ('detectable')."
    ]


def methods(found: Sequence[Comparison]) -> list[str]:
    """How differences were made that are not plain paired ones."""
    what = {
        "bootstrap": "independent samples, resampled apart (latents of two SAEs are not the same latents)",
        "shares (Newcombe)": "shares that too few units tell apart to resample them: Newcombe",
        "paired shares (Newcombe)": "paired shares that too few units tell apart to resample them: Newcombe",
    }
    own: dict[str, dict[str, None]] = {}
    for row in (row for one in found for row in one.rows):
        if row.method in what:
            own.setdefault(what[row.method], {})[row.metric] = None
    return [f"{how}: {', '.join(metrics)}" for how, metrics in own.items()]


def _left_out(found: Sequence[Comparison]) -> list[str]:
    """Where only a part of the units could be used."""
    return [
        f"{row.task}, {label(one.b)} - {label(one.a)}: compared on what both have ({row.n_units} groups); "
        f"left out {row.left_out[0]} of {label(one.a)} and {row.left_out[1]} of {label(one.b)}"
        for one, row in _partial(found)
    ]


def _lost(found: Sequence[Comparison]) -> list[tuple[str, str, str]]:
    """The same of many sides, in parts of a sentence: those that lack as much are named together."""
    return [
        (
            f"{row.task}, ",
            label(one.b),
            f": compared on what both have ({row.n_units} groups); left out {row.left_out[0]} of {label(one.a)} and "
            f"{row.left_out[1]} of the other",
        )
        for one, row in _partial(found)
    ]


def _partial(found: Sequence[Comparison]) -> list[tuple[Comparison, Difference]]:
    return [
        (one, row)
        for one in found
        for i, row in enumerate(one.rows)
        if any(row.left_out) and all((r.task, r.left_out) != (row.task, row.left_out) for r in one.rows[:i])
    ]


def reasons(found: Sequence[Comparison]) -> list[str]:
    """Why there is no difference, or no interval."""
    return [
        f"{label(one.b)} - {label(one.a)}, {row.task} {row.metric}: {row.reason}"
        for one in found
        for row in one.rows
        if row.reason
    ]


def _without(found: Sequence[Comparison]) -> list[tuple[str, str, str]]:
    """The same of many sides, in parts of a sentence."""
    return [
        (f"{row.task} {row.metric}, ", label(one.b), f": {row.reason}")
        for one in found
        for row in one.rows
        if row.reason
    ]
