"""Objects of a user that are no coder yet, and their wrapping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.wrap import as_coder
from tests.builders.tiny_saes import HOOK, LATENTS, WIDTH


class Dense(nn.Module):
    """A user's ReLU SAE; ``_largest`` keeps the greatest number of tokens that one call saw."""

    def __init__(self, n: int = LATENTS, d_in: int = WIDTH, d_out: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.enc = nn.Parameter(torch.randn(d_in, n, generator=generator) / d_in**0.5)
        self.dec = nn.Parameter(torch.randn(n, d_out or d_in, generator=generator) / n**0.5)
        self.bias = nn.Parameter(torch.randn(d_out or d_in, generator=generator))
        self._largest = 0

    def encode(self, x: Tensor) -> Tensor:
        assert len(x) > 0, "users' code need not cope with empty batches"
        self._largest = max(self._largest, len(x))
        return (x @ self.enc - 0.5).relu()

    def decode(self, latents: Tensor) -> Tensor:
        assert len(latents) > 0
        self._largest = max(self._largest, len(latents))
        return latents @ self.dec + self.bias


def wrapped(module: Any, **options: Any) -> SparseCoder:
    with pytest.warns(UserWarning, match="is wrapped"):
        return as_coder(module, **({"hook": HOOK, "d_in": WIDTH} | options))
