"""Tables and sentences that keep to a number of columns: what does not fit stands below, never beyond the edge.

A column here is what a character takes on a terminal: two for those of East Asian scripts, none for what is written
over the character before it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from sae_bench.show.text import line

NARROWEST = 40  # columns; a narrower terminal gets lines that it breaks itself
WIDE = 100  # columns of a summary on whatever is wider, or is no terminal
MORE = "…"


def columns_of_output(piped: int | None) -> int | None:
    """How many columns there are to write in: as COLUMNS says, else those of the terminal; ``piped`` where none is."""
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdigit() and int(told) > 0:
        return max(NARROWEST, int(told))
    try:
        return max(NARROWEST, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError, AttributeError):
        return piped


_PLAIN = str.maketrans({MORE: "~", "↑": "^", "↓": "v"})  # one for one, so that nothing moves


def for_output(text: str) -> str:
    """The text as standard output can take its signs: where that has no arrows, others stand for them.

    What else it lacks, such as letters of names, is escaped where it is printed.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        f"{MORE}↑↓".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_PLAIN)
    return text


def width(text: str) -> int:
    """How many columns a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """The text with spaces behind it, or before it where it is to stand at the ``right``."""
    space = " " * max(0, columns - width(text))
    return space + text if right else text + space


def head(text: str, columns: int) -> str:
    """As many whole characters from the start as fit."""
    taken = 0
    for place, one in enumerate(text):
        taken += _width(one)
        if taken > columns:
            return text[:place]
    return text


def tail(text: str, columns: int) -> str:
    """As many whole characters from the end as fit; what is written over a character stays with it."""
    place, taken = len(text), 0
    while place and taken + _width(text[place - 1]) <= columns:
        place -= 1
        taken += _width(text[place])
    while place < len(text) and not _width(text[place]):
        place += 1
    return text[place:]


def unlike(names: Sequence[str], columns: int) -> dict[str, str]:
    """Each name in at most so many columns: long ones lose their middle, and no two of them become alike.

    What a name becomes depends on all names, but not on their order. Names become lines that may be printed.
    """
    every = sorted(set(names))
    lines = {name: line(name) for name in every}
    for before in _shares(columns):
        made = {name: _without_middle(text, columns, before) for name, text in lines.items()}
        if len(set(made.values())) == len(every):
            return made
    called = Counter(lines.values())
    for digits in range(4, 65, 4):  # they differ where none of these cuts shows it, or in what cannot be printed
        made = {}
        for name, text in lines.items():
            if width(text) <= columns and called[text] == 1:
                made[name] = text
            else:
                digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
                made[name] = f"{head(text, max(0, columns - digits - 1))}{MORE}{digest}"
        if len(set(made.values())) == len(every):
            break
    return made


def _shares(columns: int) -> Iterator[int]:
    """How many columns stand before the gap: a third first, for names mostly differ at their end."""
    room = columns - 1
    yield from dict.fromkeys(max(0, min(room, round(room * share))) for share in (0.35, 0.5, 0.2, 0.65, 0.8, 0.0, 1.0))


def _without_middle(text: str, columns: int, before: int) -> str:
    if width(text) <= columns:
        return text
    return f"{head(text, before)}{MORE}{tail(text, columns - 1 - before)}"


def wrapped(text: str, columns: int | None, *, first: str = "", then: str = "") -> list[str]:
    """A sentence as lines of at most so many columns, ``first`` before the first and ``then`` before the others.

    It is broken at spaces, and within a word that is longer than a line; None: one line.
    """
    text = line(text)
    if columns is None:
        return [first + text]
    lines, room = [], columns - width(first)
    before, current = first, ""
    for word in text.split(" "):
        joined = f"{current} {word}" if current else word
        if width(joined) <= room:
            current = joined
            continue
        if current:
            lines.append(before + current)
            before, room = then, columns - width(then)
        current = word
        while width(current) > room:
            part = head(current, max(1, room)) or current[:1]
            lines.append(before + part)
            before, room, current = then, columns - width(then), current[len(part) :]
    return [*lines, before + current] if current or not lines else lines


def table(
    heads: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    *,
    columns: int | None,
    left: frozenset[int] = frozenset({0}),
    keep: int = 1,
    gap: int = 2,
) -> list[str]:
    """A table as lines: a heading of one or more lines, a rule, and the rows.

    Where it has more than so many ``columns``, what does not fit becomes another table below, in which the first
    ``keep`` columns stand again; a cell that is too wide by itself is broken. ``left``: places of columns whose cells
    begin at the left.
    """
    deep = max(map(len, heads), default=1)
    top = [["" for _ in range(deep - len(one))] + [line(word) for word in one] for one in heads]
    body = [[line(cell) for cell in row] for row in rows]
    sizes = [max(map(width, [*top[i], *(row[i] for row in body)])) for i in range(len(top))]
    if columns is not None:
        sizes = _squeezed(sizes, top, columns, keep, gap)
    made: list[str] = []
    for places in _blocks(sizes, columns, keep, gap):
        made += [""] if made else []
        for level in (level for level in range(deep) if any(top[i][level] for i in places)):
            made.append(_row([top[i][level] for i in places], places, sizes, left, gap))
        made.append((" " * gap).join("-" * sizes[i] for i in places))
        for row in body:
            made += _broken([row[i] for i in places], places, sizes, left, gap)
    return [one.rstrip() for one in made]


def _squeezed(sizes: Sequence[int], top: Sequence[Sequence[str]], columns: int, keep: int, gap: int) -> list[int]:
    """Sizes at which every column fits beside those that are kept, whose cells are broken where that takes it.

    Where the whole table has room, nothing is broken.
    """
    if sum(sizes) + gap * (len(sizes) - 1) <= columns:
        return list(sizes)
    kept = list(sizes[:keep])
    most = max(1, columns // 2 - gap * keep)
    while kept and sum(kept) > most and max(kept) > 4:
        kept[kept.index(max(kept))] -= 1
    room = max(4, columns - sum(kept) - gap * len(kept))
    return kept + [min(size, room) for size in sizes[keep:]]


def _blocks(sizes: Sequence[int], columns: int | None, keep: int, gap: int) -> list[list[int]]:
    """The places of the columns of each part."""
    kept, rest = list(range(min(keep, len(sizes)))), range(keep, len(sizes))
    start = sum(sizes[i] + gap for i in kept)
    parts: list[list[int]] = []
    taken = 0
    for i in rest:
        more = sizes[i] + gap
        if not parts or (columns is not None and start + taken + more - gap > columns):
            parts.append([*kept])
            taken = 0
        parts[-1].append(i)
        taken += more
    return parts or [kept]


def _row(cells: Sequence[str], places: Sequence[int], sizes: Sequence[int], left: frozenset[int], gap: int) -> str:
    return (" " * gap).join(
        padded(head(cell, sizes[i]), sizes[i], right=i not in left) for cell, i in zip(cells, places, strict=True)
    )


def _broken(
    cells: Sequence[str], places: Sequence[int], sizes: Sequence[int], left: frozenset[int], gap: int
) -> list[str]:
    """A row, over several lines where a cell is wider than its column."""
    parts = [wrapped(cell, sizes[i]) for cell, i in zip(cells, places, strict=True)]
    deep = max(map(len, parts))
    return [_row([part[k] if k < len(part) else "" for part in parts], places, sizes, left, gap) for k in range(deep)]


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as "1, 3-5": what is said of many lines is said briefly."""
    own = sorted(set(numbers))
    starts = [n for n, before in zip(own, [None, *own], strict=False) if before is None or n != before + 1]
    ends = [n for n, after in pairwise([*own, None]) if after is None or (n is not None and after != n + 1)]
    return ", ".join(
        str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)
    )


_BARE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def shell(argument: str) -> str:
    """An argument as a shell reads it back to the same bytes; nothing in it is a command to a terminal.

    What cannot be printed, and bytes that are no text, stand in ``$'...'``, as bash, zsh and POSIX of 2024 read it.
    """
    if _BARE.fullmatch(argument):
        return argument
    if argument.isprintable():
        return "'" + argument.replace("'", "'\"'\"'") + "'"
    made = []
    for one in argument:
        if one in "\\'":
            made.append(f"\\{one}")
        elif one.isprintable():
            made.append(one)
        else:
            made.append("".join(f"\\{byte:03o}" for byte in one.encode("utf-8", "surrogateescape")))
    return "$'" + "".join(made) + "'"


def command(*arguments: str, options: Mapping[str, str | None] | None = None) -> str:
    """A command of ``sae-bench`` that works when it is pasted; a path that begins with a dash is no flag."""
    words = ["sae-bench", *(shell(f"./{one}" if one.startswith("-") else one) for one in arguments)]
    for name, value in (options or {}).items():
        if value is not None:
            words += [name, shell(f"./{value}" if value.startswith("-") else value)]
    return " ".join(words)
