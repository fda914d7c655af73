"""Rows of tokens and coders that engines are run on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights
from tests.builders.tiny_models import VOCAB, WIDTH

HOOK = "blocks.1.hook_resid_post"


LENGTH = 12


def token_rows(n: int = 24, seed: int = 0) -> np.ndarray[Any, Any]:
    """Rows of ids that start with BOS (0) and hold another special token somewhere."""
    rows = np.random.default_rng(seed).integers(1, VOCAB, (n, LENGTH))
    rows[:, 0] = 0
    rows[::3, 5] = 0
    return rows


def coder(name: str = "tiny", n: int = 40, k: int = 4, seed: int = 0, hook: str = HOOK) -> LinearCoder:
    """A TopK coder with random weights, near enough to the activations that it reconstructs something."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(n, WIDTH, generator=generator), dim=1)
    weights = Weights(decoder.T.clone(), decoder, torch.zeros(WIDTH), torch.zeros(n))
    info = CoderInfo(name, n, WIDTH, WIDTH, (hook,), (hook,), architecture="topk", model="tiny")
    return LinearCoder(info, weights, Nonlinearity("topk", k=k), dtype=torch.float64)
