"""What the command says on stderr that a user would take for something wrong."""

from __future__ import annotations

SIGNS = ("sae-bench:", "Traceback (most recent call last)", "Exception ignored in", "Fatal Python error")


def complaints(stderr: str) -> list[str]:
    """Lines in which the program refuses or warns, and the first lines of tracebacks.

    A deprecation that a dependency prints is none: it is nothing that a user did, and comes and goes with versions.
    """
    return [line for line in stderr.splitlines() if line.lstrip().startswith(SIGNS)]
