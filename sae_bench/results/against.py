"""An SAE against each of what stands beside it, in pairs: what the result file says, and whoever has the units checks.

It is the difference of :mod:`sae_bench.results.compare`, on the units that both have: a control that was measured on a
sample of documents is held against the SAE in these documents. P-values are adjusted over all controls that a metric is
held against (Holm), for each metric by itself; likewise over references, such as random directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from sae_bench import registry
from sae_bench.metrics import metrics_of
from sae_bench.results.compare import Difference, adjusted, difference
from sae_bench.results.compare_load import Loaded
from sae_bench.schema import Against, MetricValue, Result, TaskSpec, Verdict
from sae_bench.units import Units
from sae_bench.units.kinds import Draws, kind

Claims = dict[str, dict[str, Against]]  # by control and metric


@dataclass(frozen=True)
class Side:
    """The tables of an SAE or of what stands beside it, and what was drawn of them, if that is known.

    ``reference``: it is no control, and its rows are those of the SAE, about something else.
    """

    tables: Mapping[str, Units]
    draws: Mapping[str, Draws] = field(default_factory=dict)
    reference: bool = False


@dataclass(frozen=True, eq=False)
class _InMemory(Loaded):
    """A side as a comparison reads it; what was drawn of a whole table is not drawn again."""

    draws: Mapping[str, Draws] = field(default_factory=dict)

    def _draws(self, name: str, units: Units) -> Draws:
        draws = self.draws.get(name) if units is self.tables[name] else None
        if draws is not None:
            return draws
        provenance = self.result.provenance
        return kind(name).drawn(units, seed=provenance.protocol.seed, resamples=provenance.resamples)


def against(result: Result, spec: TaskSpec, own: Side, others: Mapping[str, Side]) -> Claims:
    """The SAE of ``result`` minus each of ``others``, in all metrics that have a direction and that both have.

    Where a metric does not order SAEs, what is apart "differs", and is neither better nor worse.
    """
    sae = _loaded(result, spec, own, "", result.metrics)
    sides = {
        name: _loaded(result, spec, other, "" if other.reference else _whose(name), result.controls[name])
        for name, other in others.items()
        if name in result.controls
    }
    found: Claims = {}
    for metric, value in result.metrics.items():
        if metric not in spec.metrics or value.better == "none" or spec.metrics[metric].table not in sae.tables:
            continue
        table = spec.metrics[metric].table
        held = {n: s for n, s in sides.items() if metric in s.result.metrics and table in s.tables}
        for reference in (False, True):
            family = [name for name in held if others[name].reference == reference]
            rows = adjusted([difference(held[name], sae, metric) for name in family])
            for name, row in zip(family, rows, strict=True):
                if (one := _claim(row)) is not None:
                    found.setdefault(name, {})[metric] = one
    return found


def _claim(row: Difference) -> Against | None:
    if row.value is None or (verdict := row.verdict) not in get_args(Verdict):
        return None
    bounds = {"value": row.value, "low": row.low, "high": row.high, "p": row.p_adjusted}
    return Against(**bounds, n_units=row.n_units, verdict=verdict)  # type: ignore[arg-type]


def _whose(name: str) -> str:
    """Whose latents the rows of a control are: the SAE's own (""), or its own."""
    control = registry.controls().get(name)
    return "" if control is None or control.codes_of == "the SAE" else name


def _loaded(result: Result, spec: TaskSpec, side: Side, whose: str, metrics: Mapping[str, MetricValue]) -> _InMemory:
    shown = result.model_copy(update={"metrics": dict(metrics)})
    tables, draws = {}, dict(side.draws)
    used = {metric.table for metric in spec.metrics.values()}  # there may be others, which nothing is made of
    for name, table in ((name, table) for name, table in side.tables.items() if name in used):
        of_sae = kind(name).of_sae
        ids = tuple(of_sae(unit, whose) for unit in table.ids) if whose else table.ids
        tables[name] = table if ids == table.ids else Units(ids, table.columns, table.common)
        if tables[name] is not table:  # other names have other weights: latents of another dictionary are other latents
            draws.pop(name, None)
    return _InMemory(Path(whose or "the SAE"), shown, spec, metrics_of(spec), tables, draws=draws)
