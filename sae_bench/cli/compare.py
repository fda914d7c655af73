"""``sae-bench compare``: which of several SAEs is better, and how sure that is."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sae_bench.cli import latex_flags
from sae_bench.cli.exits import Exit
from sae_bench.cli.places import RUNS, saes_in


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "compare",
        help="paired differences between SAEs",
        description="Differences between results of SAEs on the same units. Two SAEs: a table of differences with 95 % "
        "intervals, the first, A, being the reference. 3 to 60: a matrix, in which SAEs that share a letter cannot be "
        "told apart. More, or with --pairs first: each against A, and of more than 8 a table a metric; after Z comes "
        "AA. Exit code 3: the results are not comparable, with the fields of the protocol that differ.",
    )
    p.set_defaults(function=run)
    p.add_argument(
        "results",
        nargs="*",
        metavar="RESULT",
        help="result file, or folder of one SAE's results; 2 or more, or a single folder of several SAEs "
        f"(default: all SAEs in {RUNS}, where run writes)",
    )
    p.add_argument("--metrics", metavar="IDS", help="metrics by id, separated by commas, or globs (default: headline)")
    p.add_argument("--all-metrics", action="store_true", help="show all metrics, not only headline ones")
    p.add_argument("--other-text", action="store_true",
                   help="also compare results that were measured on other text, as independent samples")  # fmt: skip
    p.add_argument("--format", default="text", choices=["text", "markdown", "latex", "json"],
                   help="text (default), markdown, latex, or json")  # fmt: skip
    p.add_argument("--pairs", choices=["first", "every"],
                   help="every pair (a matrix), or the first SAE against every other (tables with intervals); default: "
                   "every, up to 60 SAEs (26 as json or latex); of n SAEs there are n (n - 1) / 2 pairs")  # fmt: skip
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    latex_flags.add(p)


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 3 where nothing could be compared."""
    from sae_bench.cli import compare_matrix
    from sae_bench.cli.compare_latex import as_latex
    from sae_bench.cli.compare_tables import as_json, as_tables, at_l0, besides, reasons, unranked
    from sae_bench.results.compare import NotComparable
    from sae_bench.results.compare_sides import EVERY_PAIR, choose_metrics, comparisons, match, read_sides
    from sae_bench.results.environment import sentence
    from sae_bench.show.text import json_text

    writing = latex_flags.options(args, ranks=False, controls="none")
    sides = read_sides(saes_in(args.results), args.task_dir)
    try:
        matches, notes = match(sides, other_text=args.other_text)
    except NotComparable as error:
        return refused(error)
    chosen, lacking = choose_metrics(matches, args.metrics, everything=args.all_metrics)
    whole = args.format in ("json", "latex")  # these hold all headline metrics
    most = EVERY_PAIR if whole else compare_matrix.MOST
    every_pair = args.pairs == "every" or (args.pairs is None and len(sides) <= most)
    if every_pair and len(sides) > 2 and not whole and not args.metrics and not args.all_metrics:
        chosen = compare_matrix.narrowed(chosen)
    found = comparisons(matches, chosen, every_pair=every_pair, other_text=args.other_text)
    measured = [loaded.result for one in matches for loaded in one.results]
    notes = [*unranked(matches, found), *besides(sides, matches, [*notes, *lacking]), *sentence(measured)]
    made = compare_matrix.matrix(sides, matches, found) if every_pair and len(sides) > 2 else None
    if whole or made is None:
        notes = [*at_l0(sides, matches, found if args.format == "json" else [c for c in found if c.a == 0]), *notes]
    if args.format == "json" and args.pairs is None and not every_pair:
        notes.append(f"each of {len(sides) - 1} is held against the first alone; --pairs every compares all pairs")
    if args.format == "json":
        letters = {} if made is None else {"letters": compare_matrix.to_json(made)}
        notes = [*compare_matrix.families(made), *notes] if made is not None else notes
        print(json_text(as_json(sides, found, notes) | letters, allow_nan=False))
    elif args.format == "latex":
        print(as_latex(sides, matches, found, notes, writing))
    elif made is not None:
        read = [*compare_matrix.reading(made, found), *compare_matrix.at_l0(sides, matches, made)]
        draw = compare_matrix.as_markdown if args.format == "markdown" else compare_matrix.as_text
        print(draw(sides, made, [*dict.fromkeys(read), *notes]))
    else:
        print(as_tables(sides, found, notes, markdown=args.format == "markdown"))
    if all(row.value is None for one in found for row in one.rows):
        return refused("nothing could be compared: " + "; ".join(sorted(set(reasons(found)))))
    return 0


def refused(why: object) -> int:
    """Say why results are not comparable; returns the exit code."""
    from sae_bench.show.text import printable

    print(f"sae-bench: {printable(str(why))}", file=sys.stderr)
    return Exit.NOT_COMPARABLE
