"""Small seeded SAEs of all five activation functions, and writers of the two layouts that sae-bench reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights

ACTIVATIONS = ("relu", "topk", "abstopk", "jumprelu", "gated")
HOOK = "blocks.1.hook_resid_post"
WIDTH = 16
LATENTS = 48
K = 5

_SAELENS_NAMES = {"relu": "standard", "topk": "topk", "abstopk": "abstopk", "jumprelu": "jumprelu", "gated": "gated"}


def activations(tokens: int = 30, width: int = WIDTH, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded activations ``[tokens, width]`` with a mean and channels of unequal scale, as residual streams have."""
    generator = torch.Generator().manual_seed(1000 + seed)
    scale = torch.linspace(0.5, 2.0, width, dtype=torch.float64)
    shift = torch.randn(width, generator=generator, dtype=torch.float64)
    return (torch.randn(tokens, width, generator=generator, dtype=torch.float64) * scale + shift).to(dtype)


def tiny_weights(
    activation: str = "relu",
    *,
    seed: int = 0,
    d_in: int = WIDTH,
    n_latents: int = LATENTS,
    d_out: int | None = None,
    storage: torch.dtype = torch.float32,
) -> Weights:
    """Random weights; decoder rows have unequal norms, biases are not zero, about a quarter of the latents fire."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d_out = d_in if d_out is None else d_out
    tensors = {
        "W_enc": normal(d_in, n_latents) / d_in**0.5,
        "W_dec": normal(n_latents, d_out) / d_out**0.5 * (0.5 + torch.rand(n_latents, 1, generator=generator)),
        "b_dec": 0.3 * normal(d_out),
    }
    if activation == "gated":
        tensors |= {"b_gate": 0.2 * normal(n_latents) - 0.7}
        tensors |= {"b_mag": 0.2 * normal(n_latents), "r_mag": 0.3 * normal(n_latents)}
    else:
        tensors |= {"b_enc": 0.2 * normal(n_latents) - (0.7 if activation == "relu" else 0)}
    if activation == "jumprelu":
        tensors |= {"threshold": 0.5 + torch.rand(n_latents, generator=generator)}
    return Weights(**{name: tensor.to(storage) for name, tensor in tensors.items()})


def tiny_rule(activation: str = "relu", *, k: int = K, **changes: Any) -> Nonlinearity:
    """The activation function with ``k`` where it needs one; ``changes`` are fields of :class:`Nonlinearity`."""
    return Nonlinearity(activation, k=k if activation in ("topk", "abstopk") else None, **changes)  # type: ignore[arg-type]


def coder_of(weights: Weights, rule: Nonlinearity, *, dtype: torch.dtype = torch.float32, **info: Any) -> LinearCoder:
    """A coder around given weights; ``info`` changes fields of :class:`CoderInfo`."""
    fields: dict[str, Any] = {
        "name": f"tiny {rule.activation}",
        "n_latents": weights.W_enc.shape[1],
        "d_in": weights.W_enc.shape[0],
        "d_out": weights.W_dec.shape[1],
        "hooks_in": (HOOK,),
        "hooks_out": (HOOK,),
        "architecture": rule.activation,
        "decode_needs": "nothing" if rule.normalise == "none" else "scale",
        "signed": rule.activation == "abstopk",
    }
    return LinearCoder(CoderInfo(**(fields | info)), weights, rule, dtype=dtype)


def tiny_coder(
    activation: str = "relu",
    *,
    seed: int = 0,
    d_in: int = WIDTH,
    n_latents: int = LATENTS,
    d_out: int | None = None,
    k: int = K,
    storage: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.float32,
    hook: str = HOOK,
    hook_out: str | None = None,
    **rule: Any,
) -> LinearCoder:
    """A seeded coder; ``rule`` are fields of :class:`Nonlinearity`. With ``d_out`` or ``hook_out`` a transcoder."""
    weights = tiny_weights(activation, seed=seed, d_in=d_in, n_latents=n_latents, d_out=d_out, storage=storage)
    if d_out not in (None, d_in):
        rule = {"apply_b_dec_to_input": False} | rule
    hooks = {"hooks_in": (hook,), "hooks_out": (hook_out or hook,)}
    return coder_of(weights, tiny_rule(activation, k=k, **rule), dtype=dtype, **hooks)


def write_native(coder: LinearCoder, folder: Path, **changes: Any) -> Path:
    """``coder`` in the layout of sae-bench; ``changes`` go into ``sae_bench.json``, and None leaves a field out."""
    info, rule = coder.info, coder.rule
    config: dict[str, Any] = {
        "format": "sae-bench",
        "format_version": 1,
        "name": info.name,
        "activation": rule.activation,
        "k": rule.k,
        "apply_b_dec_to_input": rule.apply_b_dec_to_input,
        "normalize_activations": rule.normalise,
        "rescale_acts_by_decoder_norm": rule.by_decoder_norm == "latents",
        "d_in": info.d_in,
        "d_out": info.d_out,
        "n_latents": info.n_latents,
        "hook_in": info.hooks_in[0],
        "hook_out": info.hooks_out[0],
        "model": info.model,
        "prepend_bos": info.prepend_bos,
        "context_size": info.context_size,
    }
    return _write(folder, "sae_bench.json", "weights.safetensors", config | changes, coder.weights)


def write_saelens(coder: LinearCoder, folder: Path, metadata: dict[str, Any] | None = None, **changes: Any) -> Path:
    """``coder`` as SAELens v6 writes it; ``changes`` go into ``cfg.json``, and None leaves a field out."""
    info, rule = coder.info, coder.rule
    config: dict[str, Any] = {
        "architecture": _SAELENS_NAMES[rule.activation],
        "d_in": info.d_in,
        "d_sae": info.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": rule.apply_b_dec_to_input,
        "normalize_activations": rule.normalise,
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": info.model or "tiny",
            "hook_name": info.hooks_in[0],
            "prepend_bos": True if info.prepend_bos is None else info.prepend_bos,
            "context_size": info.context_size or 128,
            "model_from_pretrained_kwargs": {},
        }
        | (metadata or {}),
    }
    if rule.k is not None:
        config |= {"k": rule.k, "rescale_acts_by_decoder_norm": rule.by_decoder_norm == "latents"}
    return _write(folder, "cfg.json", "sae_weights.safetensors", config | changes, coder.weights)


def _write(folder: Path, config_name: str, weights_name: str, config: dict[str, Any], weights: Weights) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / config_name).write_text(json.dumps(kept), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / weights_name)
    return folder
