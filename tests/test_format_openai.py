"""OpenAI's SAEs on GPT-2: the activation is in the file, normalisation follows from it, the path has the place."""

import numpy as np
import pytest
import torch

from sae_bench.errors import CoderError
from sae_bench.saes.conformance import check
from sae_bench.saes.load import load_sae
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_close, assert_matches_fixture

D, M, K = 6, 20, 3
HOOK = Told(hook_in="blocks.6.hook_resid_post")
RELU = {"activation": "ReLU", "activation_state_dict": {}}
TOPK = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}
IDENTITY = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "Identity"}}


def random(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def content(**changes):
    saved = {
        "pre_bias": random(1, D, scale=0.3),
        "latent_bias": random(2, M, scale=0.2),
        "encoder.weight": random(3, M, D),
        "decoder.weight": random(4, D, M),
        "stats_last_nonzero": torch.zeros(M, dtype=torch.int64),
        "latents_activation_frequency": torch.ones(M),
        "latents_mean_square": torch.ones(M),
        **RELU,
    }
    return {name: value for name, value in (saved | changes).items() if value is not None}


def write(folder, name="6.pt", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content(**changes), folder / name)
    return str(folder / name)


def by_hand(saved, x):
    t = {name: value.double().numpy() for name, value in saved.items() if isinstance(value, torch.Tensor)}
    x = x.double().numpy()
    mean, std = np.zeros((len(x), 1)), np.ones((len(x), 1))
    u = x
    if saved["activation"] == "TopK":
        mean, std = x.mean(1, keepdims=True), x.std(1, keepdims=True, ddof=1)
        u = (x - mean) / (std + 1e-5)
    pre = (u - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"]
    if saved["activation"] == "TopK":
        pre = np.where(pre >= np.sort(pre, 1)[:, -K][:, None], pre, 0)
    if saved["activation_state_dict"].get("postact_fn") != "Identity":
        pre = np.maximum(pre, 0)
    return pre, (pre @ t["decoder.weight"].T + t["pre_bias"]) * std + mean


@pytest.mark.parametrize("name", ["openai_v1_relu", "openai_v5_topk", "openai_v5_topk_identity"])
def test_the_librarys_own_outputs(references, name):
    place = references / "fixtures" / name
    with pytest.raises(CoderError, match=r"the path does not name one place in the model .* settle it with --hook-in"):
        load_sae(str(place))
    coder = load_sae(str(place), told=HOOK)
    assert_matches_fixture(place, coder)
    assert coder.info.model == "gpt2"
    assert coder.info.signed == name.endswith("identity")
    assert coder.info.decode_needs == ("scale" if "topk" in name else "nothing")
    assert coder.info.provenance.get("declared_l0") == (8 if "topk" in name else None)


@pytest.mark.parametrize("activation", [RELU, TOPK, IDENTITY])
def test_it_computes_as_defined(tmp_path, activation):
    saved = activation | ({"latent_bias": random(2, M) - 3} if activation is not RELU else {})
    coder = load_sae(write(tmp_path, **saved), told=HOOK)
    x = random(9, 12, D) + 0.5
    latents, reconstruction = by_hand(content(**saved), x)
    codes = coder.encode(x)
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0)
    assert (codes.values < 0).any() == (activation is IDENTITY)
    assert_close(codes.dense(), latents)
    assert_close(coder.decode(codes, x), reconstruction)
    assert check(coder, x) == []
    assert coder.weights.W_dec.stride(1) == 1


@pytest.mark.parametrize(
    ("place", "hook"),
    [
        ("mlp_post_act", "blocks.6.mlp.hook_post"),
        ("resid_delta_mlp_v4", "blocks.6.hook_mlp_out"),
        ("resid_delta_attn_v5_32k", "blocks.6.hook_attn_out"),
        ("resid_post_attn_v5_128k", "blocks.6.hook_resid_mid"),
        ("resid_post_mlp_v5_32k", "blocks.6.hook_resid_post"),
    ],
)
def test_the_place_is_in_the_path_as_in_their_store(tmp_path, place, hook):
    coder = load_sae(write(tmp_path / "gpt2-small" / place / "autoencoders", **TOPK))
    assert coder.info.hooks_in == coder.info.hooks_out == (hook,)
    assert coder.info.name == f"{place.partition('_v')[0]}-6"


def test_a_layer_that_the_name_does_not_have_is_asked_for(tmp_path):
    file = write(tmp_path / "resid_post_mlp", name="sae.pt")
    with pytest.raises(CoderError, match="which layer the SAE reads; settle it with --layer or --hook-in"):
        load_sae(file)
    assert load_sae(file, told=Told(layer=2)).info.hooks_in == ("blocks.2.hook_resid_post",)
    assert load_sae(file, told=HOOK).info.hooks_in == ("blocks.6.hook_resid_post",)


def test_a_path_with_two_places_is_asked_for(tmp_path):
    file = write(tmp_path / "resid_post_mlp" / "mlp_post_act")
    with pytest.raises(CoderError, match="does not name one place"):
        load_sae(file, told=Told(layer=2))


def test_what_is_told_over_the_path_is_recorded(tmp_path):
    coder = load_sae(write(tmp_path / "mlp_post_act"), told=HOOK)
    assert coder.info.hooks_in == ("blocks.6.hook_resid_post",)
    assert coder.info.provenance["declared_hooks"] == {"hook_in": "blocks.6.mlp.hook_post"}


def test_files_of_newer_torch_have_more_keys(tmp_path):
    more = {"activation.k": K, "activation.postact_fn": "ReLU", "activation.scale": torch.ones(1)}
    assert load_sae(write(tmp_path, **TOPK, **more), told=HOOK).info.n_latents == M


def test_k_that_is_missing_is_asked_for(tmp_path):
    file = write(tmp_path, activation="TopK", activation_state_dict={"postact_fn": "ReLU"})
    with pytest.raises(CoderError, match=r"activation_state_dict\.k is missing; settle it with --k"):
        load_sae(file, told=HOOK)
    coder = load_sae(file, told=Told(hook_in=HOOK.hook_in, k=K))
    assert coder.rule.k == K


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"activation": "JumpReLU"}, "activation must be one of ReLU, TopK, but it is 'JumpReLU'"),
        ({"activation": None}, "activation must be one of ReLU, TopK"),
        ({"activation": 3}, "activation must be one of ReLU, TopK"),
        ({"activation": "TopK", "activation_state_dict": None}, "postact_fn must be one of ReLU, Identity"),
        ({"activation": "TopK", "activation_state_dict": [3]}, "activation_state_dict must be an object"),
        ({**TOPK, "activation_state_dict": {"k": K, "postact_fn": "GELU"}}, "postact_fn must be one of ReLU, Identity"),
        ({**TOPK, "activation_state_dict": {"k": 0, "postact_fn": "ReLU"}}, "k must be a positive whole number"),
        ({**TOPK, "activation_state_dict": {"k": "3", "postact_fn": "ReLU"}}, "k must be a positive whole number"),
        ({**TOPK, "activation_state_dict": {"k": 21, "postact_fn": "ReLU"}}, "k must lie between 1 and"),
        (
            {**TOPK, "activation_state_dict": {"k": torch.ones(6, 20), "postact_fn": "ReLU"}},
            "k must be a positive whole",
        ),
        ({"decoder.weight": None}, "lacks the tensors decoder.weight"),
        ({"decoder.bias": torch.ones(D)}, "holds the tensors decoder.bias, which this kind of SAE does not use"),
        ({"encoder.weight": torch.tensor(1.0)}, "encoder.weight must be a matrix"),
        ({"decoder.weight": torch.ones(1, 2, 3, 4, 5)}, "decoder.weight must be a matrix"),
        ({"encoder.weight": torch.ones(D, M)}, "must have shape"),
        ({"pre_bias": torch.ones(2)}, "b_dec must have shape"),
        ({"latent_bias": torch.ones(M, dtype=torch.int32)}, "floating-point"),
        ({"latent_bias": "text"}, "lacks the tensors latent_bias"),
    ],
)
def test_wrong_contents(tmp_path, changes, match):
    with pytest.raises(CoderError, match=match) as caught:
        load_sae(write(tmp_path, **changes), told=HOOK)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_told_to_be_of_this_layout(tmp_path):
    with pytest.raises(CoderError, match="is a single file of weights, so give the file"):
        load_sae(str(tmp_path), told=Told(format="openai"))
