"""The table of units: one row a unit, one column a sum.

A *unit* is what is resampled when we ask how sure we are: a document for what is measured on text, a latent for what is
a property of latents. Rows hold sums and counts in float64, so tables can be concatenated, and rows of one unit that
was measured in several pieces can be added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.files import strict_json

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """A table of units.

    ``ids`` names the rows; ``columns`` maps a name to an array ``[rows]`` or ``[rows, width]``, float64.
    """

    ids: tuple[str, ...]
    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if column.ndim == 0 or len(column) != len(self.ids):
                raise ValueError(f"column {name} has shape {column.shape}, the table has {len(self.ids)} rows")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> Units:
        """The rows with these positions, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Units(tuple(self.ids[i] for i in rows), {name: column[rows] for name, column in self.columns.items()})

    def where(self, wanted: Callable[[str], bool]) -> Units:
        """The rows whose id is ``wanted``; the table itself if all are."""
        chosen = [row for row, unit in enumerate(self.ids) if wanted(unit)]
        return self if len(chosen) == len(self) else self.select(chosen)


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


def merge(table: Units) -> Units:
    """Add the rows of one unit together (a document that ran as several sequences). Rows come out sorted by id.

    Sorting makes the table independent of the order in which sequences were batched.
    """
    order = sorted(range(len(table)), key=table.ids.__getitem__)
    table = table.select(order)
    starts = [i for i, unit in enumerate(table.ids) if i == 0 or unit != table.ids[i - 1]]
    if len(starts) == len(table):
        return table
    columns = {name: np.add.reduceat(column, starts, axis=0) for name, column in table.columns.items()}
    return Units(tuple(table.ids[i] for i in starts), columns)


def pack(tables: Mapping[str, Units]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and metadata for a safetensors file: ``<table>/<column>``, ids in the metadata.

    All metadata is one JSON string, since safetensors does not keep the order of several keys and a result must be the
    same file whenever it is computed. Ids that only count ("0", "1", ...) are not stored, and ids that another
    table has too are stored once. Raises ValueError for a column with "/" in its name, which could not be read back.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for key, table in tables.items():
        for name, column in table.columns.items():
            if "/" in name:
                raise ValueError(f"a column must have no / in its name, but table {key} has {name}")
            arrays[f"{key}/{name}"] = np.ascontiguousarray(column)  # safetensors writes other layouts in wrong order
    ids: dict[str, Any] = {}
    first: dict[tuple[str, ...], str] = {}
    for key, table in sorted(tables.items()):
        counting = all(unit == str(i) for i, unit in enumerate(table.ids))
        same = first.setdefault(table.ids, key)
        ids[key] = len(table) if counting else list(table.ids) if same == key else {"as": same}
    return arrays, {"ids": json.dumps(ids, sort_keys=True)}


def unpack(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, Units]:
    """The tables of a file written by :func:`pack`. Raises KeyError or ValueError for one that was not."""
    stored = strict_json(metadata["ids"])
    if not isinstance(stored, dict):
        raise ValueError(f"the ids must be an object by table, not {type(stored).__name__}")
    most = max((a.shape[0] for a in arrays.values() if a.ndim), default=0)  # a file may claim any number of rows
    tables: dict[str, Units] = {}
    for key, ids in stored.items():
        if isinstance(ids, dict):
            ids = stored[ids["as"]]
        columns = {n.rpartition("/")[2]: a for n, a in arrays.items() if n.rpartition("/")[0] == key}
        if isinstance(ids, int):
            if not 0 <= ids <= most:
                raise ValueError(f"table {key} claims {ids} rows, but no array has more than {most}")
            ids = [str(i) for i in range(ids)]
        if not isinstance(ids, list) or not all(isinstance(unit, str) for unit in ids):
            raise ValueError(f"the ids of table {key} must be strings")
        tables[key] = Units(tuple(ids), columns)
    return tables
