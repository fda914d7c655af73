"""``sae-bench card``: results as Markdown for a model card."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_bench.cli.places import RUNS, RUNS_HELP, results_in
from sae_bench.errors import UsageError
from sae_bench.files import at_home

if TYPE_CHECKING:
    from sae_bench.schema import Result


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "card",
        help="results as Markdown for a model card",
        description="The summary of results as Markdown for the model card of SAEs: table, ranks, verdicts against "
        "controls, how it was measured, and the command that repeats it. Nothing is measured.",
    )
    p.set_defaults(function=run)
    p.add_argument("results", metavar="RUNS", nargs="?", default=RUNS, help=f"folder of results, or one {RUNS_HELP}")
    p.add_argument("--sae", action="append", default=[], metavar="NAME", help="only this SAE, ranked among all: its "
                   "name, a glob, or the start of its weights' sha256; may be repeated")  # fmt: skip
    p.add_argument("--out", metavar="FILE", help="write to a file instead of to standard output")
    p.add_argument("--front-matter", action="store_true", help="a whole card: also tags and figures as the hub's "
                   "model-index, in YAML")  # fmt: skip
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")


def run(args: argparse.Namespace) -> int:
    """Print or write the card. Raises UsageError where no result is of the SAEs that were named."""
    from sae_bench import registry
    from sae_bench.board.card import as_card
    from sae_bench.board.summary import summaries
    from sae_bench.files import write_atomically
    from sae_bench.results import store
    from sae_bench.results.definitions import all_known
    from sae_bench.results.heads import Heads
    from sae_bench.show.text import line

    known = registry.tasks(args.task_dir)
    heads = store.read_below(results_in(args.results), Heads(known).read)
    specs, problems = all_known({file: head for file, head in heads.items() if head.definition is not None}, known)
    for problem in problems:
        print(line(f"sae-bench: {problem}"), file=sys.stderr)
    own = _named(heads, args.sae)
    made = summaries(own, specs, others=heads, task_dir=args.task_dir)
    content = as_card(made, specs, front_matter=args.front_matter)
    if args.out:
        write_atomically(at_home(args.out), content.encode())
    else:
        sys.stdout.write(content)
    return 0


def _named(heads: Mapping[Path, Result], wanted: list[str]) -> dict[Path, Result]:
    """The results of the SAEs that were named, or all. Raises UsageError."""
    from sae_bench.registry import suggest

    kept: dict[Path, Result] = {}
    names = {head.sae.name: None for head in heads.values()}
    for name in wanted:
        exact = {file: head for file, head in heads.items() if head.sae.name == name}
        found = exact or {file: head for file, head in heads.items() if _is(head, name)}
        if not found:
            raise UsageError(f"no result is of an SAE named {name!r}; {suggest(name, list(names))}")
        kept |= found
    return kept or dict(heads)


def _is(head: Result, name: str) -> bool:
    """Whether a glob or the start of a digest says this SAE."""
    sae = head.sae
    return fnmatch.fnmatchcase(sae.name, name) or (len(name) >= 6 and sae.weights_sha256.startswith(name))
