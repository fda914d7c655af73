"""The linear coder against plain numpy formulas, and properties that hold for every dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_bench.errors import CoderError
from sae_bench.saes import conformance
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.weights import Weights
from tests.builders.tiny_saes import (
    ACTIVATIONS,
    LATENTS,
    WIDTH,
    K,
    activations,
    coder_of,
    tiny_coder,
    tiny_rule,
    tiny_weights,
)

Array = np.ndarray[Any, Any]
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")


def numpy_latents(w: dict[str, Array], x: Array, activation: str, k: int, scaled: bool) -> Array:
    """Latents of normalised and shifted input, from the formulas of the papers."""
    pre = x @ w["W_enc"] + w.get("b_enc", 0.0)
    if scaled:
        pre = pre * np.linalg.norm(w["W_dec"], axis=1)
    if activation == "relu":
        return np.maximum(pre, 0)
    if activation == "jumprelu":
        return np.where(pre > w["threshold"], np.maximum(pre, 0), 0)
    if activation == "gated":
        magnitude = np.maximum(x @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"], 0)
        return np.where(x @ w["W_enc"] + w["b_gate"] > 0, magnitude, 0)
    keys = np.abs(pre) if activation == "abstopk" else pre
    kept = np.argsort(-keys, axis=1, kind="stable")[:, :k]
    out = np.zeros_like(pre)
    np.put_along_axis(out, kept, np.take_along_axis(pre, kept, 1), 1)
    return out if activation == "abstopk" else np.maximum(out, 0)


def numpy_reference(weights: Weights, x: Array, coder: LinearCoder) -> tuple[Array, Array]:
    """Dense latents and reconstruction in float64."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    rule = coder.rule
    mean, std = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    u = x
    if rule.normalise == "layer_norm":
        u = (x - mean) / (std + 1e-5)
    if rule.normalise == "constant_norm_rescale":
        u = x * np.sqrt(x.shape[1]) / norm
    u = u - w["b_dec"] if rule.apply_b_dec_to_input else u
    latents = numpy_latents(w, u, rule.activation, rule.k or 0, rule.by_decoder_norm == "latents")
    rows = w["W_dec"]
    if rule.by_decoder_norm == "latents":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out = latents @ rows + w["b_dec"]
    if rule.normalise == "layer_norm":
        out = out * std + mean
    if rule.normalise == "constant_norm_rescale":
        out = out * norm / np.sqrt(x.shape[1])
    return latents, out


def cases() -> list[tuple[str, str, bool, bool]]:
    rules = [(a, n, b, False) for a in ACTIVATIONS for n in NORMALISATIONS for b in (True, False)]
    return rules + [(a, n, True, True) for a in ("relu", "topk", "abstopk", "jumprelu") for n in NORMALISATIONS]


@pytest.mark.parametrize(("activation", "normalise", "subtract", "rescale"), cases())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latents_and_reconstruction_follow_the_formulas(activation, normalise, subtract, rescale, dtype):
    weights = tiny_weights(activation, storage=torch.float64)
    rule = tiny_rule(
        activation, normalise=normalise, apply_b_dec_to_input=subtract, by_decoder_norm="latents" if rescale else "no"
    )
    coder = coder_of(weights, rule, dtype=dtype)
    x = activations(40, dtype=torch.float64)
    codes = coder.encode(x.to(dtype))
    out = coder.decode(codes, x.to(dtype))
    latents, reconstruction = numpy_reference(weights, x.numpy(), coder)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert codes.values.dtype == out.dtype == dtype
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0)
    assert 0 < (latents != 0).sum() < latents.size / 1.5
    np.testing.assert_allclose(codes.dense().numpy(), latents, rtol=0, atol=tolerance * np.abs(latents).max())
    np.testing.assert_allclose(out.numpy(), reconstruction, rtol=0, atol=tolerance * np.abs(reconstruction).max())


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weights_in_a_short_type_are_used_in_full_precision(activation, storage):
    weights = tiny_weights(activation, storage=storage)
    coder = coder_of(weights, tiny_rule(activation))
    x = activations(40)
    latents, reconstruction = numpy_reference(weights, x.double().numpy(), coder)
    codes = coder.encode(x)
    assert codes.values.dtype == torch.float32
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0)
    np.testing.assert_allclose(coder.decode(codes).numpy(), reconstruction, atol=1e-5)


def test_activations_in_a_short_type_are_accepted():
    coder, x = tiny_coder("topk"), activations(20).bfloat16()
    codes = coder.encode(x)
    assert torch.equal(codes.values, coder.encode(x.float()).values)
    assert coder.decode(codes, x).dtype == torch.float32


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalise", NORMALISATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_conforms(activation, normalise, dtype):
    coder = tiny_coder(activation, normalise=normalise, dtype=dtype)
    assert conformance.check(coder, activations(20, dtype=dtype)) == []


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_transcoder_conforms_and_reads_other_widths(activation):
    coder = tiny_coder(activation, d_out=7, hook_out="blocks.1.hook_mlp_out")
    x = activations(9)
    assert coder.info.is_transcoder
    assert coder.decode(coder.encode(x)).shape == (9, 7)
    assert conformance.check(coder, x) == []


def test_directions_are_those_of_the_decoder_and_follow_rescaling():
    latents = torch.tensor([3, 0, 3])
    plain = tiny_coder("topk")
    assert torch.equal(plain.decoder_rows(latents), plain.weights.W_dec[latents])
    scaled = tiny_coder("topk", by_decoder_norm="latents")
    torch.testing.assert_close(scaled.decoder_rows(latents).norm(dim=1), torch.ones(3))
    assert plain.decoder_rows(latents[:0]).shape == (0, WIDTH)


def test_rescaling_a_relu_sae_leaves_the_reconstruction_unchanged():
    x = activations(30)
    plain, scaled = tiny_coder("relu"), tiny_coder("relu", by_decoder_norm="latents")
    torch.testing.assert_close(scaled.decode(scaled.encode(x)), plain.decode(plain.encode(x)), rtol=1e-5, atol=1e-5)


def test_a_latent_without_decoder_row_stays_harmless_under_rescaling():
    weights = tiny_weights("topk")
    weights.W_dec[5] = 0
    coder = coder_of(weights, tiny_rule("topk", by_decoder_norm="latents"))
    codes = coder.encode(activations(50))
    assert 5 not in codes.indices
    moved = codes._replace(indices=torch.full_like(codes.indices, 5))
    assert torch.equal(coder.decoder_rows(torch.tensor([5])), torch.zeros(1, WIDTH))
    assert coder.decode(moved).isfinite().all()


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_a_token_of_zeros_gives_numbers(normalise):
    coder = tiny_coder("relu", normalise=normalise)
    x = torch.zeros(2, WIDTH)
    assert coder.decode(coder.encode(x), x).isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_token_that_is_not_finite_is_never_reconstructed_as_if_it_were(activation):
    coder, x = tiny_coder(activation), activations(3)
    x[1, 4] = float("nan")
    out = coder.decode(coder.encode(x), x)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


def test_top_k_takes_fewer_than_k_where_few_are_positive():
    weights = tiny_weights("topk")
    weights.b_enc[4:] = -100
    assert coder_of(weights, tiny_rule("topk")).encode(activations(30)).counts().max() <= 4


def test_jump_relu_is_strict_and_a_scalar_threshold_serves_all_latents():
    eye = torch.eye(3)
    weights = Weights(W_enc=eye, W_dec=eye, b_dec=torch.zeros(3), b_enc=torch.zeros(3), threshold=torch.tensor(1.0))
    codes = coder_of(weights, tiny_rule("jumprelu")).encode(torch.tensor([[1.0, 1.5, -2.0]]))
    assert codes.indices.tolist() == [1]
    negative = coder_of(
        Weights(**(dict(weights.items()) | {"threshold": torch.tensor(-5.0)})), tiny_rule("jumprelu")
    ).encode(torch.tensor([[1.0, 1.5, -2.0]]))
    assert negative.indices.tolist() == [0, 1], "a negative threshold lets no negative latent through"


def test_decode_with_normalisation_says_that_it_needs_the_activations():
    coder, x = tiny_coder("relu", normalise="layer_norm"), activations(4)
    with pytest.raises(ValueError, match="decode needs x"):
        coder.decode(coder.encode(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_empty_batch_gives_empty_codes(activation):
    coder = tiny_coder(activation)
    codes = coder.encode(torch.zeros(0, WIDTH))
    assert (codes.n_tokens, len(codes.indices), codes.n_latents) == (0, 0, LATENTS)
    assert coder.decode(codes).shape == (0, WIDTH)


def test_parameters_of_a_training_run_carry_no_gradient_into_the_evaluation():
    weights = Weights(**{name: torch.nn.Parameter(t) for name, t in tiny_weights("gated").items()})
    coder, x = coder_of(weights, tiny_rule("gated")), activations(5).requires_grad_()
    codes = coder.encode(x)
    assert not codes.values.requires_grad
    assert not coder.decode(codes, x).requires_grad
    assert not coder.decoder_rows(codes.indices).requires_grad
    assert all(p.requires_grad for _, p in weights.items()), "the user's own tensors stay as they are"


def selected(weights: Weights, change: Any) -> Weights:
    tensors = {}
    for name, tensor in weights.items():
        tensors[name] = tensor if name == "b_dec" else change(name, tensor)
    return Weights(**tensors)


@settings(max_examples=40, deadline=None)
@given(activation=st.sampled_from(ACTIVATIONS), seed=st.integers(0, 10_000), rescale=st.booleans())
def test_the_order_of_latents_does_not_matter(activation, seed, rescale):
    rescale = rescale and activation != "gated"
    weights = tiny_weights(activation, seed=seed, storage=torch.float64)
    order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(seed))
    moved = selected(weights, lambda name, t: t[:, order] if name == "W_enc" else t[order])
    rule = tiny_rule(activation, by_decoder_norm="latents" if rescale else "no")
    a, b = (coder_of(w, rule, dtype=torch.float64) for w in (weights, moved))
    x = activations(12, seed=seed, dtype=torch.float64)
    first, second = a.encode(x), b.encode(x)
    torch.testing.assert_close(second.dense(), first.dense()[:, order], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(b.decode(second), a.decode(first), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(b.decoder_rows(torch.arange(LATENTS)), a.decoder_rows(order))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    factor=st.floats(1e-3, 1e3),
    latent=st.integers(0, LATENTS - 1),
)
def test_the_scale_of_a_relu_latent_does_not_matter(seed, factor, latent):
    weights = tiny_weights("relu", seed=seed, storage=torch.float64)
    scale = torch.ones(LATENTS, dtype=torch.float64)
    scale[latent] = factor
    scaled = Weights(
        W_enc=weights.W_enc * scale,
        W_dec=weights.W_dec / scale.unsqueeze(1),
        b_dec=weights.b_dec,
        b_enc=weights.b_enc * scale,
    )
    a, b = (coder_of(w, tiny_rule("relu"), dtype=torch.float64) for w in (weights, scaled))
    x = activations(12, seed=seed, dtype=torch.float64)
    first, second = a.encode(x), b.encode(x)
    torch.testing.assert_close(second.dense(), first.dense() * scale, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(b.decode(second), a.decode(first), rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(activation=st.sampled_from(ACTIVATIONS), cut=st.integers(0, 20), seed=st.integers(0, 1000))
def test_batches_do_not_matter(activation, cut, seed):
    coder, x = tiny_coder(activation, dtype=torch.float64), activations(20, seed=seed, dtype=torch.float64)
    whole = coder.encode(x)
    parts = [coder.encode(x[:cut]), coder.encode(x[cut:])]
    torch.testing.assert_close(torch.cat([p.dense() for p in parts]), whole.dense(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.cat([coder.decode(p) for p in parts]), coder.decode(whole), rtol=1e-12, atol=1e-14)


WRONG = {
    "W_enc transposed": ({"W_enc": torch.zeros(LATENTS, WIDTH)}, {}, "W_enc must have shape"),
    "W_dec of another width": ({"W_dec": torch.zeros(LATENTS, 3)}, {}, "W_dec must have shape"),
    "b_dec as a column": ({"b_dec": torch.zeros(WIDTH, 1)}, {}, "b_dec must have shape"),
    "NaN": ({"b_enc": torch.full((LATENTS,), float("nan"))}, {}, "b_enc holds NaN or infinite"),
    "infinite": ({"b_dec": torch.full((WIDTH,), float("inf"))}, {}, "b_dec holds NaN or infinite"),
    "integers": ({"b_enc": torch.zeros(LATENTS, dtype=torch.int32)}, {}, "b_enc must hold floating-point"),
    "8 bits": ({"b_enc": torch.zeros(LATENTS).to(torch.float8_e4m3fn)}, {}, "16, 32 or 64 bits"),
    "k beyond the latents": ({}, {"activation": "topk", "k": LATENTS + 1}, "k must lie between 1"),
    "k of zero": ({}, {"activation": "abstopk", "k": 0}, "k must lie between 1"),
    "no threshold": ({}, {"activation": "jumprelu"}, "needs threshold, but lacks threshold"),
    "no gate": ({}, {"activation": "gated"}, "lacks b_gate, b_mag, r_mag"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_weights_are_refused_in_one_sentence(what):
    tensors, changes, expected = WRONG[what]
    weights = Weights(**(dict(tiny_weights("relu").items()) | tensors))
    rule = tiny_rule(**({"activation": "relu", "k": K} | changes))
    fields = {"d_in": WIDTH, "d_out": WIDTH, "n_latents": LATENTS}
    with pytest.raises(CoderError, match=expected) as error:
        coder_of(weights, rule, **fields)
    assert "\n" not in str(error.value)


def test_b_dec_cannot_be_subtracted_from_an_input_of_another_width():
    with pytest.raises(CoderError, match="d_in=16 and d_out=7 differ"):
        tiny_coder("relu", d_out=7, apply_b_dec_to_input=True)


def test_rescaling_a_gated_sae_is_refused_rather_than_guessed():
    with pytest.raises(CoderError, match="no meaning for a gated SAE"):
        tiny_coder("gated", by_decoder_norm="latents")
