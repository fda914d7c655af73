"""The exit codes: what a script may rely on. The table of docs/reading.md and ``--help`` are made from this."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_COMPARABLE = 3
    BUDGET = 4
    INTERNAL = 70
    INTERRUPTED = 130


MEANING = {
    Exit.DONE: "done",
    Exit.FAILED: "`run`: a result has status error (the others are measured); `check`: a regression; `verify`: a "
    "result is wrong; `inspect`: the contract is broken, or a cause is likely; `validate`: a metric has lost its rank",
    Exit.BAD_INPUT: "bad input, or a machine without room for the output: one sentence on standard error",
    Exit.NOT_COMPARABLE: "`compare`, `check`: results of different protocols, or without units",
    Exit.BUDGET: "`run`: the budget of the judge, or a limit of its endpoint, is used up; the same command goes on",
    Exit.INTERNAL: "a fault in sae-bench, or out of memory: one sentence, which names a file with the traceback",
    Exit.INTERRUPTED: "interrupted; the same command goes on (`validate` begins again)",
}


def as_text() -> str:
    """One line a code, for ``--help``."""
    return "\n".join(f"  {code:>3}  {what.replace('`', '')}" for code, what in MEANING.items())


def as_markdown() -> str:
    """The table of docs/reading.md."""
    return "\n".join(["| code | |", "|---|---|", *(f"| {code:d} | {what} |" for code, what in MEANING.items())])
