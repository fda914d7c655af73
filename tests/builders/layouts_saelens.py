"""Tiny valid SAEs as SAELens writes them: v6, its checkpoints of training, v5 and v3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.builders.layout_parts import D_OUT, HOOK, HOOK_NORM, HOOK_OUT, D, K, Layout, M, Random

_METADATA: dict[str, Any] = {
    **{"sae_lens_version": "6.54.12", "model_name": "tiny-gpt2", "hook_name": HOOK, "context_size": 128},
    **{"prepend_bos": True, "dataset_path": "none", "model_from_pretrained_kwargs": {}},
    "exclude_special_tokens": False,
}
_CONFIG: dict[str, Any] = {
    **{"d_in": D, "d_sae": M, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True},
    **{"normalize_activations": "none", "reshape_activations": "none", "architecture": "standard"},
}
_TOPK = {"k": K, "rescale_acts_by_decoder_norm": False}


def saelens() -> dict[str, Layout]:
    """All of them by name."""
    return {f"saelens_{name}": layout for name, layout in (_plain() | _transcoders() | _trained() | _old()).items()}


def _layout(tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None, /, **changes: Any) -> Layout:
    told = changes.pop("told", {})
    config = _CONFIG | {"metadata": _METADATA | (metadata or {})} | changes
    files = {"cfg.json": config, "sae_weights.safetensors": tensors}
    return Layout("saelens", files, told=told, refused=config["architecture"] == "temporal")


def _plain() -> dict[str, Layout]:
    def tensors(name: str) -> dict[str, Tensor]:
        return Random(name).common()

    random = Random("saelens")
    vectors = {part: random.normal(M, scale=0.2) for part in ("b_gate", "b_mag", "r_mag")}
    gated = {key: tensor for key, tensor in tensors("gated").items() if key != "b_enc"} | vectors
    directions = {"W_dec": torch.nn.functional.normalize(random.normal(M, D), dim=1), "b_dec": random.normal(D)}
    pursuit = {"residual_threshold": 0.1, "max_iterations": 6, "stop_on_duplicate_support": True}
    attention = {"attn_layers.0.c_proj.weight": random.normal(M, M), "attn_layers.0.c_proj.bias": random.normal(M)}
    temporal = {"n_heads": 4, "n_attn_layers": 1, "sae_diff_type": "topk", "kval_topk": K}
    average = {"normalize_activations": "expected_average_only_in", "told": {"norm_factor": 0.5}}
    hook_z = {"hook_name": "blocks.1.attn.hook_z"}
    return {
        "standard": _layout(tensors("standard")),
        "standard_bf16": _layout({k: t.bfloat16() for k, t in tensors("bf16").items()}, dtype="bfloat16"),
        "layer_norm": _layout(tensors("layer_norm"), normalize_activations="layer_norm"),
        "constant_norm": _layout(tensors("constant"), normalize_activations="constant_norm_rescale"),
        "expected_average": _layout(tensors("average"), **average),
        "hook_z": _layout(tensors("hook_z"), hook_z, reshape_activations="hook_z"),
        "topk": _layout(tensors("topk"), architecture="topk", **_TOPK),
        "topk_rescale": _layout(
            tensors("rescale"), architecture="topk", **_TOPK | {"rescale_acts_by_decoder_norm": True}
        ),
        "abstopk": _layout(tensors("abstopk"), architecture="abstopk", **_TOPK),
        "jumprelu": _layout(tensors("jumprelu") | {"threshold": random.threshold()}, architecture="jumprelu"),
        "gated": _layout(gated, architecture="gated"),
        "matching_pursuit": _layout(directions, architecture="matching_pursuit", **pursuit),
        "temporal": _layout(directions | attention, architecture="temporal", **temporal),
    }


def _transcoders() -> dict[str, Layout]:
    found = {}
    for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        random = Random(name)
        tensors = random.common(D_OUT)
        if "skip" in name:
            tensors["W_skip"] = random.normal(D_OUT, D)
        if "jumprelu" in name:
            tensors["threshold"] = random.threshold()
        hooks = {"hook_name": HOOK_NORM, "hook_name_out": HOOK_OUT}
        found[name] = _layout(tensors, hooks, architecture=name, d_out=D_OUT, apply_b_dec_to_input=False)
    return found


def _trained() -> dict[str, Layout]:
    """BatchTopK and Matryoshka: as exported for inference, and as their trainer saves them."""
    details: dict[str, Any] = {"k": float(K), "rescale_acts_by_decoder_norm": True, "topk_threshold_lr": 0.01}
    details |= {"decoder_init_norm": None, "use_sparse_activations": False, "aux_loss_coefficient": 1.0}
    nested = {"matryoshka_widths": [8, 16, M], "use_matryoshka_aux_loss": False}
    found = {}
    for name, more in (("batchtopk", details), ("matryoshka_batchtopk", details | nested)):
        random = Random(name)
        said = {"training_architecture": name, "training_architecture_details": more}
        unit = random.common()
        unit["W_dec"] = torch.nn.functional.normalize(unit["W_dec"], dim=1)
        exported = unit | {"threshold": random.threshold()}
        found[f"{name}_export"] = _layout(exported, said, architecture="jumprelu")
        trained = random.common() | {"topk_threshold": torch.tensor(0.4, dtype=torch.float64)}
        found[f"{name}_checkpoint"] = _layout(trained, said, **more, architecture=name)
    return found


def _old() -> dict[str, Layout]:
    hook = "blocks.1.hook_resid_pre"
    old: dict[str, Any] = {"d_in": D, "d_sae": M, "dtype": "torch.float32", "device": "cpu", "model_name": "tiny-gpt2"}
    old |= {"hook_point": hook, "hook_point_layer": 1, "hook_point_head_index": None, "architecture": "standard"}
    old |= {"prepend_bos": True, "dataset_path": "none", "context_size": 128, "apply_b_dec_to_input": True}
    v3 = old | {"activation_fn_str": "relu", "finetuning_scaling_factor": False, "normalize_activations": False}
    v5 = old | {"activation_fn": "topk", "activation_fn_kwargs": {"k": K}, "hook_name": hook}
    v5 |= {"normalize_activations": "none", "sae_lens_training_version": "5.3.0"}
    files = {name: {"cfg.json": config} for name, config in (("v3", v3), ("v5", v5))}
    return {
        name: Layout("saelens", config | {"sae_weights.safetensors": Random(name).common()})
        for name, config in files.items()
    }
