"""Average precision and recall at a precision, held to scikit-learn's; and how texts are left out, to doing so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from sae_bench.kernels.firing import GROUPS, PRECISION, Tokens, curve, groups_of, pseudo_values
from sae_bench.metrics.token_labels import metrics
from sae_bench.units import Units, nested
from sae_bench.units.bootstrap import total

Array = NDArray[np.float64]


def oracle(labels: NDArray[np.bool_], scores: Array) -> tuple[float, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(average_precision_score(labels, scores)), float(recall[precision >= PRECISION].max())


def drawn(seed: int, n_texts: int = 80, quality: float = 2.0) -> tuple[NDArray[np.bool_], Array, NDArray[np.int64]]:
    """Labels, activations with many ties (half of them 0) and texts of tokens; labels come in clumps."""
    rng = np.random.default_rng(seed)
    texts = np.repeat(np.arange(n_texts), rng.integers(5, 40, n_texts))
    rate = rng.beta(0.3, 2, n_texts)
    labels = rng.random(len(texts)) < rate[texts]
    labels[0] = True
    scores = np.maximum(rng.normal(size=len(texts)) + quality * labels + rng.normal(size=n_texts)[texts] - 0.5, 0)
    return labels, np.round(scores, 1), texts


def of(labels: NDArray[np.bool_], scores: Array, texts: NDArray[np.int64]) -> tuple[Array, Array, NDArray[np.int64]]:
    positive = np.bincount(texts[labels], minlength=int(texts.max()) + 1) > 0
    groups, n = groups_of(positive)
    fires = np.flatnonzero(scores > 0)
    return *curve(Tokens(labels, groups[texts], n), fires, scores[fires]), groups


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("quality", [0.0, 1.0, 4.0])
def test_the_figures_are_those_of_scikit_learn(seed: int, quality: float) -> None:
    labels, scores, texts = drawn(seed, quality=quality)
    area, at_precision, _ = of(labels, scores, texts)
    assert (area[0], at_precision[0]) == pytest.approx(oracle(labels, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_leaving_out_a_group_is_leaving_out_its_texts(seed: int) -> None:
    labels, scores, texts = drawn(seed)
    area, at_precision, groups = of(labels, scores, texts)
    for group in range(GROUPS):
        left = groups[texts] != group
        wanted = oracle(labels[left], scores[left])
        assert (area[1 + group], at_precision[1 + group]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "area", "at_precision"),
    [
        ([1, 1, 0, 0], [2, 1, 0, 0], 1.0, 1.0),  # it fires where the label is
        ([1, 1, 0, 0], [1, 0, 0, 0], 0.75, 0.5),  # it misses one of two: a latent that is split in two
        ([1, 0, 0, 0], [0, 1, 1, 1], 0.25, 0.0),  # it fires elsewhere alone
        ([1, 0, 0, 0], [0, 0, 0, 0], 0.25, 0.0),  # it never fires: chance
        ([1, 1, 1, 1], [0, 0, 0, 0], 1.0, 1.0),  # all tokens have the label: whatever is said is right
        ([1, 0, 1, 0], [1, 1, 1, 1], 0.5, 0.0),  # one tie
        ([1, 0, 0, 0], [1 + 1e-8, 1, 0, 0], 0.5, 0.0),  # a tie but for rounding
    ],
)
def test_small_cases(labels: list[int], scores: list[float], area: float, at_precision: float) -> None:
    found = of(np.array(labels, dtype=bool), np.array(scores, dtype=np.float64), np.arange(len(labels)))
    assert (found[0][0], found[1][0]) == pytest.approx((area, at_precision), abs=1e-12)


def test_texts_with_the_label_are_spread_over_the_groups() -> None:
    positive = np.zeros(400, dtype=bool)
    positive[:40] = True
    groups, n = groups_of(positive)
    assert n == GROUPS
    assert np.bincount(groups[:40], minlength=n).max() == 1
    assert set(np.bincount(groups).tolist()) == {6, 7}


def test_pseudo_values_have_the_figure_as_their_mean() -> None:
    labels, scores, texts = drawn(1)
    area, _, groups = of(labels, scores, texts)
    assert pseudo_values(area, groups).mean() == pytest.approx(area[0], abs=1e-12)
    assert pseudo_values(np.array([0.3]), np.zeros(1, dtype=np.int64)).tolist() == [0.3]


def test_the_spread_of_a_mean_is_that_of_a_mean() -> None:
    """Of what is a mean over texts, pseudo-values spread as its standard error says."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000)
    groups, n = groups_of(np.zeros(2000, dtype=bool))
    sums = np.bincount(groups, weights=values, minlength=n)
    found = np.concatenate([[values.mean()], (values.sum() - sums) / (2000 - np.bincount(groups))])
    error = pseudo_values(found, groups).std() / 2000**0.5
    assert error == pytest.approx(values.std() / 2000**0.5, rel=0.3)  # of 60 groups a spread is known to 9 %


def covered(metric: str, truth: float, runs: int, n_texts: int = 120) -> float:
    """How often the interval of a set of known truth holds it."""
    hits = 0
    for seed in range(runs):
        labels, scores, texts = drawn(1000 + seed, n_texts=n_texts, quality=3.0)
        area, at_precision, groups = of(labels, scores, texts)
        column = {"label_auprc": "auprc", "label_recall_p90": "recall_p90"}[metric]
        figure = {"auprc": area, "recall_p90": at_precision}[column]
        columns = {"examples": np.ones(n_texts), column: pseudo_values(figure, groups)}
        table = Units(tuple(f"one@0:{seed}-{i}" for i in range(n_texts)), columns)
        refits = Units(tuple(f"one@0:{nested.refit_name(i)}" for i in range(2)), {n: np.zeros(2) for n in columns})
        whole = Units(
            table.ids + refits.ids, {n: np.concatenate([table.columns[n], refits.columns[n]]) for n in columns}
        )
        found = nested.estimate(nested.draw(whole, seed=seed, resamples=400), metrics({})[metric])
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    return hits / runs


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["label_auprc", "label_recall_p90"])
def test_intervals_hold_the_truth_as_often_as_they_say(metric: str) -> None:
    labels, scores, _ = drawn(5, n_texts=60_000, quality=3.0)
    truth = dict(zip(("label_auprc", "label_recall_p90"), oracle(labels, scores), strict=True))[metric]
    assert 0.85 <= covered(metric, truth, runs=250) <= 0.99


def test_the_sum_of_nothing_is_no_share() -> None:
    """A latent that never fires has no precision, and a recall of 0."""
    columns = {"examples": [1.0], "positives": [3.0], "true_positive": [0.0], "fired": [0.0]}
    sums = total(Units(("a@0:1",), {name: np.array(values) for name, values in columns.items()}))
    assert np.isnan(metrics({})["label_precision"](sums)).all()
    assert metrics({})["label_recall"](sums).tolist() == [0.0]  # type: ignore[union-attr]
    assert metrics({})["label_f1"](sums).tolist() == [0.0]  # type: ignore[union-attr]
