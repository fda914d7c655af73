"""``sae-bench probes``: labelled sets that come from a package, and which of them are here."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sae_bench.files import at_home


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "probes",
        help="fetch the labelled sets of the default suite, or list them",
        description="The labelled texts of the default suite are tables of the package sae-probes, which is read and "
        "never installed or run (docs/probe_data.md).",
    )
    parts = p.add_subparsers(title="what to do", dest="what", metavar="WHAT", required=True)
    fetch = parts.add_parser(
        "fetch",
        help="fetch the package, check it, and keep it for all runs",
        description="Fetch the package by pip without what it requires, check its digest, and keep it in the cache "
        "(~/.cache/sae-bench/probes): once, 45 MB.",
    )
    fetch.set_defaults(function=run_fetch)
    fetch.add_argument("--from", dest="source", metavar="FILE", help="the wheel, if it is on this machine already")
    listed = parts.add_parser("list", help="which sets there are, where they come from, and which are left out and why")
    listed.set_defaults(function=run_list)
    listed.add_argument(
        "--probe-sets",
        default="*",
        metavar="NAMES",
        help="names, globs, a list of sets, or all of the default one, as for run "
        "(default: *, every set that is known)",
    )


def run_fetch(args: argparse.Namespace) -> int:
    """Fetch the packages."""
    from sae_bench.data.labelled.wheels import WHEELS, fetch, place
    from sae_bench.show.text import printable

    source = None if args.source is None else at_home(args.source)
    for wheel in WHEELS.values():
        fetched = fetch(wheel, source, lambda holder: print(printable(f"waiting for {holder}"), file=sys.stderr))
        said = "is checked and kept in" if fetched else "is there already:"
        print(printable(f"{wheel.package} {wheel.version} {said} {place(wheel)}"))
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Print the sets, the lists of them, and what is left out."""
    from tabulate import tabulate

    from sae_bench.data.labelled.entries import PackageSet, UnavailableSet, named_lists, resolved, suite_entries
    from sae_bench.data.labelled.wheels import WHEELS, Absent, Tables
    from sae_bench.registry import choose
    from sae_bench.show.text import line, printable

    known, lists = suite_entries(), named_lists()
    asked = choose(resolved(args.probe_sets), known, "probe set", {name: one.sets for name, one in lists.items()})
    chosen = [known[name] for name in asked]
    rows = [
        [
            line(e.name),
            e.kind,
            *([line(e.file), line(e.shifted or "")] if isinstance(e, PackageSet) else ["", ""]),
            line(e.licence),
        ]
        for e in chosen
        if not isinstance(e, UnavailableSet)
    ]
    print(tabulate(rows, headers=["set", "kind", "table", "shifted", "licence"], disable_numparse=True))
    if left_out := [e for e in chosen if isinstance(e, UnavailableSet)]:
        print("\nLeft out:")
        print(tabulate([[line(e.name), line(e.reason)] for e in left_out], tablefmt="plain", disable_numparse=True))
    print()
    for name, one in lists.items():
        print(line(f"{name}: {len(one.sets)} sets, {one.title} (sha256 {one.sha256[:16]})"))
    for wheel in WHEELS.values():
        try:
            with Tables(wheel) as tables:
                inside = f"{len(tables.names('set'))} tables, {len(tables.names('shifted'))} shifted"
                print(printable(f"{wheel.package} {wheel.version} is here: {tables.place} ({inside})"))
        except Absent as why:
            print(printable(f"{str(why)[0].upper()}{str(why)[1:]}"))
    return 0
