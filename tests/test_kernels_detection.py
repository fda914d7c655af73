"""Scores of a judge's answers: the reference's cases, scikit-learn, and judges who know nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from sae_bench.kernels import detection as d


def oracle(references, name):
    entry = json.loads((references / "metrics_oracles.json").read_text())[name]
    return entry["inputs"], entry["expected"]


def one_latent(fires, probability):
    """Windows of one latent whose positives are all of one decile and whose silent windows are random."""
    stratum = np.where(np.asarray(fires, dtype=bool), 9, d.RANDOM)
    return d.columns(np.zeros(len(stratum), dtype=int), stratum, probability, 1)


def some_windows(seed, n=400, n_latents=3, missing=0.0):
    rng = np.random.default_rng(seed)
    latent, stratum = rng.integers(0, n_latents, n), rng.integers(0, d.STRATA, n)
    p = np.round(np.clip(0.5 + 0.25 * (stratum < 10) - 0.1 + 0.3 * rng.standard_normal(n), 0, 1), 1)  # with ties
    p[rng.random(n) < missing] = math.nan
    return latent, stratum, p


def test_detection_of_the_reference(references):
    inputs, expected = oracle(references, "12.detection")
    graded = one_latent(inputs["y"], inputs["prob"])
    assert d.auroc(graded) == pytest.approx(expected["auroc"], rel=1e-15)
    for answers in (inputs["prob"], inputs["pred"]):
        sums = one_latent(inputs["y"], answers)
        assert d.accuracy(sums) == pytest.approx(expected["accuracy"])
        assert d.balanced_accuracy(sums) == pytest.approx(expected["balanced_accuracy"])
        assert d.recall(sums) == pytest.approx(expected["recall"])
        sizes = np.zeros((1, d.STRATA))
        sizes[0, [9, d.RANDOM]] = 4, 2  # the windows are the text
        at_natural_rates = d.natural(sums, sizes)
        assert d.natural_precision(at_natural_rates) == pytest.approx(expected["precision"])
        assert d.natural_f1(at_natural_rates) == pytest.approx(expected["f1"])


def test_missing_answers_of_the_reference(references):
    inputs, expected = oracle(references, "12.detection_parse_failures")
    sums = one_latent(inputs["y"], inputs["pred"])
    assert sums["missing"].sum() == expected["n_failed"]
    assert d.balanced_accuracy(sums) == expected["balanced_accuracy_if_dropped"]
    assert d.balanced_accuracy(sums, "wrong") == expected["balanced_accuracy_if_counted_wrong"]
    assert d.balanced_accuracy(sums, "chance") == (3.5 / 4 + 0.5 / 2) / 2
    assert d.missing_share(sums) == 2 / 6


def test_plain_accuracy_of_the_reference(references):
    """Answering "none" has an accuracy of 0.714, and no more than chance once that is corrected."""
    inputs, expected = oracle(references, "12.saebench_autointerp")
    n = len(inputs["labels"])
    assert d.accuracy(one_latent(inputs["labels"], inputs["pred"])) == pytest.approx(expected["score"])
    none, everything = one_latent(inputs["labels"], [0] * n), one_latent(inputs["labels"], [1] * n)
    assert d.accuracy(none) == pytest.approx(expected["answer_none"])
    assert d.accuracy(everything) == pytest.approx(expected["answer_all"])
    assert d.balanced_accuracy(none) == expected["balanced_answer_none"]
    assert d.detection(none) == d.detection(everything) == 0


def test_intruders_of_the_reference(references):
    inputs, expected = oracle(references, "12.intruder")
    options = inputs["n_options"]
    assert d.intruder_accuracy(inputs["correct"], options=options) == expected["accuracy_failures_wrong"]
    assert d.intruder_accuracy(inputs["correct"], "out", options) == pytest.approx(2 / 3)
    assert d.intruder_accuracy(inputs["correct"], "chance", options) == pytest.approx(2.2 / 4)
    assert d.above_chance(expected["chance"], options) == 0
    assert d.above_chance(1.0, options) == 1
    assert d.above_chance(0.5, options) == pytest.approx(0.3 / 0.8)
    assert math.isnan(d.intruder_accuracy([None], "out"))
    assert d.intruder_accuracy([None, None], "chance") == 0.2


def test_frequency_weights_of_the_reference(references):
    inputs, expected = oracle(references, "12.frequency_weighted_f1")
    assert d.frequency_weighted(inputs["f1"], inputs["freq"]) == pytest.approx(expected["weighted"], rel=1e-15)
    assert d.frequency_weighted(inputs["f1"], np.ones(4)) == pytest.approx(expected["unweighted"], rel=1e-15)
    assert d.frequency_weighted([0.5, math.nan], [2, 0]) == 0.5
    assert math.isnan(d.frequency_weighted([0.5, math.nan], [2, 1]))
    assert math.isnan(d.frequency_weighted([0.5], [0]))
    with pytest.raises(ValueError, match="a weight of 0 or more"):
        d.frequency_weighted([0.5, 0.5], [2, -1])


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_a_latent_are_those_of_scikit_learn(seed):
    latent, stratum, p = some_windows(seed, missing=0.1)
    sums = d.columns(latent, stratum, p, 3)
    kinds = {(d.RANDOM, d.MATCHED): stratum >= 10, (d.RANDOM,): stratum == 10, (d.MATCHED,): stratum == 11}
    for i in range(3):
        own = (latent == i) & ~np.isnan(p)
        y, called = stratum[own] < 10, p[own] >= 0.5
        assert d.accuracy(sums)[i] == pytest.approx(accuracy_score(y, called))
        assert d.recall(sums)[i] == pytest.approx(recall_score(y, called))
        assert d.specificity(sums)[i] == pytest.approx(recall_score(~y, ~called))
        assert d.brier(sums)[i] == pytest.approx(brier_score_loss(y, p[own]))
        for negatives, silent in kinds.items():
            some = own & ((stratum < 10) | silent)
            y, called = stratum[some] < 10, p[some] >= 0.5
            expected = balanced_accuracy_score(y, called)
            assert d.balanced_accuracy(sums, negatives=negatives)[i] == pytest.approx(expected)
            assert d.detection(sums, negatives=negatives)[i] == pytest.approx(2 * expected - 1)
            assert d.auroc(sums, negatives)[i] == pytest.approx(roc_auc_score(y, p[some]))
        for k in range(d.STRATA):
            answers = p[own & (stratum == k)] >= 0.5
            assert d.by_stratum(sums)[i, k] == pytest.approx(np.mean(answers == (k < 10)))


@pytest.mark.parametrize("seed", range(3))
def test_natural_rates_are_those_of_the_whole_text(seed):
    """A text judged in full, and a sample of a few windows a stratum: the sample has the figures of the text."""
    latent, stratum, p = some_windows(seed, n=6000, n_latents=2)
    rng = np.random.default_rng(seed)
    keep = rng.random(6000) < np.where(stratum < 10, 0.1, 1)  # firing is rare
    latent, stratum, p = latent[keep], stratum[keep], p[keep]
    sizes = d.columns(latent, stratum, p, 2)["answered"]
    full = d.natural(d.columns(latent, stratum, p, 2), sizes)
    for i in range(2):
        y, called = stratum[latent == i] < 10, p[latent == i] >= 0.5
        assert d.natural_precision(full)[i] == pytest.approx(precision_score(y, called))
        assert d.natural_f1(full)[i] == pytest.approx(f1_score(y, called))
        assert full["natural_positive"][i] == y.sum()
    places = [np.flatnonzero((latent == i) & (stratum == k))[:20] for i in range(2) for k in range(d.STRATA)]
    sampled = []
    for _ in range(300):
        some = np.concatenate([rng.permutation(own)[:8] for own in places])
        part = d.natural(d.columns(latent[some], stratum[some], p[some], 2), sizes)
        sampled.append([part["natural_true_positive"], part["natural_predicted"]])
    first = np.concatenate(places)
    of_places = d.natural(d.columns(latent[first], stratum[first], p[first], 2), sizes)
    expected = [of_places["natural_true_positive"], of_places["natural_predicted"]]
    np.testing.assert_allclose(np.mean(sampled, axis=0), expected, rtol=0.05)  # unbiased


def test_natural_precision_of_rare_firing():
    """Recall 0.74 and false alarms 0.26 look fine, and mean a precision of 0.003 where 1 window in 1000 fires."""
    stratum = np.repeat([9, d.RANDOM], 100)
    p = np.concatenate([np.arange(100) < 74, np.arange(100) < 26]).astype(float)
    sums = d.columns(np.zeros(200, dtype=int), stratum, p, 1)
    sizes = np.zeros((1, d.STRATA))
    sizes[0, [9, d.RANDOM]] = 1, 999
    assert d.balanced_accuracy(sums) == pytest.approx(0.74)
    assert d.natural_precision(d.natural(sums, sizes)) == pytest.approx(0.00284, abs=1e-5)
    sizes[0, d.MATCHED] = 5  # of these nobody has asked
    assert math.isnan(d.natural_precision(d.natural(sums, sizes))[0])


@pytest.mark.parametrize("answer", [0.0, 1.0, 0.3, 0.5])
def test_one_answer_for_everything_is_chance(answer):
    latent, stratum, p = some_windows(0)
    sums = d.columns(latent, stratum, np.full_like(p, answer), 3)
    np.testing.assert_array_equal(d.detection(sums), 0)
    np.testing.assert_array_equal(d.auroc(sums), 0.5)
    if answer == 0:
        at_natural_rates = d.natural(sums, np.ones((3, d.STRATA)))
        assert np.isnan(d.natural_precision(at_natural_rates)).all()
        np.testing.assert_array_equal(d.natural_f1(at_natural_rates), 0)


def test_no_answer_at_all_is_chance_and_counted():
    latent, stratum, p = some_windows(0)
    sums = d.columns(latent, stratum, [None] * len(p), 3)
    np.testing.assert_array_equal(d.detection(sums, "chance"), 0)
    np.testing.assert_array_equal(d.detection(sums, "wrong"), -1)
    assert np.isnan(d.detection(sums)).all()
    assert np.isnan(d.auroc(sums)).all()
    assert np.isnan(d.brier(sums)).all()
    np.testing.assert_array_equal(d.missing_share(sums), 1)


@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.2, 0.7]))
@settings(max_examples=40, deadline=None)
def test_laws(seed, missing):
    """Free of the order of windows and latents; sums add up; the bounds hold whatever the missing answers were."""
    latent, stratum, p = some_windows(seed, n=120, missing=missing)
    sums = d.columns(latent, stratum, p, 3)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(120), rng.permutation(3)
    moved = d.columns(names[latent][order], stratum[order], p[order], 3)
    for name, column in sums.items():
        assert column.dtype == np.float64
        np.testing.assert_allclose(moved[name][names], column, rtol=1e-12)
    halves = [d.columns(latent[half], stratum[half], p[half], 3) for half in (slice(60), slice(60, None))]
    for name in ("answered", "right", "missing", "squared_error"):
        np.testing.assert_allclose(halves[0][name] + halves[1][name], sums[name])
    one = {name: column.sum(0) for name, column in d.columns(np.zeros(120, dtype=int), stratum, p, 1).items()}
    total = {name: column.sum(0) for name, column in sums.items()}
    for figure in (d.accuracy, d.balanced_accuracy, d.brier, d.missing_share):
        np.testing.assert_allclose(figure(total), figure(one))

    wrong, chance = (d.balanced_accuracy(sums, how) for how in ("wrong", "chance"))
    truth = np.where(np.isnan(p), rng.integers(0, 2, 120), p)
    filled = d.balanced_accuracy(d.columns(latent, stratum, truth, 3))
    assert ((wrong <= filled + 1e-12) | np.isnan(filled)).all()
    assert ((wrong <= chance + 1e-12) | np.isnan(chance)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [12], [0.5]), "stratum of a window must be 0 to 11, not 12 to 12"),
        (([2], [0], [0.5]), "latent of a window must be 0 to 1, not 2 to 2"),
        (([0], [0], [85]), "probability from 0 to 1"),
        (([0], [0], [math.inf]), "probability from 0 to 1"),
        (([0], [0, 1], [0.5]), "needs a latent, a stratum and an answer"),
    ],
)
def test_bad_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        d.columns(*arguments, 2)
