"""JSON as language models write it: read what is plainly meant, refuse the rest.

Takes trailing commas, single quotes, quotes inside texts, bare words, ``None`` and ``True``, comments, prose around,
and an end that is missing. Nothing is evaluated; depth and length are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LONGEST = 65536  # characters that are looked at
_DEEPEST = 32
_STARTS = 64  # brackets tried, so that hostile text cannot take long

_START = re.compile(r"[{\[]")
_TORN = re.compile(r"\{\s*[\"'“]")
_BEGUN = re.compile(r"\{\s*(?:[\"'“]|$)|\[\s*(?:[\"'“{\[]|$)")  # what begins so is JSON, though nothing of it is there
_SPACE = re.compile(r"(?:\s+|//[^\n]*)*")
_WORD = re.compile(r"[^\s,\[\]{}:\"'“”]+")
_NUMBER = re.compile(r"[-+]?\d{1,30}(?:\.\d{0,30})?(?:[eE][-+]?\d{1,3})?")
_CLOSES = re.compile(r"\s*(?:[,:}\]]|//|$)")
_WORDS = {"true": True, "false": False, "null": None, "none": None, "nan": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_QUOTES = {'"': '"', "'": "'", "“": "”"}


def _joined(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a name that is given twice with two values says nothing, so it has None."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = None if name in found and found[name] != value else value
    return found


_STRICT = json.JSONDecoder(strict=False, object_pairs_hook=_joined)


class _BrokenError(Exception):
    """Not JSON, however kindly read."""


class _EndedError(Exception):
    """The text ends inside a value."""


@dataclass(frozen=True)
class Piece:
    """One object or list of a text, from ``start`` to ``stop``.

    ``strict``: it is JSON as the standard has it. ``ended``: the text ends inside it; ``value`` is what is complete.
    """

    value: Any
    start: int
    stop: int
    strict: bool = True
    ended: bool = False


def values(text: str) -> Iterator[Any]:
    """Every object and list at the top level of ``text``, in order.

    A value that the end of the text cuts off comes with what is complete in it, unless that is nothing.
    """
    return (piece.value for piece in pieces(text) if piece.value or not piece.ended)


def pieces(text: str, strict: bool = False) -> Iterator[Piece]:
    """Every object and list at the top level of ``text``, in order; with ``strict`` only what is JSON as it stands."""
    text = text[:LONGEST]
    at = 0
    for _ in range(_STARTS):
        found = _START.search(text, at)
        if found is None:
            return
        piece = _strict(text, found.start()) or (None if strict else _kind(text, found.start()))
        if piece is not None:
            yield piece
        # what is empty and without an end may be no JSON at all, so what stands in it is looked at
        at = found.end() if piece is None or (piece.ended and not piece.value) else piece.stop


def is_whole(text: str) -> bool:
    """Whether a JSON object, strict and complete, ends ``text``; a code fence may close after it."""
    found = list(pieces(text))
    if not found or any(piece.ended for piece in found):
        return False
    last = found[-1]
    starts = [0, *(piece.stop for piece in found)]
    between = (text[a : piece.start] for a, piece in zip(starts, found, strict=False))
    if any(_TORN.search(part) for part in between):  # the last one may stand inside a text of an object that is cut off
        return False
    return last.strict and isinstance(last.value, dict) and not text[last.stop :].strip().strip("`")


def is_cut(text: str) -> bool:
    """Whether ``text`` ends inside JSON."""
    return any(piece.ended and (piece.value or _BEGUN.match(text, piece.start)) for piece in pieces(text))


def _strict(text: str, start: int) -> Piece | None:
    try:
        value, stop = _STRICT.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return Piece(value, start, stop)


def _kind(text: str, start: int) -> Piece | None:
    """The value that begins here, kindly read; None where there is none."""
    reader = _Reader(text, start)
    try:
        value = reader.value(0)
    except (_BrokenError, _EndedError):
        return None
    return Piece(value, start, reader.at, strict=False, ended=reader.ended)


class _Reader:
    """A recursive reader of one value from ``at`` on; ``ended`` once the text has run out inside it."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self.ended = False

    def value(self, depth: int) -> Any:
        """The value that begins here. Raises _BrokenError, or _EndedError where nothing of it is complete."""
        if depth > _DEEPEST:
            raise _BrokenError
        mark = self._peek()
        if mark == "{":
            return self._object(depth)
        if mark == "[":
            return self._list(depth)
        return self._string(_QUOTES[mark]) if mark in _QUOTES else self._word()

    def _object(self, depth: int) -> dict[str, Any]:
        self.at += 1
        found: list[tuple[str, Any]] = []
        try:
            while self._peek() != "}":
                mark = self._peek()
                name = self._string(_QUOTES[mark]) if mark in _QUOTES else self._word()
                if self._peek() != ":":
                    raise _BrokenError
                self.at += 1
                found.append((str(name), self.value(depth + 1)))
                self._comma("}")
            self.at += 1
        except _EndedError:
            self.ended = True
        return _joined(found)

    def _list(self, depth: int) -> list[Any]:
        self.at += 1
        found: list[Any] = []
        try:
            while self._peek() != "]":
                found.append(self.value(depth + 1))
                self._comma("]")
            self.at += 1
        except _EndedError:
            self.ended = True
        return found

    def _comma(self, close: str) -> None:
        """A comma, or the end of this object or list."""
        if self.ended:
            raise _EndedError
        mark = self._peek()
        if mark == ",":
            self.at += 1
        elif mark != close:
            raise _BrokenError

    def _string(self, quote: str) -> str:
        """A text up to the quote that what follows shows to be the last: a mark of JSON, or nothing."""
        start = self.at + 1
        pieces: list[str] = []
        at = start
        while at < len(self.text):
            mark = self.text[at]
            if mark == "\\" and at + 1 < len(self.text):
                pieces.append(self.text[start:at])
                piece, at = self._escape(at + 1)
                pieces.append(piece)
                start = at
            elif mark == quote and _CLOSES.match(self.text, at + 1):
                self.at = at + 1
                return "".join([*pieces, self.text[start:at]])
            else:
                at += 1
        raise _EndedError

    def _escape(self, at: int) -> tuple[str, int]:
        """The character after a backslash, and where it ends."""
        mark = self.text[at]
        if mark == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", self.text[at + 1 : at + 5]):
            return chr(int(self.text[at + 1 : at + 5], 16)), at + 5
        return _ESCAPES.get(mark, mark), at + 1

    def _word(self) -> Any:
        """A number, a name of a constant, or a word without quotes; at the end of the text it may be cut off."""
        match = _WORD.match(self.text, self.at)
        if match is None:
            raise _BrokenError
        if match.end() == len(self.text):
            raise _EndedError
        self.at = match.end()
        word = match.group()
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        return float(word) if _NUMBER.fullmatch(word) else word

    def _peek(self) -> str:
        """The next mark that is not space or comment. Raises _EndedError where there is none."""
        space = _SPACE.match(self.text, self.at)
        self.at = self.at if space is None else space.end()
        if self.at >= len(self.text):
            raise _EndedError
        return self.text[self.at]
