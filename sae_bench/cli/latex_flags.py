"""The flags of tables in LaTeX, which ``board`` and ``compare`` share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sae_bench.errors import UsageError

if TYPE_CHECKING:
    from sae_bench.show.latex import Options

NAMES = ("ranks", "intervals", "controls", "caption", "label", "notes")


def add(parser: argparse.ArgumentParser) -> None:
    """Add them, all of which are None where they are not given."""
    group = parser.add_argument_group("of --format latex", "tables for booktabs; what surely is best is bold, ties too")
    group.add_argument("--ranks", action=argparse.BooleanOptionalAction, help="ranks behind the figures")
    group.add_argument("--intervals", choices=["yes", "no", "subscript"], help="95 %% intervals")
    group.add_argument("--controls", metavar="NAMES", help="rows of controls: names, commas, globs, all or none")
    group.add_argument("--caption", metavar="TEXT", help="as text: what LaTeX would act on is escaped")
    group.add_argument("--label", metavar="LABEL", help="for \\ref; of several tables each has a number behind it")
    group.add_argument("--notes", action=argparse.BooleanOptionalAction,
                       help="what must be known to read a table, below it; else as comments")  # fmt: skip


def options(args: argparse.Namespace, **defaults: Any) -> Options:
    """What was chosen, else ``defaults``, else those of the record. Raises UsageError where the format is another."""
    from sae_bench.show.latex import Options

    given = {name: value for name in NAMES if (value := getattr(args, name, None)) is not None}
    if given and args.format != "latex":
        flag = next(iter(given))
        raise UsageError(f"--{flag} is of --format latex; add that, or leave it out")
    return Options(**(defaults | given))
