"""One result with its units, checked against each other, and the replicates of its figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sae_bench import registry
from sae_bench.errors import ResultError
from sae_bench.metrics import metrics_of
from sae_bench.results import store
from sae_bench.results.definitions import measured_with, not_installed
from sae_bench.schema import Result, TaskSpec
from sae_bench.units import Units, kinds, nested
from sae_bench.units.bootstrap import RESAMPLES, Array, Metric, Ratio, Sums, quotient
from sae_bench.units.kinds import Draws
from sae_bench.units.trust import Influence

AGREES = 1e-6  # relative; a figure and its units may differ by the rounding of two machines, which is far less
KEPT = 4  # parts of tables whose replicates are kept beside those of whole tables


@dataclass(frozen=True)
class Figure:
    """A metric on some units: the point ``[1]`` and its replicates; ``n`` independent groups.

    ``undefined`` names the labelled sets in which it has no value; ``influence`` says how it hangs on each group.
    """

    point: Array | Ratio
    replicates: Array | Ratio
    n: int
    undefined: frozenset[str] = frozenset()
    influence: Influence | None = None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A result, its definition with the parameters that were used, and its tables of units (none: it has no units).

    Rows are sorted by id, so that their order in a file changes nothing. Ids name what is resampled: a document, a set
    or an example by its content; a latent also by the SAE's weights, since latents of two SAEs are not the same.
    """

    file: Path
    result: Result
    spec: TaskSpec
    metrics: Mapping[str, Metric]
    tables: Mapping[str, Units]
    _figures: dict[tuple[str, tuple[str, ...]], dict[str, Figure]] = field(default_factory=dict, repr=False)

    def figure(self, metric: str, units: Units) -> Figure:
        """A metric on ``units``, which are all or some rows of its table. All metrics of them are made at once."""
        kind = self.spec.metrics[metric].table
        key = (kind, units.ids)
        if key not in self._figures:
            if len(self._figures) > KEPT + len(self.tables):
                self._figures.clear()
            self._figures[key] = self._drawn(kind, units)
        return self._figures[key][metric]

    def _drawn(self, kind: str, units: Units) -> dict[str, Figure]:
        own = {m: f for m, f in self.metrics.items() if self._measured(m) and self.spec.metrics[m].table == kind}
        draws = self._draws(kind, units)
        return {name: _figure(draws, metric) for name, metric in own.items()}

    def _draws(self, kind: str, units: Units) -> Draws:
        return kinds.kind(kind).drawn(units, seed=self.result.provenance.protocol.seed, resamples=RESAMPLES)

    def _measured(self, metric: str) -> bool:
        return metric in self.result.metrics and metric in self.spec.metrics


def load(file: Path, task_dir: str | None = None) -> Loaded:
    """A result and its units. Raises ResultError naming file and field, also where figures and units disagree."""
    result = store.read(file)
    spec = _definition(file, result, task_dir)
    metrics = metrics_of(spec)
    kinds = {one.table for name, one in spec.metrics.items() if name in result.metrics}
    stored = store.read_units(file) if result.status == "ok" else {}
    tables: dict[str, Units] = {}
    for kind in sorted(kinds) if stored else ():
        if kind not in stored:
            raise ResultError(f"{store.units_of(file)} has no table {kind!r}, which {file} was made of; measure again")
        tables[kind] = _named(stored[kind], kind, _weights(file, result), file)
    loaded = Loaded(file, result, spec, metrics, tables)
    if tables:
        _check(loaded)
        store.check_units(file, result)
    return loaded


def _definition(file: Path, result: Result, task_dir: str | None) -> TaskSpec:
    """The task's definition, with the parameters under which it was measured."""
    known = registry.tasks(task_dir)
    if result.task not in known:
        raise ResultError(f"{file}: 'task' is {result.task!r}: the result is of {not_installed(result.task, known)}")
    spec = known[result.task]
    if result.version != spec.version:
        raise ResultError(
            f"{file}: 'version' is {result.version}, but this sae-bench has version {spec.version} of {result.task}; "
            "use the release that measured it, or measure again"
        )
    for name, value in result.metrics.items():
        if name not in spec.metrics:
            raise ResultError(
                f"{file}: {f'metrics.{name}'!r} is not a metric of {result.task}; "
                f"{registry.suggest(name, spec.metrics)}"
            )
        if value.better != spec.metrics[name].better:
            raise ResultError(
                f"{file}: {f'metrics.{name}.better'!r} must be {spec.metrics[name].better!r}, not {value.better!r}; "
                "the file was changed"
            )
    return measured_with(spec, result).measured_as(result.provenance.protocol.task_sha256)


def _weights(file: Path, result: Result) -> str:
    """A name for the SAE's latents. The digest is zeros where weights could not be read; such an SAE is only itself."""
    digest = result.sae.weights_sha256
    return digest if digest.strip("0") else str(file.resolve())


def _named(units: Units, kind: str, weights: str, file: Path) -> Units:
    """The table sorted by id, with latents named by their SAE."""
    twice = [unit for unit, count in Counter(units.ids).items() if count > 1]
    if twice:
        raise ResultError(
            f"{store.units_of(file)}: table {kind!r} has the unit {twice[0]!r} more than once; a unit is one row"
        )
    order = sorted(range(len(units)), key=units.ids.__getitem__)
    units, of_sae = units.select(order), kinds.kind(kind).of_sae
    return Units(tuple(of_sae(unit, weights) for unit in units.ids), units.columns, units.common)


def _check(loaded: Loaded) -> None:
    """Every figure must be what its units give. Raises ResultError."""
    totals = {kind: kinds.kind(kind).totals(table) for kind, table in loaded.tables.items()}
    for name, shown in loaded.result.metrics.items():
        kind = loaded.spec.metrics[name].table
        if not len(loaded.tables[kind]):
            continue
        try:
            point = kinds.kind(kind).point(totals[kind], loaded.metrics[name])
            found = float(quotient(point)[0])
        except (AttributeError, ValueError, IndexError) as error:
            raise ResultError(
                f"{store.units_of(loaded.file)}: table {kind!r} does not give {name!r} ({error}); measure again"
            ) from error
        if shown.value is not None and not math.isclose(found, shown.value, rel_tol=AGREES, abs_tol=1e-9):
            raise ResultError(
                f"{loaded.file}: {f'metrics.{name}.value'!r} is {shown.value:.9g}, but the units beside it give "
                f"{found:.9g}; one of the two files was changed: measure again"
            )


def _mean(values: list[Array | Ratio]) -> Array | Ratio:
    return nested.mean_over_sets(values, np.ones((1, len(values))))


def _figure(draws: Draws, metric: Metric) -> Figure:
    if not isinstance(draws, nested.Draws):
        influence = draws.influence(metric)
        return Figure(metric(draws.points), metric(draws.replicates), draws.n, influence=influence)
    points = [metric(sums) for sums in draws.points]
    replicates = nested.replicates_of(draws, metric, points, draws.weights)
    undefined = frozenset(name for name, one in zip(draws.names, points, strict=True) if not _defined(one))
    return Figure(_mean(points), replicates, draws.n_units(without=len(undefined)), undefined)


def _defined(point: Array | Ratio) -> bool:
    parts = (point.numerator, point.denominator) if isinstance(point, Ratio) else (point,)
    return all(bool(np.isfinite(part).all()) for part in parts)


def indicators(metric: Metric, units: Units) -> NDArray[np.float64]:
    """The figure of every unit alone ``[rows]``: 0 or 1 where the metric is a share of units."""
    return quotient(metric(Sums(units.columns)))
