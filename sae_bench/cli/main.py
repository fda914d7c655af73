"""``sae-bench``: the parser and the exit codes.

0 done; 1 an SAE failed while it ran, a gate found a regression, a result is wrong; 2 bad input, said in one sentence;
3 results cannot be compared; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sae_bench import __version__
from sae_bench.cli import board, check, compare, inspect, judge, ls, run, show, submit, verify
from sae_bench.cli.saes import plain_warnings
from sae_bench.errors import SaeBenchError

VERBS = (run, ls, show, inspect, compare, check, board, verify, submit, judge)


def parser() -> argparse.ArgumentParser:
    """The parser with all verbs."""
    top = argparse.ArgumentParser(
        prog="sae-bench",
        description="Quality of sparse-autoencoder features: an interval on every number, controls in every run.",
        epilog="Start with: sae-bench run --sae demo --tasks all",
    )
    top.add_argument("--version", action="version", version=f"sae-bench {__version__}")
    verbs = top.add_subparsers(title="commands", dest="verb", metavar="COMMAND", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(arguments)
    try:
        _refuse_twin()
        with plain_warnings():
            code: int = args.function(args)
        sys.stdout.flush()
    except SaeBenchError as error:
        from sae_bench.show.text import line

        print(line(f"sae-bench: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sae-bench: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone, for instance `| head`
        return 0
    return code


def _refuse_twin() -> None:
    """Another distribution, ``sae-bench``, installs a package of the same import name over this one."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        twin = distribution("sae-bench")
    except PackageNotFoundError:
        return
    raise SaeBenchError(
        f"the package sae-bench {twin.version} (another project) is installed too and has the same import name; "
        "uninstall one: pip uninstall sae-bench, then reinstall sae-bench-suite"
    )


if __name__ == "__main__":
    sys.exit(main())
