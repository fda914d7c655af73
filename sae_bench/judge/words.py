"""Texts of endpoints, made fit to be kept and to be printed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sae_bench.judge.records import STORED_CHARACTERS

_SHORT = 300  # characters of a reason


def storable(text: str) -> str:
    """At most 65,536 characters of valid Unicode."""
    return text[:STORED_CHARACTERS].encode("utf-8", "replace").decode()


def short(text: str) -> str:
    """One printable line of at most 300 characters."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in text[: 4 * _SHORT]).split())
    return line if len(line) <= _SHORT else line[: _SHORT - 1] + "…"


def leaves(value: Any, without: Collection[str] = ()) -> Iterator[str]:
    """The texts in JSON, but for those in fields named ``without``; nesting costs no depth of the stack."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list):
            waiting += [inner for name, inner in one.items() if name not in without] if isinstance(one, dict) else one
