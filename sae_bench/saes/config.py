"""The configuration beside an SAE's weights, of which nothing is taken on trust."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from sae_bench.errors import CoderError

T = TypeVar("T", str, int, bool)
_KINDS = {str: "text", int: "a whole number", bool: "true or false"}
_LARGEST = 2**62
_MOST_LISTED = 240  # characters
_SHORT = reprlib.Repr()  # a few lines of YAML can hold a value whose full text would not fit in memory
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class Config:
    """A mapping out of a file, whose values are taken by type. Every method raises CoderError, naming file and key."""

    def __init__(self, file: Path, values: Mapping[str, Any], section: str = "") -> None:
        self.file, self.values = file, values
        self._prefix = f"{section}." if section else ""

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is."""
        return self.values.get(key, default)

    def where(self, key: str) -> str:
        """File and key, for a sentence."""
        return f"{self.file}: {self._prefix}{key}"

    def section(self, key: str) -> Config:
        """The mapping under ``key``; an empty one if it is missing or null."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise CoderError(f"{self.where(key)} must be an object, but it is {shown(value)}")
        return Config(self.file, value, f"{self._prefix}{key}")

    def integer(self, key: str) -> int:
        """A positive whole number. ``8.0`` is one."""
        value = self.values.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
            raise CoderError(f"{self.where(key)} must be a positive whole number, but it is {shown(value)}")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of positive whole numbers; empty if it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(type(n) is int and n > 0 for n in value):
            raise CoderError(f"{self.where(key)} must be a list of positive whole numbers, but it is {shown(value)}")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not _is_finite(value):
            raise CoderError(f"{self.where(key)} must be a number, but it is {shown(value)}")
        return float(value)

    def optional(self, key: str, kind: type[T]) -> T | None:
        """A value that may be missing or null, else of ``kind`` (str, int or bool)."""
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise CoderError(f"{self.where(key)} must be {_KINDS[kind]} or null, but it is {shown(value)}")
        return value

    def text(self, key: str) -> str:
        """A text."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise CoderError(f"{self.where(key)} must be text, but it is {shown(value)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise CoderError(f"{self.where(key)} must be true or false, but it is {shown(value)}")
        return value

    def choice(self, key: str, allowed: Collection[str], default: str | None = None, otherwise: str = "") -> str:
        """One of some texts; ``otherwise`` says what to do about another one."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in allowed:
            raise CoderError(
                f"{self.where(key)} must be one of {', '.join(allowed)}, but it is {shown(value)}"
                + (f"; {otherwise}" if otherwise else "")
            )
        return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def shown(value: Any) -> str:
    """What stands in a file, short enough for a sentence."""
    try:
        text = _SHORT.repr(value).replace("\n", " ")  # as a tensor has them
    except ValueError:  # a whole number of thousands of digits
        text = "a number of very many digits"
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Iterable[Any], most: int = 20) -> str:
    """Names out of a file, for a sentence: the first of them in order, each short and printable."""
    short = [n if len(n := str(name)) <= 60 and n.isprintable() else shown(n) for name in names]
    kept = sorted(short)[:most]
    while len(kept) > 1 and sum(map(len, kept)) > _MOST_LISTED:
        kept.pop()
    return ", ".join(kept) + (", ..." if len(kept) < len(short) else "")


def plain(problem: object) -> str:
    """What a parser says of a damaged file, on one line and short enough for a sentence."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(problem)).split())
    return text if len(text) <= _MOST_LISTED else text[: _MOST_LISTED - 3] + "..."


def take(
    tensors: Mapping[str, Tensor], names: Collection[str], file: Path, *, optional: Collection[str] = ()
) -> dict[str, Tensor]:
    """The tensors called ``names``, and ``optional`` ones that are there.

    Missing ones are refused, and so are ones that would silently be ignored. Raises CoderError.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CoderError(f"{file} lacks the tensors {listed(missing)}; it has {listed(tensors)}")
    unknown = set(tensors) - set(names) - set(optional)
    if unknown:
        raise CoderError(
            f"{file} holds the tensors {listed(unknown)}, which this kind of SAE does not use, so it is not "
            "what its configuration says"
        )
    return {name: tensors[name] for name in (*names, *optional) if name in tensors}
