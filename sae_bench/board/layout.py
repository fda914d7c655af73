"""The board as data: which SAE stands in which table, with which ranks; every format is made from this."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sae_bench.board.alike import L0s, SaeKey, conditions, key_of
from sae_bench.board.cells import Cell, cells_of, cost_of
from sae_bench.board.collect import UNOFFICIAL, Collection, Entry
from sae_bench.board.columns import Column, Columns
from sae_bench.board.ranks import DIFFERENCES_AT_MOST, PAIRS_AT_MOST, Groups, Ranker
from sae_bench.errors import UsageError
from sae_bench.results.environment import sentence
from sae_bench.results.verified import STATES, State
from sae_bench.schema import CoderRecord, MetricValue, Protocol, Result
from sae_bench.show import judges, marks, trust
from sae_bench.show.results import cautioned, few, population, sampled, without_figures


@dataclass(frozen=True)
class Row:
    """An SAE in a table. ``l0`` may be measured on other text than the scores; None where it was not measured.

    ``files`` are the results that its scores are from, by task.
    """

    sae: CoderRecord
    l0: MetricValue | None
    cells: dict[str, Cell]  # by Column.id
    checked: State
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """A control: for each column the lowest and the highest score that it has beside the SAEs of the table.

    ``marks`` are the words of columns in which one of the scores is not whole.
    """

    name: str
    cells: dict[str, tuple[float, float]]
    marks: dict[str, str]


@dataclass(frozen=True)
class Table:
    """SAEs that were measured alike: one suite, one model, one hook point, one protocol for each task.

    ``suite`` names the sealed suite, or says that there is none: then the table is not ``official``.
    """

    model: str
    hook: str
    conditions: str
    group: str
    columns: tuple[Column, ...]
    protocols: dict[str, Protocol]  # by their hash
    rows: tuple[Row, ...]
    references: tuple[Reference, ...]
    notes: tuple[str, ...]
    suite: str = UNOFFICIAL
    official: bool = False

    @property
    def title(self) -> str:
        """One line that says what the table holds and how it was measured."""
        return f"{self.group}: {self.model}, {self.hook}; {self.conditions}"


@dataclass(frozen=True)
class Board:
    """All tables, and a sentence for everything that could not be shown."""

    header: str
    tables: tuple[Table, ...]
    problems: tuple[str, ...]
    task_dir: str | None = None  # of further task definitions


def make(collection: Collection, columns: Columns, *, models: str | None = None, task_dir: str | None = None) -> Board:
    """Arrange results into tables, ordered by model, hook point and conditions.

    ``models`` keeps those of given names (commas, globs). Raises UsageError where nothing is left to show.
    """
    entries = [e for e in collection.entries if models is None or _named(e.result.provenance.protocol.model, models)]
    if models is not None and collection.entries and not entries:
        known = sorted({e.result.provenance.protocol.model for e in collection.entries})
        raise UsageError(f"no result is of a model named {models!r}; there are: {', '.join(known)}")
    l0 = L0s(entries)
    problems = list(collection.problems)
    parts: dict[Place, list[list[Entry]]] = {}
    for where, part in _contexts(entries):
        parts.setdefault(where, []).append(part)
    pairs = _differences([part for own in parts.values() for part in own], columns, l0)
    ranker = Ranker(pairs <= DIFFERENCES_AT_MOST, problems, task_dir)
    tables = []
    for where, own in parts.items():
        for group in columns.groups:
            for part in own:
                table = _table((where, part), group.name, group.columns, l0, ranker)
                if table is not None:
                    tables.append(table)
    return Board(columns.header, tuple(tables), tuple(problems), task_dir)


def _named(model: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(model, pattern.strip()) for pattern in patterns.split(","))


def hook_of(protocol: Protocol) -> str:
    """Where the SAE reads, and where it writes if that is elsewhere."""
    came, goes = " + ".join(protocol.hooks_in), " + ".join(protocol.hooks_out)
    return came if came == goes else f"{came} -> {goes}"


Place = tuple[str, str, str]  # model's name, its sha256, hook point
Generation = tuple[int, str, tuple[str, ...]]  # version, the later the lower; protocol; who judged


def _contexts(entries: Sequence[Entry]) -> list[tuple[Place, list[Entry]]]:
    """Results that may stand in one table: equal protocols but for the task, and one protocol for each task.

    Where a task has several protocols under equal conditions (another version or other parameters) or several judges,
    the newest is in the first table, the others in further ones: never two in one ranking. Nor are results of two
    suites, two files of one name included, or of a suite and of none. Within a place sealed suites are first, then the
    most documents.
    """
    hashes: dict[tuple[str, str], set[Generation]] = {}
    models: dict[str, set[str]] = {}
    alike_to = [conditions(e.result.provenance.protocol) for e in entries]
    for e, alike in zip(entries, alike_to, strict=True):
        p = e.result.provenance.protocol
        hashes.setdefault((alike, p.task), set()).add(_generation(e.result))
        models.setdefault(p.model_sha256, set()).add(p.model)
    ages = {key: {one: age for age, one in enumerate(sorted(found))} for key, found in hashes.items()}
    names = {model: " = ".join(sorted(found)) for model, found in models.items()}
    parts: dict[tuple[Place, bool, str, int, str, int], list[Entry]] = {}
    for e, alike in zip(entries, alike_to, strict=True):
        p = e.result.provenance.protocol
        place, suite = (names[p.model_sha256], p.model_sha256, hook_of(p)), (not e.official, e.result.suite or "")
        key = (place, *suite, -p.n_documents, alike, ages[alike, p.task][_generation(e.result)])
        parts.setdefault(key, []).append(e)
    return [(key[0], parts[key]) for key in sorted(parts)]


def _generation(result: Result) -> Generation:
    """Equal for results of a task that may be ranked together; older protocols do not name all of a judge."""
    return -result.version, result.protocol, judges.identity(result)


def _differences(parts: Sequence[Sequence[Entry]], columns: Columns, l0: L0s) -> int:
    """How many paired differences the rankings of a board take."""
    wanted = Counter((c.task, c.spec.at_equal_l0) for group in columns.groups for c in group.columns if c.spec.orders)
    n = 0
    for part in parts:
        by_task: dict[str, list[Entry]] = {}
        for e in part:
            by_task.setdefault(e.result.task, []).append(e)
        for task, own in by_task.items():
            known = [value for e in own if (value := _l0(l0, e.result)) is not None]
            for groups, at_equal in ((Groups.of(len(own), None), False), (Groups.of(len(known), known), True)):
                n += wanted[task, at_equal] * (groups.n_pairs if groups.n_pairs <= PAIRS_AT_MOST else 0)
    return n


def _l0(l0: L0s, result: Result) -> float | None:
    """The L0 beside a score."""
    near = l0.nearest(key_of(result.sae), result.provenance.protocol)
    return None if near is None else near.value


def _table(
    context: tuple[Place, Sequence[Entry]],
    group: str,
    columns: Sequence[Column],
    l0: L0s,
    ranker: Ranker,
) -> Table | None:
    """The columns of a group that somebody has measured under these conditions; None if nobody has."""
    (model, _, hook), part = context
    tasks = {column.task for column in columns}
    measured = [e for e in part if e.result.task in tasks]
    present = {f"{e.result.task}.{name}" for e in measured for name in e.result.metrics}
    digests = {e.result.task: e.result.provenance.protocol.task_sha256 for e in measured}  # one protocol a task
    shown = tuple(c.measured_as(digests[c.task]) for c in columns if c.id in present)
    if not shown:
        return None
    wanted = {column.id for column in shown}
    measured = [e for e in measured if any(f"{e.result.task}.{name}" in wanted for name in e.result.metrics)]
    by_sae: dict[SaeKey, dict[str, Entry]] = {}
    for e in measured:
        by_sae.setdefault(key_of(e.result.sae), {})[e.result.task] = e
    first = {key: next(iter(own.values())).result for key, own in by_sae.items()}
    near = {key: l0.nearest(key, one.provenance.protocol) for key, one in first.items()}
    cells, how = cells_of(by_sae, shown, ranker, {key: None if one is None else one.value for key, one in near.items()})
    rows = []
    for key, own in by_sae.items():
        checked = min((e.checked for e in own.values()), key=STATES.index)
        files = {task: e.file for task, e in own.items()}
        rows.append(Row(first[key].sae, near[key], cells[key], checked, files))
    results = [e.result for e in measured]
    return Table(
        model=model,
        hook=hook,
        conditions=f"{part[0].suite}; {population(results[0])}, mask {results[0].provenance.protocol.mask}",
        group=group,
        columns=shown,
        protocols={r.protocol: r.provenance.protocol for r in sorted(results, key=lambda r: (r.task, r.protocol))},
        rows=tuple(sorted(rows, key=lambda row: _order(row, shown))),
        references=_references(measured, shown),
        suite=part[0].suite,
        official=part[0].official,
        notes=tuple(
            [
                *how,
                *sampled(results),
                *without_figures(results, {name for e in measured for name in e.controls}),
                *marks.grouped(results),
                *_reasons(rows, shown),
                *_trusted(rows, shown),
                *cautioned(results),
                *_judges(results),
                *sentence(results, "the results of this table"),
            ]
        ),
    )


def _order(row: Row, columns: Sequence[Column]) -> tuple[bool, float, float, str, str]:
    """The best of the first column that SAEs may be put in order by comes first; what has no value there comes last.

    Where that column is at equal L0, the least L0 comes first, so that those of about one L0 stand together.
    """
    for column in columns:
        if column.spec.orders:
            cell = row.cells.get(column.id)
            absent = cell is None or cell.value.value is None or not cell.may_lead
            cost = 0.0 if cell is None or absent else cost_of(cell, column)
            if not column.spec.at_equal_l0:
                return absent, 0.0, cost, *key_of(row.sae)
            l0 = None if row.l0 is None else row.l0.value
            return absent, math.inf if l0 is None else l0, cost, *key_of(row.sae)
    return False, 0.0, 0.0, *key_of(row.sae)


def _references(entries: Sequence[Entry], columns: Sequence[Column]) -> tuple[Reference, ...]:
    """The controls of all results of a table, in the order of the first result; those of older rules are others."""
    newest = max(e.result.provenance.control_rules for e in entries)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    words: dict[str, dict[str, str]] = {}
    ids = {column.id for column in columns}
    for e in entries:
        marked = marks.of_controls(e.result)
        for called, values in e.controls.items():
            control = called if e.result.provenance.control_rules == newest else f"{called} (as defined before)"
            for name, value in values.items():
                column = f"{e.result.task}.{name}"
                if column in ids:
                    low, high = found.setdefault(control, {}).get(column, (value, value))
                    found[control][column] = min(low, value), max(high, value)
                    if called in marked:
                        words.setdefault(control, {})[column] = marked[called].word
    return tuple(Reference(name, cells, words.get(name, {})) for name, cells in found.items())


def _judges(results: Sequence[Result]) -> list[str]:
    """Who judged, of each task that was judged: results of one table have one judge."""
    found = {r.task: judges.in_words(r) for r in results if judges.judged(r)}
    return [f"{task}: judged by {words}" for task, words in found.items()]


def _reasons(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Why a score has no value, once for each column and reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for column in columns:
            if (cell := row.cells.get(column.id)) is not None and cell.value.reason is not None:
                found.setdefault(f"{column.label}: no value, because {cell.value.reason}", []).append(row.sae.name)
    return [f"{reason} ({few(names)})" for reason, names in found.items()]


def _trusted(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Which intervals are too narrow and which scores have none, and over how many groups they are."""
    scores = [(column, row.cells[column.id].value) for column in columns for row in rows if column.id in row.cells]
    shown = [(column.metric, value) for column, value in scores]
    said = trust.legend(shown, signs=True) + trust.without_interval([(name, v.no_interval) for name, v in shown])
    return said + trust.counted([(column.task, v.n_units, v.design_effect) for column, v in scores])
