"""The language model and tokenizer of a world, as a user would have them in memory."""

from __future__ import annotations

from typing import Any

import torch

from sae_bench.validity.world import EPSILON, LENGTH, TYPES, WIDTH, World

BEGIN = "<s>"


def model(world: World) -> Any:
    """A Llama of two blocks that add nothing: embeddings are the activations, the head is what follows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=TYPES, hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH + 1, rms_norm_eps=EPSILON, tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for block in made.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        made.model.embed_tokens.weight.copy_(torch.from_numpy(world.activations))
        made.lm_head.weight.copy_(torch.from_numpy(world.follows))
    return made


def tokenizer() -> Any:
    """A token is a word; every text begins with the token of type 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {BEGIN: 0} | {f"w{i}": i for i in range(1, TYPES)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=BEGIN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=BEGIN, model_max_length=LENGTH + 1)
