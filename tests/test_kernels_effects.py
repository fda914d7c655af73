"""Sparsity of effects: the published formula, its analytic values and laws, and a plain loop in NumPy."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_bench.kernels import effects
from sae_bench.kernels.effects import effect_sparsity


def by_token(found):
    """Mean over tokens of the fraction within each, from the sums of each; tokens without an effect are left out."""
    return (found.token_l1.square() / (found.token_l2_squared * found.vocabulary)).nanmean(1)


def score(diff, centre="median", **more):
    return effect_sparsity(torch.as_tensor(diff, dtype=torch.float64)[None], centre=centre, **more).sparsity.item()


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def plain(diff, centre):
    """The definition, token by token, for one ablation `[tokens, vocabulary]`."""
    rows = []
    for row in np.asarray(diff, dtype=np.float64):
        middle = {"median": np.median(row), "lower_median": np.sort(row)[(len(row) - 1) // 2], "none": 0.0}[centre]
        rows.append(row - middle)
    l1, l2 = sum(np.abs(row).sum() for row in rows), math.sqrt(sum((row**2).sum() for row in rows))
    per_token = [np.abs(row).sum() ** 2 / (row**2).sum() / len(row) for row in rows if row.any()]
    return l1, l2**2, (l1 / l2) ** 2 / sum(len(row) for row in rows), np.mean(per_token)


def test_values_of_the_oracles(references):
    oracles = json.loads((references / "metrics_oracles.json").read_text())
    diff, expected = (oracles["5.ablation_sparsity"][k] for k in ("inputs", "expected"))
    diff = diff["logit_diff"]
    assert score(diff) == pytest.approx(expected["S_numpy_median"], rel=1e-12)
    assert score(diff, "lower_median") == pytest.approx(expected["S_torch_lower_median"], rel=1e-12)
    assert score(diff, "none") == pytest.approx(expected["S_no_median"], rel=1e-12)
    tokenwise = by_token(effect_sparsity(torch.tensor([diff]))).item()
    assert tokenwise == pytest.approx(expected["mean_of_per_token_ratios_WRONG"], rel=1e-6)
    one_hot, pm1 = oracles["5.ablation_one_hot"], oracles["5.ablation_pm1"]
    assert score(one_hot["inputs"]["logit_diff"]) == pytest.approx(one_hot["expected"]["S"])
    assert score(pm1["inputs"]["logit_diff"]) == pytest.approx(pm1["expected"]["S"])
    gaussian = oracles["5.ablation_gaussian"]
    assert score(noise(*gaussian["inputs"]["shape"])) == pytest.approx(gaussian["expected"]["S"], rel=1e-12)


@pytest.mark.parametrize("vocabulary", [5, 6, 101])
def test_one_moved_logit_scores_one_over_all_entries(vocabulary):
    diff = torch.zeros(1, 3, vocabulary)
    diff[0, 2, 4] = -2.5
    found = effect_sparsity(diff)
    assert found.sparsity.item() == pytest.approx(1 / (3 * vocabulary))
    assert (found.l1.item(), found.l2_squared.item(), found.entries.item()) == (2.5, 6.25, 3 * vocabulary)
    assert by_token(found).item() == pytest.approx(1 / vocabulary)  # of the one token that is affected


def test_a_constant_added_to_all_logits_is_no_effect():
    """Logits are defined up to a constant per token; a score of 1 here would call every layer-norm shift dense."""
    shift = torch.full((1, 2, 5), 1.3)
    assert math.isnan(effect_sparsity(shift).sparsity)
    assert math.isnan(by_token(effect_sparsity(shift)))
    assert effect_sparsity(shift, centre="none").sparsity.item() == pytest.approx(1)
    assert math.isnan(effect_sparsity(torch.ones(1, 2, 1)).sparsity)  # a single logit is its own median
    diff = noise(1, 4, 100)
    shifted = diff + torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(effect_sparsity(shifted).sparsity, effect_sparsity(diff).sparsity)


def test_no_effect_is_nan_and_leaves_its_neighbours_alone():
    diff = torch.zeros(3, 2, 7)
    diff[1] = noise(2, 7).float()
    found = effect_sparsity(diff)
    assert found.sparsity.isnan().tolist() == [True, False, True]
    assert found.l1[0] == 0


def test_equal_sizes_score_the_share_of_the_affected():
    diff = torch.zeros(1, 4, 1000)
    diff[:, :, :100], diff[:, :, 100:200] = 1, -1
    assert effect_sparsity(diff).sparsity.item() == pytest.approx(0.2)


@pytest.mark.parametrize("centre", ["median", "lower_median", "none"])
@pytest.mark.parametrize("vocabulary", [2, 3, 40, 41])
def test_sums_are_those_of_a_plain_loop(centre, vocabulary):
    diff = noise(4, 3, vocabulary) + 1
    found = effect_sparsity(diff, centre=centre)
    expected = np.array([plain(d, centre) for d in diff.numpy()])
    tokenwise = by_token(found)
    for ours, theirs in zip((found.l1, found.l2_squared, found.sparsity, tokenwise), expected.T, strict=True):
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_tokens_behind_the_end_do_not_count():
    diff = noise(3, 5, 11)
    valid = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    diff[1, 2:], diff[2] = math.nan, math.inf  # nobody said what stands there
    found = effect_sparsity(diff, valid)
    torch.testing.assert_close(found.sparsity[0], effect_sparsity(diff[:1]).sparsity[0])
    torch.testing.assert_close(found.sparsity[1], effect_sparsity(diff[1:2, :2]).sparsity[0])
    assert found.entries.tolist() == [55, 22, 0]
    assert math.isnan(found.sparsity[2])


@given(seed=st.integers(0, 1000), vocabulary=st.integers(2, 30), scale=st.sampled_from([1e-8, -1.0, 3.7, 1e6]))
@settings(max_examples=40, deadline=None)
def test_laws(seed, vocabulary, scale):
    """Free of scale and sign, of the order of vocabulary and tokens, and between 1/entries and 1."""
    diff = noise(2, 3, vocabulary, seed=seed)
    found = effect_sparsity(diff)
    torch.testing.assert_close(effect_sparsity(diff * scale).sparsity, found.sparsity, rtol=1e-9, atol=0)
    order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))
    permuted = effect_sparsity(diff[:, :, order].flip(1))
    torch.testing.assert_close(permuted.sparsity, found.sparsity, rtol=1e-12, atol=0)
    torch.testing.assert_close(by_token(permuted), by_token(found), rtol=1e-12, atol=0)
    assert (found.sparsity >= 1 / found.entries - 1e-12).all()
    assert (found.sparsity <= 1 + 1e-12).all()
    torch.testing.assert_close(effect_sparsity(diff[1:]).l1, found.l1[1:], rtol=0, atol=0)


def test_the_lower_median_depends_on_the_sign():
    """Why it is not the default: ablating and adding the same latent would score differently."""
    diff = torch.tensor([[[3.0, 0.0, 0.0, 1.0], [0.0, 0.0, 2.0, 1.0]]])
    assert effect_sparsity(diff).sparsity == effect_sparsity(-diff).sparsity
    low, high = (effect_sparsity(d, centre="lower_median").sparsity for d in (diff, -diff))
    assert abs(low - high) > 0.01


def test_float32_keeps_what_it_was_given():
    diff = noise(2, 4, 2001)
    half = effect_sparsity(diff.float())
    torch.testing.assert_close(half.sparsity, effect_sparsity(diff.float().double()).sparsity, rtol=1e-13, atol=0)
    before = diff.clone()
    effect_sparsity(diff)
    assert torch.equal(diff, before)


@pytest.mark.parametrize("centre", ["median", "lower_median", "none"])
@pytest.mark.parametrize("vocabulary", [2, 3, 50, 51])
def test_both_implementations_agree_also_on_ties(centre, vocabulary):
    """A GPU takes the other one; its operations run here too."""
    rows = torch.cat([noise(6, vocabulary), noise(6, vocabulary).round()]).float()
    np.testing.assert_allclose(
        effects._sums_on_cpu(rows.numpy(), centre), effects._sums_on_accelerator(rows, centre), rtol=1e-13
    )


def test_the_size_of_a_chunk_changes_nothing(monkeypatch):
    diff = noise(5, 4, 33)
    expected = effect_sparsity(diff)
    for size in (1, 33 * 3, 1 << 30):
        monkeypatch.setattr(effects, "CHUNK_ELEMENTS", size)
        found = effect_sparsity(diff)
        assert torch.equal(found.token_l1, expected.token_l1)
        assert torch.equal(found.token_l2_squared, expected.token_l2_squared)


def test_no_ablation_is_an_empty_result():
    assert effect_sparsity(torch.zeros(0, 4, 9)).sparsity.shape == (0,)


@pytest.mark.parametrize(
    ("diff", "more", "says"),
    [
        (torch.zeros(2, 3), {}, "must be float32 or float64"),
        (torch.zeros(2, 3, 4, dtype=torch.bfloat16), {}, "not torch.bfloat16"),
        (torch.zeros(2, 0, 4), {}, "with a token"),
        (torch.zeros(2, 3, 4), {"valid": torch.ones(2, 4, dtype=torch.bool)}, r"valid must be bool \[2, 3\]"),
        (torch.zeros(2, 3, 4), {"valid": torch.ones(2, 3)}, "valid must be bool"),
        (torch.zeros(2, 3, 4), {"centre": "mean"}, "centre must be"),
    ],
)
def test_what_does_not_fit_is_refused(diff, more, says):
    with pytest.raises(ValueError, match=says):
        effect_sparsity(diff, **more)
