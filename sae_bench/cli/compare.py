"""``sae-bench compare``: which of several SAEs is better, and how sure that is."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sae_bench.cli.exits import Exit
from sae_bench.cli.places import RUNS, saes_in
from sae_bench.errors import UsageError


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "compare",
        help="paired differences between SAEs",
        description="Differences between results of SAEs on the same units, with 95 % intervals. The first, A, is the "
        "reference; any number of others is held against it, after Z comes AA. More than 8 are a table a metric. Exit "
        "code 3: the results are not comparable, with the fields of the protocol that differ.",
    )
    p.set_defaults(function=run)
    p.add_argument(
        "results",
        nargs="*",
        metavar="RESULT",
        help=f"result file, or folder of one SAE's results; 2 or more (default: all SAEs in {RUNS}, where run writes)",
    )
    p.add_argument("--metrics", metavar="IDS", help="metrics by id, separated by commas, or globs (default: headline)")
    p.add_argument("--all-metrics", action="store_true", help="show all metrics, not only headline ones")
    p.add_argument("--other-text", action="store_true",
                   help="also compare results that were measured on other text, as independent samples")  # fmt: skip
    p.add_argument("--format", default="text", choices=["text", "markdown", "json"],
                   help="text (default), markdown, or json")  # fmt: skip
    p.add_argument("--pairs", choices=["first", "every"],
                   help="for json: the first SAE against every other, or every pair (default: every, up to 26 SAEs); "
                   "of n SAEs there are n (n - 1) / 2 pairs")  # fmt: skip
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 3 where nothing could be compared."""
    from sae_bench.cli.compare_tables import as_json, as_tables, at_l0, besides, reasons
    from sae_bench.results.compare import NotComparable
    from sae_bench.results.compare_sides import EVERY_PAIR, choose_metrics, comparisons, match, read_sides
    from sae_bench.results.environment import sentence
    from sae_bench.show.text import json_text

    if args.pairs == "every" and args.format != "json":
        raise UsageError("tables hold every SAE against the first; --pairs every needs --format json")
    sides = read_sides(saes_in(args.results), args.task_dir)
    try:
        matches, notes = match(sides, other_text=args.other_text)
    except NotComparable as error:
        return refused(error)
    chosen, lacking = choose_metrics(matches, args.metrics, everything=args.all_metrics)
    every_pair = args.pairs == "every" or (args.format == "json" and args.pairs is None and len(sides) <= EVERY_PAIR)
    found = comparisons(matches, chosen, every_pair=every_pair, other_text=args.other_text)
    measured = [loaded.result for one in matches for loaded in one.results]
    notes = [*at_l0(sides, matches, found), *besides(sides, matches, [*notes, *lacking]), *sentence(measured)]
    if args.format == "json" and args.pairs is None and not every_pair:
        notes.append(f"each of {len(sides) - 1} is held against the first alone; --pairs every compares all pairs")
    if args.format == "json":
        print(json_text(as_json(sides, found, notes), allow_nan=False))
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
