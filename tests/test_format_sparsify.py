"""EleutherAI sparsify: numbers of the library, the hook point from the name of the folder, and refusals."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_bench.errors import CoderError
from sae_bench.saes.load import load_sae
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_matches_fixture
from tests.builders.numpy_saes import D, M, arrays, assert_codes, largest, relu, tokens

K = 4
FIXTURES = {
    "sparsify_groupmax": ("h.3", "h.3:out", "h.3:out"),
    "sparsify_topk_bf16": ("layers.3", "layers.3:out", "layers.3:out"),
    "sparsify_topk_resid": ("layers.3", "layers.3:out", "layers.3:out"),
    # the loader of SAELens takes these two for blocks.3.hook_resid_post
    "sparsify_topk_mlp": ("layers.3.mlp", "layers.3.mlp:out", "layers.3.mlp:out"),
    "sparsify_transcoder_skip": ("layers.3.mlp", "layers.3.mlp:in", "layers.3.mlp:out"),
}


def write(folder, config=None, *, weights=None, drop=(), dtype=torch.float32):
    """An SAE as the library saves it; ``config`` changes its configuration, None in it leaves a key out."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": M,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
    } | (config or {})
    made = arrays() if weights is None else weights
    tensors = {
        "encoder.weight": torch.from_numpy(made["W_enc"].T.copy()),
        "encoder.bias": torch.from_numpy(made["b_enc"]),
        "W_dec": torch.from_numpy(made["W_dec"]),
        "b_dec": torch.from_numpy(made["b_dec"]),
    }
    if settings["skip_connection"] is True:
        tensors["W_skip"] = torch.from_numpy(made["W_skip"])
    kept = {name: tensor.to(dtype) for name, tensor in tensors.items() if name not in drop}
    save_file(kept, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    return str(folder)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_gives_the_numbers_of_the_library(references, name):
    place, hook_in, hook_out = FIXTURES[name]
    folder = references / "fixtures" / name
    coder = load_sae(str(folder / place))
    assert_matches_fixture(folder, coder)
    assert coder.info.format == "sparsify"
    assert (coder.info.hooks_in, coder.info.hooks_out) == ((hook_in,), (hook_out,))
    assert coder.info.provenance["declared_l0"] == json.loads((folder / "fixture.json").read_text())["k"]
    assert load_sae(str(folder / place / "sae.safetensors")).info.hooks_in == (hook_in,)


def test_every_fixture_is_tested(references):
    assert {path.name for path in (references / "fixtures").glob("sparsify_*")} == set(FIXTURES)


def test_topk_of_x_minus_b_dec(tmp_path):
    w, x = arrays(), tokens()
    pre = relu((x - w["b_dec"]).astype(float) @ w["W_enc"] + w["b_enc"])
    latents = pre * largest(pre, K)
    assert_codes(load_sae(write(tmp_path / "layers.2")), x, latents, latents @ w["W_dec"] + w["b_dec"])


def test_groupmax_keeps_one_of_each_group(tmp_path):
    w, x = arrays(1), tokens()
    pre = relu((x - w["b_dec"]).astype(float) @ w["W_enc"] + w["b_enc"])
    groups = pre.reshape(len(x), K, M // K)
    latents = (groups * (groups == groups.max(2, keepdims=True))).reshape(len(x), M)
    coder = load_sae(write(tmp_path / "h.2", {"activation": "groupmax"}, weights=w))
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])


def test_a_transcoder_does_not_subtract_and_skips(tmp_path):
    w, x = arrays(2), tokens()
    pre = relu(x.astype(float) @ w["W_enc"] + w["b_enc"])
    latents = pre * largest(pre, K)
    coder = load_sae(write(tmp_path / "layers.2.mlp", {"transcode": True, "skip_connection": True}, weights=w))
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"] + x.astype(float) @ w["W_skip"].T)
    assert (coder.info.hooks_in, coder.info.hooks_out) == (("layers.2.mlp:in",), ("layers.2.mlp:out",))
    assert coder.info.decode_needs == "skip"


def test_signed_saes_of_early_versions_keep_the_largest_magnitudes(tmp_path):
    w, x = arrays(3), tokens()
    pre = (x - w["b_dec"]).astype(float) @ w["W_enc"] + w["b_enc"]
    latents = pre * largest(np.abs(pre), K)
    old = {"signed": True, "activation": None, "transcode": None, "skip_connection": None}
    coder = load_sae(write(tmp_path / "layers.2", old, weights=w))
    assert coder.info.signed
    assert (latents < 0).any()
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])


def test_training_options_change_nothing(tmp_path):
    x = torch.from_numpy(tokens())
    plain = load_sae(write(tmp_path / "a" / "layers.2"))
    options = {"multi_topk": True, "normalize_decoder": False, "signed": False}
    other = load_sae(write(tmp_path / "b" / "layers.2", options))
    assert torch.equal(plain.encode(x).dense(), other.encode(x).dense())


def test_weights_keep_the_type_of_the_file(tmp_path):
    coder = load_sae(write(tmp_path / "layers.2", dtype=torch.bfloat16))
    assert coder.weights.W_enc.shape == (D, M)
    w = {name: torch.from_numpy(array).bfloat16().double().numpy() for name, array in arrays().items()}
    x = tokens()
    pre = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    latents = pre * largest(pre, K)
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])


def test_no_latents_given_means_the_expansion_factor(tmp_path):
    folder = write(tmp_path / "layers.2", {"num_latents": 0, "expansion_factor": 3}, weights=arrays(n_latents=3 * D))
    assert load_sae(folder).info.n_latents == 3 * D


@pytest.mark.parametrize(
    ("folder", "hook"),
    [
        ("layers.0", "layers.0:out"),
        ("h.11.attn", "h.11.attn:out"),
        ("model.layers.3.self_attn", "model.layers.3.self_attn:out"),
        ("encoder.layer.3.output", "encoder.layer.3.output:out"),
        ("layers.3/seed1", "layers.3:out"),
        ("run/best/layers.3", "layers.3:out"),
    ],
)
def test_the_folder_names_the_hook_point(tmp_path, folder, hook):
    assert load_sae(write(tmp_path / folder)).info.hooks_in == (hook,)


def test_the_folder_is_found_from_within(tmp_path, monkeypatch):
    write(tmp_path / "layers.4")
    monkeypatch.chdir(tmp_path / "layers.4")
    assert load_sae(".").info.hooks_in == ("layers.4:out",)


@pytest.mark.parametrize("folder", ["my_sae", "best", "3", "layers"])
def test_another_folder_does_not_and_the_flag_settles_it(tmp_path, folder):
    path = write(tmp_path / folder)
    with pytest.raises(CoderError, match=r"no module path such as layers\.3\.mlp; settle it with --hook-in$"):
        load_sae(path)
    assert load_sae(path, told=Told(hook_in="layers.1:out")).info.hooks_out == ("layers.1:out",)


def test_a_transcoder_elsewhere_needs_both_hook_points(tmp_path):
    path = write(tmp_path / "mine", {"transcode": True})
    with pytest.raises(CoderError, match=r"settle it with --hook-in$"):
        load_sae(path)
    with pytest.raises(CoderError, match=r"it is a transcoder; settle it with --hook-out$"):
        load_sae(path, told=Told(hook_in="layers.1.mlp:in"))
    told = Told(hook_in="layers.1.mlp:in", hook_out="layers.1.mlp:out")
    assert load_sae(path, told=told).info.is_transcoder


def test_what_is_told_overrides_the_folder(tmp_path):
    info = load_sae(write(tmp_path / "layers.2"), told=Told(hook_in="layers.5:out", k=2)).info
    assert (info.hooks_in, info.hooks_out) == (("layers.5:out",), ("layers.5:out",))
    assert info.provenance["declared_hooks"] == {"hook_in": "layers.2:out"}


def test_k_can_be_told(tmp_path):
    coder = load_sae(write(tmp_path / "layers.2"), told=Told(k=1))
    assert int(coder.encode(torch.from_numpy(tokens())).counts().max()) == 1
    with pytest.raises(CoderError, match=r"cfg.json: k must be a positive whole number"):
        load_sae(write(tmp_path / "layers.2", {"k": None}))
    assert load_sae(str(tmp_path / "layers.2"), told=Told(k=1)).info.provenance["declared_l0"] == 1


@pytest.mark.parametrize("place", ["layers.2", "layers.2/seed3"])
def test_the_run_above_names_model_context_and_other_hook_points(tmp_path, place):
    run = {"model": "EleutherAI/pythia-70m", "ctx_len": 512, "sae": {"k": 4}, "hookpoints": ["layers.2", "embed_in"]}
    (tmp_path / "config.json").write_text(json.dumps(run))
    info = load_sae(write(tmp_path / place)).info
    assert (info.model, info.context_size, info.prepend_bos) == ("EleutherAI/pythia-70m", 512, None)
    assert load_sae(write(tmp_path / "embed_in")).info.hooks_in == ("embed_in:out",)


@pytest.mark.parametrize("text", ["{", "[1]", '{"model": "other"}', '{"sae": {}, "model": 3, "ctx_len": "many"}'])
def test_another_file_above_is_ignored(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    info = load_sae(write(tmp_path / "layers.2")).info
    assert (info.model, info.context_size) == (None, None)


def test_the_convention_is_on_record(tmp_path):
    info = load_sae(write(tmp_path / "layers.2")).info
    (said,) = info.provenance["assumptions"]
    assert "output of the module layers.2" in said


def test_unknown_keys_warn(tmp_path):
    with pytest.warns(UserWarning, match="keys that sparsify does not know: matryoshka, tied"):
        load_sae(write(tmp_path / "layers.2", {"tied": True, "matryoshka": [1]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_sae(write(tmp_path / "layers.2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "activation must be one of topk, groupmax, but it is 'relu'"),
        ({"activation": 3}, "activation must be one of topk, groupmax"),
        ({"k": 0}, "k must be a positive whole number, but it is 0"),
        ({"k": "8"}, "k must be a positive whole number"),
        ({"k": M + 1}, f"k must lie between 1 and the number of latents \\({M}\\)"),
        ({"activation": "groupmax", "k": 3}, "cannot be parted into k=3 equal groups"),
        ({"activation": "groupmax", "signed": True}, "signed has no meaning for groupmax"),
        ({"d_in": None}, "d_in must be a positive whole number, but it is None"),
        ({"d_in": D + 1}, r"W_enc must have shape \[7, 20\]"),
        ({"num_latents": M + 1}, r"W_enc must have shape \[6, 21\]"),
        ({"num_latents": 0, "expansion_factor": None}, "expansion_factor must be a positive whole number"),
        ({"transcode": "yes"}, "transcode must be true or false"),
        ({"skip_connection": 1}, "skip_connection must be true or false"),
        ({"d_in": 10**400}, "d_in must be a positive whole number"),
    ],
)
def test_wrong_configurations_are_one_sentence(tmp_path, change, message):
    with pytest.raises(CoderError, match=message) as caught:
        load_sae(write(tmp_path / "layers.2", change))
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_tensors_are_refused(tmp_path):
    with pytest.raises(CoderError, match="lacks the tensors W_dec"):
        load_sae(write(tmp_path / "layers.2", drop=["W_dec"]))
    folder = tmp_path / "layers.3"
    write(folder, {"skip_connection": True})
    write(tmp_path / "layers.4")
    shutil.copy(tmp_path / "layers.4" / "cfg.json", folder / "cfg.json")
    with pytest.raises(CoderError, match="holds the tensors W_skip, which this kind of SAE does not use"):
        load_sae(str(folder))


def test_a_damaged_file_is_refused(tmp_path):
    folder = write(tmp_path / "layers.2")
    file = tmp_path / "layers.2" / "sae.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CoderError, match="is it truncated"):
        load_sae(folder)


def test_tensors_of_other_ranks_are_refused(tmp_path):
    folder = write(tmp_path / "layers.2")
    made = {"encoder.weight": torch.zeros(M), "encoder.bias": torch.zeros(M), "W_dec": torch.zeros(M, D)}
    save_file(made | {"b_dec": torch.zeros(D)}, tmp_path / "layers.2" / "sae.safetensors")
    with pytest.raises(CoderError, match=r"encoder.weight must have two axes"):
        load_sae(folder)
