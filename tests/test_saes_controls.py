"""Controls do exactly what their name says, are the same for the same seed, and keep the contract of a coder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from sae_bench import registry
from sae_bench.saes import conformance
from sae_bench.saes.calibration import Calibration, Moments, NoControl
from sae_bench.saes.controls import MAX_RANDOM_LATENTS
from sae_bench.saes.graded import GradedLinear
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.weights import Weights
from tests.builders.marks import slow_but
from tests.builders.tiny_saes import ACTIVATIONS, LATENTS, WIDTH, K, activations, tiny_coder

NAMES = tuple(registry.CONTROLS[i].name for i in range(len(registry.CONTROLS)))
ONLY_FOR_AUTOENCODERS = ("identity", "channels", "pca", "pca_topk", "pursuit")
RANDOM = ("random", "random_l0", "random_fit")
TOKENS = 2000
FLOATS = (torch.float32, torch.float64)


def moments(sample: Tensor) -> Moments:
    """Exact moments of the sample: it is all of the calibration text here."""
    x = sample.double()
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    return Moments(mean, covariance, sample, float(x.square().sum(1).mean().sqrt()), len(x))


def calibration(sae: SparseCoder, sample: Tensor, targets: Tensor | None = None) -> Calibration:
    codes = sae.encode(sample)
    return Calibration(
        moments(sample), moments(sample if targets is None else targets), len(codes.indices) / len(sample)
    )


def make(name: str, sae: SparseCoder, known: Calibration, seed: int = 0) -> SparseCoder:
    coder = registry.load(registry.controls()[name].code)(sae, known, seed)
    assert coder is not None
    return coder


def weights_of(coder: SparseCoder | None) -> Weights:
    """Those of a control that is a part of a linear coder."""
    assert isinstance(coder, GradedLinear)
    return coder.base.weights


def reconstruct(coder: SparseCoder, x: Tensor) -> Tensor:
    return coder.decode(coder.encode(x), x)


@pytest.mark.parametrize("dtype", slow_but(1, FLOATS))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_control_conforms_in_both_precisions(name, activation, dtype):
    sae = tiny_coder(activation, dtype=dtype)
    x = activations(300, dtype=dtype)
    known = calibration(sae, x)
    coder = make(name, sae, dataclasses.replace(known, l0=min(known.l0, WIDTH)))
    assert conformance.check(coder, activations(40, seed=1, dtype=dtype)) == []
    codes = coder.encode(x[:5])
    assert coder.decode(codes, x[:5]).dtype == dtype
    assert codes.values.dtype == dtype
    assert coder.decoder_rows(codes.indices).dtype == dtype
    assert coder.info.name == f"control: {name}"
    assert coder.info.hooks_in == sae.info.hooks_in


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [0, 1])
def test_no_token_and_one_token_are_fine(name, tokens):
    sae = tiny_coder("topk")
    coder = make(name, sae, calibration(sae, activations(200)))
    assert reconstruct(coder, activations(5)[:tokens]).shape == (tokens, WIDTH)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [WIDTH, 7])
def test_a_transcoder_gets_the_controls_that_make_sense(name, width):
    sae = tiny_coder("topk", d_out=width, hook_out="blocks.1.hook_mlp_out", apply_b_dec_to_input=False)
    x = activations(200)
    targets = activations(200, width, seed=3) + 4
    known = calibration(sae, x, targets)
    coder = registry.load(registry.controls()[name].code)(sae, known, 0)
    assert (coder is None) == (name in ONLY_FOR_AUTOENCODERS)
    if coder is not None:
        assert conformance.check(coder, x[:20]) == []
        assert reconstruct(coder, x).shape == (200, width)
        assert coder.info.is_transcoder
    if name in ("random", "random_l0"):
        weights = weights_of(coder)
        assert torch.equal(weights.b_dec, known.targets.mean.float()), "predictions start from the target's mean"
        if width == WIDTH:
            assert not torch.allclose(weights.W_dec, weights.W_enc.T), "reads and writes unrelated directions"


@pytest.mark.parametrize("dtype", FLOATS)
def test_mean_only_is_the_calibration_mean_without_latents(dtype):
    sae, x = tiny_coder("relu"), activations(100, dtype=dtype)
    known = calibration(sae, x)
    coder = make("mean", sae, known)
    codes = coder.encode(activations(7, seed=2, dtype=dtype))
    assert (coder.info.n_latents, len(codes.indices)) == (0, 0)
    assert torch.equal(coder.decode(codes), known.targets.mean.to(dtype).expand(7, WIDTH))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-15)])
def test_identity_is_a_copy(dtype, tolerance):
    sae, x = tiny_coder("relu"), activations(100, dtype=dtype)
    coder = make("identity", sae, calibration(sae, x))
    torch.testing.assert_close(reconstruct(coder, x), x, rtol=tolerance, atol=10 * tolerance)
    assert coder.info.n_latents == WIDTH


def test_a_channel_that_never_moves_is_no_active_latent():
    sae, x = tiny_coder("relu"), activations(100)
    x[:, 3] = 2.0
    for name in ("identity", "channels"):
        coder = make(name, sae, calibration(sae, x))
        assert 3 not in coder.encode(x).indices
        assert conformance.check(coder, x[:10]) == []


@pytest.mark.parametrize("dtype", FLOATS)
def test_pca_is_that_of_scikit_learn(dtype):
    sae, x = tiny_coder("topk"), activations(500, dtype=dtype)
    known = calibration(sae, x)
    coder = make("pca", sae, known)
    assert coder.info.n_latents == known.k == K
    reference = PCA(K).fit(x.double().numpy())
    test = activations(60, seed=1, dtype=dtype)
    expected = reference.inverse_transform(reference.transform(test.double().numpy()))
    np.testing.assert_allclose(
        reconstruct(coder, test).numpy(), expected, atol=1e-5 if dtype == torch.float32 else 1e-10
    )
    rows = coder.decoder_rows(torch.arange(K)).double().numpy()
    np.testing.assert_allclose(np.abs((rows * reference.components_).sum(1)), 1, atol=1e-5)


def test_pca_topk_keeps_the_k_largest_coordinates_of_each_token():
    sae, x = tiny_coder("topk"), activations(500)
    coder = make("pca_topk", sae, calibration(sae, x))
    codes = coder.encode(x)
    assert coder.info.n_latents == WIDTH
    assert set(codes.counts().tolist()) == {K}
    reference = PCA(WIDTH).fit(x.double().numpy())
    coordinates = np.abs(reference.transform(x.double().numpy()))
    expected = np.sort(np.argsort(-coordinates, axis=1)[:, :K], axis=1)
    assert np.array_equal(codes.indices.reshape(-1, K).numpy(), expected)


def test_channels_keeps_the_k_channels_furthest_from_their_mean():
    sae, x = tiny_coder("topk"), activations(300)
    known = calibration(sae, x)
    coder = make("channels", sae, known)
    codes = coder.encode(x)
    assert set(codes.counts().tolist()) == {K}
    deviation = (x.double() - known.inputs.mean).abs().numpy()
    expected = np.sort(np.argsort(-deviation, axis=1)[:, :K], axis=1)
    assert np.array_equal(codes.indices.reshape(-1, K).numpy(), expected)
    out = reconstruct(coder, x)
    kept = codes.dense() != 0
    torch.testing.assert_close(out[kept], x[kept], rtol=1e-5, atol=1e-5)
    assert torch.equal(out[~kept], known.inputs.mean.float().expand_as(x)[~kept])


@pytest.mark.parametrize("dtype", FLOATS)
def test_random_has_the_l0_of_the_sae_and_unit_directions(dtype):
    sae, x = tiny_coder("topk", n_latents=200), activations(300, dtype=dtype)
    coder = make("random", sae, calibration(sae, x))
    assert set(coder.encode(x).counts().tolist()) == {K}
    rows = coder.decoder_rows(torch.arange(200))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(200, dtype=dtype), rtol=tolerance, atol=tolerance)
    weights = weights_of(coder)
    assert torch.equal(weights.W_enc.T, weights.W_dec), "the encoder is the transposed decoder"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("tile", [None, 1000])
def test_random_l0_matches_the_mean_l0_on_the_sample(activation, tile, monkeypatch):
    if tile:
        monkeypatch.setattr("sae_bench.kernels.topk.TILE_ELEMENTS", tile)
    sae, x = tiny_coder(activation, n_latents=150), activations(800)
    known = calibration(sae, x)
    coder = make("random_l0", sae, known)
    l0 = len(coder.encode(x).indices) / len(x)
    assert l0 == pytest.approx(known.l0, rel=0.01)
    rows = coder.decoder_rows(torch.arange(150))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(150))
    cosines = (rows * weights_of(coder).W_enc.T).sum(1)
    assert cosines.abs().mean() < 0.5, "the decoder has nothing to do with the encoder"


@pytest.mark.parametrize(
    ("l0", "why"), [(0.0, "no active latent"), (0.01, ""), (17.0, "there are 16"), (1e9, "there are")]
)
def test_a_control_whose_l0_cannot_be_that_of_the_sae_says_why(l0, why):
    """Else its figures stand beside an SAE that has other means. At a low L0 few tokens have any latent."""
    sae, x = tiny_coder("relu"), activations(TOKENS)
    known = dataclasses.replace(calibration(sae, x), l0=l0)
    for name in NAMES:
        possible = not why or name in ("mean", "identity", "permuted") or (l0 == 17 and name in RANDOM)
        possible |= (l0 == 17 and name == "pursuit") or (l0 < 1e9 and name == "permuted_fit")
        if not possible:
            with pytest.raises(NoControl, match=why):
                make(name, sae, known)
            continue
        coder = make(name, sae, known)
        assert reconstruct(coder, x).isfinite().all()
        if coder.info.provenance.get("l0"):
            assert len(coder.encode(x).indices) / len(x) == pytest.approx(l0, rel=0.01 if l0 >= 1 else 0.3)


@pytest.mark.parametrize("rescale", ["no", "latents"])
def test_permuted_keeps_the_codes_and_mixes_up_the_directions(rescale):
    sae, x = tiny_coder("topk", by_decoder_norm=rescale), activations(100)
    coder = make("permuted", sae, calibration(sae, x))
    codes = coder.encode(x)
    for ours, theirs in zip(codes, sae.encode(x), strict=True):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
    rows = coder.decoder_rows(torch.arange(LATENTS))
    original = sae.decoder_rows(torch.arange(LATENTS))
    order = torch.cdist(rows, original).argmin(1)
    assert torch.equal(order.sort().values, torch.arange(LATENTS)), "every row is used exactly once"
    assert (order == torch.arange(LATENTS)).sum() < LATENTS / 4
    assert torch.equal(rows, original[order])
    expected = codes.dense() @ rows + sae.weights.b_dec
    torch.testing.assert_close(coder.decode(codes, x), expected, rtol=1e-4, atol=1e-5)


def test_permuted_passes_on_what_the_sae_needs():
    sae, x = tiny_coder("abstopk", normalise="layer_norm"), activations(50)
    coder = make("permuted", sae, calibration(sae, x))
    assert coder.info.decode_needs == "scale"
    assert coder.info.signed
    assert conformance.check(coder, x) == []


@pytest.mark.parametrize("name", NAMES)
def test_controls_follow_the_seed_and_nothing_else(name):
    sae, x = tiny_coder("topk"), activations(200)
    known = calibration(sae, x)
    state = torch.get_rng_state()
    first = reconstruct(make(name, sae, known, seed=3), x)
    assert torch.equal(state, torch.get_rng_state()), "the global random state stays as it was"
    torch.manual_seed(99)
    again = reconstruct(make(name, sae, known, seed=3), x)
    assert torch.equal(first, again)
    other = reconstruct(make(name, sae, known, seed=4), x)
    assert torch.equal(first, other) == (name not in (*RANDOM, "permuted"))


@pytest.mark.parametrize("name", ["random", "random_l0", "permuted"])
@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63])
def test_any_whole_number_is_a_seed(name, seed):
    sae, x = tiny_coder("topk"), activations(50)
    make(name, sae, calibration(sae, x), seed=seed)


def test_wide_dictionaries_get_narrower_random_controls(monkeypatch):
    assert MAX_RANDOM_LATENTS >= 32_768
    monkeypatch.setattr("sae_bench.saes.controls.MAX_RANDOM_LATENTS", 20)
    sae, x = tiny_coder("topk"), activations(50)
    for name in ("random", "random_l0"):
        assert make(name, sae, calibration(sae, x)).info.n_latents == 20


def test_better_copies_explain_more():
    """Sanity of the scale: identity is perfect, mean explains nothing, more choice explains more."""
    x = activations(800)
    sae = tiny_coder("topk")
    known = calibration(sae, x)
    total = (x - x.mean(0)).square().sum()

    def fvu(name: str) -> float:
        return float((reconstruct(make(name, sae, known), x) - x).square().sum() / total)

    assert fvu("mean") == pytest.approx(1, abs=1e-5)
    assert fvu("identity") < 1e-10
    assert fvu("identity") < fvu("pca") < 1
    assert fvu("pca_topk") < fvu("pca"), "choosing per token beats a fixed choice"
    assert fvu("pca_topk") < fvu("random")
