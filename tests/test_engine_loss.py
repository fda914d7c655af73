"""Losses in chunks: the numbers of a log-softmax in float64, and no array of the size of the logits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor

from sae_bench.engine import loss
from sae_bench.engine.loss import clean_scores, score
from sae_bench.engine.rest import Logits
from sae_bench.kernels.divergence import divergence, normaliser
from tests.builders.kernel_inputs import LargestAllocation
from tests.builders.marks import slow_but

EVERY = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def logits_of(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(clean: Tensor, logits: Tensor, at: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
    """Clean loss, loss and KL from float64 log-softmax of SciPy; 0 times infinity is 0, as in the definition of KL."""
    p, q = (log_softmax(array[at].double().numpy(), axis=-1) for array in (clean, logits))
    rows = np.arange(len(targets))
    with np.errstate(invalid="ignore"):
        kl = np.where(np.exp(p) == 0, 0, np.exp(p) * (p - q)).sum(1)
    return -p[rows, targets], -q[rows, targets], kl


def measured(clean: Tensor, logits: Tensor, at: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
    kept = clean_scores(Logits.of(clean), at, targets)
    return tuple(x.numpy() for x in (kept.loss, *score(Logits.of(logits), at, targets, kept)[:2]))


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("dtype", EVERY)
def test_scores_are_those_of_a_log_softmax_in_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, vocabulary: int
) -> None:
    """Half precision is widened before anything is computed, so its scores are as exact as those of float32."""
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 7 * vocabulary)
    clean = logits_of(3, 20, vocabulary).to(dtype)
    logits = (clean + logits_of(3, 20, vocabulary, seed=1, scale=0.3)).to(dtype)
    at = torch.rand(3, 20, generator=torch.Generator().manual_seed(2)) > 0.2
    targets = torch.randint(vocabulary, (int(at.sum()),), generator=torch.Generator().manual_seed(3))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for found, expected in zip(
        measured(clean, logits, at, targets), reference(clean, logits, at, targets), strict=True
    ):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_a_constant_on_all_logits_of_a_token_changes_nothing(offset: float) -> None:
    clean, logits = logits_of(1, 9, 300), logits_of(1, 9, 300, seed=1)
    at, targets = torch.ones(1, 9, dtype=torch.bool), torch.arange(9)
    for found, expected in zip(
        measured(clean + offset, logits - offset, at, targets), measured(clean, logits, at, targets), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", EVERY)
def test_a_model_that_says_the_same_has_a_divergence_of_exactly_zero(dtype: torch.dtype) -> None:
    logits = logits_of(2, 30, 5000, scale=10).to(dtype)
    at, targets = torch.ones(2, 30, dtype=torch.bool), torch.zeros(60, dtype=torch.int64)
    clean_loss, own_loss, kl = measured(logits, logits.clone(), at, targets)
    assert (kl == 0).all()
    assert (clean_loss == own_loss).all()


@given(cuts=st.lists(st.integers(1, 29), max_size=4), seed=st.integers(0, 99))
def test_a_token_is_scored_alike_in_any_batch(cuts: list[int], seed: int) -> None:
    clean, logits = logits_of(30, 2, 40, seed=seed).float(), logits_of(30, 2, 40, seed=seed + 100).float()
    at = torch.rand(30, 2, generator=torch.Generator().manual_seed(seed)) > 0.3
    n = at.sum(1)
    targets = torch.arange(int(n.sum())) % 40
    whole = measured(clean, logits, at, targets)
    parts = []
    for a, b in pairwise(sorted({0, 30, *cuts})):
        own = slice(int(n[:a].sum()), int(n[:b].sum()))
        parts.append(measured(clean[a:b], logits[a:b], at[a:b], targets[own]))
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", EVERY)
def test_logits_that_are_not_finite(dtype: torch.dtype) -> None:
    """Padding of the vocabulary counts as nothing; a token that the model excludes costs infinity; NaN stays NaN."""
    clean, logits = torch.zeros(2, 1, 6, 4, dtype=dtype)
    infinity = torch.inf
    clean[0, 0], logits[0, 0] = torch.tensor([[1, 2, 3, -infinity], [1, 1, 1, -infinity]], dtype=dtype)  # padding
    logits[0, 1] = torch.tensor([-infinity, 0, 0, 0], dtype=dtype)  # only the clean model says token 0
    clean[0, 2, 1], logits[0, 3, 1], clean[0, 4, 1] = torch.nan, torch.nan, infinity
    logits[0, 5] = -infinity
    at, targets = torch.ones(1, 6, dtype=torch.bool), torch.zeros(6, dtype=torch.int64)
    clean_loss, own_loss, kl = measured(clean, logits, at, targets)
    p = np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum()
    np.testing.assert_allclose(kl[0], (p * np.log(3 * p)).sum(), rtol=1e-6)
    np.testing.assert_allclose(own_loss[0], np.log(3), rtol=1e-6)
    np.testing.assert_allclose(clean_loss[[0, 1, 3, 5]], [-np.log(p[0]), *[np.log(4)] * 3], rtol=1e-6)
    assert kl[1] == own_loss[1] == infinity
    assert np.isnan(kl[2:]).all(), "a row without probabilities has no divergence, on either side"
    assert np.isnan(clean_loss[[2, 4]]).all()
    assert np.isnan(own_loss[[3, 5]]).all()


def test_divergence_goes_from_the_clean_model_to_the_other() -> None:
    clean, other = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    forward = divergence(clean, normaliser(clean), other, normaliser(other)).item()
    assert forward == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), rel=1e-6)


def test_columns_behind_the_vocabulary_are_not_read() -> None:
    """Some models pad the output head; what the subject returns is then a view of more columns."""
    padded = torch.full((2, 2, 9, 70), 50.0)
    padded[..., :64] = logits_of(2, 2, 9, 64).float()
    at, targets = torch.ones(2, 9, dtype=torch.bool), torch.arange(18)
    clean, logits = padded[..., :64]
    for found, expected in zip(
        measured(clean, logits, at, targets), reference(clean, logits, at, targets), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("holes", slow_but(1, [True, False]))
def test_nothing_of_the_size_of_the_logits_is_made(dtype: torch.dtype, holes: bool) -> None:
    """Also where tokens are masked here and there, the vocabulary is padded, and both runs hold -inf there."""
    batch, seq, vocabulary = 8, 64, 8000
    padded = torch.randn(2, batch, seq, vocabulary + 64, dtype=torch.float32).to(dtype)
    clean, logits = padded[..., :vocabulary]
    padded[..., vocabulary - 10 :] = -torch.inf
    at = torch.ones(batch, seq, dtype=torch.bool)
    at[:, -1] = False
    if holes:
        at[:, ::3] = False
    targets = torch.zeros(int(at.sum()), dtype=torch.int64)
    before = padded.clone()
    with LargestAllocation() as seen:
        kept = clean_scores(Logits.of(clean), at, targets)
        score(Logits.of(logits), at, targets, kept)
    assert 0 < seen.numbers <= loss.CHUNK_ELEMENTS < clean.numel() / 7, seen.by
    assert kept.logits.rows.data_ptr() == clean.data_ptr()
    assert torch.equal(padded, before), "the model's own logits are left as they are"


def test_without_predictions_there_are_no_scores() -> None:
    empty = torch.zeros(2, 3, dtype=torch.bool)
    for found in measured(logits_of(2, 3, 5), logits_of(2, 3, 5), empty, torch.zeros(0, dtype=torch.int64)):
        assert found.shape == (0,)
