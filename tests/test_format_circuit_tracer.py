"""Transcoders of circuit-tracer: numbers, layers, orientation of the decoder, activation functions, and refusals."""

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from sae_bench.errors import CoderError
from sae_bench.models.hooks import parse_hook
from sae_bench.saes.formats import circuit_tracer
from sae_bench.saes.load import load_sae
from sae_bench.saes.source import Source
from sae_bench.settings import Told
from tests.builders import tiny_models
from tests.builders.format_fixtures import assert_matches_fixture
from tests.builders.numpy_saes import D, M, arrays, assert_codes, jump, largest, relu, tokens

K = 4
CONFIG = {
    "model_kind": "transcoder_set",
    "model_name": "Qwen/Qwen3-0.6B",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "hook_mlp_out",
    "scan": "qwen3-0.6b",
}


def write(folder, config=None, w=None, *, layer=3, threshold=False, skip=False, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    w = {name: torch.from_numpy(array) for name, array in (w or arrays()).items()}
    tensors = {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    tensors |= {"activation_function.threshold": w["threshold"]} if threshold else {}
    tensors |= {"W_skip": w["W_skip"]} if skip else {}
    kept = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    save_file(kept, folder / f"layer_{layer}.safetensors")
    if config is not None:
        settings = {key: value for key, value in (CONFIG | config).items() if value is not None}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return str(folder)


def pre_of(w, x):
    return x.astype(float) @ w["W_enc"] + w["b_enc"]


def test_the_fixture_gives_the_numbers_of_its_library(references):
    folder = references / "fixtures" / "mwhanna_transcoder"
    for path in (folder, folder / "layer_3.safetensors"):
        coder = load_sae(str(path))
        assert_matches_fixture(folder, coder)
        assert coder.info.format == "circuit_tracer"
        assert coder.info.hooks_in == ("blocks.3.mlp.hook_in",)
        assert coder.info.hooks_out == ("blocks.3.hook_mlp_out",)
        assert coder.info.model == "Qwen/Qwen3-0.6B"
        assert coder.info.name == "mwhanna_transcoder/layer_3"


def test_relu_without_a_threshold(tmp_path):
    w, x = arrays(1), tokens()
    latents = relu(pre_of(w, x))
    coder = load_sae(write(tmp_path, {}, w))
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])
    assert coder.info.decode_needs == "nothing"


@pytest.mark.parametrize("named", [None, "jumprelu", "jump_relu"])
def test_a_threshold_makes_a_jumprelu_and_a_skip_is_added(tmp_path, named):
    w, x = arrays(2), tokens()
    latents = pre_of(w, x) * jump(pre_of(w, x), w["threshold"])
    coder = load_sae(write(tmp_path, {"activation": named}, w, threshold=True, skip=True))
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"] + x.astype(float) @ w["W_skip"].T)


@pytest.mark.parametrize("stored", [False, True])
def test_topk_keeps_negative_latents_among_the_largest(tmp_path, stored):
    w, x = arrays(3), tokens()
    w["b_enc"] = w["b_enc"] - 1.5
    pre = pre_of(w, x)
    latents = pre * largest(pre, K)
    assert (latents < 0).any()
    in_config, in_file = ({}, {"k": torch.tensor(K)}) if stored else ({"activation": "topk", "k": K}, {})
    path = write(tmp_path, in_config, w, **in_file)
    coder = load_sae(path)
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])
    assert coder.info.signed
    assert coder.info.provenance["declared_l0"] == K


def test_topk_without_k_asks(tmp_path):
    path = write(tmp_path, {"activation": "topk"})
    with pytest.raises(CoderError, match=r"how many latents TopK keeps; settle it with --k$"):
        load_sae(path)
    assert int(load_sae(path, told=Told(k=2)).encode(torch.from_numpy(tokens())).counts().max()) == 2


def test_the_decoder_may_be_stored_by_columns(tmp_path):
    w, x = arrays(4, d_out=D + 1), tokens()
    latents = relu(pre_of(w, x))
    coder = load_sae(write(tmp_path, {}, w, W_dec=torch.from_numpy(w["W_dec"].T.copy())))
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])
    assert coder.weights.W_dec.stride(1) == 1


def test_a_square_decoder_asks(tmp_path):
    w, x = arrays(5, n_latents=D), tokens()
    latents = relu(pre_of(w, x))
    path = write(tmp_path, {}, w)
    for told in (None, Told(format="circuit_tracer")):
        with pytest.raises(CoderError, match="--format circuit_tracer:rows or --format circuit_tracer:columns"):
            load_sae(path, told=told)
    with pytest.raises(CoderError, match="the variants are circuit_tracer:rows, circuit_tracer:columns"):
        load_sae(path, told=Told(format="circuit_tracer:other"))
    rows = load_sae(path, told=Told(format="circuit_tracer:rows"))
    assert_codes(rows, x, latents, latents @ w["W_dec"] + w["b_dec"])
    columns = load_sae(path, told=Told(format="circuit_tracer:columns"))
    assert_codes(columns, x, latents, latents @ w["W_dec"].T + w["b_dec"])


def test_of_several_layers_one_must_be_told(tmp_path):
    for layer in (0, 3, 11):
        write(tmp_path, {}, arrays(layer), layer=layer)
    with pytest.raises(CoderError, match=r"holds the transcoders of 3 layers \(0, 3, 11\): give --layer"):
        load_sae(str(tmp_path))
    with pytest.raises(CoderError, match="has the layers 0, 3, 11, but --layer is 4"):
        load_sae(str(tmp_path), told=Told(layer=4))
    for layer in (0, 3, 11):
        told, named = load_sae(str(tmp_path), told=Told(layer=layer)), tmp_path / f"layer_{layer}.safetensors"
        assert told.info.hooks_in == (f"blocks.{layer}.mlp.hook_in",)
        assert told.info.provenance["files"] == ["config.yaml", named.name]
        assert torch.equal(told.weights.b_enc, load_sae(str(named)).weights.b_enc)
        assert torch.equal(told.weights.b_enc, torch.from_numpy(arrays(layer)["b_enc"]))
    with pytest.raises(CoderError, match="is the file of layer 3, but --layer is 0"):
        load_sae(str(tmp_path / "layer_3.safetensors"), told=Told(layer=0))


def test_a_file_of_another_name_needs_the_layer(tmp_path):
    write(tmp_path, {})
    file = (tmp_path / "layer_3.safetensors").rename(tmp_path / "mine.safetensors")
    told = Told(format="circuit_tracer")
    with pytest.raises(CoderError, match=r"says no layer.*; give --layer$"):
        load_sae(str(file), told=told)
    told = Told(format="circuit_tracer", layer=0)
    assert load_sae(str(file), told=told).info.hooks_in == ("blocks.0.mlp.hook_in",)


@pytest.mark.parametrize(
    ("written", "hook"),
    [
        ("hook_resid_mid", "blocks.3.hook_resid_mid"),
        ("ln2.hook_normalized", "blocks.3.ln2.hook_normalized"),
        ("mlp.hook_in", "blocks.3.mlp.hook_in"),
        ("hook_mlp_in", "blocks.3.hook_mlp_in"),
        ("blocks.{layer}.hook_resid_mid", "blocks.3.hook_resid_mid"),
        ("blocks.3.hook_resid_mid", "blocks.3.hook_resid_mid"),
    ],
)
def test_hook_points_within_the_block(tmp_path, written, hook):
    info = load_sae(write(tmp_path, {"feature_input_hook": written})).info
    assert (info.hooks_in, info.hooks_out) == ((hook,), ("blocks.3.hook_mlp_out",))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_input_of_the_mlp_and_the_norm_before_its_gain_are_two_places(tmp_path, family):
    model, found = tiny_models.FAMILIES[family](), []
    for name in ("mlp.hook_in", "ln2.hook_normalized", "hook_resid_mid"):
        info = load_sae(write(tmp_path, {"feature_input_hook": name}, layer=1), told=Told(layer=1)).info
        found.append(parse_hook(info.hooks_in[0], model))
    assert len(set(found)) == 3
    assert (found[0].path, found[0].io) == ("model.layers.1.mlp", "in")
    assert found[1].form == "normalized"


def test_without_a_configuration_it_asks_for_both_hook_points(tmp_path):
    path = write(tmp_path)
    with pytest.raises(CoderError, match=r"feature_input_hook is missing.*settle it with --hook-in$"):
        load_sae(path)
    with pytest.raises(CoderError, match=r"feature_output_hook is missing.*settle it with --hook-out$"):
        load_sae(path, told=Told(hook_in="blocks.3.mlp.hook_in"))
    told = Told(hook_in="blocks.3.mlp.hook_in", hook_out="blocks.3.hook_mlp_out")
    info = load_sae(path, told=told).info
    assert info.model is None
    assert info.provenance["files"] == ["layer_3.safetensors"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_kind": "cross_layer_transcoder"}, "is cross_layer_transcoder: its latents write to several layers"),
        ({"model_kind": "sae"}, "model_kind must be one of transcoder_set, but it is 'sae'"),
        ({"activation": "gelu"}, "activation must be one of relu, jumprelu, jump_relu, topk, but it is 'gelu'"),
        ({"activation": "jumprelu"}, "of jumprelu, but there are no thresholds in the file of weights"),
        ({"activation": 3}, "activation must be one of"),
        ({"activation": "topk", "k": "many"}, "k must be a positive whole number"),
        ({"feature_input_hook": "blocks.7.hook_resid_mid"}, "must be a name such as mlp.hook_in.*give --hook-in"),
        ({"feature_output_hook": "the MLP"}, "but it is 'the MLP'; give --hook-out"),
        ({"feature_input_hook": ["a", "b"]}, "feature_input_hook must be text or null"),
        ({"model_name": 3}, "model_name must be text or null"),
    ],
)
def test_wrong_configurations_are_one_sentence(tmp_path, config, message):
    with pytest.raises(CoderError, match=message) as caught:
        load_sae(write(tmp_path, config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_enc": torch.zeros(M)}, "W_enc and W_dec must have two axes each"),
        ({"W_dec": torch.zeros(M, 3, D)}, "W_enc and W_dec must have two axes each"),
        ({"W_dec": torch.zeros(M + 1, D)}, "must have shape"),
        ({"b_enc": torch.zeros(D)}, r"b_enc must have shape \[20\]"),
        ({"log_threshold": torch.zeros(M)}, "holds the tensors log_threshold"),
        ({"activation_function.threshold": torch.full((M,), -0.1)}, "holds negative numbers"),
        ({"activation_function.threshold": torch.zeros(2)}, r"threshold must have shape \[20\]"),
        ({"k": torch.tensor([1, 2])}, "how many latents TopK keeps"),
        ({"k": torch.tensor(float("nan"))}, "how many latents TopK keeps"),
        ({"k": torch.tensor(-3)}, "k must lie between 1"),
        ({"b_dec": None}, "lacks the tensors b_dec"),
        ({"W_skip": torch.zeros(D)}, "W_skip must have shape"),
    ],
)
def test_wrong_tensors_are_one_sentence(tmp_path, change, message):
    with pytest.raises(CoderError, match=message) as caught:
        load_sae(write(tmp_path, {}, **change))
    assert "\n" not in str(caught.value)


def test_other_files_do_not_match(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "layer_3.safetensors")
    assert not circuit_tracer.matches(Source(tmp_path / "layer_3.safetensors"))
    (tmp_path / "sub").mkdir()
    assert not circuit_tracer.matches(Source(tmp_path / "sub"))
    np.savez(tmp_path / "sub" / "layer_3.npz", W_enc=np.zeros(2))
    assert not circuit_tracer.matches(Source(tmp_path / "sub" / "layer_3.npz"))
