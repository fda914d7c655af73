"""``sae-bench submit``: put results where the board finds them, after the checks that a pull request must pass."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sae_bench.cli.exits import Exit
from sae_bench.files import at_home


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "submit",
        help="check results and put them where the board finds them",
        description="Check results of sealed suites as CI does, copy them to where they belong in a checkout of this "
        "project, and say how to open the pull request. Nothing is sent anywhere. Exit code 0: all are fit; 2: one is "
        "not, and none is copied.",
    )
    p.set_defaults(function=run)
    p.add_argument("results", nargs="+", metavar="RESULT", help="result files, or folders of results")
    p.add_argument("--to", default="results", metavar="DIR", help="the results folder of the checkout (results)")
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    p.add_argument("--suites", metavar="DIR", help="folder of suites that results are held against (default: those "
                   "that ship)")  # fmt: skip
    p.add_argument("--check-only", action="store_true", help="check, and copy nothing")


def run(args: argparse.Namespace) -> int:
    """Check all, then copy all."""
    from sae_bench.results.submit import check, place, result_files
    from sae_bench.show.text import line, printable
    from sae_bench.suites.claims import Claims

    claims = Claims(args.suites)
    checked = [check(file, args.task_dir, claims) for file in result_files([at_home(path) for path in args.results])]
    for one in checked:
        for problem in one.problems:
            print(line(f"sae-bench: {one.file}: {problem}"), file=sys.stderr)
    if any(one.problems for one in checked):
        return Exit.BAD_INPUT
    if args.check_only:
        print(f"{len(checked)} results are fit for the board")
        return 0
    placed = [place(one, at_home(args.to)) for one in checked]
    for target in placed:
        print(printable(str(target)))
    names = ", ".join(sorted({one.result.sae.name for one in checked if one.result}))
    print(
        printable(
            f"\n{len(placed)} results of {names} are in {args.to}. To submit them, in your fork of the repository:\n"
            f"  git checkout -b results && git add {args.to} && git commit -m 'Results of {names}'\n"
            "  git push -u origin results\n"
            "then open a pull request. Say where SAE, model and text can be had: whoever reviews it runs\n"
            "  sae-bench verify RESULT --sae SAE --model MODEL --data DATA"
        )
    )
    return 0
