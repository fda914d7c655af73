"""Figures of an SAE by hooks of torch alone, one document at a time, with sums in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.builders.sweeps import hooked

Replace = Callable[[Tensor], Tensor]


class Topless(nn.Module):
    """A ReLU SAE of random directions, as a user's own code has one."""

    def __init__(self, d: int, n_latents: int = 48, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.directions = nn.Parameter(torch.nn.functional.normalize(torch.randn(n_latents, d, generator=generator)))
        self.n_latents = n_latents

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.directions.T * 0.3 - 0.1)

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.directions


def figures(
    model: nn.Module, documents: Sequence[Sequence[int]], path: str, io: str, sae: Topless, *, scale: float = 1.0
) -> dict[str, float]:
    """FVU, L0, CE (nats a token): clean, spliced and with zeros. Of each document all but the first token are scored.

    The activation is what passes at the side of the module times `scale`.
    """
    seen: list[Tensor] = []
    clean = [_ce(model, ids, path, io, lambda x: seen.append(x[0, 1:].clone() * scale)) for ids in documents]
    x = torch.cat(seen).double()
    with torch.no_grad():
        latents = [sae.encode(part) for part in seen]
        rebuilt = [sae.decode(part) for part in latents]
    error = (x - torch.cat(rebuilt).double()).square().sum()

    def with_tail(parts: Sequence[Tensor]) -> float:
        losses = [_ce(model, ids, path, io, _tail(new / scale)) for ids, new in zip(documents, parts, strict=True)]
        return float(torch.cat(losses).mean())

    return {
        "fvu": float(error / (x - x.mean(0)).square().sum()),
        "l0": float(sum((part != 0).sum() for part in latents)) / len(x),
        "ce_clean": float(torch.cat(clean).mean()),
        "ce_spliced": with_tail(rebuilt),
        "ce_zero": with_tail([torch.zeros_like(part) for part in rebuilt]),
    }


def _tail(new: Tensor) -> Replace:
    def edit(x: Tensor) -> Tensor:
        x = x.clone()
        x[0, 1:] = new
        return x

    return edit


def _ce(model: Any, ids: Sequence[int], path: str, io: str, edit: Callable[[Tensor], Any]) -> Tensor:
    """Losses of the predictions at all scored tokens that have a next one."""
    tokens = torch.tensor([list(ids)])
    with torch.no_grad(), hooked(model, path, io, edit):
        logits = model(input_ids=tokens, use_cache=False).logits[0].double()
    return nn.functional.cross_entropy(logits[1:-1], tokens[0, 2:], reduction="none")
