"""Two SAEs of a draw in pairs, by the code of ``compare``: which of them a metric calls better, if any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sae_bench.metrics import metrics_of
from sae_bench.results.compare import Difference, difference
from sae_bench.results.compare_load import Loaded
from sae_bench.results.definitions import measured_with
from sae_bench.schema import Result, TaskSpec
from sae_bench.units import Units
from sae_bench.units.kinds import Draws, kind

Said = Literal["better", "worse", "equal"]  # equal: cannot be told apart


@dataclass(frozen=True, eq=False)
class InMemory(Loaded):
    """A result that was never a file, with its tables; intervals are of as many resamples as the run had."""

    def _draws(self, kind_: str, units: Units) -> Draws:
        provenance = self.result.provenance
        return kind(kind_).drawn(units, seed=provenance.protocol.seed, resamples=provenance.resamples)


def loaded(sae: str, result: Result, tables: Mapping[str, Units], spec: TaskSpec) -> InMemory:
    """What ``compare`` reads of a result: rows in the order of their ids; no other SAE has those of its latents."""
    spec = measured_with(spec, result)
    used = {metric.table for metric in spec.metrics.values()}
    own = {name: _named(table, name, sae) for name, table in tables.items() if name in used}
    return InMemory(Path(sae), result, spec, metrics_of(spec), own)


def with_tables(one: InMemory, tables: Mapping[str, Units]) -> InMemory:
    """The same with other rows."""
    return replace(one, tables=dict(tables), _figures={})


def _named(units: Units, table: str, sae: str) -> Units:
    order = sorted(range(len(units)), key=units.ids.__getitem__)
    units, of_sae = units.select(order), kind(table).of_sae
    ids = tuple(of_sae(unit, sae) for unit in units.ids)
    return units if ids == units.ids else Units(ids, units.columns, units.common)


def told(a: Loaded, b: Loaded, metric: str) -> Said | None:
    """What B is beside A; None where there is nothing to compare. A metric without a direction is taken as a score."""
    return said(difference(a, b, metric))


def said(found: Difference) -> Said | None:
    """A verdict for a metric by which nobody is ranked as well."""
    if found.value is None:
        return None
    if found.verdict == "cannot be told apart":
        return "equal"
    return "better" if (found.value > 0) == (found.better != "lower") else "worse"
