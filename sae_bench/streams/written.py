"""How far the test texts of a labelled set lie along the directions in which latents write.

Directions of all coders are read together: once over the tokens that a file keeps, or, where a text has more tokens
than that, by one more pass of the test texts. Only scores are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.engine.workspace import Entry, guarded
from sae_bench.kernels.pool import pool_scores
from sae_bench.streams.labelled_pass import Carried
from sae_bench.streams.pooled import SetView, TokenStore


@dataclass(frozen=True)
class Asked:
    """That a task asks, in ``view``, for ``latents`` int64 ``[m]``, whose ``directions`` are float64 ``[d_out, m]``."""

    view: SetView
    pooling: str
    latents: Tensor
    directions: Tensor

    @classmethod
    def of(cls, view: SetView, pooling: str, latents: Tensor) -> Asked:
        """With the directions of the view's coder. Raises CoderFailure."""
        entry = view.entry
        rows = guarded(entry, partial(_directions, entry, latents.to(view.pooled.device)))
        return cls(view, pooling, latents, rows.T)

    @property
    def hook(self) -> str:
        """Where the coder writes."""
        return self.view.entry.hook_out


def _directions(entry: Entry, latents: Tensor) -> Tensor:
    rows, wanted = entry.coder.decoder_rows(latents), [len(latents), entry.coder.info.d_out]
    if list(rows.shape) != wanted:
        raise ValueError(f"decoder_rows returned an array of shape {list(rows.shape)}, not {wanted}")
    if not bool(rows.isfinite().all()):
        raise ValueError("decoder_rows returned a direction that is NaN or infinite")
    return rows.detach().double().cpu()


def read(
    asked: Sequence[Asked],
    texts: NDArray[np.int64],
    stores: Mapping[str, TokenStore],
    means: Mapping[str, Tensor],
    again: Callable[[Sequence[str]], Iterator[Carried]],
) -> None:
    """Tell each view the scores of its ``asked`` directions on ``texts``, numbers within the group.

    ``stores`` and ``means`` are by hook; ``again`` lets the model run on these texts once more, numbered in their
    order.
    """
    by_hook: dict[str, list[Asked]] = {}
    for one in asked:
        by_hook.setdefault(one.hook, []).append(one)
    scores = {hook: _Scores(some, means[hook], len(texts)) for hook, some in by_hook.items()}
    stored = [hook for hook in by_hook if hook in stores and stores[hook].complete]
    for hook in stored:
        start = 0
        for x, size in stores[hook].chunks(texts):
            scores[hook].add(torch.arange(start, start + len(size)), x, size)
            start += len(size)
    if left := [hook for hook in by_hook if hook not in stored]:
        for carried in again(left):
            for hook in left:
                scores[hook].add(carried.numbers, carried.kept(hook), carried.batch.keep.sum(1))
    for found in scores.values():
        found.tell()


class _Scores:
    """Pooled scores of texts on all directions that are asked for at one hook point."""

    def __init__(self, asked: Sequence[Asked], mean: Tensor, n_texts: int) -> None:
        self._asked = asked
        self._directions = torch.cat([one.directions for one in asked], 1)
        self._offset = mean.double().cpu() @ self._directions
        self._found = torch.zeros(n_texts, self._directions.shape[1], dtype=torch.float64)

    def add(self, rows: Tensor, x: Tensor, size: Tensor) -> None:
        """The texts ``rows``, of ``size`` tokens each, whose activations are ``x`` ``[tokens, d]``."""
        directions, offset = self._directions.to(x.device), self._offset.to(x.device)
        scores = x.double() @ directions - offset
        parts = torch.split(scores, [len(one.latents) for one in self._asked], 1)
        pooled = [
            pool_scores(part, size, one.pooling, signed=one.view.entry.coder.info.signed)
            for part, one in zip(parts, self._asked, strict=True)
        ]
        self._found[rows.cpu()] = torch.cat(pooled, 1).cpu()

    def tell(self) -> None:
        """Give every view its own."""
        columns = torch.split(self._found, [len(one.latents) for one in self._asked], 1)
        for one, found in zip(self._asked, columns, strict=True):
            places = enumerate(one.latents.tolist())
            one.view.scores |= {(one.pooling, latent): found[:, i] for i, latent in places}
