"""Weighted column sums of a table: what metrics are functions of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.weights import SLAB, Counts, weighted

Array = NDArray[np.float64]


class Sums:
    """Weighted column sums, ``sums.name`` of shape ``[replicates]`` or ``[replicates, width]``.

    ``columns`` holds sums, or, with ``weights`` ``[replicates, rows]``, the rows to be summed. That is done when a
    column is first asked for: all narrow columns in one product; each wide one, which is more work than they, alone.
    The columns ``shared`` belong to ``common``, which sums the wide ones of them for all tables that have them.
    """

    def __init__(
        self,
        columns: Mapping[str, Array],
        weights: Counts | None = None,
        common: Sums | None = None,
        shared: frozenset[str] = frozenset(),
    ) -> None:
        self._columns, self._weights = columns, weights
        self._common, self._shared = common, shared if common is not None else frozenset()
        self._done: dict[str, Array] = dict(columns) if weights is None else {}
        self._made: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Array:
        if name not in self._columns:
            raise AttributeError(f"the units table has no column {name}; it has {sorted(self._columns)}")
        if name not in self._done and self._weights is not None:
            if self._columns[name].ndim > 1:
                self._done[name] = self._wide(name, self._weights)
            else:
                self._done |= self._narrow(self._weights)
        return self._done[name]

    def _wide(self, name: str, weights: Counts) -> Array:
        if self._common is not None and name in self._shared:
            return getattr(self._common, name)  # type: ignore[no-any-return]
        return weighted(weights, self._columns[name])

    def _narrow(self, weights: Counts) -> dict[str, Array]:
        names = [name for name, column in self._columns.items() if column.ndim == 1]
        if len(names) == 1:
            return {names[0]: weighted(weights, self._columns[names[0]])}
        sums = weighted(weights, np.stack([self._columns[name] for name in names], axis=1)).T.copy()
        return dict(zip(names, sums, strict=True))

    def once(self, function: Callable[..., Array], *names: str) -> Array:
        """What ``function`` makes of the sums of these columns, called once.

        Where all of them belong to a hook point, that is once for all coders there: worth it for what is made of a wide
        column. ``function`` stands for what it computes, so give one that is defined once (no lambda).
        """
        of_all = self._common is not None and self._shared.issuperset(names)
        made = self._common._made if self._common is not None and of_all else self._made
        if (function, names) not in made:
            made[function, names] = self._make(function, names)
        found: Array = made[function, names]
        return found

    def _make(self, function: Callable[..., Array], names: tuple[str, ...]) -> Array:
        return function(*(getattr(self, name) for name in names))

    def under(self, prefix: str) -> Sums:
        """The columns whose name starts with ``prefix``, without it; what is summed for one is summed for both."""
        return _Under(self, prefix)


class CommonSums(Sums):
    """Sums of the wide columns that many tables have, and what is made of the columns that they have.

    The latter is kept; a sum lasts as long as the sums of one of the tables hold it. ``draw`` gives the weights, which
    are not kept. Narrow columns are summed with those of each table, in one product.
    """

    def __init__(self, columns: Mapping[str, Array], draw: Callable[[], Counts]) -> None:
        super().__init__({name: column for name, column in columns.items() if column.ndim > 1})
        self._draw = draw
        self._held: WeakValueDictionary[str, Array] = WeakValueDictionary()

    def __getattr__(self, name: str) -> Array:
        found = self._held.get(name)
        if found is None:
            found = self._held[name] = weighted(self._draw(), self._columns[name])
        return found


class Without(Sums):
    """The sums of all rows without one, a row for each of ``columns``: by how much a figure hangs on each.

    ``whole`` are the sums over all rows. Nothing is kept but what :meth:`once` makes, which it does a slab of rows at a
    time; ``common`` are those of the columns ``shared`` that many tables have.
    """

    def __init__(
        self,
        columns: Mapping[str, Array],
        whole: Sums,
        common: Sums | None = None,
        shared: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(columns, None, common, shared)
        self._whole = whole

    def __getattr__(self, name: str) -> Array:
        if name not in self._columns:
            return super().__getattr__(name)
        sums: Array = getattr(self._whole, name) - self._columns[name]
        return sums

    def column(self, name: str) -> Array:
        """The rows of a column that are left out in turn."""
        return self._columns[name]

    def _make(self, function: Callable[..., Array], names: tuple[str, ...]) -> Array:
        columns = [(getattr(self._whole, name), self._columns[name]) for name in names]
        step = max(1, SLAB // (8 * max(1, sum(column[0].size for _, column in columns if len(column)))))
        n = max(len(column) for _, column in columns)
        return np.concatenate(
            [function(*(whole - own[start : start + step] for whole, own in columns)) for start in range(0, n, step)]
        )


class _Under(Sums):
    def __init__(self, whole: Sums, prefix: str) -> None:
        super().__init__({})
        self._whole, self._prefix = whole, prefix

    def __getattr__(self, name: str) -> Array:
        return getattr(self._whole, self._prefix + name)  # type: ignore[no-any-return]

    def once(self, function: Callable[..., Array], *names: str) -> Array:
        return self._whole.once(function, *(self._prefix + name for name in names))
