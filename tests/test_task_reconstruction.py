"""Reconstruction figures: worked numbers, what must be exact, and what must not change them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.views import ArrayView, assert_same, cut, figures, measure_all, task

DIMENSIONLESS = ("fvu", "nmse", "cosine", "norm_ratio", "relative_reconstruction_bias")
X = [[1.0, 2.0], [3.0, 0.0], [0.0, 4.0], [2.0, 2.0]]
X_HAT = [[1.0, 1.0], [2.0, 0.0], [0.0, 3.0], [2.0, 2.0]]


def view_of(x, x_hat, lengths=None, **changes):
    x = torch.as_tensor(x, dtype=torch.float64)
    return ArrayView(x, torch.as_tensor(x_hat, dtype=torch.float64), lengths or [1] * len(x), **changes)


def measured(view, splits=None):
    made = task("reconstruction")
    return figures(made, measure_all(made, view, splits))


def values(view, splits=None):
    return {name: e.value for name, e in measured(view, splits).items()}


def random_view(seed=0, lengths=(5, 1, 0, 9, 3, 7), d=6, dtype=torch.float64, **changes):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 2
    x_hat = 0.8 * x + 0.3 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return ArrayView(x.to(dtype), x_hat.to(dtype), list(lengths), **changes)


def test_worked_example():
    found = values(view_of(X, X_HAT, [2, 2]))
    norms = np.linalg.norm(X_HAT, axis=1) / np.linalg.norm(X, axis=1)
    assert found["fvu"] == pytest.approx(3 / 13, abs=1e-15)
    assert found["nmse"] == pytest.approx(3 / 38, abs=1e-15)
    assert found["mse"] == pytest.approx(0.375, abs=1e-15)
    assert found["relative_reconstruction_bias"] == pytest.approx(23 / 29, abs=1e-15)
    assert found["norm_ratio"] == pytest.approx(norms.mean(), abs=1e-15)
    assert found["first_mse"] == pytest.approx(0.5)  # tokens 0 and 2, one error of 1 in four numbers each: 2 / 4


@pytest.mark.parametrize("splits", [None, [[0], [1], [2], [3]], [[0, 1], [2, 3]], [[3, 1], [2, 0]]])
def test_oracles(references, splits):
    oracles = json.loads((references / "metrics_oracles.json").read_text())

    def found(key):
        return values(view_of(oracles[key]["inputs"]["x"], oracles[key]["inputs"]["xhat"]), splits)

    def expected(key):
        return oracles[key]["expected"]

    nmse = expected("1.nmse")
    mine = found("1.nmse")
    assert mine["fvu"] == pytest.approx(nmse["nmse_mean_baseline_ratio_of_sums"], abs=1e-15)
    assert 1 - mine["fvu"] == pytest.approx(nmse["explained_variance_1_minus_fvu"], abs=1e-15)
    assert mine["nmse"] == pytest.approx(nmse["ratio_of_sums_uncentred"], abs=1e-15)
    assert mine["mse"] == pytest.approx(nmse["mse_elementwise"], abs=1e-15)
    assert mine["fvu"] == pytest.approx(expected("1.nmse_streaming")["correct"], abs=1e-15)
    assert mine["fvu"] != pytest.approx(expected("1.nmse_streaming")["per_batch_mean_then_average_WRONG"])
    assert 1 - found("1.var_form_is_blind_to_bias")["fvu"] == pytest.approx(
        expected("1.var_form_is_blind_to_bias")["correct_ev"], abs=1e-12
    )
    assert found("1.predict_mean_is_one")["fvu"] == expected("1.predict_mean_is_one")["nmse"] == 1.0
    assert mine["relative_reconstruction_bias"] == pytest.approx(expected("3.gamma_2d")["gamma_v2"], abs=1e-15)
    assert mine["norm_ratio"] == pytest.approx(expected("3.gamma_2d")["mean_norm_ratio"], abs=1e-15)
    pooled = found("3.gamma_per_batch_average")["relative_reconstruction_bias"]
    assert pooled == pytest.approx(expected("3.gamma_per_batch_average")["ratio_of_means"], abs=1e-15)


@pytest.mark.parametrize("scale", [1.0, 0.01, 1e-3, 10.0, 100.0, 1e4])
def test_explained_variance_is_right_at_any_scale(references, scale):
    case = json.loads((references / "metrics_oracles.json").read_text())["1.saelens_explained_variance_defect"]
    x, x_hat = (scale * np.array(case["inputs"][k]) for k in ("x", "xhat"))
    found = values(view_of(x, x_hat))
    assert 1 - found["fvu"] == pytest.approx(case["expected"]["correct"], abs=1e-14)
    assert found["mse"] == pytest.approx(case["expected"]["mse_per_token"] / 2 * scale**2)


@pytest.mark.parametrize("key", ["3.gamma_1d", "3.gamma_2d", "3.gamma_unbiased_projection"])
def test_relative_reconstruction_bias_oracles(references, key):
    case = json.loads((references / "metrics_oracles.json").read_text())[key]
    found = values(view_of(case["inputs"]["x"], case["inputs"]["xhat"]))
    assert found["relative_reconstruction_bias"] == pytest.approx(case["expected"]["gamma_v2"], abs=1e-15)
    assert found["norm_ratio"] == pytest.approx(case["expected"]["mean_norm_ratio"], abs=1e-15)


def test_norm_ratio_leaves_out_tokens_without_length(references):
    case = json.loads((references / "metrics_oracles.json").read_text())["14.norm_ratio"]
    found = values(view_of(case["inputs"]["x"], case["inputs"]["xhat"]))
    assert found["norm_ratio"] == pytest.approx(case["expected"]["mean_ratio_tiny_norms_excluded"], abs=1e-12)


def test_perfect_reconstruction():
    view = random_view()
    found = values(ArrayView(view.x, view.x.clone(), view.lengths))
    assert found["fvu"] == found["nmse"] == found["mse"] == 0.0
    assert found["cosine"] == pytest.approx(1, abs=1e-14)
    assert found["norm_ratio"] == 1.0
    assert found["relative_reconstruction_bias"] == pytest.approx(1, abs=1e-14)


def test_mean_of_the_data_has_fvu_exactly_one():
    """Whatever the activations are: this is the anchor of the scale."""
    for seed in range(20):
        x = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + seed
        found = values(view_of(x, x.mean(0).expand_as(x), [10] * 4))
        assert found["fvu"] == pytest.approx(1, abs=1e-12)
        assert found["relative_reconstruction_bias"] == pytest.approx(1, abs=1e-12)  # the mean is unbiased, not good


def test_scaled_reconstruction_has_known_figures():
    view = random_view()
    found = values(ArrayView(view.x, 0.5 * view.x, view.lengths))
    assert found["nmse"] == pytest.approx(0.25, abs=1e-14)
    assert found["cosine"] == pytest.approx(1, abs=1e-14)
    assert found["norm_ratio"] == pytest.approx(0.5, abs=1e-14)
    assert found["relative_reconstruction_bias"] == pytest.approx(0.5, abs=1e-14)


def test_inverse_of_the_bias_is_the_best_rescaling():
    view = random_view(3)
    found = values(view)["relative_reconstruction_bias"]

    def error(scale):
        return float((view.x - scale * view.x_hat).square().sum())

    assert error(1 / found) < min(error(1 / found + 1e-4), error(1 / found - 1e-4))


def test_permuted_and_random_reconstructions_are_worse_than_the_mean():
    view = random_view(1, lengths=(200,) * 4)
    order = torch.randperm(800, generator=torch.Generator().manual_seed(0))
    assert values(ArrayView(view.x, view.x[order], view.lengths))["fvu"] == pytest.approx(2, abs=0.1)
    noise = torch.randn(800, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    centred = view.x - view.x.mean(0)
    found = values(ArrayView(centred, noise, view.lengths))
    assert found["fvu"] == pytest.approx(1 + float(noise.square().sum() / centred.square().sum()), rel=0.05)
    assert abs(found["cosine"]) < 0.05


def test_dead_reconstruction_has_no_direction_and_no_bias():
    view = random_view()
    found = measured(ArrayView(view.x, torch.zeros_like(view.x), view.lengths))
    assert found["nmse"].value == 1.0
    assert found["norm_ratio"].value == 0.0
    for name in ("cosine", "relative_reconstruction_bias"):
        assert found[name].value is None
        assert found[name].reason


def test_a_reconstruction_that_points_away_has_no_relative_bias():
    """The best rescaling would turn it around: that is no measure of shrinkage."""
    view = random_view()
    found = measured(ArrayView(view.x, -view.x, view.lengths))["relative_reconstruction_bias"]
    assert found.value is None
    assert "-" in found.reason
    assert "x̂·x" in found.reason


def test_a_token_of_zeros_spoils_nothing():
    view = random_view()
    x, x_hat = view.x.clone(), view.x_hat.clone()
    x[3], x_hat[7] = 0, 0
    found = measured(ArrayView(x, x_hat, view.lengths))
    assert all(e.value is not None for name, e in found.items() if name != "first_fvu")
    kept = torch.tensor([i not in (3, 7) for i in range(len(x))])
    cosines = torch.nn.functional.cosine_similarity(x[kept], x_hat[kept])
    assert found["cosine"].value == pytest.approx(float(cosines.mean()))
    made = task("reconstruction")
    assert made.details(measure_all(made, ArrayView(x, x_hat, view.lengths)))["tokens_without_direction"] == 2


def test_one_token_has_no_variance_and_says_so():
    found = measured(view_of([[1.0, 2.0]], [[1.0, 1.0]]))
    assert found["fvu"].value is None
    assert "variance" in found["fvu"].reason
    assert found["mse"].value == 0.5
    assert (found["mse"].low, found["mse"].high) == (None, None)


def test_constant_activations_have_no_variance():
    """BOS at position 0 carries the same vector everywhere, up to the rounding of the model."""
    x = torch.full((50, 8), 123.456, dtype=torch.float64)
    x += 1e-6 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert measured(view_of(x, x + 1))["fvu"].value is None


def test_all_tokens_masked_gives_reasons_and_no_numbers():
    view = random_view(kept=torch.zeros(25, dtype=torch.bool))
    found = measured(view)
    for name, e in found.items():
        if not name.startswith("first_"):
            assert e.value is None, name
            assert e.reason, name
    assert found["first_mse"].value is not None  # position 0 is measured inside the mask or not


def test_documents_without_tokens_change_nothing():
    view = random_view(lengths=(5, 9, 3))
    holes = random_view(lengths=(5, 0, 9, 0, 3, 0))
    plain, with_holes = values(view), values(holes)
    assert plain == pytest.approx(with_holes, abs=1e-14)


def test_masked_tokens_do_not_count_even_if_they_are_not_finite():
    view = random_view()
    view.kept[[2, 11]] = False
    before = values(view)
    view.x_hat[[2, 11]] = torch.nan
    assert values(view) == pytest.approx(before)


def test_position_0_figures_are_those_of_position_0_alone():
    view = random_view(lengths=(4, 1, 0, 6, 2))
    starts = [0, 4, 5, 11]
    alone = values(ArrayView(view.x[starts], view.x_hat[starts], [1, 1, 1, 1]))
    found = values(view)
    for name in (*DIMENSIONLESS, "mse"):
        assert found[f"first_{name}"] == pytest.approx(alone[name], abs=1e-13), name


def test_large_mean_does_not_cancel_the_variance():
    """Residual streams have channels hundreds of times larger than the rest: float32 sums would lose the variance."""
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 0] += 3000
    x_hat = x + 0.1 * torch.randn(4000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    assert values(view_of(x, x_hat, [100] * 40))["fvu"] == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_float64_whatever_the_model_computes_in(dtype):
    view = random_view(2, lengths=(400,) * 5, dtype=dtype)
    x, x_hat = view.x.double(), view.x_hat.double()
    exact = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    assert values(view)["fvu"] == pytest.approx(exact, rel=1e-11)


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(0, 6), min_size=2, max_size=12),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
)
def test_neither_batches_nor_scale_change_a_figure(seed, lengths, sizes, order, scale):
    lengths = [*lengths, 4, 3]
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(sum(lengths), generator=generator) > 0.3
    view = random_view(seed, lengths=lengths, kept=kept)
    positions = list(range(len(lengths)))
    order.shuffle(positions)
    splits = [[positions[i] for i in group] for group in cut(len(positions), sizes)]
    whole, parts = measured(view), measured(view, splits)
    scaled = measured(
        ArrayView(view.x * scale, view.x_hat * scale, view.lengths, kept=kept, rms=view.rms * scale), splits
    )
    for name, e in whole.items():
        assert_same(e, parts[name], 1e-12)
        if name not in ("mse", "first_mse"):
            assert_same(e, scaled[name], 1e-9)
        else:
            assert_same(e, scaled[name], 1e-9, scale**2)


def test_a_document_in_several_sequences_is_one_unit():
    """Cutting a document up changes neither figure nor interval; only position 0 is another token then."""
    view = random_view(lengths=(6, 6, 6, 6))
    cut_up = ArrayView(view.x, view.x_hat, [3] * 8, ids=[f"document {i // 2:03d}" for i in range(8)])
    whole, parts = measured(view), measured(cut_up)
    for name in (*DIMENSIONLESS, "mse"):
        assert parts[name].n_units == 4
        assert_same(whole[name], parts[name], 1e-13)


def test_pooled_bias_is_not_a_mean_of_batch_ratios():
    """With heavy-tailed norms the mean of batch ratios is another number."""
    generator = torch.Generator().manual_seed(0)
    size = torch.exp(2 * torch.randn(64, 1, generator=generator, dtype=torch.float64))
    x = size * torch.randn(64, 4, generator=generator, dtype=torch.float64)
    x_hat = x / (1 + 0.2 * size)
    exact = float(x_hat.square().sum() / (x * x_hat).sum())
    for splits in (None, cut(16, [1]), cut(16, [3, 5])):
        found = values(view_of(x, x_hat, [4] * 16), splits)["relative_reconstruction_bias"]
        assert found == pytest.approx(exact, rel=1e-13)


def test_only_the_figures_of_the_definition_exist():
    made = task("reconstruction")
    assert set(made.metrics) == set(made.spec.metrics)
