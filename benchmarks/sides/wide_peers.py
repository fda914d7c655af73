"""Encode and decode by the published packages: a dense array of latents, and a dense product with the decoder."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from harness import Clock
from sae_bench.custom_saes.jumprelu_sae import JumpReluSAE
from sae_bench.custom_saes.topk_sae import TopKSAE
from sae_lens import SAE
from safetensors.torch import load_file

_state: dict[str, Any] = {}


def load(folder: str, package: str) -> None:
    """The SAE of ``sae_bench`` (its ``custom_saes``) or of ``sae_lens`` (``SAE.load_from_disk``)."""
    path = f"{folder}/theirs"
    made = SAE.load_from_disk(path) if package == "sae_lens" else _of_sae_bench(path)
    _state.update(sae=made, x=torch.from_numpy(np.load(f"{folder}/activations.npy")))


def _of_sae_bench(folder: str) -> Any:
    with open(f"{folder}/cfg.json") as stream:
        config = json.load(stream)
    common = {"model_name": "none", "hook_layer": 0, "device": torch.device("cpu"), "dtype": torch.float32}
    size = {"d_in": config["d_in"], "d_sae": config["d_sae"]}
    sae = (
        TopKSAE(**size, k=config["k"], **common) if config["architecture"] == "topk" else JumpReluSAE(**size, **common)
    )
    tensors = load_file(f"{folder}/sae_weights.safetensors")
    if config["architecture"] == "topk":
        tensors["k"] = torch.tensor(config["k"], dtype=torch.int)
    sae.load_state_dict(tensors)
    return sae


@torch.no_grad()
def run(tokens: int, repeats: int = 1) -> dict[str, Any]:
    """Encode and decode the first ``tokens`` activations, ``repeats`` times."""
    clock, sae, x = Clock(), _state["sae"], _state["x"][:tokens]
    for _ in range(repeats):
        with clock("encode"):
            latents = sae.encode(x)
        with clock("decode"):
            sae.decode(latents)
        del latents
    return {"parts": clock.parts}


@torch.no_grad()
def save(path: str, tokens: int) -> dict[str, Any]:
    """Which latents are active and what they reconstruct, for the comparison of contenders."""
    sae, x = _state["sae"], _state["x"][:tokens]
    latents = sae.encode(x)
    token, latent = latents.nonzero(as_tuple=True)
    np.savez(
        path,
        entries=(token * latents.shape[1] + latent).numpy(),
        values=latents[token, latent].numpy(),
        reconstruction=sae.decode(latents).numpy(),
    )
    return {"active": len(token) / tokens}
