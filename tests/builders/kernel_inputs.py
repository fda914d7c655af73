"""Inputs that kernels are tried on, and what they allocate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_bench.kernels import topk


@contextmanager
def tiling(latents: int, elements: int) -> Iterator[None]:
    """Other tile sizes for a while."""
    old = topk.TILE_LATENTS, topk.TILE_ELEMENTS
    topk.TILE_LATENTS, topk.TILE_ELEMENTS = latents, elements
    try:
        yield
    finally:
        topk.TILE_LATENTS, topk.TILE_ELEMENTS = old


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class LargestAllocation(TorchDispatchMode):
    """The most numbers that one operation writes into memory of its own (views of inputs do not count)."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.by = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                numbers = tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
                if numbers > self.numbers:
                    self.numbers, self.by = numbers, str(func)
        return out
