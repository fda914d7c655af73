"""Tiny random language models of the common block layouts: seeded, float32, eval mode, a vocabulary of 50."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 50
WIDTH = 16
LAYERS = 3
CONTEXT = 32

_LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


_MADE: dict[str, Any] = {}


def _build(of: type[Any], config: type[Any], options: dict[str, Any], seed: int) -> Any:
    """Build with every parameter random, gains and biases too: with gains of 1 a wrong norm would go unseen.

    What was built once is copied, so that each caller has a module of its own.
    """
    key = f"{of.__name__} {sorted(options.items())} {seed} {torch.get_default_dtype()} {torch.get_default_device()}"
    if key not in _MADE:
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = of(config(**options)).eval().float()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2))
        _MADE[key] = model
    return copy.deepcopy(_MADE[key])


def tiny_gpt2(seed: int = 0, **changes: Any) -> Any:
    """LayerNorm, learned positions, fused attention projection."""
    options = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return _build(GPT2LMHeadModel, GPT2Config, options | special | changes, seed)


def tiny_llama(seed: int = 0, **changes: Any) -> Any:
    """RMSNorm, rotary positions, grouped-query attention, gated MLP."""
    return _build(LlamaForCausalLM, LlamaConfig, _LLAMA | changes, seed)


def tiny_qwen2(seed: int = 0, **changes: Any) -> Any:
    """Llama-like, with biases in the attention projections."""
    return _build(Qwen2ForCausalLM, Qwen2Config, _LLAMA | changes, seed)


def tiny_gemma2(seed: int = 0, **changes: Any) -> Any:
    """Norms before and after attention and MLP, gains of `1 + weight`, scaled embeddings, soft-capped logits."""
    options = _LLAMA | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
    return _build(Gemma2ForCausalLM, Gemma2Config, options | changes, seed)


def tiny_neox(seed: int = 0, **changes: Any) -> Any:
    """Attention and MLP in parallel on the same residual stream, unless `use_parallel_residual=False`."""
    options = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
    return _build(GPTNeoXForCausalLM, GPTNeoXConfig, options | changes, seed)


FAMILIES: dict[str, Callable[..., Any]] = {
    "gpt2": tiny_gpt2,
    "llama": tiny_llama,
    "qwen2": tiny_qwen2,
    "gemma2": tiny_gemma2,
    "neox": tiny_neox,
}


def linear_llama(unembedding: Tensor, seed: int = 0) -> Any:
    """Blocks that add nothing and no final norm: the logits of a token are its embedding times ``[width, vocab]``."""
    model = tiny_llama(seed, vocab_size=unembedding.shape[1])
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(unembedding.T)
    model.model.norm = nn.Identity()
    return model


class TinyTokenizer:
    """Texts are numbers, "3 14 15"; id 0 is BOS, EOS and padding. ``decoded`` changes how tokens are shown."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __init__(self, n: int = VOCAB, decoded: Callable[[int], str] = str) -> None:
        self.n, self.decoded = n, decoded

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self.n)}

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids: list[int], **options: Any) -> str:
        return " ".join(self.decoded(i) for i in ids)


def number_texts(n: int, shortest: int = 6, longest: int = 23, vocab: int = VOCAB, seed: int = 0) -> list[str]:
    """Texts for :class:`TinyTokenizer`, of unequal lengths, every third with a special token in the middle."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, vocab, rng.integers(shortest, longest + 1)) for _ in range(n)]
    for row in rows[::3]:
        row[len(row) // 2] = 0
    return [" ".join(map(str, row)) for row in rows]
