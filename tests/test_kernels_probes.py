"""Probes of every latent agree with scikit-learn one latent at a time, however rare, separable or scaled it is."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from sae_bench.kernels import logistic, probes
from sae_bench.kernels.logistic import l1_logistic_cv, logistic_cv, probe_losses, stratified_folds
from sae_bench.kernels.probes import Columns, Probes, columns, fit_probes, fit_probes_dense, mean_difference
from sae_bench.kernels.ranks import auroc
from tests.builders.kernel_inputs import LargestAllocation
from tests.builders.marks import slow_but_each

STRENGTHS = [1e-3, 1e-2, 1e-1, 1.0]


def sparse(z: Tensor) -> Columns:
    rows, latents = z.nonzero(as_tuple=True)
    return columns(rows, latents, z[rows, latents], len(z))


def some_labels(n: int, rate: float, seed: int = 0) -> Tensor:
    """As many positives as the rate says, and at least one of each class, in random rows."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order < min(n - 1, max(1, round(n * rate)))


def hard_columns(labels: Tensor, seed: int = 0) -> Tensor:
    """One column of every kind that Newton's method or the bookkeeping of zeros could get wrong."""
    generator = torch.Generator().manual_seed(seed)
    n, y = len(labels), labels.double()
    normal = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    uniform = torch.rand(n, 6, generator=generator, dtype=torch.float64)
    one_positive, one_negative = torch.zeros(n).double(), torch.zeros(n).double()
    one_positive[labels.nonzero()[0]] = 7.0
    one_negative[(~labels).nonzero()[0]] = -0.01
    kinds = {
        "separable": 3 * y + uniform[:, 0],
        "equal to the label": y,
        "opposite of the label": -2.5 * (1 - y),
        "one entry, positive": one_positive,
        "one entry, negative": one_negative,
        "all non-zero": normal[:, 0] + y,
        "negative values": -normal[:, 1].abs() * (uniform[:, 1] < 0.2),
        "constant": torch.full((n,), 0.1).double(),
        "nearly constant": 1e3 + 1e-3 * normal[:, 2],
        "heavy tail": torch.exp(4 * normal[:, 3]) * (uniform[:, 2] < 0.5),
        "rare": uniform[:, 3] * (uniform[:, 4] < 0.02) + 1e-6 * one_positive,
        "huge": 1e200 * normal[:, 4] + 1e200 * y,
        "tiny": 1e-200 * normal[:, 5].relu(),
        "only on positives": y * (uniform[:, 5] < 0.1) * normal[:, 5].exp() + 1e-3 * one_positive,
    }
    return torch.stack(list(kinds.values()), 1)


def reference(z: Tensor, labels: Tensor, ridge: float) -> NDArray[np.float64]:
    """Weight, bias and loss ``[3, n_columns]`` from scikit-learn on standardised columns."""
    out = []
    for column in z.T.numpy():
        largest = np.abs(column).max()
        deviation = (column / largest).std() * largest
        if column.min() == column.max():
            column, deviation = np.zeros_like(column), 1.0
        mean = column.mean()
        model = LogisticRegression(solver="newton-cholesky", C=1 / (len(z) * ridge), tol=1e-13, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for less than its own rounding error
            model.fit(((column - mean) / deviation)[:, None], labels.numpy())
        weight = model.coef_[0, 0] / deviation
        bias = model.intercept_[0] - weight * mean
        out.append((weight, bias, log_loss(labels.numpy(), 1 / (1 + np.exp(-(weight * column + bias))))))
    return np.array(out).T


def both(z: Tensor, labels: Tensor, **options: Any) -> list[Probes]:
    return [fit_probes(sparse(z), labels, **options), fit_probes_dense(z, labels, **options)]


def oracle(references: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    entry = json.loads((references / "metrics_oracles.json").read_text())[name]
    return entry["inputs"], entry["expected"]


def test_oracle_probe_loss(references):
    given_, expected = oracle(references, "4.probe_loss")
    z, labels = torch.tensor(given_["latents"]), torch.tensor(given_["y"]) == 1
    for fit in both(z, labels, ridge=0.0):
        np.testing.assert_allclose(fit.weight, expected["w"], rtol=2e-5, atol=1e-9)  # the oracle's own solver
        np.testing.assert_allclose(fit.bias, expected["b"], rtol=2e-5, atol=1e-9)
        np.testing.assert_allclose(fit.loss, expected["ce"], rtol=1e-9)
        assert int(fit.loss.argmin()) == expected["best_latent"]


def test_oracle_constant_latent(references):
    given_, expected = oracle(references, "4.probe_loss_constant_latent")
    z, labels = torch.tensor(given_["z"])[:, None], torch.tensor(given_["y"]) == 1
    for ridge in (0.0, 1e-3):
        for standardised in (True, False):
            for fit in both(z, labels, ridge=ridge, standardised=standardised):
                assert fit.weight.tolist() == [0.0]
                assert fit.bias.item() == pytest.approx(math.log(1 / 3), rel=1e-12)
                assert fit.loss.item() == pytest.approx(expected["ce"], rel=1e-9)


def test_oracle_separable_with_the_ridge_on_the_raw_weight(references):
    given_, expected = oracle(references, "4.probe_loss_separable")
    z, labels = torch.tensor(given_["z"])[:, None], torch.tensor(given_["y"]) == 1
    for fit in both(z, labels, ridge=given_["ridge_on_w"], standardised=False):
        assert fit.weight.item() == pytest.approx(expected["w"], rel=1e-6)
        assert fit.loss.item() == pytest.approx(expected["ce"], rel=1e-6)


def test_oracle_the_best_of_many_noise_latents_beats_the_base_rate_in_sample(references):
    given_, expected = oracle(references, "4.probe_loss_selection_bias")
    z = torch.tensor(np.random.default_rng(given_["seed"]).standard_normal((given_["n"], given_["latents"])))
    labels = torch.arange(given_["n"]) < given_["n"] // 2
    for fit in both(z, labels, ridge=0.0):
        assert fit.loss.min().item() == pytest.approx(expected["in_sample_min_ce"], rel=1e-9)


@pytest.mark.parametrize("ridge", slow_but_each(2, [1e-1, 1e-3, 1e-5]))
@pytest.mark.parametrize(("n", "rate"), [(50, 0.5), (1000, 0.3), (1000, 0.001), (1000, 0.999)])
def test_every_kind_of_column_agrees_with_scikit_learn(n, rate, ridge):
    labels = some_labels(n, rate)
    z = hard_columns(labels)
    weight, bias, loss = reference(z, labels, ridge)
    for fit in both(z, labels, ridge=ridge):
        largest = z.abs().amax(0).numpy()
        np.testing.assert_allclose(fit.weight.numpy() * largest, weight * largest, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fit.bias, bias, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fit.loss, loss, rtol=1e-6, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 40),
    kept=st.floats(0.02, 1.0),
    ridge=st.sampled_from([1e-6, 1e-3, 1.0]),
    tail=st.floats(0, 3),
)
def test_fits_are_where_the_gradient_is_zero_and_never_worse_than_no_column(seed, n, kept, ridge, tail):
    generator = torch.Generator().manual_seed(seed)
    z = torch.exp(tail * torch.randn(n, 8, generator=generator)).double()
    z = z * (torch.rand(n, 8, generator=generator) < kept)
    z[0, 0] = 1.0
    labels = some_labels(n, 0.01 + 0.9 * torch.rand(1, generator=generator).item(), seed)
    entropy = probe_losses(labels.double().mean().logit().expand(n), labels).mean()
    positions = z.any(0)
    for fit, columns_ in zip(both(z, labels, ridge=ridge), (z[:, positions], z), strict=True):
        deviation = columns_.std(0, correction=0)
        u = torch.where(deviation > 0, (columns_ - columns_.mean(0)) / deviation, 0.0)
        error = (columns_ * fit.weight + fit.bias).sigmoid() - labels[:, None].double()
        assert error.mean(0).abs().max() < 1e-9
        assert ((error * u).mean(0) + ridge * fit.weight * deviation).abs().max() < 1e-9
        assert bool((fit.loss <= entropy + 1e-12).all())


def test_scores_beyond_the_range_of_exp_still_converge():
    n = 20_000
    labels = some_labels(n, 0.01)
    z = torch.zeros(n, 1, dtype=torch.float64)
    z[:40, 0] = torch.where(labels[:40], 1e-3, -1.0)
    z[0, 0] = -1e3 * (1 - 2 * labels[0].double())
    z[40:, 0] = 1e-3 * torch.randn(n - 40, generator=torch.Generator().manual_seed(1)).abs() * labels[40:]
    for fit in both(z, labels, ridge=1e-9):
        logits = fit.weight * z[:, 0] + fit.bias
        assert logits.abs().max() > 710
        error = logits.sigmoid() - labels.double()
        slope = (error * z[:, 0]).mean() / z.std() + 1e-9 * fit.weight * z.std()
        assert abs(slope.item()) < 1e-9
        assert fit.loss.item() == pytest.approx(probe_losses(logits, labels).mean().item(), rel=1e-9)


@pytest.mark.parametrize(("n", "n_positive"), [(200, 60), (606, 202), (2216, 1)])
def test_without_a_ridge_separable_columns_end_near_zero_loss_and_others_at_their_optimum(n, n_positive):
    labels = torch.arange(n) < n_positive
    y = labels.double()
    normal = torch.randn(n, generator=torch.Generator().manual_seed(0)).double()
    z = torch.stack([y, 1 - y, 3 * y - 1, normal], 1)
    for fit in both(z, labels, ridge=0.0):
        assert bool(((fit.loss[:3] >= 0) & (fit.loss[:3] < 1e-6)).all())
        assert bool(fit.weight.isfinite().all())
        np.testing.assert_allclose(fit.weight[3:], reference(z[:, 3:], labels, 1e-14)[0], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-100, 100), factor=st.floats(0.5, 2.0), negate=st.booleans())
def test_fits_do_not_depend_on_the_scale_of_a_latent(seed, exponent, factor, negate):
    scale = factor * 10.0**exponent * (-1 if negate else 1)
    labels = some_labels(40, 0.3, seed)
    z = hard_columns(labels, seed)[:, [0, 3, 5, 6, 9, 10]]
    for one, other in zip(both(z, labels, ridge=1e-3), both(z * scale, labels, ridge=1e-3), strict=True):
        torch.testing.assert_close(other.weight * scale, one.weight, rtol=1e-7, atol=0)
        torch.testing.assert_close(other.loss, one.loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean_difference(sparse(z * scale), labels), mean_difference(sparse(z), labels))


def test_a_large_mean_of_a_latent_costs_no_accuracy():
    labels = some_labels(300, 0.4)
    z = torch.randint(-1000, 1000, (300, 4), generator=torch.Generator().manual_seed(0)).double() / 1024
    z += labels[:, None] * torch.tensor([0.0, 0.25, 1.0, 4.0])
    for one, other in zip(both(z, labels, ridge=1e-3), both(z + 2.0**30, labels, ridge=1e-3), strict=True):
        torch.testing.assert_close(other.weight, one.weight, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(other.loss, one.loss, rtol=1e-9, atol=1e-12)


def test_order_of_rows_and_of_latents_changes_nothing():
    labels = some_labels(60, 0.4)
    z = hard_columns(labels)
    rows, latents = (torch.randperm(m, generator=torch.Generator().manual_seed(3)) for m in z.shape)
    fits = both(z, labels, ridge=1e-3)
    for one, other in zip(fits, both(z[rows][:, latents], labels[rows], ridge=1e-3), strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(b, a[latents], rtol=1e-8, atol=1e-10)
    for a, b in zip(*fits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("entries", "padding"), [(1, 0), (37, 0), (300, 5), (300, 1 << 13), (1 << 20, 0)])
def test_tiles_of_any_size_give_the_same_fits(monkeypatch, entries, padding):
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(50, 90, generator=generator, dtype=torch.float64)
    z = z * (z < torch.rand(90, generator=generator) ** 2)
    z[:, 0] = 2 + z[:, 0]
    labels = some_labels(50, 0.4)
    expected = both(z, labels, ridge=1e-3)
    monkeypatch.setattr(probes, "TILE_ENTRIES", entries)
    monkeypatch.setattr(probes, "PADDING", padding)
    for one, other in zip(expected, both(z, labels, ridge=1e-3), strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)


def test_a_million_latents_cost_memory_for_their_entries_only():
    generator = torch.Generator().manual_seed(0)
    n, n_latents = 500, 1 << 20
    latents = torch.randint(n_latents, (n, 64), generator=generator)
    keys = torch.unique(torch.arange(n)[:, None] * n_latents + latents)
    labels = some_labels(n, 0.5)
    with LargestAllocation() as seen:
        made = columns(keys // n_latents, keys % n_latents, torch.ones(len(keys)), n)
        fit = fit_probes(made, labels, ridge=1e-3)
        mean_difference(made, labels)
        probes.take(made, made.latents[:3])
    assert seen.numbers <= probes.TILE_ENTRIES, seen.by
    assert len(fit.loss) == len(made.latents) < n_latents


def test_columns_are_sorted_without_zeros_and_read_back_by_latent():
    rows, latents = torch.tensor([2, 0, 1, 0, 2]), torch.tensor([1 << 40, 5, 5, 9, 5])
    made = columns(rows, latents, torch.tensor([4.0, -1.0, 0.0, 0.0, 2.5]), 3)
    assert made.latents.tolist() == [5, 1 << 40]
    assert (made.indptr.tolist(), made.rows.tolist(), made.values.tolist()) == ([0, 2, 3], [0, 2, 2], [-1.0, 2.5, 4.0])
    assert probes.dense(made, torch.tensor([1, 0, 1])).tolist() == [[0, -1, 0], [0, 0, 0], [4, 2.5, 4]]
    taken = probes.take(made, torch.tensor([9, 1 << 40, 7, 5, 1 << 41]))
    assert taken.tolist() == [[0, 0, 0, -1, 0], [0, 0, 0, 0, 0], [0, 4, 0, 2.5, 0]]


def test_no_active_latent_gives_empty_results():
    none = sparse(torch.zeros(4, 3))
    labels = torch.tensor([True, False, True, False])
    assert [len(part) for part in fit_probes(none, labels, ridge=1e-3)] == [0, 0, 0]
    assert len(mean_difference(none, labels)) == 0
    assert probes.take(none, torch.tensor([0, 2])).tolist() == [[0, 0]] * 4


def test_a_latent_that_never_fires_is_a_constant_for_the_dense_fit():
    labels = some_labels(10, 0.2)
    fit = fit_probes_dense(torch.zeros(10, 2), labels, ridge=1e-3)
    assert fit.weight.tolist() == [0, 0]
    assert fit.loss[0].item() == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8), rel=1e-12)


def test_bad_input_is_refused():
    z = torch.ones(4, 1)
    for fit in (lambda y: fit_probes(sparse(z), y, ridge=0.1), lambda y: fit_probes_dense(z, y, ridge=0.1)):
        with pytest.raises(ValueError, match="both classes"):
            fit(torch.ones(4, dtype=torch.bool))
        with pytest.raises(ValueError, match="bool"):
            fit(torch.tensor([0, 1, 0, 1]))
    labels = torch.tensor([True, False, True, False])
    for bad in (math.nan, math.inf):
        broken = torch.cat([z, torch.tensor([[1.0], [bad], [0.0], [2.0]])], 1)
        for path in (lambda b: fit_probes(sparse(b), labels, ridge=0.1), lambda b: both(b, labels, ridge=0.1)):
            with pytest.raises(ValueError, match="finite"):
                path(broken)
        with pytest.raises(ValueError, match="finite"):
            logistic_cv(broken, labels, STRENGTHS, folds=2, seed=0)
    with pytest.raises(ValueError, match="positive strengths"):
        logistic_cv(z, labels, [0.0, 1.0], folds=2, seed=0)


def test_losses_are_exact_for_scores_of_any_size():
    scores, labels = torch.tensor([0.3, -2.0, 4.0, 1e4, -1e4, 1e4]), torch.tensor([1, 0, 1, 1, 1, 0]) == 1
    losses = probe_losses(scores, labels)
    assert losses.dtype == torch.float64
    assert losses[:3].mean().item() == pytest.approx(log_loss(labels[:3], scores[:3].double().sigmoid()), rel=1e-12)
    assert losses[3:].tolist() == [0.0, 1e4, 1e4]


def test_oracle_selection_by_mean_difference(references):
    given_, expected = oracle(references, "16.sparse_probe_selection")
    z, labels = torch.tensor(given_["Z"], dtype=torch.float64), torch.tensor(given_["y"]) == 1
    plain, scaled = mean_difference(sparse(z), labels, normalised=False), mean_difference(sparse(z), labels)
    np.testing.assert_allclose(plain, expected["abs_mean_diff"], rtol=1e-12)
    np.testing.assert_allclose(scaled, expected["normalised"], rtol=1e-12)
    assert plain.topk(2).indices.tolist() == expected["top2"]
    assert scaled.topk(2).indices.tolist() == expected["top2_normalised"]


def reference_cv(
    x: NDArray[np.float64], y: NDArray[np.bool_], fold: NDArray[np.int64], **model: Any
) -> tuple[NDArray[np.float64], float, float]:
    """Weight, bias and strength by the same folds with scikit-learn."""

    def fit(train: NDArray[np.bool_], strength: float) -> tuple[NDArray[np.float64], float]:
        mean, deviation = x[train].mean(0), x[train].std(0)
        deviation[x[train].min(0) == x[train].max(0)] = 1.0
        regression = LogisticRegression(C=1 / (train.sum() * strength), **model)
        regression.fit((x[train] - mean) / deviation, y[train])
        weight = regression.coef_[0] / deviation
        return weight, float(regression.intercept_[0] - weight @ mean)

    def held_out(strength: float) -> float:
        total = 0.0
        for i in range(fold.max() + 1):
            weight, bias = fit(fold != i, strength)
            scores = x[fold == i] @ weight + bias
            total += float((np.logaddexp(0, scores) - y[fold == i] * scores).sum())
        return total

    strength = min(sorted(STRENGTHS, reverse=True), key=held_out)
    return *fit(np.ones(len(y), dtype=bool), strength), strength


def features(n: int, k: int, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = some_labels(n, rate, seed)
    shift = torch.randn(k, generator=generator) * labels[:, None]
    scale = torch.exp(2 * torch.randn(k, generator=generator))
    return ((torch.randn(n, k, generator=generator) + shift).relu() * scale + 3).double(), labels


@pytest.mark.parametrize(("n", "k", "rate", "seed"), [(120, 1, 0.5, 0), (200, 5, 0.3, 1), (90, 16, 0.1, 2)])
@pytest.mark.parametrize("kept", [0, 1 << 22])
def test_cross_validated_fit_equals_scikit_learn_on_the_same_folds(monkeypatch, n, k, rate, seed, kept):
    monkeypatch.setattr(logistic, "PRODUCTS", kept)
    x, labels = features(n, k, rate, seed)
    x = torch.cat([x, torch.full((n, 1), 0.3).double()], 1)  # a constant
    fold = stratified_folds(labels, 4, 7)
    if k > 1:
        x[:, 0] = torch.where(fold == 1, x[:, 0], 0.1)  # constant where fold 1 is held out
    made = logistic_cv(x, labels, STRENGTHS, folds=4, seed=7)
    weight, bias, strength = reference_cv(
        x.numpy(), labels.numpy(), fold.numpy(), solver="newton-cholesky", tol=1e-12, max_iter=500
    )
    assert made.strength == strength
    np.testing.assert_allclose(made.weight, weight, rtol=1e-6, atol=1e-9)
    assert made.bias == pytest.approx(bias, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(made.scores(x), x.numpy() @ weight + bias, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", [4, 31, 62, 215])  # another strength is best if all folds share one standardisation
def test_each_fold_is_standardised_by_its_own_training_part(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = some_labels(90, 0.3, seed)
    x = torch.randn(90, 5, generator=generator).double() ** 5 + labels[:, None] * torch.randn(5, generator=generator)
    made = logistic_cv(x, labels, STRENGTHS, folds=4, seed=7)
    fold = stratified_folds(labels, 4, 7)
    weight, _, strength = reference_cv(
        x.numpy(), labels.numpy(), fold.numpy(), solver="newton-cholesky", tol=1e-12, max_iter=500
    )
    assert made.strength == strength
    np.testing.assert_allclose(made.weight, weight, rtol=1e-6, atol=1e-9)


def test_l1_fit_is_near_the_optimum_of_its_objective():
    pytest.importorskip("sklearn", minversion="1.8")  # the reference below names the penalty as of 1.8
    x, labels = features(200, 6, 0.3, 1)
    made = l1_logistic_cv(x, labels, STRENGTHS, folds=4, seed=7)
    fold = stratified_folds(labels, 4, 7)
    weight, bias, strength = reference_cv(
        x.numpy(), labels.numpy(), fold.numpy(), solver="saga", l1_ratio=1.0, tol=1e-8, max_iter=100_000, random_state=0
    )
    assert made.strength == strength
    np.testing.assert_allclose(made.weight, weight, rtol=0.01, atol=1e-3 * np.abs(weight).max())
    assert made.bias == pytest.approx(bias, rel=0.01)


def test_l1_with_a_penalty_that_removes_all_features_leaves_the_log_odds():
    x, labels = features(200, 6, 0.05, 1)
    made = l1_logistic_cv(x, labels, [10.0], folds=4, seed=0)
    assert made.weight.tolist() == [0.0] * 6
    assert made.bias == pytest.approx(math.log(0.05 / 0.95), rel=1e-6)


def test_folds_spread_both_classes_and_depend_on_the_seed_alone():
    labels = some_labels(103, 0.2)
    fold = stratified_folds(labels, 5, 3)
    assert torch.equal(fold, stratified_folds(labels, 5, 3))
    assert not torch.equal(fold, stratified_folds(labels, 5, 4))
    for part in (labels, ~labels, torch.ones_like(labels)):
        counts = fold[part].bincount(minlength=5)
        assert counts.max() - counts.min() <= 1
    assert stratified_folds(some_labels(30, 0.1), 5, 0).max() == 2  # 3 positives


def test_few_members_of_a_class_and_ties_take_the_strongest_penalty():
    x, labels = features(40, 3, 0.025, 0)
    assert int(labels.sum()) == 1
    assert logistic_cv(x, labels, STRENGTHS, folds=4, seed=0).strength == 1.0
    constant = logistic_cv(torch.ones(40, 2), some_labels(40, 0.25), STRENGTHS, folds=4, seed=0)
    assert constant.strength == 1.0
    np.testing.assert_allclose(constant.weight, 0, atol=1e-12)
    assert constant.bias == pytest.approx(math.log(1 / 3), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), exponent=st.integers(-30, 30))
def test_cross_validated_scores_do_not_depend_on_the_scale_of_features(seed, exponent):
    x, labels = features(60, 3, 0.4, seed)
    scale = torch.tensor([1.0, 10.0**exponent, -3.0], dtype=torch.float64)
    one = logistic_cv(x, labels, STRENGTHS, folds=3, seed=seed)
    other = logistic_cv(x * scale, labels, STRENGTHS, folds=3, seed=seed)
    assert one.strength == other.strength
    torch.testing.assert_close(one.scores(x), other.scores(x * scale), rtol=1e-7, atol=1e-7)


@settings(max_examples=100, deadline=None)
@given(data=st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40))
def test_auroc_equals_scikit_learn_with_ties_and_is_the_mean_of_its_pseudo_values(data):
    scores, labels = torch.tensor([s for s, _ in data]).double(), torch.tensor([y for _, y in data])
    value, pseudo = auroc(scores, labels)
    if labels.all() or not labels.any():
        assert math.isnan(value)
        assert bool(pseudo.isnan().all())
        return
    assert value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert pseudo.mean().item() == pytest.approx(value, abs=1e-12)
    right = (scores[:, None] > scores).double() + 0.5 * (scores[:, None] == scores)
    expected = torch.where(labels, right[:, ~labels].mean(1), right[labels].mean(0))
    share = torch.where(labels, labels.double().mean(), (~labels).double().mean())
    torch.testing.assert_close(pseudo, value + (expected - value) / share, rtol=1e-12, atol=1e-12)
    reverse = torch.arange(len(data) - 1, -1, -1)
    again, turned = auroc(scores[reverse], labels[reverse])
    assert again == value
    torch.testing.assert_close(turned[reverse], pseudo, rtol=1e-12, atol=1e-12)


def test_infinite_scores_are_ranked_and_nan_is_refused():
    labels = torch.tensor([True, False, True])
    assert auroc(torch.tensor([math.inf, -math.inf, -math.inf]), labels)[0] == 0.75
    with pytest.raises(ValueError, match="NaN"):
        auroc(torch.tensor([0.0, math.nan, 1.0]), labels)


@pytest.mark.slow
def test_the_bootstrap_of_the_pseudo_values_is_that_of_the_auroc():
    generator = np.random.default_rng(0)
    labels = generator.random(300) < 0.3
    scores = np.round(generator.standard_normal(300) + labels, 1)
    _, pseudo = auroc(torch.tensor(scores), torch.tensor(labels))
    draws = [generator.integers(0, 300, 300) for _ in range(600)]
    real = np.std([roc_auc_score(labels[d], scores[d]) for d in draws])
    linear = np.std([pseudo[torch.tensor(d)].mean() for d in draws])
    assert linear == pytest.approx(real, rel=0.03)
    assert pseudo.std().item() / math.sqrt(300) == pytest.approx(real, rel=0.06)
