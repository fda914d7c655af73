"""The guard around tasks: what a task returns is checked, and what it raises ends that task for that SAE alone.

A failure is one sentence that names the task, and where it can the column and the document. What is not the task's
fault passes through: a coder that fails, a model whose numbers are not finite, an interrupt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.engine.workspace import CoderFailure
from sae_bench.errors import Deferred, ModelError, SaeBenchError, named
from sae_bench.tasks.base import Task

T = TypeVar("T")


class TaskFailure(Exception):
    """A task raised, or returned what it may not."""


def guarded(task: Task, call: Callable[[], T], what: str, own: str | None = None) -> T:
    """The result of a task's own code. Raises TaskFailure for whatever it raises.

    ``what`` names the method. ``own`` is the key of the coder that is measured: another coder that fails meanwhile is
    a partner, and then it is the task that cannot go on.
    """
    try:
        return call()
    except (ModelError, Deferred, TaskFailure):
        raise
    except CoderFailure as failure:
        if own is None or failure.key in (None, own):
            raise
        raise TaskFailure(
            f"task {task.spec.id}: the SAE {failure.key}, which it looks at, fails: {failure}"
        ) from failure
    except SaeBenchError as error:
        raise TaskFailure(str(error)) from error
    except Exception as error:
        raise TaskFailure(f"task {task.spec.id}: {what} raises {named(error)}") from error


class Columns:
    """Checks the columns that tasks return, and that they stay the same from batch to batch and from SAE to SAE."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], frozenset[str]] = {}
        self._shapes: dict[tuple[str, str, str, str], tuple[int, ...]] = {}

    def rows(
        self, task: Task, what: str, found: Any, n: int, owner: str, name_of: Callable[[int], str]
    ) -> dict[str, NDArray[Any]]:
        """Columns of ``n`` rows (documents or examples), as arrays; ``name_of`` a row is asked for what is wrong.

        ``owner`` is the key of the coder (or hook point) that they are of: its columns keep their width. Raises
        TaskFailure.
        """
        columns = self._arrays(task, what, found)
        for name, column in columns.items():
            if column.ndim not in (1, 2) or len(column) != n:
                raise TaskFailure(
                    f"task {task.spec.id}: the column {name} of {what} has the shape {list(column.shape)}, and must "
                    f"have one row for each of {n} sequences"
                )
            if name not in task.may_be_nan and not (finite := _finite(column)).all():
                row = int(np.flatnonzero(~finite.reshape(n, -1).all(1))[0])
                raise TaskFailure(
                    f"task {task.spec.id}: the column {name} of {what} is NaN or infinite for {name_of(row)}"
                )
            self._same_shape(task, what, owner, name, column.shape[1:])
        return columns

    def totals(self, task: Task, found: Any, owner: str) -> dict[str, NDArray[Any]]:
        """Sums over all tokens of the coder ``owner``, as arrays. Raises TaskFailure."""
        columns = self._arrays(task, "totals", found)
        for name, column in columns.items():
            if name not in task.may_be_nan and not _finite(column).all():
                raise TaskFailure(f"task {task.spec.id}: the column {name} of totals is NaN or infinite")
            self._same_shape(task, "totals", owner, name, column.shape)
        return columns

    def _same_shape(self, task: Task, what: str, owner: str, name: str, shape: tuple[int, ...]) -> None:
        known = self._shapes.setdefault((task.spec.id, what, owner, name), shape)
        if known != shape:
            raise TaskFailure(
                f"task {task.spec.id}: the column {name} of {what} had the shape {list(known)} before, and now "
                f"{list(shape)}"
            )

    def _arrays(self, task: Task, what: str, found: Any) -> dict[str, NDArray[Any]]:
        if not isinstance(found, Mapping):
            raise TaskFailure(f"task {task.spec.id}: {what} must return columns by name, not {type(found).__name__}")
        arrays = {}
        for name, column in found.items():
            if not isinstance(column, torch.Tensor | np.ndarray) or not isinstance(name, str) or "/" in name:
                raise TaskFailure(
                    f"task {task.spec.id}: {what} must return tensors under names without /, and {name!r} is a "
                    f"{type(column).__name__}"
                )
            arrays[name] = column.detach().cpu().numpy() if isinstance(column, torch.Tensor) else column
            if arrays[name].dtype.kind not in "biuf":
                raise TaskFailure(
                    f"task {task.spec.id}: the column {name} of {what} must hold real numbers, not {arrays[name].dtype}"
                )
        known = self._names.setdefault((task.spec.id, what), frozenset(arrays))
        if known != frozenset(arrays):
            listed = (", ".join(sorted(names)) or "none" for names in (known, arrays))
            raise TaskFailure(
                "task {}: {} returned the columns {} before, and now {}".format(task.spec.id, what, *listed)
            )
        return arrays


def _finite(column: NDArray[Any]) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.isfinite(column)
    return finite
