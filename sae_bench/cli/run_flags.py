"""Flags of ``sae-bench run``, by the groups of its help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from sae_bench.cli import flags, progress
from sae_bench.cli.pairs import named
from sae_bench.cli.places import RUNS
from sae_bench.cli.saes import SAE_HELP
from sae_bench.errors import UsageError
from sae_bench.settings import Settings

GROUPS = {  # of settings, as help calls them
    "what": "what to measure",
    "told": "what the files of the SAE leave open",
    "model": "language model",
    "text": "text",
    "labels": "labelled texts (probe_recovery, sparse_probing, token_labels)",
    "judge": "judge (autointerp)",
    "run": "run",
}
LIMITS = "All SAEs share the limits in rounds; at a limit a run ends with exit code 4, and the same command goes on."


def add(p: Any) -> None:
    """Add all of them to the verb."""
    groups = {one: p.add_argument_group(title, LIMITS if one == "judge" else None) for one, title in GROUPS.items()}
    what, run = groups["what"], groups["run"]
    what.add_argument("saes", nargs="*", metavar="SAE", help=f"{SAE_HELP}; several, and globs, may be given")
    what.add_argument("--sae", action="append", default=[], metavar="SAE", help="the same as a flag; may be repeated")
    for one, group in groups.items():
        flags.add(group, Settings, flags.of_group(Settings, one), {"out": f"folder for results (default: {RUNS})"})
    p.set_defaults(out=RUNS)
    run.add_argument("--dry-run", action="store_true", help="say what would be measured and what it costs, and stop")
    run.add_argument("--all-metrics", action="store_true", help="show every metric in the table, not only headlines")
    run.add_argument("--json", action="store_true", help="print results as JSON instead of a table")
    progress.add_flags(run)


def saes(args: argparse.Namespace) -> list[str]:
    """What was given as SAEs, with the flag or without it. Raises UsageError for none."""
    if not (given := [*args.saes, *args.sae]):
        raise UsageError("give at least one SAE: sae-bench run PATH, a folder or file, or 'demo'; see --help for more")
    return given


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given. Raises UsageError."""
    given = dict(flags.given(args, Settings))
    for name, read in (("parameters", _parameters), ("judge_params", _params), ("judge_headers", _headers)):
        if name in given:
            given[name] = read(given[name])
    return given


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    """{"task.name": value} from ``task.name=value``. Raises UsageError."""
    for one in given:
        if "." not in one.partition("=")[0]:
            raise UsageError(f"--param must be TASK.NAME=VALUE, but it is {one!r}; sae-bench show TASK lists the names")
    return named(given, "--param", "TASK.NAME=VALUE")


def _params(given: Sequence[str]) -> dict[str, Any]:
    """{name: value} of the body of requests, where none leaves out what is sent otherwise. Raises UsageError."""
    params = named(given, "--judge-param")
    return {name: None if value in ("none", "None", "null") else value for name, value in params.items()}


def _headers(given: Sequence[str]) -> dict[str, str]:
    """{name: value} from ``name=value`` or ``name=$VARIABLE``; shows no value. Raises UsageError."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = (part.strip() for part in one.partition("="))
        if not equals:
            raise UsageError("--judge-header must be NAME=VALUE, such as X-Title=sae-bench, or NAME=$VARIABLE")
        if value.startswith("$"):
            variable = value.removeprefix("$").strip("{}")
            if not (value := os.environ.get(variable, "").strip()):
                raise UsageError(f"--judge-header {name} is read from ${variable}, and that variable is not set")
        found[name] = value
    return found
