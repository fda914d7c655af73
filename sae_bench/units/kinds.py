"""Kinds of units: how each is drawn, how its ids read, and what two tables of it have in common.

A metric names its kind as ``table`` in its definition. Nobody else asks what kind a table is: whoever needs to know
asks the :class:`Kind` for what follows from it. A package registers kinds of its own through the entry point
``sae_bench.units``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from sae_bench import registry
from sae_bench.errors import SaeBenchError
from sae_bench.schema import TaskSpec
from sae_bench.units import ablated, bootstrap, folds, latents, nested
from sae_bench.units.bootstrap import Array, Estimate, Metric, Ratio, Sums
from sae_bench.units.groups import group_of
from sae_bench.units.table import Units

Draws = bootstrap.Draws | nested.Draws
Shared = tuple[
    tuple[Units, Units], tuple[int, int]
]  # the rows of both that count, and how much of each the other lacks


def itself(unit: str) -> str:
    """The unit, for kinds whose rows stand alone."""
    return unit


def sharing(a: Units, b: Units, group: Callable[[str], str] = itself) -> Shared:
    """The rows whose group both tables have, and how many groups of each the other lacks."""
    if a.ids == b.ids:
        return (a, b), (0, 0)
    of_a, of_b = ({group(unit) for unit in units.ids} for units in (a, b))
    both = of_a & of_b
    rows = tuple(units.where(lambda unit: group(unit) in both) for units in (a, b))
    return (rows[0], rows[1]), (len(of_a) - len(both), len(of_b) - len(both))


def two_samples(a: Units, b: Units) -> Shared:
    """Latents of two SAEs are two samples, all of which count; those of one SAE are the same."""
    return sharing(a, b) if set(a.ids) & set(b.ids) else ((a, b), (0, 0))


def sets_in_common(a: Units, b: Units) -> Shared:
    """Sets by their content, then the examples that both have of them; sets are what the other lacks."""
    if a.ids == b.ids:
        return (a, b), (0, 0)
    of_a, of_b = ({nested.set_of(unit) for unit in units.ids} for units in (a, b))
    return sharing(*nested.common(a, b))[0], (len(of_a - of_b), len(of_b - of_a))


@dataclass(frozen=True)
class Kind:
    """A kind of unit; the defaults are those of rows that are independent and named by their content.

    ``ids`` says in words how an id reads. ``draw(units, seed=, resamples=)`` gives column sums and their replicates.
    ``group`` maps an id to the name of what two tables may share, ``of_sae(id, weights)`` to a name that no other SAE
    has. ``total(units)`` gives column sums, ``apart(a, b)`` says why figures of two tables must not be compared.
    ``nested``: a figure is the mean over groups. ``independent``: a share of 0/1 rows has as many trials as rows.
    ``alike(units)`` has the rows that another machine measures nearly alike.
    ``disagree(tables)`` says what a table claims that others of its SAE deny.
    ``population``: there is one row for each of the documents that the protocol counts.
    ``together`` maps an id to the name of what is drawn as one with its row; ``text``: those are groups of documents.
    """

    name: str
    ids: str
    draw: Callable[..., Draws] = bootstrap.draw
    common: Callable[[Units, Units], Shared] = sharing
    group: Callable[[str], str] = itself
    of_sae: Callable[[str, str], str] = lambda unit, weights: unit
    total: Callable[[Units], Sums] = bootstrap.total
    apart: Callable[[Units, Units], str | None] = lambda a, b: None
    alike: Callable[[Units], Units] = lambda units: units
    disagree: Callable[[Mapping[str, Units]], str | None] = lambda tables: None
    nested: bool = False
    independent: bool = True
    population: bool = False
    together: Callable[[str], str] = itself
    text: bool = False

    @property
    def own(self) -> bool:
        """Whether every SAE has rows of its own, as latents are, so that two SAEs share none."""
        return self.of_sae("", "weights") != ""

    def drawn(self, units: Units, *, seed: int, resamples: int) -> Draws:
        """Column sums of a table and their replicates; without rows there is nothing to nest."""
        return (self.draw if len(units) else bootstrap.draw)(units, seed=seed, resamples=resamples)

    def totals(self, units: Units) -> list[Sums]:
        """Sums over all rows: of the whole table, or of each group where a figure is the mean over groups."""
        return [self.total(table) for table in (nested.by_set(units).values() if self.nested else [units])]

    def point(self, totals: list[Sums], metric: Metric) -> Array | Ratio:
        """A figure ``[1]`` from :meth:`totals`."""
        if not self.nested:
            return metric(totals[0])
        return nested.mean_over_sets([metric(sums) for sums in totals], np.ones((1, len(totals))))


DOCUMENT = Kind(
    "document",
    "the digest of a document's text, or of its tokens, behind its group where it has one",
    draw=partial(bootstrap.draw, group=group_of),
    population=True,
    together=group_of,
    text=True,
)
LATENT = Kind(
    "latent",
    "the number of a latent",
    draw=latents.draw,
    common=two_samples,
    of_sae=lambda unit, weights: f"{weights}/{unit}",
)
FOLD = Kind(
    "fold",
    "<fold>:<digest of its documents>",
    draw=folds.draw,
    total=folds.total,
    apart=folds.unequal,
    alike=folds.by_latent,
    disagree=folds.disagree,
    independent=False,
)
EXAMPLE = Kind(
    "example",
    "<set>@<digest>:<example>",
    draw=nested.draw,
    common=sets_in_common,
    group=nested.set_of,
    nested=True,
    together=nested.example_of,
)
ABLATION = Kind(
    "ablation",
    "<document>@<position>:<latent>",
    draw=partial(bootstrap.draw, group=ablated.text_of),
    common=lambda a, b: sharing(a, b, ablated.document_of),
    group=ablated.document_of,
    independent=False,
    together=ablated.text_of,
    text=True,
)


@cache
def kind(name: str) -> Kind:
    """The kind of this name. Raises SaeBenchError for one that nothing registers."""
    entry = registry.units()[name]
    made = registry.load(entry)
    if not isinstance(made, Kind):
        raise SaeBenchError(f"{entry.origin or entry.code} must be a Kind of units, not {type(made).__name__}")
    return made


def alike(name: str, units: Units) -> Units:
    """The rows of a table that another machine measures nearly alike; of no kind of unit, the table itself."""
    return kind(name).alike(units) if name in registry.units() else units


def drawn(spec: TaskSpec, tables: Mapping[str, Units], *, seed: int, resamples: int) -> dict[str, Draws]:
    """What the task's metrics are made of, of those tables that there are."""
    used = {metric.table for metric in spec.metrics.values()} & tables.keys()
    return {table: kind(table).drawn(tables[table], seed=seed, resamples=resamples) for table in sorted(used)}


def estimate(
    draws: Draws, metric: Metric, *, interval: str, lowest: float | None = None, highest: float | None = None
) -> Estimate:
    """A figure with its interval, or the reason why there is none; figures over data sets have no Wilson interval.

    What replicates are made of in parts (folds and latents, examples and refits) may add up to what no figure can be;
    an interval ends at ``lowest`` and ``highest``.
    """
    if isinstance(draws, nested.Draws):
        found = nested.estimate(draws, metric)
    else:
        found = bootstrap.estimate_of(draws, metric, interval=interval)
    if found.value is None or found.low is None or found.high is None:
        return found
    low = found.low if lowest is None else min(found.value, max(found.low, lowest))
    high = found.high if highest is None else max(found.value, min(found.high, highest))
    return replace(found, low=low, high=high)
