"""What tasks return for a batch, on its way from the device: brought to the host together, and read when it is there.

What a task raises, and what a check finds that is read late, is kept beside it until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.engine.batch import Batch
from sae_bench.engine.checkpoint import Arrays, Key
from sae_bench.engine.placed import Unread
from sae_bench.engine.views import CoderView
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.errors import ModelError, named
from sae_bench.kernels.transfer import Fetch
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.tasks.base import Task

_NUMPY_HAS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.bool,
)


@dataclass(frozen=True)
class _Number:
    """Stands for a tensor until it is there."""

    number: int


class Rider(Protocol):
    """What collects something from every batch of the pass over the documents, of controls only in ``documents``."""

    documents: frozenset[int]

    def wants(self, entry: Entry) -> bool:
        """Whether anything is collected of a coder."""

    def collect(self, view: CoderView, sequences: tuple[int, ...]) -> Arrays:
        """Rows of one coder from one batch; ``sequences`` are its rows. Raises CoderFailure."""


class Found:
    """What was found in a batch; ``failures`` says which coders failed. ``waits``: it is read as it is returned."""

    def __init__(self, waits: bool) -> None:
        self.failures: dict[str, str] = {}
        self._names: dict[tuple[str, str], tuple[str, ...]] = {}
        self._fetch = Fetch(waits)
        self._returned: dict[tuple[str, str, str], Any] = {}
        self._raised: dict[tuple[str, str], TaskFailure] = {}
        self._rides: dict[str, Arrays] = {}
        self._added: dict[Key, int] = {}
        self._unread: list[tuple[Unread, int]] = []
        self._looked_at: dict[tuple[str, str], set[str]] = {}

    def ask(
        self,
        task: Task,
        key: str,
        what: str,
        call: Callable[[], Any],
        names: tuple[str, ...],
        owner: str | None = None,
    ) -> None:
        """Keep what the method ``what`` of a task returns under ``key``, for the sequences ``names``.

        ``owner`` is the coder that is measured, None for a hook point. Nobody may write into what was returned from
        now on. Raises CoderFailure.
        """
        self._names[task.spec.id, key] = names
        try:
            found = guarded(task, call, what, owner)
        except TaskFailure as failure:
            self._raised[task.spec.id, key] = failure
            return
        if isinstance(found, Mapping):
            found = {name: self._sent(value) for name, value in found.items()}
        self._returned[task.spec.id, key, what] = found

    def asked(self, task: str, key: str) -> bool:
        """Whether a task was asked under ``key``."""
        return (task, key) in self._names

    def names(self, task: str, key: str) -> tuple[str, ...]:
        """The sequences for which it was asked."""
        return self._names[task, key]

    def raised(self, task: str, key: str) -> bool:
        """Whether something was raised that is known already."""
        return (task, key) in self._raised

    def rides(self, owner: str, rows: Arrays) -> None:
        """Keep what a rider collected of a coder."""
        self._rides[owner] = self._rides.get(owner, {}) | rows

    def ridden(self, owner: str) -> Arrays:
        """What riders collected of a coder."""
        return self._rides.get(owner, {})

    def adds(self, key: Key, total: Tensor) -> None:
        """Keep a total of a coder that no task returned."""
        self._added[key] = self._fetch.add(total)

    def added(self, owner: str) -> Arrays:
        """The totals of a coder that no task returned."""
        return {key: self._fetch.read(number) for key, number in self._added.items() if key[1] == owner}

    def start(self, batch: Batch) -> None:
        """Begin to bring everything to the host, with the outcomes of the checks that the batch has put off."""
        self._looked_at = batch.looked_at
        self._unread = [(check, self._fetch.add(check.bad)) for check in batch.unread]
        self._fetch.start()

    def settle(self) -> None:
        """Wait for the outcomes of the checks: afterwards it is known who failed. Raises ModelError."""
        for check, number in self._unread:
            bad: NDArray[Any] = self._fetch.read(number)
            if not bad.any():
                continue
            error = check.error(bad)
            if isinstance(error, CoderFailure):
                self.failures.setdefault(check.owner, str(error))
            elif isinstance(error, ModelError):
                raise error
            else:
                failure = TaskFailure(f"task {check.task}: measure raises {named(error)}")
                self._raised.setdefault((check.task, check.owner), failure)
        if self._unread:
            self._partners()

    def _partners(self) -> None:
        """A task that looked at an SAE which turned out to have failed cannot go on."""
        for (task, owner), keys in self._looked_at.items():
            for key in sorted(keys & self.failures.keys()):
                why = f"task {task}: the SAE {key}, which it looks at, fails: {self.failures[key]}"
                self._raised[task, owner] = TaskFailure(why)

    def read(self, task: str, key: str, what: str) -> Any:
        """What the method ``what`` returned, as arrays; nothing if it was not asked. Raises TaskFailure."""
        if (failure := self._raised.get((task, key))) is not None:
            raise failure
        found = self._returned.get((task, key, what), {})
        if not isinstance(found, Mapping):
            return found
        return {name: self._there(value) for name, value in found.items()}

    def _sent(self, value: Any) -> Any:
        plain = isinstance(value, Tensor) and value.layout is torch.strided and value.dtype in _NUMPY_HAS
        return _Number(self._fetch.add(value)) if plain else value

    def _there(self, value: Any) -> Any:
        return self._fetch.read(value.number) if isinstance(value, _Number) else value
