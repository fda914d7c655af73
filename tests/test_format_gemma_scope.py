"""Gemma Scope: numbers of the library, and places by the words of the release."""

import json

import numpy as np
import pytest
import torch

from sae_bench.errors import CoderError
from sae_bench.saes.formats import gemma_scope
from sae_bench.saes.load import load_sae
from sae_bench.saes.reading import build
from sae_bench.saes.source import Source
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_matches_fixture
from tests.builders.gemma_files import EMBEDDING, PLACE, jumprelu, write_1
from tests.builders.numpy_saes import D, M, arrays, assert_codes, jump, tokens

FIXTURES = {
    "gemma_scope_npz": ("gemma-scope-2b-pt-res", PLACE),
    "gemma_scope_npz_att": ("gemma-scope-2b-pt-att", PLACE),
    "gemma_scope_npz_transcoder": ("gemma-scope-2b-pt-transcoders", PLACE),
    "gemma_scope_npz_embedding": ("gemma-scope-2b-pt-res", EMBEDDING),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_by_its_name_on_the_hub(references, name):
    repo, place = FIXTURES[name]
    folder = references / "fixtures" / name
    described = json.loads((folder / "fixture.json").read_text())
    source = Source(folder / place, label=f"google/{repo}/{place}")
    assert gemma_scope.matches(source)
    reading = gemma_scope.read(source, Told())
    coder = build(source, "gemma_scope", reading, Told(), device="cpu", dtype=torch.float32)
    assert_matches_fixture(folder, coder)
    assert coder.info.hooks_in == (described["hook_in"],)
    assert coder.info.hooks_out == (described["hook_out"],)
    assert coder.info.model == "google/gemma-2-2b"
    assert coder.info.prepend_bos
    assert coder.info.provenance["declared_l0"] == (21 if "embedding" in name else 40)
    assert coder.info.name == f"{repo}/{place}"


@pytest.mark.parametrize("name", ["gemma_scope_npz", "gemma_scope_npz_att", "gemma_scope_npz_transcoder"])
def test_a_fixture_without_the_words_of_the_release_asks(references, name):
    folder = references / "fixtures" / name
    for path in (folder / PLACE, folder / PLACE / "params.npz", folder / "layer_3"):
        with pytest.raises(CoderError, match=r"do not say site or layer.*; settle it with --hook-in$"):
            load_sae(str(path))
    coder = load_sae(str(folder / PLACE / "params.npz"), told=Told(hook_in="blocks.3.hook_mlp_out"))
    assert_matches_fixture(folder, coder)
    assert coder.info.hooks_out == ("blocks.3.hook_mlp_out",)


def test_every_fixture_is_tested(references):
    assert {path.name for path in (references / "fixtures").glob("gemma_scope_npz*")} == set(FIXTURES)


@pytest.mark.parametrize(
    ("repo", "hook_in", "hook_out", "model"),
    [
        ("gemma-scope-2b-pt-res", "blocks.3.hook_resid_post", None, "google/gemma-2-2b"),
        ("gemma-scope-9b-it-res", "blocks.3.hook_resid_post", None, "google/gemma-2-9b-it"),
        ("gemma-scope-27b-pt-res", "blocks.3.hook_resid_post", None, "google/gemma-2-27b"),
        ("gemma-scope-9b-pt-mlp", "blocks.3.hook_mlp_out", None, "google/gemma-2-9b"),
        ("gemma-scope-9b-pt-att", "blocks.3.attn.hook_z", None, "google/gemma-2-9b"),
        (
            "gemma-scope-2b-pt-transcoders",
            "blocks.3.ln2.hook_normalized",
            "blocks.3.hook_mlp_out",
            "google/gemma-2-2b",
        ),
        ("models--google--gemma-scope-2b-pt-mlp/snapshots/0a1b", "blocks.3.hook_mlp_out", None, "google/gemma-2-2b"),
    ],
)
def test_the_path_says_site_layer_model_and_l0(tmp_path, repo, hook_in, hook_out, model):
    path = write_1(tmp_path / repo / PLACE)
    for sae in (path, f"{path}/params.npz"):
        info = load_sae(sae).info
        assert (info.hooks_in, info.hooks_out) == ((hook_in,), (hook_out or hook_in,))
        assert info.model == model
        assert info.provenance["declared_l0"] == 40
        assert info.provenance["files"] == ["params.npz"]
        assert info.name.endswith(PLACE)


def test_a_jumprelu_that_does_not_subtract_b_dec(tmp_path):
    w, x = arrays(4), tokens()
    latents = jumprelu(w, x)
    coder = load_sae(write_1(tmp_path / "gemma-scope-2b-pt-res" / PLACE, w))
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])


def test_compressed_archives_are_read_too(tmp_path):
    w, x = arrays(4), tokens()
    latents = jumprelu(w, x)
    np.savez_compressed(tmp_path / "mine.npz", **{name: w[name] for name in gemma_scope.TENSORS})
    coder = load_sae(str(tmp_path / "mine.npz"), told=Told(hook_in="blocks.1.hook_resid_post"))
    assert coder.info.name == "mine"
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])


def test_arrays_stored_by_columns_are_read_by_rows(tmp_path):
    w, x = arrays(4), tokens()
    latents = jumprelu(w, x)
    columns = {name: np.asfortranarray(w[name]) for name in ("W_enc", "W_dec")}
    coder = load_sae(write_1(tmp_path / "gemma-scope-2b-pt-res" / PLACE, w, **columns))
    assert coder.weights.W_dec.stride(1) == 1  # whole rows of it are gathered
    assert_codes(coder, x, latents, latents @ w["W_dec"] + w["b_dec"])


def test_embeddings_are_read_with_the_factor_of_the_model(tmp_path):
    w, x = arrays(5), tokens()
    pre = x.astype(float) @ (w["W_enc"] / np.sqrt(D)) + w["b_enc"]
    latents = pre * jump(pre, w["threshold"])
    coder = load_sae(write_1(tmp_path / EMBEDDING, w))
    assert coder.info.hooks_in == ("hook_embed",)
    assert_codes(coder, x, latents, latents @ (w["W_dec"] * np.sqrt(D)) + w["b_dec"])
    assert any("b_dec left as it is" in said for said in coder.info.provenance["assumptions"])


def test_a_known_site_without_a_layer_asks_for_it(tmp_path):
    path = write_1(tmp_path / "gemma-scope-2b-pt-res" / "mine")
    with pytest.raises(CoderError, match=r"the site \(res\), but no layer_N; settle it with --layer or --hook-in$"):
        load_sae(path)
    assert load_sae(path, told=Told(layer=5)).info.hooks_in == ("blocks.5.hook_resid_post",)
    assert load_sae(path, told=Told(hook_in="blocks.6.hook_resid_post")).info.hooks_out == ("blocks.6.hook_resid_post",)


def test_a_transcoder_without_a_layer_never_becomes_an_autoencoder(tmp_path):
    path = write_1(tmp_path / "gemma-scope-2b-pt-transcoders" / "mine")
    with pytest.raises(CoderError, match=r"--layer or --hook-out$"):
        load_sae(path, told=Told(hook_in="blocks.5.ln2.hook_normalized"))
    assert load_sae(path, told=Told(layer=5)).info.hooks_out == ("blocks.5.hook_mlp_out",)


def test_an_unknown_site_is_on_record_as_an_autoencoder(tmp_path):
    path = write_1(tmp_path / "layer_5")
    with pytest.raises(CoderError, match=r"--hook-in$"):
        load_sae(path, told=Told(layer=5))
    info = load_sae(path, told=Told(hook_in="blocks.5.hook_mlp_out")).info
    assert any("an autoencoder, since no --hook-out" in said for said in info.provenance["assumptions"])
    told = Told(hook_in="blocks.5.ln2.hook_normalized", hook_out="blocks.5.hook_mlp_out")
    info = load_sae(path, told=told).info
    assert info.is_transcoder
    assert not any("autoencoder" in said for said in info.provenance["assumptions"])


def test_what_is_told_goes_over_the_path(tmp_path):
    path = write_1(tmp_path / "gemma-scope-2b-pt-res" / PLACE)
    assert load_sae(path, told=Told(layer=9)).info.hooks_in == ("blocks.9.hook_resid_post",)
    assert load_sae(path, told=Told(hook_in="blocks.2.hook_resid_mid")).info.hooks_out == ("blocks.2.hook_resid_mid",)


@pytest.mark.parametrize("folder", ["gemma-scope-2b-pt-resid/layer_3", "gemma-scope-2b-res/layer_3", "embedding"])
def test_words_that_only_resemble_a_release_do_not_count(tmp_path, folder):
    with pytest.raises(CoderError, match="do not say site or layer"):
        load_sae(write_1(tmp_path / folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaling_factor": np.ones(M)}, "holds the tensors scaling_factor, which this kind of SAE does not use"),
        ({"b_dec": np.zeros(D + 1, np.float32)}, r"b_dec must have shape \[6\]"),
        ({"W_enc": np.zeros((M, D), np.float32)}, r"W_enc must have shape \[20, 20\]"),
        ({"W_enc": np.zeros(M, np.float32)}, "W_enc must be a matrix"),
        ({"W_dec": np.zeros((1, 2, 3, 4, 5), np.float32)}, "W_dec must be a matrix"),
        ({"threshold": np.zeros(M, np.int64)}, "threshold must hold floating-point numbers"),
        ({"threshold": np.full(M, np.nan, np.float32)}, "threshold holds NaN"),
        ({"b_enc": np.array([{}])}, "holds object, not numbers"),
    ],
)
def test_wrong_arrays_are_one_sentence(tmp_path, change, message):
    with pytest.raises(CoderError, match=message) as caught:
        load_sae(write_1(tmp_path / "gemma-scope-2b-pt-res" / PLACE, **change))
    assert "\n" not in str(caught.value)


def test_an_archive_without_thresholds_is_not_of_this_layout(tmp_path):
    np.savez(tmp_path / "other.npz", W_enc=np.zeros((2, 3)), W_dec=np.zeros((3, 2)))
    assert not gemma_scope.matches(Source(tmp_path / "other.npz"))
    with pytest.raises(CoderError, match=r"lacks the tensors .*b_enc"):
        load_sae(str(tmp_path / "other.npz"), told=Told(format="gemma_scope"))
