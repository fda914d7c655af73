"""A layout on a device, and checks that are read there at once or later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from sae_bench.engine.layout import Bools, Layout
from sae_bench.errors import ModelError
from sae_bench.kernels.transfer import onto

T = TypeVar("T")


class Lazy:
    """Values that are computed when first asked for."""

    def __init__(self) -> None:
        self._memo: dict[Any, Any] = {}

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """What ``compute`` returned when ``key`` was first asked for."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value

    def known(self, key: Any) -> Any:
        """What was computed under ``key``, None if nothing was."""
        return self._memo.get(key)


def _by_sequence(values: Tensor, lengths: Tensor) -> Tensor:
    """Float64 sums over as many rows as ``lengths`` say; deterministic, unlike scattered additions on a GPU."""
    return torch.segment_reduce(values.double(), "sum", lengths=lengths, unsafe=True)


class Unread(NamedTuple):
    """A check whose outcome is still on the device: ``bad`` bool, and the error where something of it is true.

    ``task`` and ``owner`` are those whose fault it is: a coder alone, a task for a coder, or nobody's (the model's).
    """

    bad: Tensor
    error: Callable[[Bools], Exception]
    task: str
    owner: str


def not_finite(hook: str, dtype: torch.dtype, layout: Layout, names: tuple[str, ...]) -> Callable[[Bools], Exception]:
    """What to say of tokens (bool ``[T]``) whose activations at ``hook`` are not finite; it keeps no batch alive."""

    def error(bad: Bools) -> Exception:
        first = layout.sequence_of(int(np.flatnonzero(bad)[0]))
        where = f"{hook}, first in document {names[first]}," if names else hook
        return ModelError(f"the model gives activations that are not finite at {where} in {dtype}; use --dtype float32")

    return error


class Placed(Lazy):
    """What :class:`Layout` knows of a batch, on ``device``, each part when it is first asked for.

    Checks are made at once where the host ``waits``; else they are left in ``unread`` for whoever reads the batch.
    """

    def __init__(self, layout: Layout, device: torch.device, waits: bool) -> None:
        super().__init__()
        self.layout, self._device, self._waits = layout, device, waits
        self.unread: list[Unread] = []

    def put(self, name: str) -> Tensor:
        """What the layout calls ``name``, on the device."""
        return self.once(("layout", name), lambda: onto(getattr(self.layout, name), self._device))

    def of_names(self, key: str, names: tuple[str, ...], what: Callable[[str], int]) -> Tensor:
        """What a function says of the name of its sequence, for every token, int64 ``[T]``; kept under ``key``."""

        def compute() -> Tensor:
            each = np.array([what(name) for name in names], dtype=np.int64)
            return onto(each.repeat(self.layout.lengths), self._device)

        return self.once(key, compute)

    @property
    def tokens(self) -> Tensor:
        """Token ids, int64 ``[batch, seq]``."""
        return self.put("tokens")

    @property
    def attention(self) -> Tensor:
        """Which positions hold a token, bool ``[batch, seq]``."""
        return self.put("attention")

    @property
    def keep(self) -> Tensor:
        """Which positions hold a token inside the mask, bool ``[batch, seq]``."""
        return self.put("keep")

    @property
    def kept(self) -> Tensor:
        """Which tokens are inside the mask, bool ``[T]``."""
        return self.put("kept")

    @property
    def first(self) -> Tensor:
        """Which tokens stand at position 0, bool ``[T]``."""
        return self.put("first")

    @property
    def predicts(self) -> Tensor:
        """At which positions a prediction counts, bool ``[batch, seq]``."""
        return self.put("predicts")

    @property
    def targets(self) -> Tensor:
        """The tokens that are predicted, int64 ``[predictions]``."""
        return self.put("targets")

    def sum(self, values: Tensor, where: Tensor) -> Tensor:
        """Float64 sums over the tokens ``where`` of each sequence: ``[T, ...]`` to ``[batch, ...]``."""
        mask = where if values.ndim == 1 else where.unsqueeze(1)
        return _by_sequence(torch.where(mask, values, 0), self.put("lengths"))

    def sum_predictions(self, values: Tensor) -> Tensor:
        """Float64 sums over the predictions of each sequence: ``[predictions]`` to ``[batch]``."""
        return _by_sequence(values, self.put("predictions"))

    def check(self, bad: Tensor, error: Callable[[Bools], Exception], task: str = "", owner: str = "") -> None:
        """Raise ``error(bad)`` where something of ``bad`` is true: now, or when the batch is read."""
        if not self._waits:
            self.unread.append(Unread(bad, error, task, owner))
        elif bool(bad.any()):
            raise error(bad.cpu().numpy())
