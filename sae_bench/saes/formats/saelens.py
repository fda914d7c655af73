"""SAELens v6 folders: ``cfg.json`` and ``sae_weights.safetensors``.

Architectures standard, topk, abstopk, jumprelu (to which BatchTopK and Matryoshka are exported) and gated. Formulas
as in SAELens: gated has no ``b_enc``; ``rescale_acts_by_decoder_norm`` selects by ``pre * ||W_dec||`` and divides back
when decoding. A normalisation whose factor is not in the folder is refused rather than left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae_bench.errors import CoderError
from sae_bench.saes.formats import native
from sae_bench.saes.formats.files import flag, integer, optional, read_json, read_tensors, sha256, take
from sae_bench.saes.linear import Activation, LinearCoder, Nonlinearity, Weights
from sae_bench.saes.protocol import CoderInfo

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

ARCHITECTURES: dict[str, Activation] = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abstopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
}

PROCESSING = ("center_writing_weights", "center_unembed", "fold_ln", "fold_value_biases")


def matches(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> LinearCoder:
    """The coder in ``folder``. Raises CoderError."""
    file, weights = folder / CONFIG, folder / WEIGHTS
    config = read_json(file)
    metadata = config.get("metadata")
    if not isinstance(metadata, dict):
        raise CoderError(
            f"{file} has no metadata: only SAELens v6 folders can be read; re-save the SAE with SAELens v6"
        )
    rule = _rule(config, metadata, file)
    hook = metadata.get("hook_name")
    if not isinstance(hook, str):
        raise CoderError(f"{file}: metadata.hook_name must name the hook point of the SAE, but it is {hook!r}")
    d_in = integer(config, "d_in", file)
    tensors = take(read_tensors(weights, device), native.TENSORS[rule.activation], weights)
    info = CoderInfo(
        name=folder.name,
        n_latents=integer(config, "d_sae", file),
        d_in=d_in,
        d_out=d_in,
        hooks_in=(hook,),
        hooks_out=(optional(metadata, "hook_name_out", str, file) or hook,),
        architecture=str(config["architecture"]),
        decode_needs_x=rule.normalise != "none",
        signed=rule.activation == "abstopk",
        model=optional(metadata, "model_name", str, file),
        prepend_bos=optional(metadata, "prepend_bos", bool, file),
        context_size=optional(metadata, "context_size", int, file),
        format="saelens",
        provenance={"files": [CONFIG, WEIGHTS], "sha256": sha256(file, weights), "metadata": metadata},
    )
    return LinearCoder(info, Weights(**tensors), rule, dtype=dtype)


def _rule(config: dict[str, Any], metadata: dict[str, Any], file: Path) -> Nonlinearity:
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise CoderError(
            f"{file}: the architecture must be one of {', '.join(ARCHITECTURES)}, but it is {architecture!r}; "
            "give an SAE of another kind as --sae module:factory"
        )
    normalise = config.get("normalize_activations", "none")
    if normalise not in ("none", "layer_norm", "constant_norm_rescale"):
        raise CoderError(
            f"{file}: normalize_activations is {normalise!r}, whose factor is not stored in the folder; fold it into "
            "the weights (SAELens: sae.fold_activation_norm_scaling_factor) and save again"
        )
    reshape = config.get("reshape_activations", "none")
    if reshape not in ("none", "hook_z"):
        raise CoderError(f"{file}: reshape_activations must be none or hook_z, but it is {reshape!r}")
    loading = metadata.get("model_from_pretrained_kwargs")
    processed = [name for name in PROCESSING if isinstance(loading, dict) and loading.get(name)]
    if processed:
        raise CoderError(
            f"{file}: the SAE was trained on a model with processed weights ({', '.join(processed)}), whose "
            "activations are not those of the model as it is stored; process x alike in code of your own and give "
            "--sae module:factory"
        )
    if metadata.get("hook_head_index") is not None:
        raise CoderError(f"{file}: metadata.hook_head_index is set; an SAE on a single attention head cannot be read")
    activation = ARCHITECTURES[architecture]
    return Nonlinearity(
        activation=activation,
        k=integer(config, "k", file) if activation in ("topk", "abstopk") else None,
        apply_b_dec_to_input=flag(config, "apply_b_dec_to_input", True, file),
        rescale_by_decoder_norm=flag(config, "rescale_acts_by_decoder_norm", False, file),
        normalise=normalise,
    )
