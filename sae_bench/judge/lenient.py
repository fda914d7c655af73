"""JSON as language models write it: read what is plainly meant, refuse the rest.

Takes trailing commas, single quotes, quotes inside texts, bare words, ``None`` and ``True``, comments, prose around,
and an end that is missing. Nothing is evaluated; depth and length are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

LONGEST = 65536  # characters that are looked at
_DEEPEST = 32
_STARTS = 64  # brackets tried, so that hostile text cannot take long

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


def values(text: str) -> Iterator[Any]:
    """Every object and list at the top level of ``text``, in order.

    A value that the end of the text cuts off comes with what is complete in it, unless that is nothing.
    """
    text = text[:LONGEST]
    at = 0
    for _ in range(_STARTS):
        starts = [found for mark in "{[" if (found := text.find(mark, at)) >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, at = _STRICT.raw_decode(text, start)
        except (ValueError, RecursionError):
            reader = _Reader(text, start)
            try:
                value, at = reader.value(0), reader.at
            except (_BrokenError, _EndedError):
                at = start + 1
                continue
            if reader.ended and not value:
                at = start + 1
                continue
        yield value


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
