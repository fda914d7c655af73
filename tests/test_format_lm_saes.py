"""Language-Model-SAEs of 2025: numbers of the library, its scales and norms, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_bench.errors import CoderError
from sae_bench.saes.formats import lm_saes
from sae_bench.saes.load import load_sae
from sae_bench.saes.source import Source
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_matches_fixture
from tests.builders.numpy_saes import D, M, arrays, assert_codes, jump, largest, relu, tokens

K = 4
HOOK, OUT = "blocks.3.hook_resid_post", "blocks.3.hook_mlp_out"
NORM_IN, NORM_OUT = 3.7, 1.3
FIXTURES = (
    "lm_saes_jumprelu_datasetwise",
    "lm_saes_jumprelu_inference",
    "lm_saes_topk_datasetwise",
    "lm_saes_transcoder_topk",
)


def settings(**changes):
    values = {
        "sae_type": "sae",
        "d_model": D,
        "expansion_factor": M / D,
        "use_decoder_bias": True,
        "act_fn": "topk",
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": True,
        "top_k": K,
        "hook_point_in": HOOK,
        "hook_point_out": HOOK,
        "use_glu_encoder": False,
    } | changes
    return {key: value for key, value in values.items() if value is not None}


def tensors(w, config, norms=(NORM_IN, NORM_OUT), *, linear=False):
    """As the library names them; with ``linear`` as its first versions of 2025 did."""
    w = {name: torch.from_numpy(array) for name, array in w.items()}
    if linear:
        found = {"encoder.weight": w["W_enc"].T.contiguous(), "decoder.weight": w["W_dec"].T.contiguous()}
        found |= {"encoder.bias": w["b_enc"], "decoder.bias": w["b_dec"]}
        threshold = "log_jumprelu_threshold"
    else:
        found = {"W_E": w["W_enc"], "W_D": w["W_dec"], "b_E": w["b_enc"], "b_D": w["b_dec"]}
        threshold = "activation_function.log_jumprelu_threshold"
    if config.get("act_fn") == "jumprelu":
        found[threshold] = w["threshold"].log()
    hooks = (config.get("hook_point_in"), config.get("hook_point_out"))
    scales = {f"dataset_average_activation_norm.{hook}": torch.tensor(n) for hook, n in zip(hooks, norms, strict=False)}
    return found | scales


def write(folder, config, w=None, *, drop=(), **more):
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: t for name, t in tensors(w or arrays(), config, **more).items() if name not in drop}
    save_file(made, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def norms_of(w):
    return np.linalg.norm(w["W_dec"].astype(float), axis=1)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_gives_the_numbers_of_the_library(references, name):
    folder = references / "fixtures" / name
    described = json.loads((folder / "fixture.json").read_text())
    coder = load_sae(str(folder))
    assert_matches_fixture(folder, coder)
    assert coder.info.format == "lm_saes"
    assert coder.info.hooks_in == (described["hook_in"],)
    assert coder.info.hooks_out == (described["hook_out"],)
    assert coder.info.provenance.get("declared_l0") == described["k"]
    assert load_sae(str(folder / "sae_weights.safetensors")).info.hooks_in == coder.info.hooks_in


def test_every_fixture_is_tested(references):
    assert {path.name for path in (references / "fixtures").glob("lm_saes*")} == set(FIXTURES)


@pytest.mark.parametrize("linear", [False, True])
def test_topk_selects_by_the_decoder_norm_and_scales_both_ways(tmp_path, linear):
    w, x = arrays(1), tokens()
    scale = np.sqrt(D) / NORM_IN
    pre = relu(x.astype(float) * scale @ w["W_enc"] + w["b_enc"])
    latents = pre * largest(pre * norms_of(w), K)
    config = settings(norm_activation="dataset-wise")
    coder = load_sae(write(tmp_path, config, w, norms=(NORM_IN, NORM_IN), linear=linear))
    assert_codes(coder, x, latents, (latents @ w["W_dec"] + w["b_dec"]) / scale)
    assert not np.array_equal(latents, pre * largest(pre, K)), "the test's norms select nothing else"


def test_a_transcoder_has_the_scale_of_its_output(tmp_path):
    w, x = arrays(2), tokens()
    pre = relu(x.astype(float) * np.sqrt(D) / NORM_IN @ w["W_enc"] + w["b_enc"])
    latents = pre * largest(pre * norms_of(w), K)
    config = settings(norm_activation="dataset-wise", hook_point_out=OUT)
    coder = load_sae(write(tmp_path, config, w))
    assert_codes(coder, x, latents, (latents @ w["W_dec"] + w["b_dec"]) * NORM_OUT / np.sqrt(D))
    assert (coder.info.hooks_in, coder.info.hooks_out) == ((HOOK,), (OUT,))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("by_norm", [False, True])
def test_a_jumprelu_compares_in_scaled_units(tmp_path, linear, by_norm):
    w, x = arrays(3), tokens()
    scale = np.sqrt(D) / NORM_IN
    pre = x.astype(float) * scale @ w["W_enc"] + w["b_enc"]
    latents = pre * jump(pre * (norms_of(w) if by_norm else 1), w["threshold"])
    config = settings(act_fn="jumprelu", norm_activation="dataset-wise", sparsity_include_decoder_norm=by_norm)
    coder = load_sae(write(tmp_path, config, w, norms=(NORM_IN, NORM_IN), linear=linear))
    assert_codes(coder, x, latents, (latents @ w["W_dec"] + w["b_dec"]) / scale)
    assert "declared_l0" not in coder.info.provenance  # top_k is there, but is no promise


def test_relu_without_a_decoder_bias(tmp_path):
    w, x = arrays(4), tokens()
    latents = relu(x.astype(float) @ w["W_enc"] + w["b_enc"])
    config = settings(act_fn="relu", use_decoder_bias=False)
    assert_codes(load_sae(write(tmp_path, config, w, drop=["b_D"])), x, latents, latents @ w["W_dec"])


def test_early_versions_may_subtract_the_bias(tmp_path):
    w, x = arrays(5), tokens()
    scale = np.sqrt(D) / NORM_IN
    pre = relu((x.astype(float) * scale - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    latents = pre * largest(pre * norms_of(w), K)
    config = settings(norm_activation="dataset-wise", apply_decoder_bias_to_pre_encoder=True)
    coder = load_sae(write(tmp_path, config, w, norms=(NORM_IN, NORM_IN), linear=True))
    assert_codes(coder, x, latents, (latents @ w["W_dec"] + w["b_dec"]) / scale)


def test_norms_that_inference_does_not_use_may_be_anything(tmp_path):
    """The library saves whatever was in memory where no norm was ever set."""
    plain = load_sae(write(tmp_path / "a", settings(), norms=(1.0, 1.0)))
    odd = load_sae(write(tmp_path / "b", settings(), norms=(float("nan"), float("nan"))))
    x = torch.from_numpy(tokens())
    assert torch.equal(plain.encode(x).dense(), odd.encode(x).dense())


def test_weights_of_torch_save(tmp_path):
    w, x = arrays(6), tokens()
    config = settings()
    latents = relu(x.astype(float) @ w["W_enc"] + w["b_enc"])
    latents = latents * largest(latents * norms_of(w), K)
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"sae": tensors(w, config), "version": "1"}, tmp_path / "sae_weights.pt")
    assert_codes(load_sae(str(tmp_path)), x, latents, latents @ w["W_dec"] + w["b_dec"])
    torch.save({"sae": [1], "version": "1"}, tmp_path / "sae_weights.pt")
    with pytest.raises(CoderError, match="must hold tensors by name under 'sae'"):
        load_sae(str(tmp_path))


def test_a_checkpoint_in_shards_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(settings()))
    (tmp_path / "sae_weights.dcp").mkdir()
    with pytest.raises(CoderError, match="is a checkpoint in shards; load it with Language-Model-SAEs"):
        load_sae(str(tmp_path))


def test_batchtopk_needs_a_threshold(tmp_path):
    w, x = arrays(7), tokens()
    path = write(tmp_path, settings(act_fn="batchtopk"), w)
    with pytest.raises(CoderError, match=r"BatchTopK keeps latents by the batch.*settle it with --threshold$"):
        load_sae(path)
    with pytest.raises(CoderError, match=r"settle it with --threshold$"):
        load_sae(path, told=Told(k=3))
    pre = x.astype(float) @ w["W_enc"] + w["b_enc"]
    latents = pre * jump(pre * norms_of(w), 0.7)
    assert_codes(load_sae(path, told=Told(threshold=0.7)), x, latents, latents @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("norm", [None, 0.0, float("nan"), -1.0])
def test_a_missing_norm_is_asked_for(tmp_path, norm):
    config = settings(norm_activation="dataset-wise")
    w, x = arrays(8), tokens()
    path = write(tmp_path, config, w, norms=() if norm is None else (norm, norm))
    with pytest.raises(CoderError, match=r"lack a positive average norm of 'blocks\.3.*--norm-factor$"):
        load_sae(path)
    pre = relu(x.astype(float) * 0.6 @ w["W_enc"] + w["b_enc"])
    latents = pre * largest(pre * norms_of(w), K)
    assert_codes(load_sae(path, told=Told(norm_factor=0.6)), x, latents, (latents @ w["W_dec"] + w["b_dec"]) / 0.6)


def test_a_transcoder_without_one_of_its_norms_is_refused(tmp_path):
    config = settings(norm_activation="dataset-wise", hook_point_out=OUT)
    with pytest.raises(CoderError, match="a transcoder needs one for each of its hook points"):
        load_sae(write(tmp_path, config, norms=(NORM_IN,)))


def test_a_hook_point_that_is_no_name_can_be_told(tmp_path):
    path = write(tmp_path, settings(hook_point_in="the stream", hook_point_out="the stream"))
    with pytest.raises(CoderError, match="must be a TransformerLens name, but it is 'the stream'; give --hook-in"):
        load_sae(path)
    with pytest.raises(CoderError, match="give --hook-out"):
        load_sae(path, told=Told(hook_in=HOOK))
    assert load_sae(path, told=Told(hook_in=HOOK, hook_out=HOOK)).info.hooks_out == (HOOK,)


def test_what_is_told_goes_over_the_configuration(tmp_path):
    info = load_sae(write(tmp_path, settings()), told=Told(hook_in=OUT)).info
    assert (info.hooks_in, info.hooks_out) == ((OUT,), (OUT,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sae_type": "crosscoder"}, "is a crosscoder: it reads several hook points at once"),
        ({"sae_type": "clt"}, "is a clt: its latents write to several layers"),
        ({"sae_type": "lorsa"}, "is a lorsa: it replaces an attention layer"),
        ({"sae_type": "molt"}, "is a molt: its latents are matrices"),
        ({"sae_type": "mixcoder"}, "sae_type must be one of sae, but it is 'mixcoder'"),
        ({"sae_type": 1}, "sae_type must be text"),
        ({"use_glu_encoder": True}, "an encoder with a gated linear unit is not supported"),
        ({"norm_activation": "token-wise"}, "norm_activation must be one of dataset-wise, inference, .*not supported"),
        ({"norm_activation": "batch-wise"}, "norms of a token or of a batch are not supported"),
        ({"act_fn": "layertopk"}, "act_fn must be one of relu, topk, jumprelu, batchtopk, but it is 'layertopk'"),
        ({"act_fn": ["topk"]}, "act_fn must be one of"),
        ({"top_k": 0}, "top_k must be a positive whole number"),
        ({"top_k": M + 1}, "k must lie between 1 and the number of latents"),
        ({"d_model": D + 1}, r"W_enc must have shape \[7, 23\]"),
        ({"expansion_factor": 2}, r"W_enc must have shape \[6, 12\]"),
        ({"expansion_factor": 1e308}, "which is no number of latents"),
        ({"expansion_factor": "4"}, "expansion_factor must be a number"),
        ({"sparsity_include_decoder_norm": "yes"}, "sparsity_include_decoder_norm must be true or false"),
        ({"use_decoder_bias": False}, "holds the tensors b_D, which this kind of SAE does not use"),
        ({"act_fn": "jumprelu"}, "activation_function.log_jumprelu_threshold"),
        ({"hook_point_in": None}, "hook_point_in must be text"),
        ({"hook_point_in": 3}, "hook_point_in must be text"),
        ({"d_model": 10**400}, "d_model must be a positive whole number"),
    ],
)
def test_wrong_configurations_are_one_sentence(tmp_path, change, message):
    write(tmp_path, settings())
    (tmp_path / "config.json").write_text(json.dumps(settings(**change)))
    with pytest.raises(CoderError, match=message) as caught:
        load_sae(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("W_E_glu", torch.zeros(D, M), "holds the tensors W_E_glu"),
        ("W_E", torch.zeros(2, D, M), "W_E and W_D must have two axes each"),
        ("W_D", torch.zeros(M), "W_E and W_D must have two axes each"),
        ("b_E", torch.zeros(M, dtype=torch.int32), "b_enc must hold floating-point numbers"),
        ("b_D", torch.zeros(1), r"b_dec must have shape \[6\]"),
    ],
)
def test_wrong_tensors_are_one_sentence(tmp_path, name, tensor, message):
    path = write(tmp_path, settings())
    save_file(tensors(arrays(), settings()) | {name: tensor}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CoderError, match=message):
        load_sae(path)


def test_folders_of_other_layouts_do_not_match(tmp_path):
    assert not lm_saes.matches(Source(tmp_path))
    (tmp_path / "config.json").write_text("not JSON")
    assert not lm_saes.matches(Source(tmp_path))
    save_file({"W_E": torch.zeros(2)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert not lm_saes.matches(Source(tmp_path))
