"""``sae-bench judge``: answers that came from a batch."""

from __future__ import annotations

import argparse
from typing import Any

from sae_bench.files import at_home


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "judge",
        help="import the answers of a batch for the judge",
        description="A run with --judge-batch FILE writes its requests as OpenAI batch JSON lines. Have them answered, "
        "import the answers here, and give the same command again: explanations are asked for first, then all "
        "scores, then what could not be read: two rounds or three.",
    )
    p.set_defaults(function=run)
    p.add_argument("what", choices=["import"], help="import: put the answers in FILE into the cache")
    p.add_argument("file", metavar="FILE", help="answers of a batch, JSON lines")
    p.add_argument("--judge-cache", metavar="FILE", help="cache (default: ~/.cache/sae-bench/judge.sqlite)")


def run(args: argparse.Namespace) -> int:
    """Import the answers."""
    from sae_bench.judge import Judge, JudgeOptions
    from sae_bench.judge.options import default_cache
    from sae_bench.show.text import printable

    cache = at_home(args.judge_cache) if args.judge_cache else default_cache()
    with Judge(JudgeOptions(model="any", cache=cache)) as judge:  # answers are found by their key, whoever gave them
        imported, failed = judge.import_batch(at_home(args.file))
    print(printable(f"{imported} answers are in {cache}; {failed} requests of the batch failed"))
    return 0
