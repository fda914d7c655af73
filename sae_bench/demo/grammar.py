"""A small template language that writes text and remembers which stretch of it has which attribute.

Templates are strings::

    {SYM}            expand one production of SYM, or of SYM.<value> for a value of the document's state
    {SYM@x}          the same, but the document keeps the choice: every later {SYM@x} repeats it
    [switch|a|b]     a when the document's switch is on (and a coin agrees), else b; b may be left out
    <attribute|a>    writes a and records a span
    ^                the next letter that is written becomes a capital

Only ``random.Random.random`` is used: it is the one method whose sequence Python promises to keep between versions.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Rules = Mapping[str, Sequence[str]]

# A switch that is on still fires only this often, so that its slots stay uncertain to the model.
SWITCH_FIRES = 0.7


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a document on which an attribute holds."""

    start: int
    end: int
    attribute: str


class Node(NamedTuple):
    """One piece of a parsed template: ``kind`` is text, symbol, switch, span or capital."""

    kind: str
    value: str
    parts: tuple[tuple[Node, ...], ...] = ()


@cache
def parse(template: str) -> tuple[Node, ...]:
    """Parse a template; ValueError when its brackets do not match."""
    nodes, end = _parse(template, 0, "")
    if end != len(template):
        raise ValueError(f"unbalanced brackets in the template {template!r}")
    return nodes


def _parse(template: str, at: int, stop: str) -> tuple[tuple[Node, ...], int]:
    nodes: list[Node] = []
    text = ""
    while at < len(template) and template[at] not in stop:
        char = template[at]
        if char not in "{[<^":
            text += char
            at += 1
            continue
        if text:
            nodes.append(Node("text", text))
            text = ""
        if char == "^":
            nodes.append(Node("capital", ""))
            at += 1
        elif char == "{":
            end = template.index("}", at)
            nodes.append(Node("symbol", template[at + 1 : end]))
            at = end + 1
        else:
            node, at = _parse_group(template, at, "]" if char == "[" else ">")
            nodes.append(node)
    if text:
        nodes.append(Node("text", text))
    return tuple(nodes), at


def _parse_group(template: str, at: int, close: str) -> tuple[Node, int]:
    bar = template.index("|", at)
    name = template[at + 1 : bar]
    parts: list[tuple[Node, ...]] = []
    at = bar
    while template[at] == "|":
        part, at = _parse(template, at + 1, "|" + close)
        parts.append(part)
        if at >= len(template):
            raise ValueError(f"a group without {close!r} in the template {template!r}")
    return Node("switch" if close == "]" else "span", name, tuple(parts)), at + 1


@cache
def _zipf(n: int) -> tuple[float, ...]:
    """Cumulative weights of n ranks, the first about five times as likely as the tenth."""
    total, sums = 0.0, []
    for rank in range(n):
        total += 1.0 / math.pow(rank + 2.0, 0.9)
        sums.append(total)
    return tuple(value / total for value in sums)


class Writer:
    """Writes one document.

    ``rules`` maps a symbol to its productions, ``marks`` a symbol to the attribute that every expansion of it has,
    ``state`` the document's choices (gender, mood, tense ...), ``switches`` the optional things that it may mention.
    """

    def __init__(
        self,
        rng: random.Random,
        rules: Rules,
        marks: Mapping[str, str],
        state: Mapping[str, str],
        switches: frozenset[str],
    ) -> None:
        self.rng = rng
        self.rules = rules
        self.marks = marks
        self.state = state
        self.switches = switches
        self.spans: list[Span] = []
        self.length = 0
        self.step = 0
        self._pieces: list[str] = []
        self._kept: dict[str, str] = {}
        self._capital = False

    @property
    def text(self) -> str:
        """What has been written."""
        return "".join(self._pieces)

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.rng.random() < p

    def pick(self, items: Sequence[T]) -> T:
        """One item, the early ones likelier."""
        weights = _zipf(len(items))
        return items[min(bisect(weights, self.rng.random()), len(items) - 1)]

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included, all equally likely."""
        return low + int(self.rng.random() * (high - low + 1))

    def add(self, text: str) -> None:
        """Write text as it is."""
        if self._capital and text:
            text = text[0].upper() + text[1:]
            self._capital = False
        self._pieces.append(text)
        self.length += len(text)

    @contextmanager
    def mark(self, attribute: str) -> Iterator[None]:
        """What is written inside has the attribute."""
        start = self.length
        yield
        if self.length > start:
            self.spans.append(Span(start, self.length, attribute))

    def number(self, value: int) -> None:
        """Write a whole number with its attributes."""
        start = self.length
        self.add(str(value))
        self.spans.append(Span(start, self.length, "contains_number"))
        if value % 2 == 0:
            self.spans.append(Span(start, self.length, "contains_even_number"))
        if value >= 100:
            self.spans.append(Span(start, self.length, "contains_large_number"))

    def expand(self, symbol: str) -> None:
        """Write one expansion of a symbol; KeyError when the grammar lacks it."""
        name, _, slot = symbol.partition("@")
        numbers = {"N1": (2, 12), "N2": (13, 99), "N3": (100, 999), "YEAR": (1985, 2024), "STARS": (1, 5)}
        if name in numbers:
            self.number(self.integer(*numbers[name]))
            return
        if name == "STEP":
            self.step += 1
            self.number(self.step)
            return
        key = self._key(name)
        template = self._kept.get(symbol) if slot else None
        if template is None:
            template = self.pick(self.rules[key])
            # Two slots of one symbol (two people) are two different things.
            while slot and any(kept == template for other, kept in self._kept.items() if other.startswith(name + "@")):
                template = self.pick(self.rules[key])
            if slot:
                self._kept[symbol] = template
        attribute = self.marks.get(key) or self.marks.get(name)
        if attribute is None:
            self.write(template)
        else:
            with self.mark(attribute):
                self.write(template)

    def write(self, template: str) -> None:
        """Write an expansion of a template."""
        self._walk(parse(template))

    def _walk(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            if node.kind == "text":
                self.add(node.value)
            elif node.kind == "capital":
                self._capital = True
            elif node.kind == "symbol":
                self.expand(node.value)
            elif node.kind == "span":
                with self.mark(node.value):
                    self._walk(node.parts[0])
            elif node.value in self.switches and self.chance(SWITCH_FIRES):
                self._walk(node.parts[0])
            elif len(node.parts) > 1:
                self._walk(node.parts[1])

    def _key(self, name: str) -> str:
        if name in self.rules:
            return name
        for value in self.state.values():
            if f"{name}.{value}" in self.rules:
                return f"{name}.{value}"
        raise KeyError(f"the grammar has no symbol {name!r} for the state {dict(self.state)}")
