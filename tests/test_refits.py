"""Probes fitted again under other weights: what they choose, what they are in an interval, and that SAEs are paired."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from sae_bench.kernels.probes import columns, fit_probes, mean_difference
from sae_bench.kernels.ranks import auroc, aurocs
from sae_bench.kernels.refits import choose_by_difference, refit_l1, refit_l2, refit_probes
from sae_bench.streams.labelled_tables import refit_rows
from sae_bench.streams.pooled import TrainWeights
from sae_bench.units import Units, nested
from sae_bench.units.bootstrap import Ratio, Sums

RIDGE = 1e-3
Array = np.ndarray


def some(n: int = 80, k: int = 12, seed: int = 0, *, signed: bool = False, rate: float = 0.4) -> tuple[Tensor, Tensor]:
    """Sparse columns, two of which tell something, and labels of both classes."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, k, generator=g, dtype=torch.float64)
    y = torch.rand(n, generator=g) < rate
    y[:2] = torch.tensor([True, False])
    z[:, 3] += 1.2 * y
    z[:, 7] -= 0.9 * y
    return (z if signed else z.clamp(min=0)), y


def weights(n: int, count: int = 20, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return -torch.rand(count, n, generator=g, dtype=torch.float64).log()


def start(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of every column with equal weights."""
    rows, latents = z.nonzero(as_tuple=True)
    found = fit_probes(columns(rows, latents, z[rows, latents], len(z)), y, ridge=RIDGE)
    return found.weight, found.bias


def by_hand(z: Tensor, y: Tensor, share: Tensor) -> tuple[int, float, float]:
    """The best column by scikit-learn, each with the penalty of its weighted deviation."""
    best = (math.inf, -1, 0.0, 0.0)
    w = (share / share.sum()).numpy()
    for i, column in enumerate(z.T.numpy()):
        mean = w @ column
        deviation = math.sqrt(w @ (column - mean) ** 2) or 1.0
        u = ((column - mean) / deviation)[:, None]
        fit = LogisticRegression(C=1 / RIDGE, solver="newton-cholesky", tol=1e-12, max_iter=500)
        fit.fit(u, y.numpy(), sample_weight=w)
        loss = log_loss(y.numpy(), fit.predict_proba(u)[:, 1], sample_weight=w)
        slope = fit.coef_[0, 0] / deviation
        if loss < best[0]:
            best = (loss, i, slope, fit.intercept_[0] - slope * mean)
    return best[1:]


@pytest.mark.parametrize(("seed", "signed"), [(0, False), (1, True)])
def test_a_refit_is_the_best_weighted_probe_of_all_columns(seed: int, signed: bool) -> None:
    z, y = some(60, 8, seed, signed=signed)
    w = weights(60, 4, seed)
    found = refit_probes(z, y, w, start(z, y), RIDGE)
    for r in range(4):
        column, slope, bias = by_hand(z, y, w[r])
        assert int(found.column[r]) == column
        assert float(found.weight[r]) == pytest.approx(slope, rel=1e-5)
        assert float(found.bias[r]) == pytest.approx(bias, rel=1e-5, abs=1e-8)


def test_equal_weights_give_the_fit_itself() -> None:
    z, y = some()
    w = torch.full((1, len(z)), 0.7, dtype=torch.float64)
    weight, bias = start(z, y)
    found = refit_probes(z, y, w, (weight, bias), RIDGE)
    at = int(found.column[0])
    assert at == 3
    assert (float(found.weight[0]), float(found.bias[0])) == pytest.approx(
        (float(weight[at]), float(bias[at])), rel=1e-6
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), order=st.permutations(range(12)))
def test_the_order_of_latents_and_of_texts_changes_no_refit(seed: int, order: list[int]) -> None:
    z, y = some(70, 12, seed)
    w = weights(70, 20, seed)
    one = refit_probes(z, y, w, start(z, y), RIDGE)
    other = refit_probes(z[:, order], y, w, start(z[:, order], y), RIDGE)
    assert [order[int(c)] for c in other.column] == one.column.tolist()
    texts = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
    again = refit_probes(z[texts], y[texts], w[:, texts], start(z, y), RIDGE)
    assert again.column.tolist() == one.column.tolist()
    torch.testing.assert_close(again.weight, one.weight, rtol=1e-6, atol=1e-9)


def test_equal_latents_are_ties_that_the_first_wins() -> None:
    z, y = some()
    z[:, 9] = z[:, 3]
    assert set(refit_probes(z, y, weights(len(z)), start(z, y), RIDGE).column.tolist()) <= {3, 7}


@pytest.mark.parametrize("positives", [1, 2])
def test_a_set_with_few_positives_has_refits(positives: int) -> None:
    """Exponential weights leave out nobody: no refit lacks a class, however rare."""
    z, _ = some(50)
    y = torch.arange(50) < positives
    found = refit_probes(z, y, weights(50), start(z, y), RIDGE)
    assert found.weight.isfinite().all()
    assert found.bias.isfinite().all()
    order = choose_by_difference(z, y, weights(50), 5)
    theta = refit_l2(z, y, weights(50), order, 0.1, (torch.zeros(12, dtype=torch.float64), 0.0))
    assert theta.isfinite().all()


def test_without_an_active_latent_a_refit_is_the_weighted_base_rate() -> None:
    _, y = some(50)
    none = torch.zeros(50, 0, dtype=torch.float64)
    w = weights(50)
    found = refit_probes(none, y, w, (none[0], none[0]), RIDGE)
    assert found.column.tolist() == [-1] * 20
    torch.testing.assert_close(found.scores(none[:7]), ((w @ y.double()) / w.sum(1)).logit()[:, None].expand(-1, 7))
    assert choose_by_difference(none, y, w, 16).shape == (20, 0)
    bias = refit_l2(none, y, w, torch.zeros(20, 0, dtype=torch.int64), 0.1, (none[0], 0.0))
    torch.testing.assert_close(bias[:, 0], ((w @ y.double()) / w.sum(1)).logit())


def test_constant_latents_say_nothing_and_break_nothing() -> None:
    z, y = some()
    z = torch.full_like(z, 2.5)
    found = refit_probes(z, y, weights(len(z)), start(z, y), RIDGE)
    assert (found.weight.abs() < 1e-9).all()


def test_latents_are_chosen_by_weighted_means_as_by_means() -> None:
    z, y = some()
    rows, latents = z.nonzero(as_tuple=True)
    plain = mean_difference(columns(rows, latents, z[rows, latents], len(z)), y)
    assert choose_by_difference(z, y, torch.ones(1, len(z), dtype=torch.float64), 12)[0].tolist() == (
        plain.argsort(descending=True).tolist()
    )


@pytest.mark.parametrize("near", [0.0, 3.0])
def test_refits_on_several_latents_are_those_of_scikit_learn_wherever_they_begin(near: float) -> None:
    z, y = some(signed=True)
    w, strength = weights(len(z), 3), 0.05
    chosen = torch.tensor([[3, 7, 1]] * 3)
    begin = torch.full((12,), near, dtype=torch.float64)
    theta = refit_l2(z, y, w, chosen, strength, (begin, near))
    for r in range(3):
        share = (w[r] / w[r].sum()).numpy()
        used = z[:, chosen[r]].numpy()
        deviation = np.sqrt(share @ (used - share @ used) ** 2)
        fit = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-12)
        fit.fit(used / deviation, y.numpy(), sample_weight=share)
        assert theta[r, :-1].numpy() == pytest.approx(fit.coef_[0] / deviation, rel=1e-5)
        assert float(theta[r, -1]) == pytest.approx(fit.intercept_[0], rel=1e-5)


def test_the_l1_penalty_has_refits_too() -> None:
    z, y = some(signed=True)
    near = (torch.zeros(12, dtype=torch.float64), 0.0)
    theta = refit_l1(z, y, weights(len(z), 2), torch.tensor([[3, 7, 1]] * 2), 0.05, near)
    assert theta.shape == (2, 4)
    assert (theta[:, 0] > 0).all()
    assert (theta[:, 1] < 0).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), kind=st.sampled_from(["plain", "ties", "near", "dense", "constant"]))
def test_areas_of_many_rows_are_those_of_each(seed: int, kind: str) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 5 + seed % 60, generator=g, dtype=torch.float64)
    if kind == "ties":
        scores = scores.round()
    if kind == "near":
        scores = scores.round() * (1 + 1e-7 * torch.rand(scores.shape, generator=g, dtype=torch.float64))
    if kind == "dense":
        scores = 1 + 1e-6 * scores
    if kind == "constant":
        scores = torch.zeros_like(scores)
    y = torch.rand(scores.shape[1], generator=g) < 0.5
    y[:2] = torch.tensor([True, False])
    torch.testing.assert_close(
        aurocs(scores, y), torch.tensor([auroc(row, y)[0] for row in scores], dtype=torch.float64), rtol=0, atol=1e-12
    )


# ---------------------------------------------------------------- weights, rows, intervals


def test_a_text_has_the_same_weights_in_every_set_and_group_and_other_ones_in_the_test_part() -> None:
    one, other = TrainWeights(("a", "b", "c"), 3), TrainWeights(("c", "x"), 3)
    np.testing.assert_array_equal(one.of(20)[:, 2], other.of(20)[:, 0])
    assert not np.allclose(one.of(20), TrainWeights(("a", "b", "c"), 4).of(20))
    many = TrainWeights(tuple(map(str, range(2000))), 0).of(20)
    assert (many > 0).all()
    assert many.mean() == pytest.approx(1, abs=0.02)
    assert many.var() == pytest.approx(1, abs=0.05)


def mean(s: Sums) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = s.x / s.examples
    return found


def world(rng: np.random.Generator, n_sets: int, n: int, spread: float, noise: float) -> tuple[Units, Array]:
    """Sets whose examples have noise, and 20 refits of each whose means spread; and the sums of the refits."""
    ids, x, examples, all_sums = [], [], [], []
    common = rng.normal(0, spread, 20)  # the sets share their texts: a refit is good or bad in all of them
    for s in range(n_sets):
        own = rng.normal(s, noise, n)
        sums = n * (s + common + rng.normal(0, 1e-3, 20))
        rows = refit_rows({"x": sums}, {"x": own, "examples": np.ones(n)}, 20)
        ids += [f"s{s}@d:t{i}" for i in range(n)] + [f"s{s}@d:{nested.refit_name(r)}" for r in range(20)]
        x += [own, rows["x"]]
        examples += [np.ones(n), rows["examples"]]
        all_sums.append(sums / n)
    return Units(tuple(ids), {"x": np.concatenate(x), "examples": np.concatenate(examples)}), np.array(all_sums)


def test_the_error_of_a_figure_is_that_of_the_test_part_and_that_of_the_refits() -> None:
    units, sums = world(np.random.default_rng(0), 6, 200, 0.3, 1.0)
    draws = nested.draw(units, seed=0, resamples=2000)
    replicates = nested.replicates_of(draws, mean, [mean(s) for s in draws.points], draws.weights)
    assert isinstance(replicates, np.ndarray)
    # the same texts are in all sets, with one weight: their means err together
    columns = nested.by_set(units)
    test = np.mean([table.columns["x"] for table in columns.values()], axis=0).var() / 200
    train = sums.mean(0).var(ddof=1) / nested.INFLATION
    assert replicates.std() == pytest.approx(math.sqrt(test + train), rel=0.1)
    assert train > 4 * test


def test_the_figure_is_that_of_the_examples_to_the_bit() -> None:
    units, _ = world(np.random.default_rng(1), 3, 50, 0.3, 1.0)
    alone = units.where(lambda unit: not nested.is_refit(unit))
    with_refits, without = (nested.draw(u, seed=0, resamples=40) for u in (units, alone))
    assert nested.estimate(with_refits, mean).value == nested.estimate(without, mean).value
    assert (with_refits.given, without.given) == (True, False)
    assert nested.estimate(with_refits, mean).n_units == 50  # texts that three sets share
    assert nested.estimate(without, mean).n_units == 3


def test_sets_are_given_and_the_interval_over_sets_is_another() -> None:
    """Sets that differ by 1 make a suite that could have been another; the suite that it is has a narrow interval."""
    units, _ = world(np.random.default_rng(2), 8, 300, 0.01, 0.1)
    draws = nested.draw(units, seed=0, resamples=400)
    own, wide = nested.estimate(draws, mean), nested.over_sets(draws, mean)
    assert own.value == wide.value
    assert own.high is not None
    assert own.low is not None
    assert wide.high is not None
    assert wide.low is not None
    assert own.high - own.low < 0.1
    assert wide.high - wide.low > 1
    assert wide.n_units == 8


def test_a_table_without_refits_is_read_as_it_was_measured() -> None:
    units, _ = world(np.random.default_rng(3), 8, 30, 0.01, 0.1)
    old = nested.draw(units.where(lambda unit: not nested.is_refit(unit)), seed=0, resamples=200)
    assert nested.estimate(old, mean) == nested.over_sets(old, mean)


def test_two_saes_share_refits() -> None:
    """Refits that move two SAEs alike cancel in their difference; each SAE's own interval holds them."""
    rng = np.random.default_rng(4)
    one, _ = world(rng, 4, 100, 0.5, 0.01)
    other = Units(one.ids, one.columns | {"x": one.columns["x"] + 0.2 * one.columns["examples"]})
    a, b = (nested.draw(u, seed=0, resamples=300) for u in (one, other))
    first, second = (nested.replicates_of(d, mean, [mean(s) for s in d.points], d.weights) for d in (a, b))
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert first.std() > 0.2
    assert (second - first).std() < 0.01


def test_a_set_without_a_figure_is_in_no_replicate() -> None:
    """A refit may have what the fit has not, such as a predicted positive; a figure is not made of it alone."""

    def of(s: Sums) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(s.x > 0, s.x / s.examples, np.nan)

    units, _ = world(np.random.default_rng(5), 3, 50, 0.3, 0.1)
    gone = units.columns["x"].copy()
    first = [i for i, unit in enumerate(units.ids) if unit.startswith("s0") and not nested.is_refit(unit)]
    gone[first] = 0.0
    draws = nested.draw(Units(units.ids, units.columns | {"x": gone}), seed=0, resamples=200)
    points = [of(s) for s in draws.points]
    assert np.isnan(points[0]).all()
    replicates = nested.replicates_of(draws, of, points, draws.weights)
    assert isinstance(replicates, np.ndarray)
    assert replicates.mean() == pytest.approx(1.5, abs=0.2)


def test_a_share_has_no_value_where_ceiling_and_floor_are_not_apart_beyond_their_noise() -> None:
    """The noise of fitting counts too: here the test part alone would call a difference of 0.1 certain."""

    def share(s: Sums) -> Ratio:
        return Ratio(s.x / s.examples, s.y / s.examples, "the ceiling above the floor")

    for spread, has in ((0.01, True), (0.1, False)):
        units, _ = world(np.random.default_rng(6), 6, 100, spread, 0.01)
        ones = units.columns["examples"]
        y = np.where(ones > 0, 0.1, units.columns["x"])
        found = nested.estimate(nested.draw(Units(units.ids, units.columns | {"y": y}), seed=0, resamples=1000), share)
        assert (found.value is not None) == has
        assert has or "within noise of 0" in str(found.reason)


def test_refit_rows_add_up_to_nothing_and_have_the_covariance_of_refits() -> None:
    sums = {"a": np.arange(20.0) ** 2, "b": np.sin(np.arange(20.0))}
    columns_of = {"a": np.zeros(5), "b": np.zeros(5), "c": np.zeros((5, 2))}
    rows = refit_rows(sums, columns_of, 20)
    assert rows["c"].shape == (20, 2)
    assert not rows["c"].any()
    assert rows["a"].sum() == pytest.approx(0, abs=1e-9)
    assert rows["a"] @ rows["b"] == pytest.approx(np.cov(sums["a"], sums["b"])[0, 1] / nested.INFLATION)
