"""SAELens folders as tests write them, and the formulas of SAELens in plain numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_bench.errors import CoderError
from sae_bench.saes.conformance import check
from sae_bench.saes.load import load_sae
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_close
from tests.builders.tiny_saes import HOOK, LATENTS, WIDTH, K, activations


def refusal(folder: Path, told: Told | None = None) -> str:
    """The one sentence with which a folder is refused."""
    with pytest.raises(CoderError) as error:
        load_sae(str(folder), told=told)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def tensors_of(architecture: str, *, d_out: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of one architecture, with unequal decoder norms and biases that matter."""
    generator = np.random.default_rng(seed)
    d_out = d_out or WIDTH

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(size=shape).astype(np.float32))

    norms = torch.from_numpy(generator.uniform(0.5, 2, size=(LATENTS, 1)).astype(np.float32))
    found = {"W_dec": normal(LATENTS, d_out) / d_out**0.5 * norms, "b_dec": 0.3 * normal(d_out)}
    if architecture == "matching_pursuit":
        return found
    found["W_enc"] = normal(WIDTH, LATENTS) / WIDTH**0.5
    if architecture == "gated":
        return found | {"b_gate": normal(LATENTS) - 0.5, "b_mag": normal(LATENTS), "r_mag": 0.3 * normal(LATENTS)}
    found["b_enc"] = 0.2 * normal(LATENTS) - 0.3
    if "jumprelu" in architecture:
        found["threshold"] = 0.5 + 0.2 * normal(LATENTS)
    if "batchtopk" in architecture:
        found["topk_threshold"] = torch.tensor(0.6, dtype=torch.float64)
    if "skip" in architecture:
        found["W_skip"] = normal(d_out, WIDTH) / WIDTH**0.5
    return found


def config_of(architecture: str, *, d_out: int | None = None, metadata: dict[str, Any] | None = None, **changes: Any):
    """``cfg.json`` as v6 writes it."""
    config = {
        **{"architecture": architecture, "d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "device": "cpu"},
        **{"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"},
        "metadata": {
            **{"sae_lens_version": "6.54.12", "model_name": "tiny", "hook_name": HOOK, "prepend_bos": True},
            **{"context_size": 64, "model_from_pretrained_kwargs": {}},
        }
        | (metadata or {}),
    }
    if "transcoder" in architecture:
        config |= {"d_out": d_out or WIDTH, "apply_b_dec_to_input": False}
        config["metadata"]["hook_name_out"] = "blocks.1.hook_mlp_out"
    if architecture in ("topk", "abstopk"):
        config |= {"k": K, "rescale_acts_by_decoder_norm": False}
    if "batchtopk" in architecture:
        config |= {"k": 5.5, "rescale_acts_by_decoder_norm": True}
    if architecture == "matching_pursuit":
        config |= {"residual_threshold": 1.5, "max_iterations": 6, "stop_on_duplicate_support": True}
    return config | changes


def write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


def write_one(folder: Path, architecture: str = "standard", **changes: Any) -> Path:
    return write(folder, config_of(architecture, **changes), tensors_of(architecture))


def by_hand(config: dict[str, Any], tensors: dict[str, torch.Tensor], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents and reconstruction by the formulas of SAELens, token by token where they need it."""
    w = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    architecture = config["architecture"]
    u = x - w["b_dec"] if config["apply_b_dec_to_input"] and "transcoder" not in architecture else x
    if architecture == "matching_pursuit":
        latents = np.stack([pursued(token, w["W_dec"], config) for token in u])
        return latents, latents @ w["W_dec"] + (w["b_dec"] if config["apply_b_dec_to_input"] else 0)
    norms = np.linalg.norm(w["W_dec"], axis=1) if config.get("rescale_acts_by_decoder_norm") else np.ones(LATENTS)
    if architecture == "gated":
        magnitude = np.maximum(u @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"], 0)
        latents = magnitude * (u @ w["W_enc"] + w["b_gate"] > 0)
    else:
        pre = (u @ w["W_enc"] + w["b_enc"]) * norms
        if architecture in ("topk", "abstopk"):
            size = np.abs(pre) if architecture == "abstopk" else pre
            kept = size >= np.sort(size, axis=1)[:, [-config["k"]]]
            latents = pre * kept if architecture == "abstopk" else np.maximum(pre, 0) * kept
        else:
            threshold = w.get("threshold", w.get("topk_threshold", 0.0))
            latents = np.where(pre > np.maximum(threshold, 0), pre, 0)
    out = latents / norms @ w["W_dec"] + w["b_dec"]
    return latents, out + (x @ w["W_skip"].T if "W_skip" in w else 0)


def pursued(residual: np.ndarray, directions: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    latents = np.zeros(len(directions))
    for _ in range(config["max_iterations"]):
        before = latents != 0
        best = int(np.argmax(np.maximum(directions @ residual, 0)))
        value = max(float(directions[best] @ residual), 0)
        latents[best] += value
        residual = residual - value * directions[best]
        if ((latents != 0) == before).all() or np.linalg.norm(residual) < config["residual_threshold"]:
            break
    return latents


def assert_by_hand(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], told: Told | None = None):
    x = activations(40, dtype=torch.float64)
    coder = load_sae(str(folder), dtype=torch.float64, told=told)
    latents, out = by_hand(config, tensors, x.numpy())
    codes = coder.encode(x)
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0)
    assert 0 < len(codes.values) < latents.size
    assert_close(codes.dense(), latents, 1e-6)
    assert_close(coder.decode(codes, x), out, 1e-6)
    assert check(coder, x) == []
    return coder


def folded(config: dict[str, Any], tensors: dict[str, torch.Tensor], factor: float):
    """Config and tensors as SAELens has them after it folded a factor of the activations."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    if config["architecture"] == "matching_pursuit":
        config = config | {"residual_threshold": config["residual_threshold"] / factor}
        return config, w | {"b_dec": w["b_dec"] / factor}
    w |= {"W_enc": w["W_enc"] * factor, "W_dec": w["W_dec"] / factor, "b_dec": w["b_dec"] / factor}
    if config.get("rescale_acts_by_decoder_norm") and "topk_threshold" in w:
        w["topk_threshold"] = w["topk_threshold"] / factor
    return config, w
