"""What layouts of :mod:`tests.builders.layouts` are made of: sizes, hook points, seeded tensors."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

D, M, K = 8, 24, 4  # width of the activations, latents, latents kept of a token
D_OUT = 6  # of transcoders whose library allows another width
HOOK, HOOK_OUT, HOOK_NORM = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.ln2.hook_normalized"


@dataclass(frozen=True)
class Layout:
    """``files``: contents by path. ``sae``: what the user points at. ``refused``: recognised, and refused."""

    format: str
    files: dict[str, Any]
    sae: str = "."
    told: dict[str, Any] = field(default_factory=dict)
    refused: bool = False


class Random:
    """Seeded tensors of one layout; about a third of the latents fires on normal activations."""

    def __init__(self, name: str) -> None:
        self._generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self._generator) * scale

    def common(self, d_out: int = D) -> dict[str, Tensor]:
        """The four tensors of nearly every SAE, oriented ``[d_in, n_latents]`` and ``[n_latents, d_out]``."""
        return {
            "W_enc": self.normal(D, M, scale=D**-0.5),
            "W_dec": self.normal(M, d_out, scale=d_out**-0.5),
            "b_enc": self.normal(M, scale=0.2) - 0.3,
            "b_dec": self.normal(d_out, scale=0.3),
        }

    def threshold(self) -> Tensor:
        return torch.rand(M, generator=self._generator) * 0.5 + 0.1


def renamed(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Under other names; those that end in ``.T`` are stored transposed."""
    return {
        new.removesuffix(".T"): tensors[old].T.contiguous() if new.endswith(".T") else tensors[old]
        for old, new in names.items()
    }
