"""SAEs that were trained on a world, at some steps of their training; ``scripts/train_ladder.py`` made them."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_bench.errors import UsageError
from sae_bench.files import regular
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.nonlinearity import Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights
from sae_bench.validity.world import HOOK, WIDTH

DRAWS = 4
WIDTHS = 128  # latents, as many as there are features
CHECKPOINTS = (20, 100, 300, 1000, 4000)
RIGHT_K = 5  # about how many features a token has
TRAINED = {RIGHT_K: (0, *CHECKPOINTS), 12: (4000,), 2: (4000,)}  # steps that are kept, by k
DATA = Path(__file__).parent / "data"


def trained(draw: int) -> dict[str, LinearCoder]:
    """The trained SAEs of a draw by name, with the one that training began with, ``frozen_random``. UsageError."""
    from safetensors.torch import load_file

    if draw not in range(DRAWS):
        raise UsageError(
            f"there are trained SAEs of the draws 0 to {DRAWS - 1} of the world of tokens, but draw {draw} was asked "
            "for; scripts/train_ladder.py trains others"
        )
    tensors = load_file(regular(DATA / f"draw{draw}.safetensors"))
    return {_name(k, step): _coder(tensors, k, step) for k, steps in TRAINED.items() for step in steps}


def _name(k: int, step: int) -> str:
    if k != RIGHT_K:
        return f"trained_k{k}"
    return f"trained_{step:04d}" if step else "frozen_random"


def _coder(tensors: dict[str, torch.Tensor], k: int, step: int) -> LinearCoder:
    weights = {n: tensors[f"k{k}/{step}/{n}"].float() for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    info = CoderInfo(_name(k, step), WIDTHS, WIDTH, WIDTH, (HOOK,), (HOOK,), "topk")
    return LinearCoder(info, Weights(**weights), Nonlinearity("topk", k=k))
