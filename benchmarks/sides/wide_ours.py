"""Encode, select and decode by this repository: weights mapped from the file, codes sparse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from harness import Clock
from torch import Tensor

from sae_bench.saes.linear import LinearCoder, SelectIn
from sae_bench.saes.load import load_sae
from sides.dictionaries import make

__all__ = ["bare", "load", "make", "run", "save"]

_state: dict[str, Any] = {}


def load(folder: str, select_in: SelectIn = "exact") -> None:
    """The coder as ``load_sae`` gives it, or selecting by bfloat16 products."""
    coder = load_sae(f"{folder}/ours")
    assert isinstance(coder, LinearCoder)
    coder.select_in = select_in
    _state.update(coder=coder, x=torch.from_numpy(np.load(f"{folder}/activations.npy")))


def run(tokens: int, repeats: int = 1) -> dict[str, Any]:
    """Encode and decode the first ``tokens`` activations, ``repeats`` times."""
    clock, coder, x = Clock(), _state["coder"], _state["x"][:tokens]
    for _ in range(repeats):
        with clock("encode"):
            codes = coder.encode(x)
        with clock("decode"):
            coder.decode(codes, x)
    return {"parts": clock.parts}


@torch.no_grad()
def bare(tokens: int, repeats: int = 1) -> dict[str, Any]:
    """The product of activations and encoder alone, into memory that is there already; nothing is selected."""
    clock, x, W_enc = Clock(), _state["x"][:tokens], _state["coder"].weights.W_enc
    into: Tensor = x.new_zeros(tokens, W_enc.shape[1])
    for _ in range(repeats):
        with clock("product"):
            torch.mm(x, W_enc, out=into)
    return {"parts": clock.parts}


def save(path: str, tokens: int) -> dict[str, Any]:
    """Which latents are active and what they reconstruct, for the comparison of contenders."""
    coder, x = _state["coder"], _state["x"][:tokens]
    codes = coder.encode(x)
    entries = codes.token_of_entry() * codes.n_latents + codes.indices
    np.savez(path, entries=entries.numpy(), values=codes.values.numpy(), reconstruction=coder.decode(codes, x).numpy())
    return {"active": len(entries) / tokens}
