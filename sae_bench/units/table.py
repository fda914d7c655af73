"""The table of units: one row a unit, one column a sum.

A *unit* is what is resampled when we ask how sure we are: a document for what is measured on text, a latent for what is
a property of latents. Rows hold sums and counts in float64, so tables can be concatenated, and rows of one unit that
was measured in several pieces can be added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sae_bench.files import strict_json

Column = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Common:
    """Columns that many tables of the same rows have: what was measured at a hook point, whatever the coder there.

    What is made of them is made once, and kept in ``memo``; so nobody may change them (the arrays refuse it).
    """

    ids: tuple[str, ...]
    columns: Mapping[str, Column]
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for column in self.columns.values():
            column.flags.writeable = False

    @property
    def wide(self) -> bool:
        """Whether a column has a width: those are dear to sum and to store."""
        return any(column.ndim > 1 for column in self.columns.values())

    def once(self, what: Any, make: Callable[[], T]) -> T:
        """What ``make`` returns, called for the first who asks for ``what``."""
        if what not in self.memo:
            self.memo[what] = make()
        found: T = self.memo[what]
        return found


@dataclass(frozen=True)
class Units:
    """A table of units.

    ``ids`` names the rows; ``columns`` maps a name to an array ``[rows]`` or ``[rows, width]``, float64. Those of them
    that are the very arrays of ``common``, and of no others, are the same in other tables too.
    """

    ids: tuple[str, ...]
    columns: Mapping[str, Column]
    common: Common | None = None

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if column.ndim == 0 or len(column) != len(self.ids):
                raise ValueError(f"column {name} has shape {column.shape}, the table has {len(self.ids)} rows")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shared(self) -> frozenset[str]:
        """The names of the columns that belong to ``common``: not those that a task has put in their place."""
        if self.common is None or (self.common.ids is not self.ids and self.common.ids != self.ids):
            return frozenset()
        return frozenset(name for name, column in self.common.columns.items() if self.columns.get(name) is column)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> Units:
        """The rows with these positions, in this order; the table itself if these are all of them as they are."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == len(self) and (rows == np.arange(len(rows))).all():
            return self
        return Units(tuple(self.ids[i] for i in rows), {name: column[rows] for name, column in self.columns.items()})

    def where(self, wanted: Callable[[str], bool]) -> Units:
        """The rows whose id is ``wanted``; the table itself if all are."""
        chosen = [row for row, unit in enumerate(self.ids) if wanted(unit)]
        return self if len(chosen) == len(self) else self.select(chosen)

    def beside(self, ids: tuple[str, ...]) -> Units | None:
        """The rows that stand beside those of another table, ``ids``: in their places if both have as many, else by id.

        None where there are others. The columns of a control that are equal there are stored with the SAE alone.
        """
        if len(self) == len(ids):
            return self
        place = {unit: row for row, unit in enumerate(self.ids)}
        return self.select([place[unit] for unit in ids]) if place.keys() >= set(ids) else None


def concatenate(tables: Iterable[Units]) -> Units:
    """One table after the other. Raises ValueError unless every table has the same columns."""
    tables = list(tables)
    if not tables:
        return Units((), {})
    ids = tuple(i for table in tables for i in table.ids)
    names = tables[0].columns.keys()
    for table in tables:
        if table.columns.keys() != names:
            raise ValueError(f"tables have different columns: {sorted(names)} and {sorted(table.columns)}")
    return Units(ids, {name: np.concatenate([table.columns[name] for table in tables]) for name in names})


@dataclass(frozen=True, eq=False)
class Merging:
    """How the rows of tables with the same ids are merged; found once for all of them. See :func:`merge`."""

    ids: tuple[str, ...]  # of the merged rows, sorted
    order: NDArray[np.int64]  # of the rows, which are then added up in groups
    starts: NDArray[np.int64] | None  # of the groups; None if each is a row

    @staticmethod
    def of(ids: Sequence[str]) -> Merging:
        """How to merge rows of these ids."""
        order = sorted(range(len(ids)), key=ids.__getitem__)
        names = [ids[i] for i in order]
        starts = [i for i, unit in enumerate(names) if i == 0 or unit != names[i - 1]]
        whole = len(starts) == len(names)
        merged = tuple(names) if whole else tuple(names[i] for i in starts)
        return Merging(merged, np.array(order, dtype=np.int64), None if whole else np.array(starts, dtype=np.int64))

    def columns(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """The merged columns."""
        found = {name: column[self.order] for name, column in columns.items()}
        if self.starts is None:
            return found
        return {name: np.add.reduceat(column, self.starts, axis=0) for name, column in found.items()}


def merge(table: Units) -> Units:
    """Add the rows of one unit together (a document that ran as several sequences). Rows come out sorted by id.

    Sorting makes the table independent of the order in which sequences were batched.
    """
    merging = Merging.of(table.ids)
    return Units(merging.ids, merging.columns(table.columns))


def pack(
    tables: Mapping[str, Units], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and metadata for a safetensors file: ``<table>/<column>``, ids in the metadata.

    All metadata is one JSON string, since safetensors does not keep the order of several keys and a result must be the
    same file whenever it is computed. Ids that only count ("0", "1", ...) are not stored, and ids that another
    table has too are stored once. ``elsewhere`` names by table the digest of the file that holds its ids and the
    columns that it shares. Raises ValueError for a column with "/" in its name, which could not be read back.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for key, table in tables.items():
        shared = table.shared if key in elsewhere else frozenset()
        for name, column in table.columns.items():
            if "/" in name:
                raise ValueError(f"a column must have no / in its name, but table {key} has {name}")
            if name not in shared:  # safetensors writes other layouts than C's in wrong order
                arrays[f"{key}/{name}"] = np.ascontiguousarray(column)
    ids: dict[str, Any] = {key: {"shared": digest} for key, digest in elsewhere.items()}
    first = {tables[key].ids: key for key in sorted(elsewhere, reverse=True)}
    for key, table in sorted(tables.items()):
        if key not in elsewhere:
            same = first.setdefault(table.ids, key)
            if same == key:
                ids[key] = len(table) if _counting(table.ids) else list(table.ids)
            else:
                ids[key] = ids[same] if isinstance(ids[same], int) else {"as": same}
    return arrays, {"ids": json.dumps(ids, sort_keys=True)}


def _counting(ids: tuple[str, ...]) -> bool:
    """Whether ids are the numbers from 0 on."""
    return all(unit == str(i) for i, unit in enumerate(ids))


def shared_files(metadata: Mapping[str, str]) -> list[str]:
    """The digests of the files that hold a part of these tables, in order of the tables. Raises as :func:`unpack`."""
    named = [ids["shared"] for _, ids in sorted(_ids(metadata).items()) if isinstance(ids, dict) and "shared" in ids]
    if bad := [digest for digest in named if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest)]:
        raise ValueError(f"a shared file is named by 64 hexadecimal digits, not by {str(bad[0])[:80]!r}")
    return list(dict.fromkeys(named))


def _ids(metadata: Mapping[str, str]) -> dict[str, Any]:
    stored = strict_json(metadata["ids"])
    if not isinstance(stored, dict):
        raise ValueError(f"the ids must be an object by table, not {type(stored).__name__}")
    return stored


def unpack(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], shared: Mapping[str, Common] = MappingProxyType({})
) -> dict[str, Units]:
    """The tables of a file written by :func:`pack`. Raises KeyError or ValueError for one that was not.

    ``shared`` holds by digest what the files of :func:`shared_files` hold.
    """
    stored = _ids(metadata)
    most = max((a.shape[0] for a in arrays.values() if a.ndim), default=0)  # a file may claim any number of rows
    tables: dict[str, Units] = {}
    for key, own in stored.items():
        ids = stored[own["as"]] if isinstance(own, dict) and "as" in own else own
        columns = {n.rpartition("/")[2]: a for n, a in arrays.items() if n.rpartition("/")[0] == key}
        if isinstance(ids, dict):
            common = shared[ids["shared"]]
            whole = ids is own  # else it has the same rows, and no column of theirs
            tables[key] = Units(common.ids, {**common.columns, **columns} if whole else columns, common)
            continue
        if isinstance(ids, int):
            if not 0 <= ids <= most:
                raise ValueError(f"table {key} claims {ids} rows, but no array has more than {most}")
            ids = [str(i) for i in range(ids)]
        if not isinstance(ids, list) or not all(isinstance(unit, str) for unit in ids):
            raise ValueError(f"the ids of table {key} must be strings")
        tables[key] = Units(tuple(ids), columns)
    return tables
