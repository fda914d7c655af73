"""From the details of a result to blocks: those that its task makes, and what the task does not read as it stands.

Details have no schema and come from elsewhere. Nothing in them is left out silently and nothing in them raises: what a
task's ``blocks`` cannot read is told in a sentence and drawn as it stands, like all details of a task that is not
installed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sae_bench import registry
from sae_bench.errors import SaeBenchError, named
from sae_bench.parsing import first_problem
from sae_bench.schema import Result, TaskSpec
from sae_bench.show.blocks import AnyBlock, Text, pairs, quoted, read, table
from sae_bench.show.text import span

MOST_BLOCKS = 40  # of one result
MOST_COLUMNS = 40  # of a table that is made from records
MOST_LINES = 400  # of a part that is no table
DEEPEST = 8  # levels of such a part
Make = Callable[[Mapping[str, Any]], Any]


class Said(dict[str, Any]):
    """The part of the details that stands beside figures, for who does not keep the rest in memory; it is not drawn."""


@dataclass(frozen=True)
class Found:
    """Blocks in the order in which they are drawn, and a sentence for each part that was not as it should be."""

    blocks: tuple[AnyBlock, ...]
    problems: tuple[str, ...]


def found(result: Result, known: Mapping[str, TaskSpec]) -> Found:
    """What a result holds beside its figures; ``known`` are the tasks that are installed here.

    The module of figures is that of the installed task, never one that the result names. Raises TypeError for the head
    of a result, whose details are in its file.
    """
    if isinstance(result.details, Said):
        raise TypeError("only a part of these details is in memory; read the result file again")
    problems: list[str] = []
    make: Make | None = None
    if result.task in known:
        try:
            make = getattr(registry.load(known[result.task].figures), "blocks", None)
        except SaeBenchError as error:
            problems.append(f"the details are shown as they stand: {error}")
    view, made = _made(make, result.details, problems)
    rest = {name: value for name, value in result.details.items() if name not in view.read or name in view.hidden}
    blocks = [*made, *derived(rest, problems)]
    blocks.sort(key=lambda block: block.title != COUNTS)
    if len(blocks) > MOST_BLOCKS:
        left = f"and {len(blocks) - MOST_BLOCKS} more parts (the result file holds all)"
        blocks[MOST_BLOCKS:] = [Text(title="Further parts", lines=(left,))]
    return Found(tuple(blocks), tuple(problems))


class _View(Mapping[str, Any]):
    """Details that remember what was read of them; ``hidden`` names are not there."""

    def __init__(self, details: Mapping[str, Any], hidden: frozenset[str]) -> None:
        self._details, self.hidden = details, hidden
        self.read: dict[str, None] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        self.read.pop(name, None)
        self.read[name] = None  # the last one is the one that is being read
        return self._details[name]

    def __contains__(self, name: object) -> bool:
        return name in self._details and name not in self.hidden

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._details if name not in self.hidden)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _made(make: Make | None, details: Mapping[str, Any], problems: list[str]) -> tuple[_View, list[AnyBlock]]:
    """The task's own blocks, without what it cannot read; what is empty is left to the counts, which say "none"."""
    view = _View(details, frozenset(name for name, value in details.items() if value in ([], {})))
    while make is not None:
        try:
            return view, [one if isinstance(one, AnyBlock) else read(one) for one in make(view)]
        except Exception as error:  # noqa: BLE001 - whatever the code of a task does with a strange file
            last = next(reversed(view.read), None)
            if last is None or len(view.hidden) >= MOST_BLOCKS:
                problems.append(f"the details cannot be read ({named(error)}); they are shown as they stand")
                break
            problems.append(
                f"{f'details.{last}'!r} is not what this sae-bench writes ({named(error)}); it is shown as it stands"
            )
            view = _View(details, view.hidden | {last})
    return _View(details, frozenset()), []


COUNTS = "Counts"


def derived(details: Mapping[str, Any], problems: list[str]) -> list[AnyBlock]:
    """Blocks of parts that no task explains: values as counts, records as tables, all else as indented text."""
    counts: dict[str, Any] = {}
    blocks: list[AnyBlock] = []
    for name, value in details.items():
        title = name.replace("_", " ")
        if _plain(value) or value in ([], {}):
            counts[title] = value if _plain(value) else "none"
        elif isinstance(value, dict) and "block" in value:
            try:
                blocks.append(read(value))
            except ValidationError as error:
                where = ": ".join(first_problem(error)).removeprefix(": ")
                problems.append(f"{f'details.{name}'!r} is no block ({where}); it is shown as it stands")
                blocks.append(_text(title, value))
        else:
            blocks.append(shaped(title, value))
    return [*([pairs(COUNTS, counts)] if counts else []), *blocks]


def shaped(title: str, value: Any, first: str = "name") -> AnyBlock:
    """A part of the details as what its shape says; ``first`` heads the names of records that have one."""
    if isinstance(value, dict) and all(_cell(one) is not None for one in value.values()):
        return pairs(title, {name: _cell(one) for name, one in value.items()})
    records: list[dict[str, Any] | None] = []
    if isinstance(value, dict):
        taken = any(first in one for one in value.values() if isinstance(one, dict))
        key = f"{first} of the record" if taken else first
        records = [_flat({key: name, **one}) if isinstance(one, dict) else None for name, one in value.items()]
    elif isinstance(value, list):
        records = [_flat(one) if isinstance(one, dict) else None for one in value]
    flat = [one for one in records if one is not None]
    if not flat or len(flat) < len(records):
        return _text(title, value)
    head = list(dict.fromkeys(name for one in flat for name in one))
    shown = head[:MOST_COLUMNS]
    if len(head) > len(shown):
        title = f"{title} (the first {len(shown)} of {len(head)} columns)"
    return table(title, [name.replace("_", " ") for name in shown], [[one.get(n, "") for n in shown] for one in flat])


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_interval(value: Any) -> bool:
    if not isinstance(value, dict) or not {"value", "low", "high"} <= set(value):
        return False
    ends = [value[name] for name in ("value", "low", "high")]
    return all(one is None or (isinstance(one, int | float) and abs(one) < 1e300) for one in ends)


def _cell(value: Any) -> Any:
    """What stands in one cell; None for what does not fit there."""
    if _plain(value):
        return "-" if value is None else value
    if _is_interval(value):
        return span(value["value"], value["low"], value["high"])
    if isinstance(value, list) and all(map(_plain, value)):
        return ", ".join(quoted(one) if isinstance(one, str) else str(one) for one in value) or "none"
    return None


def _flat(record: dict[str, Any]) -> dict[str, Any] | None:
    """A record as cells by column, with those of a record inside it, such as ``metrics``; None where it is deeper."""
    cells: dict[str, Any] = {}
    for name, value in record.items():
        inner = value if isinstance(value, dict) and value and not _is_interval(value) else {name: value}
        for column, one in inner.items():
            cell = _cell(one)
            if cell is None and one != {}:
                return None
            while column in cells:
                column = f"{name} {column}"
            cells[column] = "none" if cell is None else cell
    return cells


def _text(title: str, value: Any) -> AnyBlock:
    lines: list[str] = []
    for one in _lines(value, 0):
        if len(lines) == MOST_LINES:
            lines.append("and more (the result file holds all)")
            break
        lines.append(one)
    return Text(title=title, lines=tuple(lines))


def _lines(value: Any, depth: int) -> Iterator[str]:
    """A value as indented lines, down to a bounded depth."""
    items = (
        value.items() if isinstance(value, dict) else ((None, one) for one in value) if isinstance(value, list) else ()
    )
    if not isinstance(value, dict | list):
        yield str(value)
    for name, one in items:
        before = "  " * depth + ("- " if name is None else f"{name}: ")
        cell = _cell(one)
        if cell is not None:
            yield f"{before}{cell}"
        elif depth == DEEPEST:
            yield f"{before}({len(one)} parts)"
        else:
            yield before.rstrip()
            yield from _lines(one, depth + 1)
