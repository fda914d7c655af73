"""Rows added up: all of them, by their group, or, where there are very many, in pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.sums import Sums
from sae_bench.units.table import Common, Units
from sae_bench.units.weights import random

MAX_GROUPS = 4096

Array = NDArray[np.float64]


def total(units: Units) -> Sums:
    """Column sums with every weight 1."""
    shared, common = units.shared, units.common
    if not shared or common is None:
        return Sums(_totals(units.columns))
    of_all = common_total(common)
    own = _totals({name: column for name, column in units.columns.items() if name not in shared})
    return Sums({name: of_all[name] if name in shared else own[name] for name in units.columns})


def common_total(common: Common) -> dict[str, Array]:
    """The sums of columns that many tables have."""
    return common.once("total", lambda: _totals(common.columns))


def _totals(columns: Mapping[str, Array]) -> dict[str, Array]:
    return {name: column.sum(axis=0, keepdims=True) for name, column in columns.items()}


def grouped(units: Units, group: Callable[[str], str]) -> Units:
    """The rows added up by their group, which names them; the table itself if each is a group of this name."""
    ids, place = _by_group(units.ids, group)
    return units if place is None else _summed(units, ids, place, ("grouped", group))


def pooled(units: Units) -> Units:
    """The table itself, or, if it is long, its rows added up in ``MAX_GROUPS`` pools by a hash of their ids."""
    return units if len(units) <= MAX_GROUPS else _summed(units, *_pools(units.ids), "pooled")


def _summed(units: Units, ids: tuple[str, ...], place: NDArray[np.int64], what: Any) -> Units:
    """The rows added up by their ``place`` among ``ids``; what many tables share, once for all of them."""
    shared, common = units.shared, None
    if shared and units.common is not None:
        own = units.common.columns
        common = units.common.once(what, lambda: Common(ids, _added(own, place, len(ids))))
    columns = _added({n: column for n, column in units.columns.items() if n not in shared}, place, len(ids))
    if common is not None:
        columns = {n: common.columns[n] if n in shared else columns[n] for n in units.columns}  # in the same order
    return Units(ids, columns, common)


def _added(columns: Mapping[str, Array], group: NDArray[np.int64], n: int) -> dict[str, Array]:
    """The rows of each of ``n`` groups added up."""
    found: dict[str, Array] = {}
    for name, column in columns.items():
        if column.ndim == 1:
            found[name] = np.bincount(group, weights=column, minlength=n).astype(
                np.float64
            )  # adds in the same order, and is faster
        else:
            found[name] = np.zeros((n, *column.shape[1:]))
            np.add.at(found[name], group, column)
    return found


@lru_cache(maxsize=4)
def _by_group(ids: tuple[str, ...], group: Callable[[str], str]) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """The names of the groups in the order of their first row, and where every row's stands; None: just as rows do."""
    names = list(map(group, ids))
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    found = tuple(places)
    return found, None if found == ids else np.array([places[name] for name in names], dtype=np.int64)


@lru_cache(maxsize=4)
def _pools(ids: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the pools that occur, and the position among them of every unit's pool."""
    pools = np.array([int.from_bytes(random(0, unit, 4), "little") % MAX_GROUPS for unit in ids], dtype=np.int64)
    present, pool = np.unique(pools, return_inverse=True)
    return tuple(f"group {g}" for g in present), pool
