"""The threshold above which so many pre-activations of a token lie on average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from sae_bench.kernels import topk

MOST_ELEMENTS = 1 << 27  # pre-activations that are looked at beyond those of the sample
MARGIN = 2.0  # by how much a first threshold is lower than needed, in L0


def cut(sample: Tensor, text: Callable[[], Iterable[Tensor]], encoder: Tensor, bias: Tensor, l0: float) -> Tensor:
    """The threshold that ``l0`` pre-activations of a token of ``text`` exceed on average.

    ``sample`` ``[tokens, d]``, of the same text, tells about where it lies, so that only what is above that is kept of
    the parts ``[tokens, d]``, which ``text`` gives as often as it is asked.
    """
    margin = MARGIN
    while True:
        low = _of_sample(sample, encoder, bias, margin * l0) if margin * l0 < len(encoder) else -torch.inf
        above, n_tokens = [sample.new_zeros(0, dtype=encoder.dtype)], 0
        for x in text():
            n_tokens += len(x)
            above += [pre[pre > low] for pre in _tiles(x.to(encoder), encoder, bias)]
        found, rank = torch.cat(above), max(1, round(l0 * n_tokens))
        if len(found) > rank:
            return found.topk(rank + 1, sorted=False).values.min()
        if margin * l0 >= len(encoder):  # all of them shall be active
            return found.min() - 1
        margin *= MARGIN**2


def _of_sample(x: Tensor, encoder: Tensor, bias: Tensor, l0: float) -> Tensor:
    rank = min(max(1, round(l0 * len(x))), len(x) * len(encoder) - 1)
    largest = x.new_zeros(0, dtype=encoder.dtype)
    for pre in _tiles(x.to(encoder), encoder, bias):
        largest = torch.cat([largest, pre.flatten()])
        if len(largest) > rank + 1:
            largest = largest.topk(rank + 1, sorted=False).values
    return largest.min()


def _tiles(x: Tensor, encoder: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """Pre-activations of some latents at a time."""
    step = max(1, topk.TILE_ELEMENTS // max(1, len(x)))
    for start in range(0, len(encoder), step):
        yield x @ encoder[start : start + step].T + bias[start : start + step]
