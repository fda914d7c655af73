"""bartbussmann/BatchTopK: four kinds of SAE in one layout, of which BatchTopK is saved without a threshold."""

import json

import numpy as np
import pytest
import torch

from sae_bench.errors import CoderError
from sae_bench.saes.conformance import check
from sae_bench.saes.load import load_sae
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_close

D, M, K = 6, 20, 3
THRESHOLD = 0.8
KINDS = ["vanilla", "topk", "batchtopk", "jumprelu"]


def random(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def tensors(kind, b_enc=0.2):
    trained = kind in ("vanilla", "jumprelu")  # the others do not use b_enc
    made = {"W_enc": random(1, D, M), "W_dec": random(2, M, D), "b_dec": random(3, D, scale=0.3)}
    made["b_enc"] = random(4, M, scale=b_enc if trained else 0.0)
    return made | ({"jumprelu.log_threshold": random(5, M, scale=0.5)} if kind == "jumprelu" else {})


def config(kind, **changes):
    made = {"seed": 49, "lr": 3e-4, "dtype": "torch.float32", "model_name": "gpt2-small", "site": "resid_pre"}
    made |= {
        "layer": 8,
        "act_size": D,
        "dict_size": M,
        "device": "cuda:0",
        "seq_len": 128,
        "top_k": K,
        "sae_type": kind,
    }
    made |= {"input_unit_norm": False, "hook_point": "blocks.8.hook_resid_pre", "bandwidth": 0.001, "l1_coeff": 0}
    return made | changes


def folder(tmp_path, kind, content=None, settings=None, **changes):
    torch.save(tensors(kind) if content is None else content, tmp_path / "sae.pt")
    (tmp_path / "config.json").write_text(json.dumps(config(kind, **changes) if settings is None else settings))
    return str(tmp_path)


def told(kind):
    return Told(threshold=THRESHOLD) if kind == "batchtopk" else Told()


def by_hand(kind, t, x, normalised):
    t = {name: value.double().numpy() for name, value in t.items()}
    x = x.double().numpy()
    mean, std = (x.mean(1, keepdims=True), x.std(1, keepdims=True, ddof=1)) if normalised else (0.0, 1.0)
    u = (x - mean) / (std + 1e-5) if normalised else x
    if kind != "jumprelu":
        u = u - t["b_dec"]
    latents = np.maximum(u @ t["W_enc"] + t["b_enc"], 0)
    if kind == "topk":
        latents = np.where(latents >= np.sort(latents, 1)[:, -K][:, None], latents, 0)
    elif kind == "batchtopk":
        latents = latents * (latents > THRESHOLD)
    elif kind == "jumprelu":
        latents = latents * (latents > np.exp(t["jumprelu.log_threshold"]))
    return latents, (latents @ t["W_dec"] + t["b_dec"]) * std + mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalised", [False, True])
def test_every_kind_computes_as_defined(tmp_path, kind, normalised):
    coder = load_sae(folder(tmp_path, kind, input_unit_norm=normalised), told=told(kind))
    x = random(9, 12, D) + 0.5
    latents, reconstruction = by_hand(kind, tensors(kind), x, normalised)
    codes = coder.encode(x)
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0)
    assert len(codes.indices) > 0
    assert_close(codes.dense(), latents)
    assert_close(coder.decode(codes, x), reconstruction)
    assert check(coder, x) == []
    info = coder.info
    assert info.hooks_in == info.hooks_out == ("blocks.8.hook_resid_pre",)
    assert (info.model, info.context_size, info.architecture, info.format) == ("gpt2-small", 128, kind, "batchtopk")
    assert info.provenance.get("declared_l0") == (K if "topk" in kind else None)


def test_the_threshold_of_batchtopk_is_asked_for(tmp_path):
    with pytest.raises(CoderError, match=r"saved without a threshold.*settle it with --threshold"):
        load_sae(folder(tmp_path, "batchtopk"))


def test_a_hook_point_that_is_missing_is_asked_for(tmp_path):
    place = folder(tmp_path, "topk", hook_point=None)
    with pytest.raises(CoderError, match="give --hook-in"):
        load_sae(place)
    assert load_sae(place, told=Told(hook_in="blocks.1.hook_resid_pre")).info.hooks_in == ("blocks.1.hook_resid_pre",)


def test_the_first_revision_is_known_by_its_fields(tmp_path):
    first = {"input_unit_norm": True, "tied_weights": False, "activation": "relu"}
    x = random(9, 12, D) + 0.5
    coder = load_sae(folder(tmp_path, "topk", **first))
    assert any("adds the normalised activation" in sentence for sentence in coder.info.provenance["assumptions"])
    assert_close(coder.decode(coder.encode(x), x), by_hand("topk", tensors("topk"), x, normalised=True)[1])
    with pytest.warns(UserWarning, match="did not normalise the input of vanilla SAEs"):
        coder = load_sae(folder(tmp_path, "vanilla", **first))
    assert_close(coder.decode(coder.encode(x), x), by_hand("vanilla", tensors("vanilla"), x, normalised=False)[1])


@pytest.mark.parametrize(("flag", "used"), [(True, True), (False, False), (None, True)])
def test_b_enc_counts_if_training_used_it(tmp_path, flag, used):
    content = {**tensors("topk"), "b_enc": random(4, M)}
    changes = {} if flag is None else {"use_encoder_bias": flag}
    coder = load_sae(folder(tmp_path, "topk", content=content, **changes))
    expected = content if used else {**content, "b_enc": torch.zeros(M)}
    x = random(9, 12, D)
    assert_close(coder.encode(x).dense(), by_hand("topk", expected, x, normalised=False)[0])
    said = coder.info.provenance.get("assumptions", [])
    assert any("b_enc is added" in sentence for sentence in said) == (flag is None)


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        ("topk", {"sae_type": "quantile"}, "sae_type must be one of vanilla, topk, batchtopk, jumprelu"),
        ("topk", {"sae_type": None}, "sae_type must be one of"),
        ("topk", {"activation": "abs"}, "activation must be one of relu, but it is 'abs'"),
        ("topk", {"tied_weights": True}, "tied_weights is true, which sae-bench does not read"),
        ("topk", {"tied_weights": 1}, "tied_weights must be true or false"),
        ("topk", {"use_encoder_bias": "yes"}, "use_encoder_bias must be true or false"),
        ("topk", {"input_unit_norm": "True"}, "input_unit_norm must be true or false"),
        ("topk", {"top_k": None}, "top_k must be a positive whole number"),
        ("topk", {"top_k": 21}, "k must lie between 1 and"),
        ("topk", {"act_size": 7}, "must have shape"),
        ("topk", {"dict_size": "many"}, "dict_size must be a positive whole number"),
        ("topk", {"hook_point": 8}, "hook_point must be text or null"),
        ("topk", {"model_name": []}, "model_name must be text or null"),
        ("topk", {"sae_type": "jumprelu"}, r"lacks the tensors jumprelu\.log_threshold"),
        ("jumprelu", {"sae_type": "topk"}, r"holds the tensors jumprelu\.log_threshold"),
    ],
)
def test_wrong_values(tmp_path, kind, changes, match):
    with pytest.raises(CoderError, match=match) as caught:
        load_sae(folder(tmp_path, kind, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec", "jumprelu.log_threshold"])
@pytest.mark.parametrize(
    "strange",
    [
        torch.ones(1, 2, 3, 4, 5),
        torch.ones(3, dtype=torch.int64),
        torch.ones(M, dtype=torch.complex64),
        torch.full((M,), float("nan")),
        "text",
    ],
)
def test_wrong_tensors(tmp_path, name, strange):
    with pytest.raises(CoderError) as caught:
        load_sae(folder(tmp_path, "jumprelu", content={**tensors("jumprelu"), name: strange}))
    assert "\n" not in str(caught.value)


def test_another_layout_with_these_files_is_not_taken(tmp_path):
    with pytest.raises(CoderError, match=r"give --hook-in|not an SAE in a known layout|Qwen"):
        load_sae(folder(tmp_path, "vanilla", settings={"model_type": "llama"}))
