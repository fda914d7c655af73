"""The language model and tokenizer of a world, as a user would have them in memory."""

from __future__ import annotations

from typing import Any

import torch

from sae_bench.validity.world import EPSILON, LENGTH, TYPES, WIDTH, World

BEGIN = "<s>"


def model(world: World) -> Any:
    """A Llama of two blocks that add nothing: embeddings are the activations, the head is what follows."""
    made = idle_llama(TYPES, WIDTH, LENGTH, EPSILON)
    with torch.no_grad():
        made.model.embed_tokens.weight.copy_(torch.from_numpy(world.activations))
        made.lm_head.weight.copy_(torch.from_numpy(world.follows))
    return made


def idle_llama(n_words: int, width: int, length: int, epsilon: float) -> Any:
    """A Llama for texts of ``length`` words and one before them, both blocks of which add nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=n_words, hidden_size=width, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=length + 1, rms_norm_eps=epsilon, tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for block in made.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return made


def tokenizer() -> Any:
    """A token is a word; every text begins with the token of type 0."""
    return of_words({BEGIN: 0} | {f"w{i}": i for i in range(1, TYPES)}, BEGIN, LENGTH)


def of_words(vocabulary: dict[str, int], begin: str, length: int) -> Any:
    """A tokenizer of which a word is a token, and that puts the word ``begin`` before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(vocabulary, unk_token=begin))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=begin, model_max_length=length + 1, clean_up_tokenization_spaces=False
    )
