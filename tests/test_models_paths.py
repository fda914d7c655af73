"""Module paths of a text model inside a multimodal one, other ways to write a side, and the scaled embedding."""

from functools import cache

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from sae_bench.errors import ModelError
from sae_bench.models.hooks import find_blocks, known_names, parse_hook
from sae_bench.models.loading import load_subject
from tests.builders import tiny_models

TEXT = tiny_models._LLAMA | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8, "pad_token_id": 0}
TOKENS = torch.randint(1, 40, (2, 9), generator=torch.Generator().manual_seed(5))
MASK = torch.ones_like(TOKENS, dtype=torch.bool)


@cache
def multimodal():
    """As many blocks for images as for text."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": tiny_models.LAYERS}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    config = Gemma3Config(text_config=TEXT, vision_config=vision, mm_tokens_per_image=4, image_token_index=49)
    return Gemma3ForConditionalGeneration(config).eval()


@cache
def text_only():
    torch.manual_seed(0)
    return Gemma3ForCausalLM(Gemma3TextConfig(**TEXT, architectures=["Gemma3ForCausalLM"])).eval()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("model.language_model.layers.1:out", "layers.1"),
        ("model.layers.1:out", "layers.1"),
        ("language_model.model.layers.1:out", "layers.1"),
        ("language_model.layers.1:out", "layers.1"),
        ("layers.1:out", "layers.1"),
        ("model.layers.1.output", "layers.1"),
        ("layers.1.mlp:out", "layers.1.mlp"),
        ("model.layers.1.self_attn.o_proj.input", "layers.1.self_attn.o_proj"),
        ("model.norm:in", "norm"),
    ],
)
def test_paths_find_the_text_model_with_and_without_the_image_encoder(name, path):
    inside, alone = parse_hook(name, multimodal()), parse_hook(name, text_only())
    assert (inside.path, alone.path) == (f"model.language_model.{path}", f"model.{path}")
    assert inside.io == alone.io == ("in" if name.endswith(("input", ":in")) else "out")
    assert inside.layer == alone.layer == (None if path == "norm" else 1)


def test_blocks_of_the_image_encoder_are_not_those_of_the_text_model():
    model = multimodal()
    assert find_blocks(model)[0] == "model.language_model.layers"
    vision = next(path for path, _ in model.named_modules() if "vision" in path and path.endswith("layers.1"))
    assert parse_hook(f"{vision}:out", model).layer is None
    with pytest.raises(ModelError, match="names no module"):
        parse_hook(f"{vision.replace('vision', 'visoin', 1)}:out", model)
    with pytest.raises(ModelError, match="names no module"):
        parse_hook("model.layers.3:out", model)


def test_the_text_model_inside_a_multimodal_one_is_measured():
    model = multimodal()
    subject = load_subject(model)[0]
    name = "model.layers.1.output"
    capture = subject.capture(TOKENS, MASK, [name])
    hidden = model(TOKENS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(capture.activations[name], hidden[2])
    assert subject.can_resume(name)


def test_a_module_that_is_itself_called_output_needs_a_side():
    model = tiny_models.tiny_gpt2()
    model.transformer.h[1].output = torch.nn.Identity()
    assert parse_hook("transformer.h.1.output:in", model).path == "transformer.h.1.output"
    with pytest.raises(ModelError, match=r"may be transformer\.h\.1\.output:out or transformer\.h\.1:out"):
        parse_hook("transformer.h.1.output", model)


@pytest.mark.parametrize("name", ["model.h.1:out", "model.transformer.h.1.output", "transformer.h.1:out", "h.1:out"])
def test_prefixes_of_gpt2(name):
    assert parse_hook(name, tiny_models.tiny_gpt2()).name == "blocks.1.hook_resid_post"


@pytest.mark.parametrize("name", ["transformer.layers.1:out", "encoder.h.1:out", "model:out:out", "model.model:out"])
def test_other_prefixes_are_not_guessed(name):
    with pytest.raises(ModelError, match=r"names no module|neither"):
        parse_hook(name, tiny_models.tiny_gpt2())


@pytest.mark.slow
def test_gemma_3_is_as_gemma_2_on_both_back_ends():
    """What enters the stream is the output of the norms behind attention and MLP."""
    model = text_only()
    hf, tl = load_subject(model)[0], load_subject(model, backend="tl")[0]
    for site, norm in (("hook_attn_out", "post_attention_layernorm"), ("hook_mlp_out", "post_feedforward_layernorm")):
        assert parse_hook(f"blocks.1.{site}", model).path == f"model.layers.1.{norm}"
    names = known_names(model)
    found, expected = (subject.capture(TOKENS, MASK, names).activations for subject in (tl, hf))
    for name in names:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)


# --- the embedding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (tiny_models.tiny_gemma2, "hf"),
        (tiny_models.tiny_gemma2, "tl"),
        (text_only, "hf"),
        (text_only, "tl"),
        (multimodal, "hf"),
    ],
)
def test_hook_embed_of_gemma_is_the_scaled_embedding(make, backend):
    model = make()
    subject = load_subject(model, backend=backend)[0]
    x = subject.capture(TOKENS, MASK, ["hook_embed"]).activations["hook_embed"]
    expected = model.get_input_embeddings().weight[TOKENS] * tiny_models.WIDTH**0.5
    torch.testing.assert_close(x, expected)


def test_hook_embed_is_refused_where_the_model_scales_behind_the_module():
    """TransformerLens scales there, the module does not: neither is silently taken for the other."""
    torch.manual_seed(0)
    options = tiny_models._LLAMA | {"embedding_multiplier": 12.0, "architectures": ["GraniteForCausalLM"]}
    model = GraniteForCausalLM(GraniteConfig(**options)).eval()
    hf, tl = load_subject(model)[0], load_subject(model, backend="tl")[0]
    says = r"multiplies what model\.embed_tokens returns by 12 .*blocks\.0\.hook_resid_pre.*model\.embed_tokens:out"
    for subject, name in ((hf, "hook_embed"), (tl, "hook_embed"), (tl, "model.embed_tokens:out")):
        with pytest.raises(ModelError, match=says):
            subject.width(name)
    found = hf.capture(TOKENS, MASK, ["model.embed_tokens:out", "blocks.0.hook_resid_pre"]).activations
    torch.testing.assert_close(found["model.embed_tokens:out"] * 12, found["blocks.0.hook_resid_pre"])
    assert hf.counters["prefix"] == len(TOKENS)


def test_hook_embed_of_recurrent_gemma_is_refused_too():
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, lru_width=16
    )
    with pytest.raises(ModelError, match="by 4 before its first block"):
        load_subject(RecurrentGemmaForCausalLM(config).eval())[0].width("hook_embed")
