"""The layout of sae-bench itself: ``sae_bench.json`` and ``weights.safetensors``.

``sae_bench.json``::

    {"format": "sae-bench", "format_version": 1, "name": "my-sae",
     "activation": "relu" | "topk" | "abstopk" | "jumprelu" | "gated",
     "k": 32,                                  # topk and abstopk only
     "apply_b_dec_to_input": true,             # default true: the encoder sees x - b_dec
     "normalize_activations": "none",          # or "layer_norm", "constant_norm_rescale"
     "rescale_acts_by_decoder_norm": false,
     "d_in": 768, "d_out": 768, "n_latents": 24576,
     "hook_in": "blocks.8.hook_resid_post", "hook_out": "blocks.8.hook_resid_post",
     "model": "gpt2", "prepend_bos": true, "context_size": 128, "notes": "free text"}

Tensors: ``W_enc [d_in, n_latents]``, ``W_dec [n_latents, d_out]``, ``b_dec [d_out]``; ``b_enc [n_latents]`` except for
gated; ``threshold`` (jumprelu; BatchTopK is a jumprelu with one threshold); ``b_gate, b_mag, r_mag`` (gated).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae_bench.errors import CoderError
from sae_bench.saes.formats.files import flag, integer, optional, read_json, read_tensors, sha256, take
from sae_bench.saes.linear import Activation, LinearCoder, Nonlinearity, Weights
from sae_bench.saes.protocol import CoderInfo

CONFIG, WEIGHTS = "sae_bench.json", "weights.safetensors"

TENSORS: dict[Activation, list[str]] = {
    "relu": ["W_enc", "W_dec", "b_dec", "b_enc"],
    "topk": ["W_enc", "W_dec", "b_dec", "b_enc"],
    "abstopk": ["W_enc", "W_dec", "b_dec", "b_enc"],
    "jumprelu": ["W_enc", "W_dec", "b_dec", "b_enc", "threshold"],
    "gated": ["W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"],
}
_KEYS = {
    *("format", "format_version", "name", "activation", "k", "apply_b_dec_to_input", "normalize_activations"),
    *("rescale_acts_by_decoder_norm", "d_in", "d_out", "n_latents", "hook_in", "hook_out", "model", "prepend_bos"),
    *("context_size", "notes"),
}


def matches(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (folder / CONFIG).is_file()


def read(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> LinearCoder:
    """The coder in ``folder``. Raises CoderError."""
    file = folder / CONFIG
    config = read_json(file)
    rule = _rule(config, file)
    hook_in = config.get("hook_in")
    if not isinstance(hook_in, str):
        raise CoderError(
            f"{file}: hook_in must name a hook point such as blocks.8.hook_resid_post, but it is {hook_in!r}"
        )
    weights = folder / WEIGHTS
    tensors = take(read_tensors(weights, device), TENSORS[rule.activation], weights)
    d_in = integer(config, "d_in", file)
    info = CoderInfo(
        name=optional(config, "name", str, file) or folder.name,
        n_latents=integer(config, "n_latents", file),
        d_in=d_in,
        d_out=integer(config, "d_out", file) if "d_out" in config else d_in,
        hooks_in=(hook_in,),
        hooks_out=(optional(config, "hook_out", str, file) or hook_in,),
        architecture=rule.activation,
        decode_needs_x=rule.normalise != "none",
        signed=rule.activation == "abstopk",
        model=optional(config, "model", str, file),
        prepend_bos=optional(config, "prepend_bos", bool, file),
        context_size=optional(config, "context_size", int, file),
        format="native",
        provenance={"files": [CONFIG, WEIGHTS], "sha256": sha256(file, weights), "notes": config.get("notes", "")},
    )
    return LinearCoder(info, Weights(**tensors), rule, dtype=dtype)


def _rule(config: dict[str, Any], file: Path) -> Nonlinearity:
    unknown = sorted(set(config) - _KEYS)
    if unknown:
        raise CoderError(f"{file} has unknown fields: {', '.join(unknown)}; the README lists the fields of this layout")
    if (version := config.get("format_version")) != 1:
        raise CoderError(
            f"{file}: format_version must be 1, but it is {version!r}; is this file from a newer sae-bench?"
        )
    named = config.get("activation")
    activation = next((name for name in TENSORS if name == named), None)
    if activation is None:
        raise CoderError(f"{file}: activation must be one of {', '.join(TENSORS)}, but it is {named!r}")
    normalise = config.get("normalize_activations", "none")
    if normalise not in ("none", "layer_norm", "constant_norm_rescale"):
        raise CoderError(
            f"{file}: normalize_activations must be none, layer_norm or constant_norm_rescale, but it is {normalise!r}"
        )
    topk = activation in ("topk", "abstopk")
    return Nonlinearity(
        activation=activation,
        k=integer(config, "k", file) if topk else None,
        apply_b_dec_to_input=flag(config, "apply_b_dec_to_input", True, file),
        rescale_by_decoder_norm=flag(config, "rescale_acts_by_decoder_norm", False, file),
        normalise=normalise,
    )
