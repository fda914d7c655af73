"""A language model of a few kilobytes that can be served: with a tokenizer and a chat template."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def write(folder: Path, says: str | None, system: bool = True) -> None:
    """Write a model that always says the same, or with None what a random one says, without an end.

    ``system``: whether its chat template knows the system message.
    """
    pieces = [] if says is None else _pieces(says)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, SYSTEM, USER, ASSISTANT, END, *pieces]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
    )
    fast.chat_template = TEMPLATE if system else NO_SYSTEM + TEMPLATE
    fast.save_pretrained(folder)
    model = _random(len(names), vocabulary[END]) if says is None else _parrot(vocabulary, [ASSISTANT, *pieces, END])
    model.save_pretrained(folder)


def _config(size: int, width: int, end: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16384,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
        tie_word_embeddings=False,
    )


def _pieces(text: str) -> list[str]:
    """Tokens of four characters and more, as a byte-level vocabulary writes them, each once; no prompt has them."""
    (whole,) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    starts = range(0, len(whole[0]) - 4, 4)
    found = [whole[0][start : start + 4] for start in starts[:-1]] + [whole[0][starts[-1] :]]
    assert len({*found}) == len(found)
    return found


def _random(size: int, end: int) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(_config(size, 32, end))
    with torch.no_grad():
        model.lm_head.weight[end] = 0  # never the highest
    return model


def _parrot(vocabulary: dict[str, int], chain: list[str]) -> LlamaForCausalLM:
    """After each token of the chain the next: blocks that do nothing between embeddings that are all different."""
    size = len(vocabulary)
    width = -(-size // 8) * 8
    model = LlamaForCausalLM(_config(size, width, vocabulary[END]))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        model.lm_head.weight.zero_()
        for here, there in pairwise(chain):
            model.lm_head.weight[vocabulary[there], vocabulary[here]] = 1
    return model
