"""``sae-bench compare``: which of several SAEs is better, and how sure that is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_bench.cli.exits import Exit
from sae_bench.files import at_home

if TYPE_CHECKING:
    from sae_bench.results.compare import Difference
    from sae_bench.results.compare_sides import Comparison, Match, Side


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "compare",
        help="paired differences between SAEs",
        description="Differences between results of SAEs on the same units, with 95 % intervals. The first is the "
        "reference. Exit code 3: the results are not comparable, with the fields of the protocol that differ.",
    )
    p.set_defaults(function=run)
    p.add_argument(
        "results", nargs="+", metavar="RESULT", help="result file, or folder of one SAE's results; 2 or more"
    )
    p.add_argument("--metrics", metavar="IDS", help="metrics by id, separated by commas, or globs (default: headline)")
    p.add_argument("--all-metrics", action="store_true", help="show all metrics, not only headline ones")
    p.add_argument("--other-text", action="store_true",
                   help="also compare results that were measured on other text, as independent samples")  # fmt: skip
    p.add_argument("--format", default="text", choices=["text", "markdown", "json"],
                   help="text (default), markdown, or json with every pair of SAEs")  # fmt: skip
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 3 where nothing could be compared."""
    from sae_bench.results.compare import NotComparable
    from sae_bench.results.compare_sides import choose_metrics, comparisons, match, read_sides
    from sae_bench.results.environment import sentence
    from sae_bench.show.text import json_text

    sides = read_sides([at_home(one) for one in args.results], args.task_dir)
    try:
        matches, notes = match(sides, other_text=args.other_text)
    except NotComparable as error:
        return refused(error)
    chosen, lacking = choose_metrics(matches, args.metrics, everything=args.all_metrics)
    found = comparisons(matches, chosen, every_pair=args.format == "json", other_text=args.other_text)
    failed = [f"{letter(i)}: {reason}" for i, side in enumerate(sides) for reason in side.failed]
    measured = [loaded.result for one in matches for loaded in one.results]
    notes = [*_beside(matches), *notes, *lacking, *failed, *sentence(measured)]
    if args.format == "json":
        print(json_text(as_json(sides, found, notes), allow_nan=False))
    else:
        print(as_tables(sides, found, notes, markdown=args.format == "markdown"))
    if all(row.value is None for one in found for row in one.rows):
        return refused("nothing could be compared: " + "; ".join(sorted(set(_reasons(found)))))
    return 0


def refused(why: object) -> int:
    """Say why results are not comparable; returns the exit code."""
    from sae_bench.show.text import printable

    print(f"sae-bench: {printable(str(why))}", file=sys.stderr)
    return Exit.NOT_COMPARABLE


def letter(side: int) -> str:
    """The name of a side in tables: A is the reference."""
    from sae_bench.results.compare_sides import LETTERS

    return LETTERS[side]


def _beside(matches: Sequence[Match]) -> list[str]:
    """What differences must not be read without: that a side is not whole, and what its own figures need."""
    from sae_bench.show import marks
    from sae_bench.show.results import bounded_cautions

    return [
        f"{one.task}, {letter(i)}: {said}"
        for one in matches
        for i, loaded in enumerate(one.results)
        for said in (*marks.sentences(loaded.result), *bounded_cautions(loaded.result))
    ]


def as_json(sides: Sequence[Side], found: Sequence[Comparison], notes: Sequence[str]) -> dict[str, Any]:
    """All that there is to say, as plain JSON; ``marks`` and ``cautions`` by task, of those that have some."""
    from sae_bench.show import marks

    results = {
        letter(i): {
            "sae": side.sae.name,
            "weights_sha256": side.sae.weights_sha256,
            "path": str(side.path),
            "files": [str(x.file) for x in side.results],
            "marks": {x.result.task: made for x in side.results if (made := marks.to_json(x.result))},
            "cautions": {x.result.task: list(x.result.cautions) for x in side.results if x.result.cautions},
        }
        for i, side in enumerate(sides)
    }
    pairs = [{"a": letter(c.a), "b": letter(c.b), "differences": [_record(row) for row in c.rows]} for c in found]
    return {"results": results, "comparisons": pairs, "notes": list(notes)}


def _record(row: Difference) -> dict[str, Any]:
    from dataclasses import asdict

    named = {("difference" if name == "value" else name): value for name, value in asdict(row).items()}
    return named | {"marks": [mark and mark.word for mark in row.marks], "verdict": row.verdict}


def as_tables(sides: Sequence[Side], found: Sequence[Comparison], notes: Sequence[str], *, markdown: bool) -> str:
    """A table for each SAE against the reference, and below them what has to be known to read them."""
    from sae_bench.show.text import code, line
    from sae_bench.show.text import markdown as escaped

    bullet, name = ("- ", code) if markdown else ("", line)
    parts = [
        f"{bullet}{letter(i)}: {name(side.sae.name)}, weights {name(side.sae.weights_sha256[:12])}, in "
        f"{name(str(side.path))}"
        for i, side in enumerate(sides)
    ]
    for one in found:
        parts += ["", _table(one, markdown)]
    seen = dict.fromkeys([*_reading(found), *_methods(found), *_left_out(found), *_reasons(found)])
    parts += ["", *(f"{bullet}{escaped(note) if markdown else line(note)}" for note in [*seen, *notes])]
    return "\n".join(parts)


def _table(one: Comparison, markdown: bool) -> str:
    from tabulate import tabulate

    from sae_bench.show.marks import beside
    from sae_bench.show.text import ARROWS, line, number, span
    from sae_bench.show.text import markdown as escaped

    a, b = letter(one.a), letter(one.b)
    rows = []
    for row in one.rows:
        label = f"{row.metric} {ARROWS[row.better]}".rstrip()
        shown = [span(row.value, row.low, row.high), p_text(row.p_adjusted), number(row.detectable)]
        figures = [beside(number(value), mark) for value, mark in zip((row.a, row.b), row.marks, strict=True)]
        words = ", ".join(f"{name} is {mark.word}" for name, mark in zip((a, b), row.marks, strict=True) if mark)
        rows.append([row.task, label, *figures, *shown, f"{row.verdict} ({words})" if words else row.verdict])
    headers = ["task", "metric", a, b, f"{b} - {a} [95 % interval]", "p, adjusted", "detectable", f"{b} is"]
    safe = escaped if markdown else line
    headers, rows = [safe(h) for h in headers], [[safe(cell) for cell in row] for row in rows]
    style = "pipe" if markdown else "simple"
    table: str = tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)
    return table


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


def _methods(found: Sequence[Comparison]) -> list[str]:
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
        f"{row.task}, {letter(one.b)} - {letter(one.a)}: compared on what both have ({row.n_units} units); "
        f"left out {row.left_out[0]} of {letter(one.a)} and {row.left_out[1]} of {letter(one.b)}"
        for one in found
        for i, row in enumerate(one.rows)
        if any(row.left_out) and all((r.task, r.left_out) != (row.task, row.left_out) for r in one.rows[:i])
    ]


def _reasons(found: Sequence[Comparison]) -> list[str]:
    return [
        f"{letter(one.b)} - {letter(one.a)}, {row.task} {row.metric}: {row.reason}"
        for one in found
        for row in one.rows
        if row.reason
    ]
