"""What the board shows and in which order: ``leaderboard/columns.toml``, held against the task definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from sae_bench.errors import UsageError
from sae_bench.parsing import read_record
from sae_bench.registry import choose, suggest
from sae_bench.results import at_l0
from sae_bench.schema import Better, MetricSpec, Record, TaskSpec


class _ColumnEntry(Record):
    task: str
    metric: str
    label: str | None = None
    decimals: int | None = Field(default=None, ge=0, le=10)


class _GroupEntry(Record):
    name: str
    columns: tuple[_ColumnEntry, ...] = Field(min_length=1)


class _PlotEntry(Record):
    x: str
    y: str


L0 = f"{at_l0.TASK}.{at_l0.METRIC}"  # the column that stands beside every SAE, whatever a table shows


class _ColumnsFile(Record):
    header: str = ""
    arrows: dict[Better, str] = Field(default_factory=dict)
    group: tuple[_GroupEntry, ...] = Field(min_length=1)
    plot: tuple[_PlotEntry, ...] = ()


@dataclass(frozen=True)
class Column:
    """One metric of one task as a column. ``decimals`` None: two digits of the interval's width."""

    task: str
    metric: str
    label: str
    arrow: str
    spec: MetricSpec
    decimals: int | None = None

    @property
    def id(self) -> str:
        """``task.metric``, unlike any other column's."""
        return f"{self.task}.{self.metric}"

    def measured_as(self, digest: str) -> Column:
        """The column of results whose definition had this digest, who are ranked only if it is the one judged."""
        return replace(self, spec=self.spec.measured_as(digest))

    @property
    def heading(self) -> str:
        """Name, target where there is one, arrow of the better direction."""
        target = f" (target {self.spec.target:g})" if self.spec.target is not None else ""
        return f"{self.label}{target} {self.arrow}".rstrip()


@dataclass(frozen=True)
class Group:
    """Columns that are one table."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Columns:
    """The content of ``columns.toml``.

    ``plots`` are pairs of column ids (x, y); ``plotted`` are all columns that a plot may show, those of ``plots``
    first.
    """

    header: str
    groups: tuple[Group, ...]
    plots: tuple[tuple[str, str], ...]
    plotted: tuple[Column, ...]


def read_columns(file: Path, specs: Mapping[str, TaskSpec], *, everything: bool = False) -> Columns:
    """Columns in the file's order; tasks that it does not name follow with their headline metrics.

    ``everything`` adds all other metrics, by task. Raises UsageError that names the file and the field.
    """
    content = read_record(file, _ColumnsFile, UsageError)
    groups: list[Group] = []
    taken: set[str] = set()
    for g, group in enumerate(content.group):
        made = []
        for c, entry in enumerate(group.columns):
            column = _column(entry, content.arrows, specs, f"{file}: 'group.{g}.columns.{c}'")
            if column.id in taken:
                raise UsageError(f"{file}: 'group.{g}.columns.{c}': {column.id} is a column already; name it once")
            taken.add(column.id)
            made.append(column)
        groups.append(Group(group.name, tuple(made)))
    groups += _others(content, specs, taken, everything)
    plotted: dict[str, Column] = {}
    for p, plot in enumerate(content.plot):
        for axis, name in (("x", plot.x), ("y", plot.y)):
            task, _, metric = name.partition(".")
            entry = _ColumnEntry(task=task, metric=metric)
            plotted[name] = _column(entry, content.arrows, specs, f"{file}: 'plot.{p}.{axis}'")
    plotted |= {column.id: column for group in groups for column in group.columns}
    pairs = tuple((plot.x, plot.y) for plot in content.plot)
    return Columns(content.header.strip(), tuple(groups), pairs, tuple(plotted.values()))


def _column(entry: _ColumnEntry, arrows: Mapping[Better, str], specs: Mapping[str, TaskSpec], where: str) -> Column:
    spec = _known(entry.task, entry.metric, specs, where)
    arrow = arrows.get(spec.better, "")
    return Column(entry.task, entry.metric, entry.label or spec.name, arrow, spec, entry.decimals)


def _known(task: str, metric: str, specs: Mapping[str, TaskSpec], where: str) -> MetricSpec:
    """The definition of a metric; UsageError where there is none."""
    if task not in specs:
        raise UsageError(f"{where}: no task is called {task!r}; {suggest(task, specs)}")
    if metric not in specs[task].metrics:
        raise UsageError(f"{where}: {task} has no metric {metric!r}; {suggest(metric, specs[task].metrics)}")
    return specs[task].metrics[metric]


def _others(content: _ColumnsFile, specs: Mapping[str, TaskSpec], taken: set[str], everything: bool) -> list[Group]:
    """A group for each task with metrics that the file leaves out, where they are to be shown."""
    named = {entry.task for group in content.group for entry in group.columns}
    groups = []
    for task, spec in specs.items():
        made = tuple(
            Column(task, name, metric.name, content.arrows.get(metric.better, ""), metric)
            for name, metric in spec.metrics.items()
            if f"{task}.{name}" not in taken and (everything or (metric.headline and task not in named))
        )
        if made:
            groups.append(Group(f"{spec.title}: further metrics" if task in named else spec.title, made))
    return groups


def chosen(columns: Columns, metrics: str) -> Columns:
    """Only the columns that ``metrics`` names: ids, ``task.metric``, globs, separated by commas.

    Raises UsageError with a suggestion for a name that no column has.
    """
    every = [column for group in columns.groups for column in group.columns]
    names = {name: column.id for column in every for name in (column.metric, column.id)}
    wanted = {names[name] for name in choose(metrics, names, "metric of the board")}
    groups = (Group(g.name, tuple(c for c in g.columns if c.id in wanted)) for g in columns.groups)
    return replace(columns, groups=tuple(g for g in groups if g.columns))
