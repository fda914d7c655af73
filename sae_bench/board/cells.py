"""Scores with their ranks: who is ranked by which column, among whom, and why somebody is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sae_bench.board.alike import SaeKey
from sae_bench.board.collect import Entry
from sae_bench.board.columns import Column
from sae_bench.board.ranks import Group, Groups, Ranker
from sae_bench.results import at_l0
from sae_bench.schema import MetricValue
from sae_bench.show import marks, truth
from sae_bench.show.marks import Mark
from sae_bench.show.results import few


@dataclass(frozen=True)
class Cell:
    """A score; ``rank`` is its range of ranks among all of the table, or those of its ``group``, else None.

    ``unranked`` says why there is none where there could be one. ``front``: no other of the table is better with as few
    active latents; None where that is not asked. One with a ``mark`` is not whole; most such are shown and never ranked
    (:mod:`sae_bench.show.marks`).
    """

    value: MetricValue
    rank: tuple[int, int] | None
    mark: Mark | None = None
    group: Group | None = None
    unranked: str | None = None
    front: bool | None = None

    @property
    def may_lead(self) -> bool:
        """Whether a row may be put in order by this score."""
        return self.mark is None or self.mark.ranked


def cells_of(
    by_sae: Mapping[SaeKey, Mapping[str, Entry]],
    columns: Sequence[Column],
    ranker: Ranker,
    l0s: Mapping[SaeKey, float | None],
) -> tuple[dict[SaeKey, dict[str, Cell]], list[str]]:
    """Scores with their ranks, and the sentences that say how the ranks were made and who has none."""
    cells: dict[SaeKey, dict[str, Cell]] = {key: {} for key in by_sae}
    how: dict[str, list[str]] = {}
    for column in columns:
        own = {
            key: entries[column.task]
            for key, entries in by_sae.items()
            if column.task in entries and column.metric in entries[column.task].result.metrics
        }
        found = {key: Cell(e.result.metrics[column.metric], None, marks.of(e.result)) for key, e in own.items()}
        if column.spec.orders:
            way = _ranked(found, own, column, ranker, l0s)
            if way is not None:
                how.setdefault(way, []).append(column.label)
        for key, cell in found.items():
            cells[key][column.id] = cell
    said = [f"Ranks of {', '.join(labels)}: surely better means that {way}." for way, labels in how.items()]
    return cells, said + _at_equal_l0(cells, columns) + _unranked(cells, columns)


def _ranked(
    cells: dict[SaeKey, Cell],
    entries: Mapping[SaeKey, Entry],
    column: Column,
    ranker: Ranker,
    l0s: Mapping[SaeKey, float | None],
) -> str | None:
    """Put ranks into the cells of a column; a phrase that says what "surely better" means, None without any rank."""
    at_equal = column.spec.at_equal_l0
    able = [key for key, cell in cells.items() if cell.value.value is not None and marks.ranked(entries[key].result)]
    if len(able) < 2:
        return None
    for key in (key for key in able if at_equal and l0s[key] is None):
        cells[key] = replace(cells[key], unranked="its L0 was not measured (task sparsity)")
    able = [key for key in able if not at_equal or l0s[key] is not None]
    known = [own for key in able if (own := l0s[key]) is not None] if at_equal else None
    if known is not None and len(known) > 1:
        _mark_front(cells, able, known, column)
    groups, way = Groups.of(len(able), known), None
    made = [(1, 1)] * len(able)
    if groups.n_pairs:
        values = [cells[key].value for key in able]
        made, way = ranker.rank([entries[key].file for key in able], values, column, groups)
    for place, (key, rank) in enumerate(zip(able, made, strict=True)):
        group = groups.of_place(place)
        if group is not None and group.n == 1:
            cells[key] = replace(cells[key], unranked="no other is within 10 % of its L0")
        else:
            cells[key] = replace(cells[key], rank=rank, group=group)
    return way


def _mark_front(cells: dict[SaeKey, Cell], able: Sequence[SaeKey], l0s: Sequence[float], column: Column) -> None:
    """Say of each SAE whether no other is better with as few active latents."""
    from sae_bench.results.compare import ROUNDING

    costs = [cost_of(cells[key], column) for key in able]
    for key, front in zip(able, at_l0.on_front(l0s, costs, ROUNDING), strict=True):
        cells[key] = replace(cells[key], front=front)


def cost_of(cell: Cell, column: Column) -> float:
    """The figure, or minus it where more is better."""
    value = 0.0 if cell.value.value is None else cell.value.value
    return value if column.spec.better == "lower" else -value


def _at_equal_l0(cells: Mapping[SaeKey, Mapping[str, Cell]], columns: Sequence[Column]) -> list[str]:
    """What a rank at an L0 means, where there is one or could be."""
    asked = {id_ for own in cells.values() for id_, cell in own.items() if cell.group or cell.unranked or cell.front}
    labels = [column.label for column in columns if column.spec.at_equal_l0 and column.id in asked]
    if not labels:
        return []
    return [
        f"{', '.join(labels)}: better with more active latents alone. 'rank 1-2 of 3 at L0 29-32' is among the three "
        f"SAEs whose L0 is within 10 % of its own; each has a group of its own, and groups overlap. "
        "'front': no other SAE has as few active latents and a better figure."
    ]


def _unranked(cells: Mapping[SaeKey, Mapping[str, Cell]], columns: Sequence[Column]) -> list[str]:
    """By which columns nobody is ranked, and which SAEs have no rank in others, and why."""
    said = truth.unranked((column.label, column.spec) for column in columns)
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for column in columns:
        without: dict[str, list[str]] = {}
        for key, own in sorted(cells.items()):
            if (cell := own.get(column.id)) is not None and cell.unranked is not None:
                without.setdefault(cell.unranked, []).append(key[0])
        for why, names in without.items():
            found.setdefault((why, tuple(names)), []).append(column.label)
    return said + [
        f"Without a rank in {', '.join(labels)}: {few(names)}, because {why}." for (why, names), labels in found.items()
    ]
