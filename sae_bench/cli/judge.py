"""``sae-bench judge``: answers that came from a batch, and what a judge has said as a file for others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sae_bench.files import at_home


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "judge",
        help="import the answers of a batch for the judge; export and import what it has said",
        description="import: a run with --judge-batch FILE writes its requests as OpenAI batch JSON lines. Have them "
        "answered, import the answers here, and give the same command again: explanations are asked for first, then "
        "all scores, then what could not be read: two rounds or three. export: write what judges have said, with the "
        "requests and without any key, as JSON lines; whoever imports that file can repeat the runs with "
        "--judge-cache-only and --judge-endpoint or --judge-base-url as they were given.",
    )
    p.set_defaults(function=run)
    p.add_argument("what", choices=["import", "export"], help="import: put the answers in FILE into the cache; export: "
                   "write those of the cache to FILE")  # fmt: skip
    p.add_argument("file", metavar="FILE", help="answers of a batch, or an exported cache: JSON lines")
    p.add_argument("--judge-cache", metavar="FILE", help="cache (default: ~/.cache/sae-bench/judge.sqlite)")
    p.add_argument("--judge-model", metavar="NAME", help="export only what this model was asked for (default: all)")


def run(args: argparse.Namespace) -> int:
    """Import or export answers."""
    from sae_bench.errors import UsageError
    from sae_bench.judge import Judge, JudgeOptions
    from sae_bench.judge.options import default_cache
    from sae_bench.judge.replay import is_replay
    from sae_bench.show.text import printable

    cache = at_home(args.judge_cache) if args.judge_cache else default_cache()
    file = Path(at_home(args.file))
    export = args.what == "export"
    if args.judge_model is not None and not export:
        raise UsageError("--judge-model chooses what is exported; leave it out of judge import")
    options = JudgeOptions(model="any", cache=cache, cache_only=export)  # answers are found by key, whoever gave them
    with Judge(options) as judge:
        if export:
            said = f"{judge.export_replay(file, args.judge_model)} answers of {cache} are in {file}"
        elif is_replay(file):
            said = f"{judge.import_replay(file)} answers are in {cache}"
        else:
            imported, failed = judge.import_batch(file)
            said = f"{imported} answers are in {cache}; {failed} requests of the batch failed"
    print(printable(said))
    return 0
