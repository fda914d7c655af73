"""Llama Scope: the arithmetic of the library's loader, done in its own three steps, and refusals."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_bench.errors import CoderError
from sae_bench.saes.load import load_sae
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_close, assert_matches_fixture
from tests.builders.numpy_saes import D, M, arrays, assert_codes, jump, largest, relu, tokens

K = 4
HOOK, OUT = "blocks.3.hook_resid_post", "blocks.3.hook_mlp_out"
NORM_IN, NORM_OUT, THRESHOLD = 3.7, 1.3, 0.5


def settings(**changes):
    values = {
        "hook_point_in": HOOK,
        "hook_point_out": HOOK,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "d_model": D,
        "d_sae": M,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": NORM_IN, "out": NORM_IN},
        "act_fn": "jumprelu",
        "jump_relu_threshold": THRESHOLD,
        "sparsity_include_decoder_norm": True,
        "top_k": K,
        "use_glu_encoder": False,
    } | changes
    return {key: value for key, value in values.items() if value is not None}


def transcoder(**changes):
    norms = {"in": NORM_IN, "out": NORM_OUT}
    return settings(hook_point_out=OUT, dataset_average_activation_norm=norms, **changes)


def write(folder, config, w=None, **changes):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    w = {name: torch.from_numpy(array) for name, array in (w or arrays()).items()}
    tensors = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"]}
    tensors |= {"decoder.weight": w["W_dec"].T.contiguous(), "decoder.bias": w["b_dec"]}
    kept = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    save_file(kept, folder / "checkpoints" / "final.safetensors")
    (folder / "hyperparams.json").write_text(json.dumps(config))
    return str(folder)


def folded(w, norm_in, norm_out, *, unit=True):
    """What the library makes of the weights before inference, and what then multiplies its latents."""
    f_in, f_out = np.sqrt(D) / norm_in, np.sqrt(D) / norm_out
    v = {name: array.astype(float) for name, array in w.items()}
    v["b_enc"], v["b_dec"], v["W_dec"] = v["b_enc"] / f_in, v["b_dec"] / f_out, v["W_dec"] * f_in / f_out
    sizes = np.linalg.norm(v["W_dec"], axis=1) if unit else np.ones(len(v["W_dec"]))
    v["W_dec"] = v["W_dec"] / sizes[:, None]
    v["W_enc"], v["b_enc"] = v["W_enc"] * sizes, v["b_enc"] * sizes
    return v, f_in / sizes


def test_the_fixture_gives_the_numbers_of_its_library(references):
    folder = references / "fixtures" / "llama_scope"
    coder = load_sae(str(folder / "Llama3_1-8B-Base-L3R-8x"))
    assert_matches_fixture(folder, coder)
    assert coder.info.hooks_in == coder.info.hooks_out == (HOOK,)
    assert coder.info.model == "meta-llama/Llama-3.1-8B"
    assert coder.info.name == "Llama3_1-8B-Base-L3R-8x"
    reference = np.load(folder / "reference.npz")
    factor = json.loads((folder / "fixture.json").read_text())["norm_scaling_factor"]
    native = coder.encode(torch.from_numpy(reference["x"])).dense() / factor
    assert_close(native, reference["latents_native"])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_jumprelu_is_that_of_the_folded_weights(tmp_path, seed):
    """Decoder rows here are not unit vectors: SAELens leaves out the step that makes them so."""
    w, x = arrays(seed), tokens()
    v, factor = folded(w, NORM_IN, NORM_IN)
    pre = x @ v["W_enc"] + v["b_enc"]
    native = pre * jump(pre, THRESHOLD)
    coder = load_sae(write(tmp_path, settings(), w))
    assert_codes(coder, x, native * factor, native @ v["W_dec"] + v["b_dec"])


def test_a_transcoder_has_two_factors(tmp_path):
    w, x = arrays(3), tokens()
    v, factor = folded(w, NORM_IN, NORM_OUT)
    pre = x @ v["W_enc"] + v["b_enc"]
    native = pre * jump(pre, THRESHOLD)
    coder = load_sae(write(tmp_path, transcoder(), w))
    assert_codes(coder, x, native * factor, native @ v["W_dec"] + v["b_dec"])
    assert (coder.info.hooks_in, coder.info.hooks_out) == ((HOOK,), (OUT,))


@pytest.mark.parametrize("config", [settings, transcoder])
def test_without_the_decoder_norm(tmp_path, config):
    w, x = arrays(4), tokens()
    config = config(sparsity_include_decoder_norm=False)
    v, factor = folded(w, NORM_IN, config["dataset_average_activation_norm"]["out"], unit=False)
    pre = x @ v["W_enc"] + v["b_enc"]
    native = pre * jump(pre, THRESHOLD)
    assert_codes(load_sae(write(tmp_path, config, w)), x, native * factor, native @ v["W_dec"] + v["b_dec"])


@pytest.mark.parametrize("by_norm", [False, True])
def test_topk(tmp_path, by_norm):
    w, x = arrays(5), tokens()
    v, factor = folded(w, NORM_IN, NORM_IN, unit=by_norm)
    pre = relu(x @ v["W_enc"] + v["b_enc"])
    native = pre * largest(pre, K)
    config = settings(act_fn="topk", jump_relu_threshold=0.0, sparsity_include_decoder_norm=by_norm)
    coder = load_sae(write(tmp_path, config, w))
    assert_codes(coder, x, native * factor, native @ v["W_dec"] + v["b_dec"])
    assert coder.info.provenance["declared_l0"] == K


def test_topk_with_a_threshold_is_asked_for(tmp_path):
    path = write(tmp_path, settings(act_fn="topk"))
    with pytest.raises(CoderError, match="--format llama_scope:topk or --format llama_scope:jumprelu"):
        load_sae(path)
    with pytest.raises(CoderError, match="--format llama_scope:topk"):
        load_sae(path, told=Told(format="llama_scope"))
    assert load_sae(path, told=Told(format="llama_scope:topk")).info.architecture == "topk"
    told = load_sae(path, told=Told(format="llama_scope:jumprelu"))
    plain = load_sae(write(tmp_path / "b", settings()))
    x = torch.from_numpy(tokens())
    assert torch.equal(told.encode(x).dense(), plain.encode(x).dense())


def test_relu_without_a_bias_or_a_scale(tmp_path):
    w, x = arrays(6), tokens()
    latents = relu(x.astype(float) @ w["W_enc"] + w["b_enc"])
    config = settings(act_fn="relu", norm_activation="inference", use_decoder_bias=False)
    coder = load_sae(write(tmp_path, config, w, **{"decoder.bias": None}))
    assert_codes(coder, x, latents, latents @ w["W_dec"])


def test_the_bias_may_be_subtracted(tmp_path):
    w, x = arrays(7), tokens()
    f = np.sqrt(D) / NORM_IN
    pre = relu((x.astype(float) * f - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    coder = load_sae(write(tmp_path, settings(act_fn="relu", apply_decoder_bias_to_pre_encoder=True), w))
    assert_codes(coder, x, pre, (pre @ w["W_dec"] + w["b_dec"]) / f)
    with pytest.raises(CoderError, match="the decoder's bias is in units of the output"):
        load_sae(write(tmp_path / "b", transcoder(apply_decoder_bias_to_pre_encoder=True), w))


def test_the_factor_can_be_told(tmp_path):
    w, x = arrays(8), tokens()
    v, factor = folded(w, np.sqrt(D) / 0.7, np.sqrt(D) / 0.7)
    pre = x @ v["W_enc"] + v["b_enc"]
    native = pre * jump(pre, THRESHOLD)
    path = write(tmp_path, settings(dataset_average_activation_norm=None), w)
    with pytest.raises(CoderError, match=r"dataset_average_activation_norm\.in must be a number, but it is None"):
        load_sae(path)
    coder = load_sae(path, told=Told(norm_factor=0.7))
    assert_codes(coder, x, native * factor, native @ v["W_dec"] + v["b_dec"])
    with pytest.raises(CoderError, match="--norm-factor must be a positive number, not 0"):
        load_sae(path, told=Told(norm_factor=0))


def test_weights_in_bfloat16(tmp_path):
    w = arrays(9)
    v, _ = folded({name: torch.from_numpy(a).bfloat16().float().numpy() for name, a in w.items()}, NORM_IN, NORM_IN)
    x = tokens()
    pre = x @ v["W_enc"] + v["b_enc"]
    path = write(tmp_path, settings(), w)
    halves = {
        "encoder.weight": torch.from_numpy(w["W_enc"].T.copy()).bfloat16(),
        "decoder.weight": torch.from_numpy(w["W_dec"].T.copy()).bfloat16(),
        "encoder.bias": torch.from_numpy(w["b_enc"]).bfloat16(),
        "decoder.bias": torch.from_numpy(w["b_dec"]).bfloat16(),
    }
    save_file(halves, tmp_path / "checkpoints" / "final.safetensors")
    coder = load_sae(path)
    assert np.array_equal(coder.encode(torch.from_numpy(x)).dense().numpy() != 0, jump(pre, THRESHOLD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 7}, r"must have shape \[7, 20\]"),
        ({"d_sae": 21}, r"must have shape \[6, 21\]"),
        ({"d_sae": None}, "d_sae must be a positive whole number"),
        ({"act_fn": "gelu"}, "act_fn must be one of jumprelu, topk, relu, but it is 'gelu'"),
        ({"act_fn": None}, "act_fn must be one of"),
        ({"jump_relu_threshold": -0.1}, "jump_relu_threshold must not be negative"),
        ({"jump_relu_threshold": "0.1"}, "jump_relu_threshold must be a number"),
        ({"norm_activation": "token-wise"}, "norm_activation must be one of dataset-wise, inference"),
        ({"dataset_average_activation_norm": 11.3}, "dataset_average_activation_norm must be an object"),
        ({"dataset_average_activation_norm": {"in": 0, "out": 1}}, "in must be a positive number, but it is 0"),
        ({"dataset_average_activation_norm": {"in": 1}}, "out must be a number, but it is None"),
        ({"dataset_average_activation_norm": {"in": 1e-320, "out": 1}}, "must be positive numbers|infinite"),
        ({"use_glu_encoder": True}, "gated linear unit is not supported"),
        ({"sparsity_include_decoder_norm": 1}, "sparsity_include_decoder_norm must be true or false"),
        ({"hook_point_in": "resid"}, "must be a TransformerLens name, but it is 'resid'; give --hook-in"),
        ({"act_fn": "topk", "jump_relu_threshold": 0, "top_k": None}, "top_k must be a positive whole number"),
    ],
)
def test_wrong_configurations_are_one_sentence(tmp_path, change, message):
    with pytest.raises(CoderError, match=message) as caught:
        load_sae(write(tmp_path, settings(**change)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.bias": None}, "lacks the tensors decoder.bias"),
        ({"encoder_glu.weight": torch.zeros(2)}, "holds the tensors encoder_glu.weight"),
        ({"encoder.weight": torch.zeros(())}, "must have two axes each"),
        ({"decoder.weight": torch.zeros(1, 1, 1)}, "must have two axes each"),
    ],
)
def test_wrong_tensors_are_one_sentence(tmp_path, change, message):
    with pytest.raises(CoderError, match=message):
        load_sae(write(tmp_path, settings(), **change))
