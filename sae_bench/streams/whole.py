"""Whether what was measured is all that there was to measure, each thing once: else a wrong figure would look right.

A run that is killed and goes on, or two that share a folder, must come to the rows of an undisturbed one. This is held
by locks and digests; here it is looked at once more, before a table is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.data.mask import inside
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.plan import Options
from sae_bench.streams.guard import TaskFailure
from sae_bench.tasks.base import Task
from sae_bench.units import Units

_AGAIN = "something else wrote into this run; measure again, with --overwrite always"


def kept_tokens(tokens: TokenSet, options: Options) -> dict[str, int]:
    """How many tokens inside the mask each unit has, by its id."""
    counts = np.zeros(tokens.n_units, dtype=np.int64)
    for sequence in tokens:
        counts[sequence.unit] += int(inside(sequence.ids, options.mask, options.special_ids).sum())
    return dict(zip(tokens.unit_ids, counts.tolist(), strict=True))


def check_sequences(task: Task, units: NDArray[np.int64], tokens: TokenSet, only: frozenset[int] | None = None) -> None:
    """That every unit (or those that ``only`` holds) has as many rows as it has sequences. Raises TaskFailure."""
    n = max(tokens.n_units, int(units.max(initial=-1)) + 1)
    all_units = tokens.units if only is None else tokens.units[np.isin(tokens.units, list(only))]
    found, wanted = (np.bincount(column, minlength=n) for column in (units, all_units))
    if not (found == wanted).all():
        raise TaskFailure(
            f"task {task.spec.id}: {int((found != wanted).sum())} of {n} documents have other rows than sequences "
            f"({len(units)} rows, {len(all_units)} sequences); {_AGAIN}"
        )


def check_tokens(task: Task, documents: Units, kept: dict[str, int]) -> None:
    """That a task which counts tokens has counted those of the text. Raises TaskFailure."""
    if task.counts is None or (column := documents.columns.get(task.counts)) is None:
        return
    counted = partial(_check_tokens, task, task.counts, documents.ids, column, kept)
    if documents.common is not None and task.counts in documents.shared:
        documents.common.once(("counted", task.counts), counted)
    else:
        counted()


def _check_tokens(task: Task, name: str, ids: Sequence[str], column: NDArray[Any], kept: dict[str, int]) -> None:
    for unit, found in zip(ids, column.tolist(), strict=True):
        if found != kept[unit]:
            raise TaskFailure(
                f"task {task.spec.id}: {name} of document {unit} are {found:g}, but the text has {kept[unit]} "
                f"inside the mask; {_AGAIN}"
            )


def check_rows(
    task: Task, what: str, rows: Sequence[tuple[NDArray[Any], int]], wanted: Sequence[NDArray[Any]] | None = None
) -> None:
    """That no row is there twice, and that they are ``wanted``, if that is known. Raises TaskFailure.

    ``rows`` names each by some numbers, each a column with what its numbers lie below; ``wanted`` likewise.
    """
    sizes = [size for _, size in rows]
    found = _named([column for column, _ in rows], sizes)
    distinct = np.unique(found)
    if len(distinct) < len(found):
        raise TaskFailure(f"task {task.spec.id}: {len(found) - len(distinct)} {what} are there twice; {_AGAIN}")
    if wanted is not None and not np.array_equal(distinct, np.unique(_named(wanted, sizes))):
        n = len(np.unique(_named(wanted, sizes)))
        raise TaskFailure(f"task {task.spec.id}: there are {len(distinct)} {what} for {n}, or others; {_AGAIN}")


def _named(columns: Sequence[NDArray[Any]], sizes: Sequence[int]) -> NDArray[np.int64]:
    """One number for each row, the same for rows of the same numbers alone."""
    name = np.zeros(len(columns[0]), dtype=np.int64)
    for column, size in zip(columns, sizes, strict=True):
        name = name * size + np.asarray(column, dtype=np.int64)
    return name
