"""A tiny model with random weights of every causal architecture that the installed transformers has.

Sizes are set by the names that configurations share; an architecture whose configuration wants more is told so in
`EXTRA`, and one that cannot be built at this size is not tried.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VOCAB, WIDTH, LAYERS, CONTEXT = 96, 32, 3, 64

# By what a configuration may call it: the size. A name that a configuration does not have is left out.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size",), VOCAB),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "intermediate_size_mlp", "n_inner"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "n_head_kv", "num_kv_heads"), 2),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), CONTEXT
    ),
    **dict.fromkeys(("head_dim", "attention_head_dim", "attention_head_size", "kv_channels"), 8),
    **dict.fromkeys(("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("sliding_window", "attention_window_size"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("encoder_layers",), 1),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 48),
    "query_pre_attn_scalar": 8,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "rotary_dim": 4,
    "lru_width": WIDTH,
    "state_size": 4,
    "mamba_d_state": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "is_decoder": True,
}

EXTRA: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granite": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "granitemoe": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "minicpm3": {"scale_depth": 1.4, "scale_emb": 12},
    **{key: {"num_key_value_heads": 4, "head_dim": 4} for key in ("deepseek_v3", "youtu", "axk1")},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "falcon_h1": {"mamba_chunk_size": 8},
    "zaya": {"num_experts_per_tok": 1},
    "gemma4_text": {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8, "global_head_dim": 8},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCAB, "swa_head_dim": 8, "rel_extent": 16, "loop_gate_rank": 4},
    "inkling2_text": {"unpadded_vocab_size": VOCAB, "swa_head_dim": 8, "rel_extent": 16},
    "inkling_text": {"swa_num_attention_heads": 4, "swa_head_dim": 8, "rel_extent": 16},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "longcat_flash": {"zero_expert_num": 2, "expert_ffn_hidden_size": 16, "num_key_value_heads": 4, "head_dim": 4},
    "recurrent_gemma": {"num_key_value_heads": 1},
    "phi3": {"pad_token_id": 0, "original_max_position_embeddings": CONTEXT},
    "gemma3n_text": {
        "intermediate_size": [48] * LAYERS,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "altup_num_inputs": 4,
        "num_kv_shared_layers": 1,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0] * LAYERS,
    },
    "minimax": {"block_size": 8, "layer_types": ["full_attention", "linear_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "qwen3_next": {"num_hidden_layers": 4},
    "openai-gpt": {"n_embd": WIDTH},
    "zamba2": {
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_d_state": 8,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "hybrid_layer_ids": [1, 3],
        "num_mem_blocks": 1,
    },
}

# Variants of one architecture whose blocks add up differently.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True}),
    "falcon-parallel": ("falcon", {"new_decoder_architecture": True}),
    "falcon-serial": ("falcon", {"parallel_attn": False, "alibi": True}),
}


def names() -> list[str]:
    """Every causal architecture by its model type, and the variants."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS])


def tiny(name: str, seed: int = 0) -> Any:
    """Build the model in eval mode, float32: branches as large as the stream, gains and biases random.

    Raises whatever transformers raises for a configuration that does not fit.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, changes = VARIANTS.get(name, (name, {}))
    kind = CONFIG_MAPPING[model_type]
    has = kind().to_dict()
    mapped = getattr(kind, "attribute_map", {})
    sizes = {key: value for key, value in _SIZES.items() if key in has and key not in mapped}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(kind(**(sizes | EXTRA.get(model_type, {}) | changes))).eval().float()
        _enliven(model)
    model.config.architectures = [type(model).__name__]  # as a saved one says; TransformerLens asks for it
    if sum(p.numel() for p in model.parameters()) > 2_000_000:
        raise ValueError(f"{name} is not tiny at these sizes")
    return model


def _enliven(model: nn.Module) -> None:
    """Random gains and biases, and larger matrices: with weights near their start every branch would be nearly zero."""
    with torch.no_grad():
        for path, p in model.named_parameters():
            if p.ndim >= 2 and "embed" not in path and "wte" not in path:
                p.mul_(4.0)
            elif p.ndim == 1:
                p.add_(torch.randn_like(p) * (0.3 if "norm" in path or "ln_" in path else 0.1))
