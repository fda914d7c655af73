"""What an exception says, in one line for a sentence."""

from __future__ import annotations

import pytest

from sae_bench.errors import named, said


class Numbered(ValueError):
    strerror = 42


LINES = {
    "first of several": (ValueError("one.\ntwo"), "one"),
    "nothing": (ValueError(), "ValueError"),
    "dots": (ValueError("..."), "ValueError"),
    "control characters": (ValueError("\x00\x01\nsecond \x1b[31m line"), "second  [31m line"),
    "white space": (ValueError(" . \n reason "), "reason"),
    "a file": (FileNotFoundError(2, "No such file", "/data/w.pt"), "No such file: /data/w.pt"),
    "an OSError of somebody's own": (OSError("told so"), "told so"),
    "not what it seems": (Numbered("message"), "message"),
    "very long": (ValueError("x" * 500), "x" * 197 + "..."),
}


@pytest.mark.parametrize("what", LINES)
def test_one_printable_line(what: str) -> None:
    error, line = LINES[what]
    assert said(error) == line
    name = type(error).__name__
    assert named(error) == (name if line == name else f"{name}: {line}")


def test_a_sentence_that_names_the_file_itself_leaves_it_out() -> None:
    assert named(FileNotFoundError(2, "No such file", "/data/w.pt"), file=False) == "FileNotFoundError: No such file"
