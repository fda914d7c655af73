"""Texts of endpoints, made fit to be kept and to be printed."""

from __future__ import annotations

from sae_bench.judge.records import STORED_CHARACTERS

_SHORT = 300  # characters of a reason


def storable(text: str) -> str:
    """At most 65,536 characters of valid Unicode."""
    return text[:STORED_CHARACTERS].encode("utf-8", "replace").decode()


def short(text: str) -> str:
    """One printable line of at most 300 characters."""
    line = " ".join("".join(mark if mark.isprintable() else " " for mark in text[: 4 * _SHORT]).split())
    return line if len(line) <= _SHORT else line[: _SHORT - 1] + "…"
