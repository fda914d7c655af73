"""Words of other libraries for places in a model: what they become, what is left alone, and that a model has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.errors import ModelError
from sae_bench.models.hooks import known_names, parse_hook
from sae_bench.models.layouts import CENTERED_SITES
from sae_bench.saes.hook_names import OPENAI_LOCATIONS, centered, from_module, from_submodule, is_lens_name
from tests.builders import tiny_models

IDENTIFIER = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)


@pytest.mark.parametrize(
    "name", ["blocks.0.hook_resid_post", "blocks.11.attn.hook_z", "blocks.3.ln2.hook_normalized", "hook_embed"]
)
def test_transformer_lens_names(name):
    assert is_lens_name(name)
    assert from_submodule(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "blocks", "blocks.3", "blocks.x.hook_z", "layers.3.mlp:out", "hook_pos", "blocks.3.hook_z:in", "blocks.3.a b"],
)
def test_other_names_are_none(name):
    assert not is_lens_name(name)


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("resid_post_layer_8", "blocks.8.hook_resid_post"),
        ("resid_post_layer8", "blocks.8.hook_resid_post"),
        ("resid_post_8", "blocks.8.hook_resid_post"),
        ("resid_pre_layer_0", "blocks.0.hook_resid_pre"),
        ("attn_out_layer12", "blocks.12.hook_attn_out"),
        ("attention_out_layer_12", "blocks.12.hook_attn_out"),
        ("mlp_out_layer3", "blocks.3.hook_mlp_out"),
        ("mlp_layer_3", "blocks.3.hook_mlp_out"),
        ("resid_post_layer_08", "blocks.8.hook_resid_post"),
        ("model.layers.7.output", "model.layers.7:out"),
    ],
)
def test_names_of_dictionary_learning(name, hook):
    assert from_submodule(name) == hook


@pytest.mark.parametrize(
    "name", ["", "resid_post", "resid_mid_layer_3", "resid_post_layer_", "resid_post_layer_-1", "x y"]
)
def test_names_that_dictionary_learning_does_not_have(name):
    assert from_submodule(name) is None


@pytest.mark.parametrize(
    ("name", "side", "hook"),
    [
        ("model.layers.7.output", None, "model.layers.7:out"),
        ("model.layers.7.self_attn.o_proj.input", None, "model.layers.7.self_attn.o_proj:in"),
        ("model.transformer.h[8].output[0]", None, "model.transformer.h.8:out"),
        ("model.transformer.h[8].mlp.output", None, "model.transformer.h.8.mlp:out"),
        ("model.transformer.h[8].mlp.input[0][0]", None, "model.transformer.h.8.mlp:in"),
        ("model.transformer.h[8].mlp.inputs[0][0]", None, "model.transformer.h.8.mlp:in"),
        (" model.layers.7.output ", None, "model.layers.7:out"),
        ("layers.3.mlp", "out", "layers.3.mlp:out"),
        ("layers.3.mlp", "in", "layers.3.mlp:in"),
        ("h[3]", "out", "h.3:out"),
    ],
)
def test_module_paths(name, side, hook):
    assert from_module(name, side) == hook


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("layers.3.mlp", None),
        ("", "out"),
        (".output", None),
        ("output", None),
        ("3.mlp", "out"),
        ("layers..3", "out"),
        ("layers.3.", "out"),
        ("layers 3", "out"),
        ("layers.3:out", "out"),
        ("layers/3", "out"),
        ("model.layers[-1].output", None),
        ("model.layers[i].output", None),
        ("model.transformer.h[8].output[1]", None),
        ("model.transformer.h[8].output[0][0]", None),
        ("h[8]\n.output", None),
    ],
)
def test_what_is_no_module_path_is_not_guessed(name, side):
    assert from_module(name, side) is None


@given(st.lists(IDENTIFIER, min_size=1, max_size=4), st.integers(0, 200), st.sampled_from(["in", "out"]))
def test_a_path_comes_back_with_its_side(parts, layer, side):
    path = ".".join([parts[0], str(layer), *parts[1:]])
    if parts[-1] in ("output", "input", "inputs"):
        return
    assert from_module(path, side) == f"{path}:{side}"
    assert from_module(f"{path}.{side}put", None) == f"{path}:{side}"


@given(st.text(max_size=30))
def test_no_text_raises(text):
    for found in (from_submodule(text), from_module(text), from_module(text, "out")):
        assert found is None or is_lens_name(found) or found.endswith((":in", ":out"))


@pytest.mark.parametrize(
    ("family", "name", "lens"),
    [
        ("gpt2", "model.transformer.h[1].output[0]", "blocks.1.hook_resid_post"),
        ("gpt2", "transformer.h.1.mlp.output", "blocks.1.hook_mlp_out"),
        ("neox", "model.gpt_neox.layers[1].output[0]", "blocks.1.hook_resid_post"),
        ("neox", "gpt_neox.layers.1.attention.output", "blocks.1.hook_attn_out"),
        ("llama", "model.model.layers[1].output[0]", "blocks.1.hook_resid_post"),
        ("llama", "model.layers.1.input", "blocks.1.hook_resid_pre"),
        ("gemma2", "model.layers.1.post_feedforward_layernorm.output", "blocks.1.hook_mlp_out"),
        ("gemma2", "model.layers.1.self_attn.o_proj.input", "blocks.1.attn.hook_z"),
        ("gemma2", "model.layers.1.pre_feedforward_layernorm.output", "blocks.1.ln2.hook_out"),
    ],
)
def test_a_path_is_the_place_of_its_transformer_lens_name(family, name, lens):
    model = tiny_models.FAMILIES[family]()
    assert parse_hook(from_module(name), model) == parse_hook(lens, model)


@pytest.mark.parametrize(
    ("family", "block"), [("gpt2", "h"), ("neox", "layers"), ("llama", "layers"), ("gemma2", "layers")]
)
def test_paths_of_the_base_model_are_found(family, block):
    """As sparsify names its folders."""
    model = tiny_models.FAMILIES[family]()
    assert parse_hook(from_module(f"{block}.1", "out"), model) == parse_hook("blocks.1.hook_resid_post", model)
    inside = parse_hook(from_module(f"{block}.1.mlp", "in"), model)
    assert inside == parse_hook("blocks.1.mlp.hook_in", model)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_names_of_dictionary_learning_exist_in_every_model(family):
    model = tiny_models.FAMILIES[family]()
    for name in ("resid_post_layer_1", "resid_pre_layer_1", "attn_out_layer1", "mlp_out_layer1"):
        assert from_submodule(name) in known_names(model)


def test_the_locations_of_openai_exist_in_gpt_2():
    names = known_names(tiny_models.tiny_gpt2())
    assert {f"blocks.1.{site}" for site in OPENAI_LOCATIONS.values()} <= set(names)


def test_a_layer_that_a_model_does_not_have_is_refused_there():
    with pytest.raises(ModelError, match="needs block 8, but the model has 3 layers"):
        parse_hook(from_submodule("resid_post_layer_8"), tiny_models.tiny_gpt2())
    with pytest.raises(ModelError, match="names no module"):
        parse_hook(from_module("h[8].output[0]"), tiny_models.tiny_gpt2())


def test_names_whose_value_centred_weights_change():
    model = tiny_models.tiny_gpt2()
    for name in known_names(model):
        changes = name.rpartition(".")[2] in CENTERED_SITES
        assert centered(name) == (f"{name}:centered" if changes else name)
        assert parse_hook(centered(name), model).path == parse_hook(name, model).path
