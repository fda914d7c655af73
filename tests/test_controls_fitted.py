"""Controls that are no straw men: decoders by least squares, codes by pursuit, and the L0 of the SAE or none at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Reference
from torch import Tensor

from sae_bench import registry
from sae_bench.kernels import ridge
from sae_bench.saes import conformance, fitted
from sae_bench.saes.calibration import Calibration, Moments, NoControl
from sae_bench.saes.control_coders import FittedDecoder
from sae_bench.saes.decoding import decode
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import Codes, SparseCoder, codes_from_dense
from sae_bench.saes.weights import Weights
from tests.builders.tiny_saes import WIDTH, activations, tiny_coder

TOKENS = 3000


def moments(sample: Tensor) -> Moments:
    x = sample.double()
    mean = x.mean(0)
    return Moments(mean, (x - mean).T @ (x - mean) / len(x), sample, float(x.square().sum(1).mean().sqrt()), len(x))


def known(sae: SparseCoder, x: Tensor, y: Tensor | None = None) -> Calibration:
    return Calibration(moments(x), moments(x if y is None else y), len(sae.encode(x).indices) / len(x))


def make(name: str, sae: SparseCoder, calibration: Calibration, seed: int = 0) -> SparseCoder:
    coder = registry.load(registry.controls()[name])(sae, calibration, seed)
    assert isinstance(coder, SparseCoder)
    return coder


def fvu(coder: SparseCoder, x: Tensor, y: Tensor | None = None) -> float:
    y = (x if y is None else y).double()
    error = (decode(coder, coder.encode(x), x).double() - y).square().sum()
    return float(error / (y - y.mean(0)).square().sum())


def some_codes(tokens: int, latents: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    dense = torch.rand(tokens, latents, generator=draw) * (torch.rand(tokens, latents, generator=draw) < 0.1)
    dense[:, 3] = 0  # never fires
    return dense


@pytest.mark.parametrize("at_once", [TOKENS, 700])
def test_the_decoder_is_that_of_scikit_learn(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "CLOSE", 1e-7)
    dense = some_codes(TOKENS, 40)
    y = 3 + dense @ torch.randn(40, 5, generator=torch.Generator().manual_seed(1)) + 0.1 * activations(TOKENS, 5)
    found = ridge.Ridge(40, y.double().mean(0))
    for f, own in zip(dense.split(at_once), y.split(at_once), strict=True):  # type: ignore[no-untyped-call]
        codes = codes_from_dense(f)
        found.add(codes.indptr, codes.indices, codes.values, own)
    decoder, bias = found.solve()
    alive = dense.double().square().sum(0) > 0
    spread = (dense.double().square().sum(0) - TOKENS * dense.double().mean(0).square())[alive].mean()
    reference = Reference(alpha=float(ridge.RIDGE * spread), solver="cholesky").fit(dense.double(), y.double())
    np.testing.assert_allclose(decoder, reference.coef_.T, atol=2e-5)
    np.testing.assert_allclose(bias, reference.intercept_, atol=2e-5)
    assert bool((decoder[3] == 0).all())


def test_no_token_and_no_active_latent_are_fine() -> None:
    for tokens in (0, 5):
        found = ridge.Ridge(4, torch.zeros(3))
        codes = codes_from_dense(torch.zeros(tokens, 4))
        found.add(codes.indptr, codes.indices, codes.values, torch.ones(tokens, 3))
        decoder, bias = found.solve()
        assert bool((decoder == 0).all())
        assert bias.tolist() == [float(tokens > 0)] * 3


def test_nothing_dense_is_made_of_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array [tokens, latents] would be the largest of a run."""
    monkeypatch.setattr(Codes, "dense", None)
    sae, x = tiny_coder("topk", n_latents=400), activations(TOKENS)
    make("random_fit", sae, known(sae, x))
    make("permuted_fit", sae, known(sae, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_fitted_decoder_explains_more_than_random_directions(dtype: torch.dtype) -> None:
    sae, x = tiny_coder("topk", n_latents=200), activations(TOKENS).to(dtype)
    calibration, test = known(sae, x), activations(800, seed=5).to(dtype)
    found = {name: make(name, sae, calibration) for name in ("mean", "random", "random_fit", "random_l0")}
    scores = {name: fvu(coder, test) for name, coder in found.items()}
    assert scores["random_fit"] < 0.9 * scores["random"]
    assert scores["random_fit"] < scores["mean"] < scores["random_l0"]
    assert conformance.check(found["random_fit"], test[:30]) == []


@pytest.mark.parametrize("kind", ["plain", "signed", "scale", "skip", "transcoder"])
def test_the_saes_own_codes_with_a_fitted_decoder_explain_no_less_than_the_sae(kind: str) -> None:
    """On the text of the fit, whatever else the SAE adds or scales by: it is what the codes allow."""
    given: dict[str, dict[str, Any]] = {
        "plain": {},
        "signed": {"activation": "abstopk"},
        "scale": {"normalise": "layer_norm"},
        "skip": {"d_out": 7, "hook_out": "blocks.1.hook_mlp_out", "apply_b_dec_to_input": False},
        "transcoder": {"d_out": 7, "hook_out": "blocks.1.hook_mlp_out", "apply_b_dec_to_input": False},
    }
    told = {"activation": "topk"} | given[kind]
    sae, x = tiny_coder(told.pop("activation"), **told), activations(TOKENS)
    if kind == "skip":
        skip = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(4)) / 4
        weights = Weights(**{name: t for name, t in sae.weights.items() if name != "W_skip"}, W_skip=skip)
        sae = LinearCoder(replace(sae.info, decode_needs="skip"), weights, sae.rule)
    y = x if not sae.info.is_transcoder else x[:, :7] * 2 + x[:, 7:14].relu() + 4
    own = make("permuted_fit", sae, known(sae, x, y))
    assert isinstance(own, FittedDecoder)
    assert conformance.check(own, x[:30]) == []
    assert fvu(own, x, y) < fvu(sae, x, y)
    assert fvu(own, x, y) < 1


@pytest.mark.parametrize("width", [300, 50])
def test_a_wide_sae_gets_a_narrower_dictionary_of_the_same_l0(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "MAX_FITTED_LATENTS", 100)
    sae, x = tiny_coder("topk", n_latents=width), activations(TOKENS)
    coder = make("random_fit", sae, known(sae, x))
    assert coder.info.n_latents == min(width, 100)
    assert set(coder.encode(x).counts().tolist()) == set(sae.encode(x).counts().tolist())
    if width > 100:
        with pytest.raises(NoControl, match="at most 100 latents"):
            make("permuted_fit", sae, known(sae, x))


def test_too_little_text_is_a_reason_and_no_decoder() -> None:
    sae = tiny_coder("topk", n_latents=100)
    enough, fewer = activations(400), activations(399)
    make("random_fit", sae, known(sae, enough))
    for name in ("random_fit", "permuted_fit"):
        with pytest.raises(NoControl, match=r"takes 400 calibration tokens \(4 a latent\), and there are 399"):
            make(name, sae, known(sae, fewer))
    assert fitted.tokens_of(512, 65_536) == 32_768, "codes that would fill the memory"


class Parts:
    """A calibration text of more tokens than the sample, in parts."""

    def __init__(self, x: Tensor) -> None:
        self.n_tokens, self.x = len(x), x

    def pairs(self, hook_in: str, hook_out: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        step = max(1, -(-self.n_tokens // most))
        for part in self.x[::step].split(500):  # type: ignore[no-untyped-call]
            yield part, part


def test_the_text_is_read_and_not_only_the_sample() -> None:
    sae, x = tiny_coder("topk", n_latents=200), activations(TOKENS)
    few = known(sae, x[:100])
    with pytest.raises(NoControl):
        make("random_fit", sae, few)
    by_parts = make("random_fit", sae, replace(few, text=Parts(x)))
    assert fvu(by_parts, activations(500, seed=3)) < 1


@pytest.mark.parametrize("activation", ["topk", "abstopk", "relu"])
def test_pursuit_beats_the_encoder_at_its_l0(activation: str) -> None:
    """Else it would bound nothing; it keeps the decoder, and latents stay positive where the SAE's are."""
    sae, x = tiny_coder(activation, n_latents=120), activations(400)
    coder = make("pursuit", sae, known(sae, x))
    codes = coder.encode(x)
    assert fvu(coder, x) < fvu(sae, x)
    assert len(codes.indices) / len(x) == pytest.approx(len(sae.encode(x).indices) / len(x), rel=0.01)
    assert torch.equal(coder.decoder_rows(torch.arange(9)), sae.decoder_rows(torch.arange(9)))
    assert sae.info.signed or bool((codes.values > 0).all())
    assert conformance.check(coder, x[:30]) == []


def test_pursuit_finds_codes_that_orthogonal_directions_hold_exactly() -> None:
    sae = tiny_coder("topk", n_latents=WIDTH)
    rows, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))
    sae.weights.W_dec.copy_(2 * rows)
    true = some_codes(200, WIDTH) + 0.5 * (torch.arange(WIDTH) < 2)
    true[:, 2:] = 0
    x = true @ (2 * rows) + sae.weights.b_dec
    coder = make("pursuit", sae, replace(known(sae, activations(200)), l0=2.0))
    torch.testing.assert_close(coder.encode(x).dense(), true, rtol=1e-4, atol=1e-5)


MATCHED = ("pca", "pca_topk", "channels", "random", "random_l0", "random_fit", "pursuit")


@pytest.mark.parametrize(("activation", "l0"), [("topk", None), ("jumprelu", None), ("relu", None), ("topk", 1.31)])
@pytest.mark.parametrize("name", MATCHED)
def test_the_l0_of_a_matched_control_is_within_one_percent_or_there_is_none(name, activation, l0) -> None:
    """At 9 % more latents a control explains 9 % more for nothing."""
    from sae_bench.saes.calibration import on_grid

    sae, x = tiny_coder(activation, n_latents=120), activations(2 * TOKENS)
    calibration = known(sae, x)
    wanted = calibration.l0 if l0 is None else l0
    calibration = replace(calibration, l0=on_grid(wanted))
    if name in ("pca", "pca_topk", "channels") and calibration.l0 > WIDTH:
        with pytest.raises(NoControl, match=f"and there are {WIDTH} "):
            make(name, sae, calibration)
        return
    coder = make(name, sae, calibration)
    rows = x if name != "pursuit" or l0 else x[:1500]
    assert len(coder.encode(rows).indices) / len(rows) == pytest.approx(wanted, rel=0.01)
