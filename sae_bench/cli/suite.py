"""``sae-bench suite``: seal a frozen suite, and show what one fixes."""

from __future__ import annotations

import argparse
from typing import Any

from sae_bench.files import at_home


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "suite",
        help="seal a frozen suite, or show one",
        description="A suite fixes all that is measured, so that results of different people stand in one table "
        "(sae-bench ls suites).",
    )
    parts = p.add_subparsers(title="what to do", dest="what", metavar="WHAT", required=True)
    build = parts.add_parser(
        "build",
        help="look up revisions, load model and text, and write their digests into the suite's file",
        description="Seal a suite: look its names up on the hub, load what they stand for, and write revisions and "
        "digests into its file, with the figures of the model and of controls that need no SAE beside it.",
    )
    build.set_defaults(function=run_build)
    build.add_argument("name", metavar="NAME", help="a suite (sae-bench ls suites), or the file of one")
    build.add_argument("--out", metavar="FILE", help="write to another file, which is called as the suite")
    build.add_argument("--device", default="auto", help="cpu, cuda, ...; auto takes a GPU if there is one")
    shown = parts.add_parser("show", help="what a suite fixes, and its reference rows")
    shown.set_defaults(function=run_show)
    shown.add_argument("name", metavar="NAME", help="a suite, or the file of one")


def run_build(args: argparse.Namespace) -> int:
    """Seal a suite."""
    from sae_bench.sealing import build
    from sae_bench.show.text import printable

    out = None if args.out is None else at_home(args.out)
    known, rows = build(args.name, out, lambda what, done, total: None, device=args.device)
    print(printable(f"{known.file}: {known.claim} is sealed, with {rows} reference rows beside it"))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print a suite and its reference rows."""
    from tabulate import tabulate

    from sae_bench.show.text import line, span
    from sae_bench.suites.record import find, reference_rows

    known = find(args.name)
    suite, seal = known.suite, known.suite.seal
    said = {
        "suite": f"{suite.name}, {known.word}: {suite.title}",
        "digest": known.sha256,
        "model": _at(suite.model.id, seal.model_revision if seal else None),
        "text": _at(suite.text.source, seal.text_revision if seal else None),
        "documents": seal.documents if seal else suite.text.limit or f"those of the tier {suite.text.tier}",
        "tasks": ", ".join(suite.tasks),
        "controls": suite.controls,
        "seed, resamples": f"{suite.seed}, {suite.resamples}",
        "labelled sets": suite.labelled.sets,
        "judge": suite.judge.model if suite.judge else "none",
    }
    for name, value in said.items():
        print(line(f"{name + ':':<18} {value}"))
    rows = [
        [line(r.hook), line(r.reference), line(f"{r.task}.{r.metric}"), span(r.value, r.low, r.high)]
        for r in reference_rows(known)
    ]
    if rows:
        print("\n" + tabulate(rows, headers=["hook", "reference", "metric", "figure"], disable_numparse=True))
    return 0


def _at(name: str, revision: str | None) -> str:
    return name if revision is None else f"{name} at {revision}"
