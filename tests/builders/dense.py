"""A plain module with dense encode and decode, and a quick run of it on the tiny model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.api import evaluate
from tests.builders.tiny_models import WIDTH, tiny_gpt2
from tests.builders.token_rows import HOOK, token_rows

QUICK: dict[str, Any] = {"tasks": "reconstruction", "controls": "none", "resamples": 20}


class Dense(nn.Module):
    """A dense module of the tiny models' width that says nothing of itself."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(WIDTH, 24, generator=torch.Generator().manual_seed(seed)) / 4)

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.W.T


def measured(sae: Any, **settings: Any) -> list[Any]:
    return evaluate(sae, **({"model": tiny_gpt2(), "data": token_rows(), "hook_in": HOOK, **QUICK} | settings))
