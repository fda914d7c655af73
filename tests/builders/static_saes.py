"""A TopK SAE whose arrays have sizes that its input's shape tells: nothing of it makes a host wait."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_bench.saes.protocol import CoderInfo, Codes
from tests.builders.tiny_models import WIDTH
from tests.builders.tiny_saes import HOOK


class StaticTopK:
    """The ``k`` largest of ``n`` pre-activations, whatever their sign; random weights."""

    def __init__(self, name: str = "static", n: int = 40, k: int = 4, seed: int = 0, hook: str = HOOK) -> None:
        self.info = CoderInfo(name, n, WIDTH, WIDTH, (hook,), (hook,), signed=True)
        generator = torch.Generator().manual_seed(seed)
        self.W = torch.nn.functional.normalize(torch.randn(n, WIDTH, generator=generator), dim=1)
        self.k = k

    def encode(self, x: Tensor) -> Codes:
        values, latents = (x.to(self.W.dtype) @ self.W.T).topk(self.k, dim=1)
        order = latents.argsort(dim=1)
        indptr = torch.arange(len(x) + 1, device=x.device) * self.k
        return Codes(indptr, latents.gather(1, order).flatten(), values.gather(1, order).flatten(), len(self.W))

    def decode(self, codes: Codes, x: Any = None) -> Tensor:
        parts = self.W[codes.indices] * codes.values.unsqueeze(1)
        return parts.view(-1, self.k, self.W.shape[1]).sum(1)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        return self.W[latents]
