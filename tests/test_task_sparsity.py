"""Sparsity figures: worked numbers, signed latents, and what must not change them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_bench.saes.protocol import codes_from_dense
from sae_bench.units import folds
from tests.builders.views import ArrayView, assert_same, cut, figures, measure_all, task


def view_of(latents, lengths=None, norms=None, **changes):
    latents = torch.as_tensor(latents, dtype=torch.float64)
    x = torch.zeros(len(latents), 2, dtype=torch.float64)
    norms = None if norms is None else torch.as_tensor(norms, dtype=torch.float64)
    return ArrayView(x, x, lengths or [1] * len(x), codes=codes_from_dense(latents), decoder_norms=norms, **changes)


def latents_of(seed=0, tokens=40, n=12, signed=True):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(tokens, n, generator=generator, dtype=torch.float64)
    latents = latents * (torch.rand(tokens, n, generator=generator) < torch.linspace(0, 0.9, n))
    return latents if signed else latents.abs()


def measured(view, splits=None):
    made = task("sparsity")
    return figures(made, measure_all(made, view, splits))


def values(view, splits=None):
    return {name: e.value for name, e in measured(view, splits).items()}


@pytest.mark.parametrize("splits", [None, cut(10, [1]), cut(10, [3, 2])])
def test_density_oracle(references, splits):
    case = json.loads((references / "metrics_oracles.json").read_text())["10.density"]
    made = task("sparsity")
    view = view_of(case["inputs"]["acts"])
    tables = measure_all(made, view, splits)
    found = {name: e.value for name, e in figures(made, tables).items()}
    expected = case["expected"]
    assert (folds.active_tokens(tables["fold"]) / 10).tolist() == expected["freq"]
    assert found["l0"] == pytest.approx(expected["L0"])
    assert found["dead_fraction"] == pytest.approx(expected["dead"])
    assert found["dense_fraction_10pct"] == pytest.approx(expected["frac_latents_freq_gt_10pct"])
    assert found["dense_fraction_1pct"] == pytest.approx(expected["frac_latents_freq_gt_1pct"])
    assert 1 - found["dead_fraction"] == pytest.approx(expected["frac_alive"])


def test_exactly_the_threshold_is_not_dense():
    """Strictly more than 10 % of tokens, for every number of tokens for which 10 % is whole."""
    for tokens in (10, 30, 70, 1000):
        latents = np.zeros((tokens, 2))
        latents[: tokens // 10, 0] = 1
        latents[: tokens // 10 + 1, 1] = 1
        assert values(view_of(latents))["dense_fraction_10pct"] == 0.5


def test_negative_latents_are_active_and_count_with_their_size():
    """AbsTopK and PCA have signed latents: `> 0` would miss half of them, a signed sum would cancel."""
    found = values(view_of([[2.0, -3.0, 0.0], [-1.0, 0.0, 0.0]], norms=[1.0, 2.0, 5.0]))
    assert found["l0"] == 1.5
    assert found["l1"] == 3.0
    assert found["l1_contribution"] == (2 + 6 + 1) / 2
    assert found["dead_fraction"] == pytest.approx(1 / 3)
    signed, absolute = latents_of(), latents_of(signed=False)
    assert values(view_of(signed)) == pytest.approx(values(view_of(absolute)))


def test_share_of_contribution_of_dense_latents():
    latents = np.zeros((20, 3))
    latents[:, 0], latents[:2, 1], latents[0, 2] = 1.0, 5.0, 4.0
    found = values(view_of(latents, norms=[1.0, 1.0, 2.0]))
    assert found["dense_contribution_10pct"] == pytest.approx(20 / (20 + 10 + 8))
    assert found["dense_contribution_1pct"] == 1.0
    assert found["dense_fraction_10pct"] == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), exponents=st.lists(st.integers(-6, 6), min_size=12, max_size=12))
def test_rescaling_a_latent_and_its_direction_changes_no_contribution(seed, exponents):
    scale = 2.0 ** torch.tensor(exponents, dtype=torch.float64)
    latents, norms = latents_of(seed), torch.rand(12, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    plain, scaled = measured(view_of(latents, norms=norms)), measured(view_of(latents * scale, norms=norms / scale))
    for name, e in plain.items():
        if name != "l1":
            assert_same(e, scaled[name], 1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), order=st.permutations(range(12)))
def test_the_order_of_latents_changes_nothing(seed, order):
    """An SAE has no first latent: permuting it must give the same documents, to the bit of each sum."""
    made = task("sparsity")
    latents = latents_of(seed)
    norms = torch.linspace(0.5, 2, 12, dtype=torch.float64)
    lengths = [7, 0, 13, 20]
    plain = measure_all(made, view_of(latents, lengths, norms))
    moved = measure_all(made, view_of(latents[:, order], lengths, norms[list(order)]))
    for name, column in plain["document"].columns.items():
        assert moved["document"].columns[name] == pytest.approx(column, rel=1e-14, abs=0), name
    assert (moved["fold"].columns["active"] == plain["fold"].columns["active"][:, list(order)]).all()
    for name, e in figures(made, plain).items():
        if made.spec.metrics[name].table == "fold":
            assert_same(e, figures(made, moved)[name], 1e-12)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=9),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    order=st.randoms(use_true_random=False),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
)
def test_neither_batches_nor_scale_change_a_figure(seed, lengths, sizes, order, scale):
    lengths = [*lengths, 3]
    tokens = sum(lengths)
    latents = latents_of(seed, tokens)
    kept = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) > 0.3
    positions = list(range(len(lengths)))
    order.shuffle(positions)
    splits = [[positions[i] for i in group] for group in cut(len(positions), sizes)]
    whole = measured(view_of(latents, lengths, kept=kept))
    parts = measured(view_of(latents, lengths, kept=kept), splits)
    scaled = measured(view_of(latents * scale, lengths, kept=kept))
    for name, e in whole.items():
        assert_same(e, parts[name], 1e-12)
        assert_same(e, scaled[name], 1e-12, scale if name.startswith("l1") else 1.0)


def test_masked_tokens_count_neither_for_documents_nor_for_latents():
    latents = latents_of(tokens=10)
    kept = torch.arange(10) % 3 != 0
    made = task("sparsity")
    found = measure_all(made, view_of(latents, [4, 6], kept=kept))
    fewer = measure_all(made, view_of(latents[kept], [2, 4]))
    for key, units in fewer.items():
        for name, column in units.columns.items():
            assert found[key].columns[name] == pytest.approx(column, rel=1e-14), name
    assert made.details(found) == made.details(fewer)


def test_dead_sae_has_figures_and_no_contribution():
    made = task("sparsity")
    tables = measure_all(made, view_of(torch.zeros(30, 7), [10] * 3), [[0], [1, 2]])
    assert all(c.dtype == np.float64 for c in tables["document"].columns.values())
    found = figures(made, tables)
    assert (found["l0"].value, found["l1"].value, found["dead_fraction"].value) == (0.0, 0.0, 1.0)
    assert found["dense_contribution_10pct"].value is None
    assert "contribution" in found["dense_contribution_10pct"].reason
    assert made.details(tables)["never_active"] == 7


def test_sae_without_latents_has_l0_of_zero_and_reasons():
    """The mean control is such a coder."""
    found = measured(view_of(torch.zeros(6, 0), [3, 3]))
    assert found["l0"].value == 0.0
    for name in ("dead_fraction", "dense_fraction_1pct", "dense_contribution_1pct"):
        assert found[name].value is None
        assert found[name].reason


def test_all_tokens_masked_gives_reasons():
    found = measured(view_of(latents_of(tokens=5), [5], kept=torch.zeros(5, dtype=torch.bool)))
    for name in ("l0", "l1", "l1_contribution"):
        assert found[name].value is None
        assert "number of tokens is 0" in found[name].reason


def test_every_latent_on_every_token():
    found = values(view_of(torch.ones(30, 4), [10] * 3))
    assert (found["l0"], found["l1"], found["dead_fraction"]) == (4.0, 4.0, 0.0)
    assert found["dense_fraction_10pct"] == found["dense_contribution_10pct"] == 1.0


def test_details_hold_every_live_latent_once():
    made = task("sparsity")
    tables = measure_all(made, view_of(latents_of(tokens=200, n=50), [50] * 4))
    details = made.details(tables)
    histogram = details["density_histogram"]
    assert sum(histogram["latents"]) + details["never_active"] == 50
    assert len(histogram["log10_edges"]) == len(histogram["latents"]) + 1
    assert details["tokens"] == 200
    assert json.loads(json.dumps(details)) == details


def test_bf16_latents_are_summed_in_float64():
    latents = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    codes = codes_from_dense(latents)
    x = torch.zeros(4000, 2)
    found = values(ArrayView(x, x, [1000] * 4, codes=codes))
    assert found["l1"] == pytest.approx(float(latents.double().sum() / 4000), rel=1e-12)
