"""``sae-bench validate``: which metrics follow the truth, where it is known."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from typing import Any

from sae_bench.cli import progress
from sae_bench.cli.exits import Exit
from sae_bench.cli.progress import bar_of
from sae_bench.errors import UsageError


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "validate",
        help="measure SAEs of known quality: which metrics see the truth, and may be ranked by",
        description="Measure SAEs of known quality in worlds whose features are known, and print what each metric sees "
        "of the truth. Exit code 1 where a metric by which SAEs are ranked no longer deserves it.",
    )
    p.set_defaults(function=run)
    p.add_argument("--quick", action="store_true",
                   help="fewer draws, less text, and what is ranked alone: do the ranks of the lock hold?")  # fmt: skip
    p.add_argument("--metric", action="append", default=[], metavar="TASK.METRIC",
                   help="this metric alone, a pattern, or a list (repeatable; default: all that ship)")  # fmt: skip
    p.add_argument("--task-dir", metavar="DIR",
                   help="folder with further task definitions; its own metrics are asked about")  # fmt: skip
    written = p.add_mutually_exclusive_group()
    written.add_argument("--write", action="store_true",
                         help="write validity.lock beside the tasks, which decides who is ranked by what")  # fmt: skip
    written.add_argument("--out", metavar="FILE", help="write the lock to a file of another name")
    p.add_argument("--json", action="store_true", help="print JSON instead of tables")
    progress.add_flags(p)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return 0, or 1 where a rank is lost."""
    from sae_bench import standing
    from sae_bench.files import at_home, check_place
    from sae_bench.show.text import line
    from sae_bench.validity import asked, locked, printed
    from sae_bench.validity.worlds import WORLDS, world

    if args.quick and (args.write or args.out):
        raise UsageError("a lock is made of all draws: leave --quick out, or do not write one")
    question = asked.Question(_metrics(args), args.quick, args.task_dir)
    was, out = locked.known(question), at_home(args.out) if args.out else None
    ranked = tuple(name for name in question.metrics if name in was and was[name].ranked)
    if args.quick and ranked and not args.metric:
        question = replace(question, metrics=ranked)
    if args.quick and not ranked:
        warnings.warn("no lock ranks SAEs by any of these metrics, so that none can lose its rank", stacklevel=2)
    for file in locked.files(question) if args.write else [out] if out else []:
        check_place(file)  # before what takes an hour
    try:
        with bar_of(args) as bar:
            found = asked.standings(question, [world(name) for name in WORLDS] if question.measured else [], bar)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; nothing was written, and the same command begins again") from error
    broken = locked.broken(question, was, found, anew=args.write)
    if args.write:
        list(locked.written(question, found))
    elif out:
        standing.write(out, dict(sorted(found.items())))
    if args.json:
        _print_json(found, broken)
    else:
        print("\n".join(map(line, [*printed.table(found), *(["", *broken] if broken else [])])))
    return int(Exit.FAILED if broken else Exit.DONE)


def _metrics(args: argparse.Namespace) -> tuple[str, ...]:
    """The metrics that are asked about, in the order of the registry. Raises UsageError for a name that none has."""
    from sae_bench import registry
    from sae_bench.validity.asked import Question

    tasks = registry.tasks(args.task_dir)
    known = [f"{task}.{metric}" for task, spec in tasks.items() for metric in spec.metrics]
    if args.metric:
        return tuple(registry.choose(",".join(args.metric), dict.fromkeys(known), "metric"))
    others = registry.tasks() if args.task_dir else Question(()).own
    return tuple(name for name in known if name.partition(".")[0] not in others)


def _print_json(found: Any, broken: list[str]) -> None:
    from sae_bench.show.text import json_text

    content = {name: one.model_dump(mode="json") for name, one in found.items()}
    print(json_text({"metrics": content, "lost": broken}))
