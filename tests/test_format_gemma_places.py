"""That the hook points of Gemma Scope mean in a Gemma model what the releases say of them."""

from functools import cache

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma3TextConfig

from sae_bench.models.hooks import parse_hook
from sae_bench.models.loading import load_subject
from sae_bench.saes.load import load_sae
from tests.builders import tiny_models
from tests.builders.gemma_files import EMBEDDING, IN, OUT, write_1, write_2

TOKENS = torch.randint(1, 40, (2, 9), generator=torch.Generator().manual_seed(5))
MASK = torch.ones_like(TOKENS, dtype=torch.bool)


@cache
def gemma_2():
    return tiny_models.tiny_gemma2()


@cache
def gemma_3():
    """With gains that are not 1, without which the place before and behind a gain would be one."""
    options = tiny_models._LLAMA | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
    options |= {"architectures": ["Gemma3ForCausalLM"]}
    return tiny_models._build(Gemma3ForCausalLM, Gemma3TextConfig, options, 0)


@cache
def gemma_3_with_images():
    text = tiny_models._LLAMA | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": tiny_models.LAYERS}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    options = {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4, "image_token_index": 49}
    return tiny_models._build(Gemma3ForConditionalGeneration, Gemma3Config, options, 0)


def places_1(tmp_path, repo, place="layer_1/width_16k/average_l0_40"):
    info = load_sae(write_1(tmp_path / repo / place)).info
    return (*info.hooks_in, *info.hooks_out)


def capture(model, names, backend="hf"):
    return load_subject(model, backend=backend)[0].capture(TOKENS, MASK, names).activations


def without_gain(x, epsilon):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


def paths_of(name, model):
    hook = parse_hook(name, model)
    return hook.path.rpartition("layers.")[2], hook.io, hook.form


def test_the_places_of_gemma_scope_in_gemma_2(tmp_path):
    model = gemma_2()
    (residual, _), (mlp, _), (attention, _) = (
        places_1(tmp_path, f"gemma-scope-2b-pt-{site}") for site in ("res", "mlp", "att")
    )
    read, written = places_1(tmp_path, "gemma-scope-2b-pt-transcoders")
    assert paths_of(residual, model) == ("1", "out", "raw")
    assert paths_of(mlp, model) == ("1.post_feedforward_layernorm", "out", "raw")
    assert paths_of(attention, model) == ("1.self_attn.o_proj", "in", "raw")
    assert written == mlp
    mid = "blocks.1.hook_resid_mid"
    x = capture(model, [residual, mlp, attention, read, mid])
    torch.testing.assert_close(x[residual], x[mid] + x[mlp])  # what the MLP adds to the stream
    norm = model.model.layers[1].pre_feedforward_layernorm
    torch.testing.assert_close(x[read], without_gain(x[mid], norm.eps))
    gained = x[read] * (1 + norm.weight)
    torch.testing.assert_close(gained, norm(x[mid]))
    assert float((gained - x[read]).detach().abs().max()) > 0.1
    assert x[attention].shape[-1] == 4 * 8  # all heads, which is not the width of the stream


@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_the_embedding_carries_the_factor_that_the_sae_takes_off(tmp_path, backend):
    model = gemma_2()
    (name, _) = places_1(tmp_path, "gemma-scope-2b-pt-res", EMBEDDING)
    raw = model.model.embed_tokens.weight[TOKENS]
    torch.testing.assert_close(capture(model, [name], backend)[name], raw * tiny_models.WIDTH**0.5)


@pytest.mark.parametrize("make", [gemma_3, gemma_3_with_images])
def test_the_places_of_gemma_scope_2_in_gemma_3(tmp_path, make):
    model = make()
    sites = {
        "residual": "model.layers.1.output",
        "attention": "model.layers.1.self_attn.o_proj.input",
        "mlp": "model.layers.1.post_feedforward_layernorm.output",
        "read": "model.layers.1.pre_feedforward_layernorm.output",
    }
    names = {}
    for site, written in sites.items():
        (names[site],) = load_sae(write_2(tmp_path / site, {"hf_hook_point_in": written})).info.hooks_in
    assert paths_of(names["residual"], model) == ("1", "out", "raw")
    assert paths_of(names["attention"], model) == ("1.self_attn.o_proj", "in", "raw")
    assert paths_of(names["mlp"], model) == ("1.post_feedforward_layernorm", "out", "raw")
    assert paths_of(names["read"], model) == ("1.pre_feedforward_layernorm", "out", "raw")
    mid = "blocks.1.hook_resid_mid"
    x = capture(model, [*names.values(), mid, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_in"])
    torch.testing.assert_close(x[names["residual"]], x[mid] + x[names["mlp"]])
    torch.testing.assert_close(x[names["read"]], x["blocks.1.mlp.hook_in"])
    assert float((x[names["read"]] - x["blocks.1.hook_mlp_in"]).abs().max()) > 0.1  # SAELens' name for it


def test_both_back_ends_agree_on_the_places_of_gemma_scope_2(tmp_path):
    config = {"hf_hook_point_in": IN.replace("7", "1"), "hf_hook_point_out": OUT.replace("7", "1")}
    info = load_sae(write_2(tmp_path, config)).info
    names = [*info.hooks_in, *info.hooks_out]
    hf, tl = capture(gemma_3(), names), capture(gemma_3(), names, "tl")
    for name in names:
        torch.testing.assert_close(tl[name], hf[name], atol=1e-5, rtol=1e-4)
