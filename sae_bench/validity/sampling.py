"""What intervals and comparisons are worth where the truth is known: samples drawn from rows that were measured once.

*Coverage.* The documents of a result are taken for all there is. Groups of them are drawn with replacement, the sample
is given an interval as a run would give it, and the figure of the whole is what it must hold.

*False positives.* Two SAEs change places at random in every group of rows, so that neither is better in either of the
two that come of it, whatever the figures: what ``compare`` still tells apart is false.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sae_bench.units import Units, kinds
from sae_bench.units.bootstrap import Metric, quotient
from sae_bench.units.groups import in_group
from sae_bench.validity.pairs import InMemory, told, with_tables

Rows = NDArray[np.int64]
NOTHING = 1e-9  # of a figure: an interval narrower than this is of what does not vary, and holds by rounding or not


class Population:
    """Rows of units by what is drawn as one, from which samples are drawn."""

    def __init__(self, table: str, units: Units) -> None:
        self.kind, self.units = kinds.kind(table), units
        self.behind = ["".join(unit.partition("@")[1:]) for unit in units.ids]  # what ids say behind the document
        place: dict[str, list[int]] = {}
        for row, unit in enumerate(units.ids):
            place.setdefault(self.kind.together(unit), []).append(row)
        self.rows = [np.array(rows) for rows in place.values()]

    def chosen(self, rng: np.random.Generator, n: int) -> list[Rows]:
        """The rows of ``n`` groups, drawn with replacement."""
        return [self.rows[i] for i in rng.integers(0, len(self.rows), n)]

    def sample(self, chosen: Sequence[Rows], *, grouped: bool = True) -> Units:
        """The chosen groups, each a group of its own; or, not ``grouped``, their rows as if each stood alone.

        The latter is what intervals would be if nobody knew of groups (``benchmarks/coverage.py``).
        """
        rows = np.concatenate(chosen)
        names = [(i, j) for i, own in enumerate(chosen) for j in range(len(own))]
        behind = [self.behind[row] for row in rows.tolist()]
        ids = [
            in_group(f"g{i}" if grouped else f"r{i}x{j}", f"{j}{at}") for (i, j), at in zip(names, behind, strict=True)
        ]
        return Units(tuple(ids), {name: column[rows] for name, column in self.units.columns.items()})

    def point(self, metric: Metric) -> float:
        """The figure of the whole population."""
        return float(quotient(self.kind.point(self.kind.totals(self.units), metric))[0])


def held(
    population: Population, metrics: Mapping[str, Metric], groups: int, trials: int, resamples: int, seed: Sequence[int]
) -> dict[str, tuple[int, int]]:
    """By metric how many of the intervals of samples hold the figure of the population, and of how many.

    A sample in which a figure has no interval, or does not vary, is not counted.
    """
    rng = np.random.default_rng([*seed, groups])
    truth = {name: population.point(metric) for name, metric in metrics.items()}
    found = {name: [0, 0] for name in metrics}
    for _ in range(trials):
        units = population.sample(population.chosen(rng, groups))
        draws = population.kind.drawn(units, seed=0, resamples=resamples)
        for name, metric in metrics.items():
            e = kinds.estimate(draws, metric, interval="bootstrap")
            if e.low is None or e.high is None or e.high - e.low <= NOTHING * abs(truth[name]):
                continue
            found[name][0] += e.low <= truth[name] <= e.high
            found[name][1] += 1
    return {name: (hits, n) for name, (hits, n) in found.items()}


def told_apart(
    a: InMemory, b: InMemory, table: str, metrics: Sequence[str], trials: int, seed: Sequence[int]
) -> dict[str, tuple[int, int]]:
    """By metric how many of the null pairs made of two SAEs are told apart, and of how many; none where rows differ."""
    rng = np.random.default_rng(seed)
    found = {name: [0, 0] for name in metrics}
    for _ in range(trials):
        if (sides := exchanged(a.tables[table], b.tables[table], table, rng)) is None:
            break
        one, other = (with_tables(x, {table: units}) for x, units in zip((a, b), sides, strict=True))
        for name in metrics:
            if (word := told(one, other, name)) is not None:
                found[name][0] += word != "equal"
                found[name][1] += 1
    return {name: (wrong, n) for name, (wrong, n) in found.items()}


def exchanged(a: Units, b: Units, table: str, rng: np.random.Generator) -> tuple[Units, Units] | None:
    """Both tables after a coin was thrown for each group of rows that both have; None where they have none in common.

    Rows of which each SAE has its own, as latents, change with the row in the same place.
    """
    together = kinds.kind(table).together
    if a.ids == b.ids or not set(map(together, a.ids)) & set(map(together, b.ids)):
        return _in_place(a, b, [together(unit) for unit in a.ids], rng)
    of_a, of_b = ([together(unit) for unit in units.ids] for units in (a, b))
    turned = _coins(sorted(set(of_a) & set(of_b)), rng)
    parts = [
        (units, [row for row, name in enumerate(of) if name in turned and turned[name] == change])
        for change in (False, True)
        for units, of in ((a, of_a), (b, of_b))
    ]  # of a that stay, of b that stay, of a that go, of b that go
    return _joined(parts[0], parts[3]), _joined(parts[1], parts[2])


def _coins(names: Sequence[str], rng: np.random.Generator) -> dict[str, bool]:
    return dict(zip(names, (rng.random(len(names)) < 0.5).tolist(), strict=True))


def _in_place(a: Units, b: Units, names: Sequence[str], rng: np.random.Generator) -> tuple[Units, Units] | None:
    if any(a.columns[name].shape != b.columns.get(name, np.empty(0)).shape for name in a.columns):
        return None
    coins = _coins(list(dict.fromkeys(names)), rng)
    turned = np.array([coins[name] for name in names])

    def mixed(one: Units, other: Units) -> Units:
        columns = {}
        for name, column in one.columns.items():
            where = turned.reshape(-1, *[1] * (column.ndim - 1))
            columns[name] = np.where(where, other.columns[name], column)
        return Units(one.ids, columns)

    return mixed(a, b), mixed(b, a)


def _joined(*parts: tuple[Units, list[int]]) -> Units:
    """Some rows of several tables as one, in the order of their ids."""
    ids = [units.ids[row] for units, rows in parts for row in rows]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    columns = {
        name: np.concatenate([units.columns[name][rows] for units, rows in parts])[order]
        for name in parts[0][0].columns
    }
    return Units(tuple(ids[i] for i in order), columns)
