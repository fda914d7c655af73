"""``sae-bench verify``: is a result what it says it is?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_bench.cli import flags, progress
from sae_bench.cli.exits import Exit
from sae_bench.cli.places import RUNS, RUNS_HELP, results_in
from sae_bench.cli.progress import bar_of
from sae_bench.errors import UsageError
from sae_bench.settings import Settings

if TYPE_CHECKING:
    from sae_bench.verify import Report

GIVEN = ("model", "data", "probe_data", "task_dir", "device", "batch_tokens")
SAID = {  # where help says something else than that of a run
    "model": "the language model, as for run (default: the SAE's own)",
    "data": "the text, as for run (default for the demo model: demo)",
    "probe_data": "the labelled sets, where they were not the built-in ones",
    "device": "cpu, cuda, ... (default: a GPU if there is one)",
    "batch_tokens": "tokens in one batch",
}


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "verify",
        help="recompute a result's figures from its units, and a random part of the units",
        description="Recompute a result's figures from its table of units, compare the digests of SAE, model and data, "
        "and measure a random part of the units again. Exit code 0: nothing wrong was found; 1: something was.",
    )
    p.set_defaults(function=run)
    p.add_argument(
        "result",
        metavar="RESULT",
        nargs="?",
        default=RUNS,
        help=f"result file, with its units beside it, or the folder of one SAE's results {RUNS_HELP}",
    )
    p.add_argument("--sae", required=True, metavar="SAE", help="the SAE, as for run")
    flags.add(p, Settings, GIVEN, SAID)
    p.add_argument("--share", type=float, default=0.05, metavar="X", help="share of the units to measure again (0.05)")
    p.add_argument("--seed", type=int, metavar="N", help="which units; a fresh choice unless given")
    p.add_argument("--record", metavar="NAME", help="write beside the result that NAME has found nothing wrong")
    p.add_argument("--json", action="store_true", help="print JSON")
    progress.add_flags(p)


def run(args: argparse.Namespace) -> int:
    """Check every result of the SAE, and say what was found."""
    from sae_bench.results.verified import record
    from sae_bench.show.text import json_text
    from sae_bench.verify import verify

    files = _files(results_in(args.result))
    reports = {}
    given = {name: getattr(args, name) for name in GIVEN}
    for file in files:
        with bar_of(args) as bar:
            report = verify(file, args.sae, share=args.share, seed=args.seed, progress=bar, **given)
        if args.record and not report.wrong:
            record(file, "re-run" if report.rows else "recomputed", args.record)
        reports[file] = report
    if args.json:
        found = [{"ok": not report.wrong} | vars(report) for report in reports.values()]
        several = {"ok": all(one["ok"] for one in found)} | {
            "results": [{"file": str(file)} | one for file, one in zip(files, found, strict=True)]
        }
        print(json_text(found[0] if len(found) == 1 else several, indent=None))
    else:
        for file, report in reports.items():
            _print(report, file if len(files) > 1 else None)
    return Exit.FAILED if any(report.wrong for report in reports.values()) else Exit.DONE


def _files(path: Path) -> list[Path]:
    """The result, or all results with figures in a folder of one SAE's. Raises UsageError."""
    from sae_bench.results import store
    from sae_bench.results.heads import Heads, check_one_sae

    files = store.results_below(path)
    if len(files) == 1:
        return files
    heads = Heads({})
    results = {file: heads.read(file) for file in files}
    check_one_sae(path, results.values())
    measured = [file for file, one in results.items() if one.measured]
    if not measured:
        raise UsageError(f"{path} has no result with figures, so there is nothing to verify")
    return measured


def _print(report: Report, file: Path | None) -> None:
    from sae_bench.show.text import line

    if file is not None:
        print(line(f"{file}:"))
    for sentence in report.checked:
        print(line(sentence))
    for sentence in report.wrong:
        print(line(f"WRONG: {sentence}"))
    print(f"{len(report.wrong)} things are wrong" if report.wrong else "nothing wrong was found")
