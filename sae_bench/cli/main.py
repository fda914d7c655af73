"""``sae-bench``: the parser, and how a command ends (:mod:`sae_bench.cli.exits`)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sae_bench import __version__
from sae_bench.cli import (
    board,
    card,
    check,
    compare,
    inspect,
    judge,
    ls,
    plot,
    probes,
    run,
    show,
    submit,
    suite,
    validate,
    verify,
)
from sae_bench.cli.exits import Exit, as_text
from sae_bench.cli.saes import plain_warnings
from sae_bench.cli.streams import OutputFault, abandon_output, prepare
from sae_bench.errors import SaeBenchError, UsageError, named

VERBS = (run, ls, show, inspect, compare, card, check, board, plot, verify, submit, judge, suite, probes, validate)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with arguments in one sentence, like everything else that is refused."""

    def error(self, message: str) -> NoReturn:
        """Refuse arguments. Raises UsageError."""
        if message.startswith("unrecognized arguments: -"):
            message += " (a path that begins with a dash stands behind --, or is written ./-PATH)"
        raise UsageError(f"{message}; see {self.prog} --help")


class VerbParser(Parser):
    """Takes paths before, between and behind flags: else argparse ends a list of them at the first flag.

    A verb that has verbs of its own leaves that to theirs.
    """

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As :class:`argparse.ArgumentParser`, intermixed; which calls this twice itself, and forgets a ``--``."""
        if self._inside or args is None or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        if "--" in args:
            place = args.index("--")
            args = [*args[:place], *(f".{os.sep}{a}" if a.startswith("-") else a for a in args[place + 1 :])]
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def parser() -> argparse.ArgumentParser:
    """The parser with all verbs."""
    top = Parser(
        prog="sae-bench",
        description="Quality of sparse-autoencoder features: an interval on every number, controls in every run.",
        epilog=f"exit codes:\n{as_text()}\n\nStart with: sae-bench run demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"sae-bench {__version__}")
    verbs = top.add_subparsers(title="commands", dest="verb", metavar="COMMAND", required=True, parser_class=VerbParser)
    for verb in VERBS:
        verb.add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (:class:`sae_bench.cli.exits.Exit`)."""
    prepare()
    try:
        return _run(arguments)
    except SaeBenchError as error:
        return _refuse(str(error), Exit.BAD_INPUT)
    except KeyboardInterrupt as error:
        return _refuse(str(error) or "interrupted; the same command goes on from the last checkpoint", Exit.INTERRUPTED)
    except BrokenPipeError:
        abandon_output()  # the reader has gone, for instance `| head`
        return int(Exit.DONE)
    except OutputFault as error:
        abandon_output()
        return _refuse(f"standard output cannot be written: {error.strerror}", Exit.BAD_INPUT)
    except Exception as error:  # noqa: BLE001 - the last resort
        return _refuse(*_last_resort(error))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(arguments)
    except SystemExit:  # --help and --version, which print
        sys.stdout.flush()
        raise
    _refuse_twin()
    with plain_warnings():
        code: int = args.function(args)
    sys.stdout.flush()
    return code


def _last_resort(error: Exception) -> tuple[str, Exit]:
    """What to say of an error that nobody expected, and how the command ends."""
    try:
        from sae_bench.cli.unexpected import of_machine, sentence

        refused = of_machine(error)
        return (sentence(error), Exit.INTERNAL) if refused is None else (refused, Exit.BAD_INPUT)
    except Exception:  # noqa: BLE001 - without memory or files nothing can be imported either
        return named(error), Exit.INTERNAL


def _refuse(why: str, code: Exit) -> int:
    """Say why, in one printable line and without an import, which may be what has failed."""
    print("".join(c if c.isprintable() else "?" for c in f"sae-bench: {why}"), file=sys.stderr)
    return int(code)


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
