"""``sae-bench verify``: is a result what it says it is?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

GIVEN = ("model", "data", "probe_data", "device", "batch_tokens")


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "verify",
        help="recompute a result's figures from its units, and a random part of the units",
        description="Recompute a result's figures from its table of units, compare the digests of SAE, model and data, "
        "and measure a random part of the units again. Exit code 0: nothing wrong was found; 1: something was.",
    )
    p.set_defaults(function=run)
    p.add_argument("result", metavar="RESULT", help="result file, with its units beside it")
    p.add_argument("--sae", required=True, metavar="SAE", help="the SAE, as for run")
    p.add_argument("--model", metavar="M", help="the language model, as for run (default: the SAE's own)")
    p.add_argument("--data", metavar="D", help="the text, as for run (default for the demo model: demo)")
    p.add_argument("--probe-data", metavar="DIR", help="the labelled sets, where they were not the built-in ones")
    p.add_argument("--share", type=float, default=0.05, metavar="X", help="share of the units to measure again (0.05)")
    p.add_argument("--seed", type=int, metavar="N", help="which units; a fresh choice unless given")
    p.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (default: a GPU if there is one)")
    p.add_argument("--batch-tokens", type=int, metavar="N", help="tokens in one batch")
    p.add_argument("--record", metavar="NAME", help="write beside the result that NAME has found nothing wrong")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Check, and say what was found."""
    from sae_bench.cli.run import Bar
    from sae_bench.results.verified import record
    from sae_bench.show.text import line as printable
    from sae_bench.verify import verify

    with Bar(not args.quiet) as bar:
        given = {name: getattr(args, name) for name in GIVEN}
        report = verify(Path(args.result), args.sae, share=args.share, seed=args.seed, progress=bar, **given)
    if args.record and not report.wrong:
        record(Path(args.result), "re-run" if report.rows else "recomputed", args.record)
    if args.json:
        print(json.dumps({"ok": not report.wrong} | vars(report)))
        return 1 if report.wrong else 0
    for sentence in report.checked:
        print(printable(sentence))
    for sentence in report.wrong:
        print(printable(f"WRONG: {sentence}"))
    print(f"{len(report.wrong)} things are wrong" if report.wrong else "nothing wrong was found")
    return 1 if report.wrong else 0
