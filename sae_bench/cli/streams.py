"""Standard output and error as they may be: of any encoding, closed, full, or read by somebody who has gone.

All was measured when a table is printed, so nothing about where it is printed may cost it. What is no terminal gets
UTF-8, unless PYTHONIOENCODING names another encoding; what an encoding lacks is written as ``\\uXXXX``, which is valid
in JSON too.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Any

ESCAPED = "sae_bench.escaped"  # a handler of encoding errors


class OutputFault(OSError):
    """Standard output takes no more: the disk is full, for instance."""


class _Output(io.FileIO):
    """Says of a fault that it is standard output's; one whose reader has gone raises BrokenPipeError as ever."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFault(error.errno, error.strerror) from error


class _Error(io.FileIO):
    """Loses what cannot be written: a warning that nobody reads stops no run."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def prepare() -> None:
    """Make standard output and error fit to be written to, whatever they are. Those of a caller keep their encoding."""
    codecs.register_error(ESCAPED, _escaped)
    _occupy()
    sys.stdout = _prepared(sys.stdout, sys.__stdout__, 1, _Output)
    sys.stderr = _prepared(sys.stderr, sys.__stderr__, 2, _Error)


def _occupy() -> None:
    """Open what was closed as the null device, or the next file that is opened would be standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _prepared(stream: Any, own: Any, number: int, kind: type[io.FileIO]) -> Any:
    if stream is None:  # it was closed when Python started
        return open(os.devnull, "w", encoding="utf-8", errors=ESCAPED)
    if stream is own and not isinstance(getattr(stream.buffer, "raw", None), kind) and not stream.isatty():
        told = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
        with contextlib.suppress(OSError):
            stream.flush()
        return io.TextIOWrapper(
            io.BufferedWriter(kind(number, "w", closefd=False)),
            encoding=stream.encoding if told else "utf-8",
            errors=ESCAPED,
            line_buffering=kind is _Error,
        )
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=ESCAPED)
    return stream


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end


def abandon_output() -> None:
    """Send what is still to be printed nowhere, so that nothing is tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
