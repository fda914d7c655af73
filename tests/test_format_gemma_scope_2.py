"""Gemma Scope 2: numbers, hook points by the configuration, and what is refused because it has several layers."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_bench.errors import CoderError
from sae_bench.saes.formats import gemma_scope_2
from sae_bench.saes.load import load_sae
from sae_bench.saes.source import Source
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_matches_fixture
from tests.builders.gemma_files import IN, OUT, jumprelu, write_2
from tests.builders.numpy_saes import D, M, arrays, assert_codes, tokens

FIXTURES = {
    "gemma_scope_2_resid": "resid_post/layer_7_width_16k_l0_medium",
    "gemma_scope_2_transcoder_affine": "transcoder/layer_7_width_16k_l0_medium_affine",
}
NORM_OUTPUT = "model.layers.7.pre_feedforward_layernorm:out"


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_of_the_second_release(references, name):
    folder, place = references / "fixtures" / name, FIXTURES[name]
    described = json.loads((folder / "fixture.json").read_text())
    coder = load_sae(str(folder / place))
    assert_matches_fixture(folder, coder)
    assert coder.info.model == described["model_name"]
    assert coder.info.hooks_out == (described["hook_out"],)
    if "transcoder" in name:  # SAELens says hook_mlp_in, which is the input of the norm, not its output
        assert described["hook_in"] == "blocks.7.hook_mlp_in"
        assert coder.info.hooks_in == (NORM_OUTPUT,)
    else:
        assert coder.info.hooks_in == (described["hook_in"],)
    assert "declared_l0" not in coder.info.provenance  # "medium" is no number
    assert coder.info.name == place
    assert load_sae(str(folder / place / "params.safetensors")).info.hooks_in == coder.info.hooks_in


@pytest.mark.parametrize(
    ("written", "hook"),
    [
        ("model.layers.7.output", "blocks.7.hook_resid_post"),
        ("model.language_model.layers.7.output", "blocks.7.hook_resid_post"),
        ("language_model.model.layers.7.output", "blocks.7.hook_resid_post"),
        ("model.layers.7.self_attn.o_proj.input", "blocks.7.attn.hook_z"),
        ("model.layers.7.post_feedforward_layernorm.output", "blocks.7.hook_mlp_out"),
        ("model.layers.7.pre_feedforward_layernorm.output", NORM_OUTPUT),
        ("model.layers.7.mlp.up_proj.output", "model.layers.7.mlp.up_proj:out"),
        ("vision_tower.encoder.layers.7.output", "vision_tower.encoder.layers.7:out"),
    ],
)
def test_the_hook_point_is_what_the_configuration_says(tmp_path, written, hook):
    config = {"hf_hook_point_in": written, "hf_hook_point_out": written, "type": "sae"}
    info = load_sae(write_2(tmp_path / "resid_post" / "layer_9_width_16k_l0_big", config)).info
    assert (info.hooks_in, info.hooks_out) == ((hook,), (hook,))


def test_l0_and_width_of_the_configuration(tmp_path):
    config = {"hf_hook_point_in": "model.layers.7.output", "l0": 20, "width": M}
    assert load_sae(write_2(tmp_path, config)).info.provenance["declared_l0"] == 20
    with pytest.raises(CoderError, match=r"W_enc must have shape \[6, 21\]"):
        load_sae(write_2(tmp_path, config | {"width": M + 1}))
    assert "declared_l0" not in load_sae(write_2(tmp_path, config | {"l0": "small"})).info.provenance


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
        ("gemma-v3-270m-pt", "google/gemma-3-270m"),
        ("gemma-v3-270m-it", "google/gemma-3-270m-it"),
        ("google/gemma-3-4b-it", "google/gemma-3-4b-it"),
        (None, None),
    ],
)
def test_the_model_has_its_name_on_the_hub(tmp_path, name, model):
    config = {"hf_hook_point_in": "model.layers.7.output", "model_name": name}
    assert load_sae(write_2(tmp_path, config)).info.model == model


def test_a_transcoder_with_and_without_the_skip_connection(tmp_path):
    w, x = arrays(6), tokens()
    latents = jumprelu(w, x)
    config = {"hf_hook_point_in": IN, "hf_hook_point_out": OUT, "type": "transcoder"}
    plain = load_sae(write_2(tmp_path / "plain", config, weights=w))
    assert_codes(plain, x, latents, latents @ w["W_dec"] + w["b_dec"])
    assert (plain.info.hooks_in, plain.info.hooks_out) == ((NORM_OUTPUT,), ("blocks.7.hook_mlp_out",))
    skips = load_sae(write_2(tmp_path / "skips", config | {"affine_connection": True}, weights=w, skip=True))
    assert_codes(skips, x, latents, latents @ w["W_dec"] + w["b_dec"] + x.astype(float) @ w["W_skip"].T)


@pytest.mark.parametrize(
    ("folder", "hook_in", "hook_out"),
    [
        ("resid_post_all/layer_7_width_16k_l0_small", "blocks.7.hook_resid_post", "blocks.7.hook_resid_post"),
        ("attn_out/layer_7_width_16k_l0_small", "blocks.7.attn.hook_z", "blocks.7.attn.hook_z"),
        ("mlp_out_all/layer_7_width_16k_l0_big", "blocks.7.hook_mlp_out", "blocks.7.hook_mlp_out"),
        ("transcoder_all/layer_7_width_16k_l0_big", NORM_OUTPUT, "blocks.7.hook_mlp_out"),
    ],
)
def test_without_a_configuration_the_folders_of_the_release_say_it(tmp_path, folder, hook_in, hook_out):
    info = load_sae(write_2(tmp_path / "gemma-scope-2-1b-it" / folder)).info
    assert (info.hooks_in, info.hooks_out, info.model) == ((hook_in,), (hook_out,), "google/gemma-3-1b-it")
    assert any("no config.json" in said for said in info.provenance["assumptions"])


def test_without_both_it_asks(tmp_path):
    path = write_2(tmp_path / "mine")
    with pytest.raises(CoderError, match=r"hf_hook_point_in is missing.*settle it with --hook-in$"):
        load_sae(path)
    assert load_sae(path, told=Told(hook_in="blocks.1.hook_resid_post")).info.model is None


def test_a_transcoder_that_does_not_say_what_it_writes_asks(tmp_path):
    path = write_2(tmp_path, {"hf_hook_point_in": IN, "type": "transcoder"})
    with pytest.raises(CoderError, match=r"hf_hook_point_out is missing.*settle it with --hook-out$"):
        load_sae(path)
    assert load_sae(path, told=Told(hook_out="blocks.7.hook_mlp_out")).info.is_transcoder


def test_what_is_told_goes_over_the_configuration(tmp_path):
    path = write_2(tmp_path, {"hf_hook_point_in": "nowhere"})
    with pytest.raises(
        CoderError, match="must name the output or input of a module, but it is 'nowhere'; give --hook-in"
    ):
        load_sae(path)
    info = load_sae(path, told=Told(hook_in="blocks.2.hook_resid_post")).info
    assert info.hooks_out == ("blocks.2.hook_resid_post",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "topk"}, "architecture must be one of jump_relu, but it is 'topk'"),
        ({"architecture": None}, "architecture must be one of jump_relu, but it is None"),
        ({"type": "clt"}, "is a cross-layer transcoder: its latents write to several layers"),
        ({"type": "crosscoder"}, "is a crosscoder: it reads several layers at once"),
        ({"hf_hook_point_in": ["model.layers.1.output", "model.layers.2.output"]}, "is a crosscoder"),
        ({"hf_hook_point_in": 3}, "hf_hook_point_in must be text or null"),
        ({"affine_connection": True}, "affine_skip_connection is missing, which .*affine_connection denies"),
        ({"affine_connection": "yes"}, "affine_connection must be true or false"),
        ({"width": "16k"}, "width must be a positive whole number"),
        ({"model_name": ["gemma"]}, "model_name must be text or null"),
        ({"l0": 10**400}, "l0 must be a number"),
    ],
)
def test_wrong_configurations_are_one_sentence(tmp_path, config, message):
    with pytest.raises(CoderError, match=message) as caught:
        load_sae(write_2(tmp_path, {"hf_hook_point_in": "model.layers.7.output"} | config))
    assert "\n" not in str(caught.value)


def test_a_skip_connection_that_the_configuration_denies_is_refused(tmp_path):
    path = write_2(tmp_path, {"hf_hook_point_in": IN, "hf_hook_point_out": OUT}, skip=True)
    with pytest.raises(CoderError, match=r"affine_skip_connection is there, which .* denies"):
        load_sae(path)


@pytest.mark.parametrize(
    "change",
    [
        {"w_dec": np.zeros((M, 4, D), np.float32)},
        {"w_enc": np.zeros((4, D, M), np.float32), "w_dec": np.zeros((4, M, D), np.float32)},
    ],
)
def test_weights_of_several_layers_are_refused(tmp_path, change):
    path = write_2(tmp_path, {"hf_hook_point_in": IN, "hf_hook_point_out": OUT}, **change)
    with pytest.raises(CoderError, match="reads or writes several layers, and sae-bench measures one"):
        load_sae(path)


def test_one_file_of_a_cross_layer_transcoder_is_refused(tmp_path):
    write_2(tmp_path, {"hf_hook_point_in": IN, "hf_hook_point_out": OUT})
    part = (tmp_path / "params.safetensors").rename(tmp_path / "params_layer_7.safetensors")
    for path in (tmp_path, part):
        with pytest.raises(CoderError, match="is one layer of a cross-layer transcoder or crosscoder"):
            load_sae(str(path))


def test_other_folders_do_not_match(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert not gemma_scope_2.matches(Source(tmp_path))
    save_file({"weight": torch.zeros(2)}, tmp_path / "params.safetensors")
    (tmp_path / "config.json").unlink()
    assert not gemma_scope_2.matches(Source(tmp_path))


def test_every_fixture_is_tested(references):
    assert {path.name for path in (references / "fixtures").glob("gemma_scope_2*")} == set(FIXTURES)
