"""A verb of the command line in this process, by its own module alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import pytest


def runner(verb: ModuleType, name: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``sae-bench <name>`` with arguments: exit code, what it printed, and what it said on standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        verb.add(parser.add_subparsers())
        args = parser.parse_args([name, *map(str, arguments)])
        code = args.function(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
