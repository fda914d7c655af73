"""The key of the judge, and how it is taken out of all that is kept, printed or raised, however it is written there.

Endpoints and proxies repeat the key in replies, messages, headers and addresses: as it is, escaped (JSON, per cent,
HTML, JavaScript), broken over lines, in hexadecimal digits, or in base64 at any offset of a longer text.
"""

from __future__ import annotations

import base64
import html
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, NoReturn, TypeVar

MARK = "[key]"
LEAST = 8  # characters: shorter keys are placeholders of local servers ("none", "EMPTY"), and would be words of replies
_PIECES_FROM = 20  # characters of a key of which long pieces count too; a shorter one is a word ("not-needed") as well
_ROUNDS = 4  # of escapes inside escapes

_SPACE = re.compile(r"[\s\u00ad\u200b-\u200f\u2060\ufeff]+")
_ESCAPE = re.compile(
    r"\\(?:(?-i:u)(?:\{0*(?P<braces>[0-9a-f]{1,5})\}|(?P<four>[0-9a-f]{4}))|(?-i:U)000(?P<eight>[0-9a-f]{5})"
    r"|x(?P<two>[0-9a-f]{2})|(?P<octal>[0-3][0-7]{2})|(?P<mark>.))"
    r"|%(?:u(?P<wide>[0-9a-f]{4})|(?P<cent>[0-9a-f]{2}))"
    r"|&#(?:x0*(?P<hex>[0-9a-f]{1,5})|0*(?P<decimal>[0-9]{1,6}));?"
    r"|(?P<named>&[a-z]{2,20};)",
    re.IGNORECASE,
)
_WHITE = dict.fromkeys("nrtfbv", " ")
_LOWER = str.maketrans({chr(i): chr(i + 32) for i in range(65, 91)})  # ASCII alone: every place stays where it is
_LOGGERS = (
    *("openai", "openai._base_client", "httpx"),
    *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),
)

T = TypeVar("T")


class Scrubber:
    """Takes keys out of texts. Shows them to nobody, and cannot be pickled.

    A key of fewer than 8 characters is left alone: it is a placeholder of a local server. Of a key of 20 characters or
    more also pieces go, from half of it on (12 to 16 characters): a reply may be cut or split.
    """

    __slots__ = ("_any_case", "_exact")

    def __init__(self, *secrets: str) -> None:
        any_case: list[str] = []
        exact: list[str] = []
        for secret in secrets:
            if len(secret) < LEAST:
                continue
            size = len(secret) if len(secret) < _PIECES_FROM else max(12, min(16, len(secret) // 2))
            plain, digits = secret.translate(_LOWER), secret.encode().hex()
            any_case += [*_pieces(plain, size), *_pieces(digits, 2 * size)]
            exact += [piece for form in _in_base64(secret) for piece in _pieces(form, 4 * size // 3)]
        self._any_case = tuple(dict.fromkeys(any_case))
        self._exact = tuple(dict.fromkeys(exact))

    def __repr__(self) -> str:
        return "Scrubber()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a scrubber knows a key and cannot be pickled")

    def text(self, text: str) -> str:
        """``text`` with ``[key]`` in place of the key."""
        if not self._any_case or not any(True for layer in _layers(text) for _ in self._found(layer)):
            return text
        places = sorted(set(self._places(text)))
        kept, end = [], 0
        for start, stop in places:
            if start >= end:
                kept += [text[end:start], MARK]
            end = max(end, stop)
        return "".join([*kept, text[end:]])

    def value(self, value: Any) -> Any:
        """JSON with every text in it cleaned, names too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(one) for name, one in value.items()}
        return value

    def scattered(self, value: Any) -> bool:
        """Whether the key is spread over texts, or codes of characters, of one name in JSON: parts, tokens, bytes."""
        parts: dict[str, list[str]] = {}
        for name, part in _leaves(value, ""):
            parts.setdefault(name, []).append(part)
        return any(self.text(whole) != whole for whole in map("".join, parts.values()))

    def record(self, record: T) -> T:
        """A dataclass with every text in it cleaned."""
        texts = {f.name: getattr(record, f.name) for f in fields(record)}  # type: ignore[arg-type]
        changed = {name: self.text(text) for name, text in texts.items() if isinstance(text, str)}
        return replace(record, **changed)  # type: ignore[type-var]

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the key, or a piece of it, begins and ends."""
        for own, pieces in ((text.translate(_LOWER), self._any_case), (text, self._exact)):
            for piece in pieces:
                at = own.find(piece)
                while at >= 0:
                    yield at, at + len(piece)
                    at = own.find(piece, at + 1)

    def _places(self, text: str) -> Iterator[tuple[int, int]]:
        """The places in ``text`` itself of all that is found in any of its layers."""
        starts: Sequence[int] = range(len(text))
        ends: Sequence[int] = range(1, len(text) + 1)
        layer = text
        yield from self._found(layer)
        for pattern, meaning in _steps():
            layer, starts, ends = _traced(layer, starts, ends, pattern, meaning)
            yield from ((starts[a], ends[b - 1]) for a, b in self._found(layer))


NO_KEY = Scrubber("")


class Quiet(logging.Filter):
    """Cleans what the libraries underneath log: at the level of debugging also headers, as they came."""

    def __init__(self, scrub: Scrubber) -> None:
        super().__init__()
        self._scrub = scrub

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; the record then holds its message alone."""
        record.msg, record.args, record.exc_info = self._scrub.text(record.getMessage()), (), None
        return True

    def watch(self, on: bool) -> None:
        """Begin, or end."""
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            (logger.addFilter if on else logger.removeFilter)(self)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The texts in JSON, and whole numbers as the characters that they may stand for, each with its name."""
    if isinstance(value, dict):
        for own, inner in value.items():
            yield from _leaves(inner, own)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, name)
    elif isinstance(value, str):
        yield name, value
    elif isinstance(value, int) and 32 <= value < 127:
        yield name, chr(value)


def _pieces(form: str, size: int) -> Iterator[str]:
    """All pieces of this size; of a shorter form all of it."""
    return (form[i : i + size] for i in range(max(1, len(form) - size + 1)))


def _in_base64(secret: str) -> Iterator[str]:
    """What of the key stays the same in base64, whatever stands around it: with 0, 1 or 2 bytes before it."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + secret.encode()).decode()
        own = whole[-(-8 * before // 6) : 8 * (before + len(secret.encode())) // 6]
        yield from (own, own.replace("+", "-").replace("/", "_"))


def _steps() -> Iterator[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]]:
    """What is undone, one after another."""
    for _ in range(_ROUNDS):
        yield _SPACE, lambda match: ""
        yield _ESCAPE, _meaning


def _layers(text: str) -> Iterator[str]:
    """``text``, and what it is with spaces and escapes undone once, twice, ..."""
    yield text
    for pattern, meaning in _steps():
        undone = pattern.sub(meaning, text)
        if undone != text:
            yield undone
        elif pattern is _ESCAPE:
            return
        text = undone


def _meaning(match: re.Match[str]) -> str:
    """The character behind an escape; one that nobody knows is what it is."""
    kind, found = match.lastgroup or "", match.group(match.lastgroup or 0)
    if kind == "mark":
        return _WHITE.get(found, found)
    if kind == "named":
        return html.unescape(found)
    code = int(found, {"octal": 8, "decimal": 10}.get(kind, 16))
    return chr(code) if code < 0x110000 else match.group()


def _traced(
    text: str, starts: Sequence[int], ends: Sequence[int], pattern: re.Pattern[str], meaning: Callable[[Any], str]
) -> tuple[str, list[int], list[int]]:
    """``pattern.sub(meaning, text)``, and where in the first text each of its characters begins and ends."""
    made: list[str] = []
    begins: list[int] = []
    stops: list[int] = []
    at = 0
    for match in pattern.finditer(text):
        a, b = match.span()
        undone = meaning(match)
        made += [text[at:a], undone]
        begins += [*starts[at:a], *[starts[a]] * len(undone)]
        stops += [*ends[at:a], *[ends[b - 1]] * len(undone)]
        at = b
    return "".join([*made, text[at:]]), [*begins, *starts[at:]], [*stops, *ends[at:]]
