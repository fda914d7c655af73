"""Ablations are resampled by document: intervals hold what the same SAE would score on all text."""

import numpy as np
import pytest

from sae_bench.units import Units
from sae_bench.units.bootstrap import Ratio, estimate_of, resample_weights
from sae_bench.units.groups import in_group
from sae_bench.units.kinds import ABLATION


def mean(s):
    return Ratio(s.value, s.ones, "the number of rows")


def table(values, documents, latents):
    ids = tuple(f"{d}@{i}:{m}" for i, (d, m) in enumerate(zip(documents, latents, strict=True)))
    return Units(ids, {"value": np.asarray(values, dtype=float), "ones": np.ones(len(ids))})


def figure(units, resamples=400, seed=0):
    return estimate_of(ABLATION.drawn(units, seed=seed, resamples=resamples), mean)


def sample(rng, dictionary, of_document, of_row, n_documents=120, per_document=6):
    """What one SAE, whose latents have the effects ``dictionary``, shows on fresh documents."""
    documents = np.repeat(np.arange(n_documents), per_document)
    latents = rng.integers(0, len(dictionary), len(documents))
    values = rng.normal(0, of_document, n_documents)[documents] + dictionary[latents]
    tag = rng.integers(1 << 30)  # other documents in every sample: weights go by name
    return table(values + rng.normal(0, of_row, len(documents)), [f"{tag}d{d}" for d in documents], latents)


@pytest.mark.parametrize("spread", [(1.0, 0.0, 0.3), (0.0, 1.0, 0.3), (0.7, 0.7, 0.3), (0.0, 0.0, 1.0)])
def test_intervals_are_as_wide_as_the_figure_moves_between_samples_of_text_and_no_wider(spread):
    """Whether documents, latents or single rows make the noise. With latents drawn too, covered would be all."""
    of_document, of_latent, of_row = spread
    rng = np.random.default_rng(0)
    dictionary = rng.normal(0, of_latent, 60)
    found = [figure(sample(rng, dictionary, of_document, of_row)) for _ in range(200)]
    truth = dictionary.mean()
    assert 0.90 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.985
    width = np.mean([e.high - e.low for e in found]) / (2 * 1.96)
    assert 0.85 < width / np.std([e.value for e in found]) < 1.2


def test_a_row_has_the_weight_of_the_group_of_its_document():
    ids = [f"{in_group(group, str(i))}@{i}:{i % 3}" for i, group in enumerate("aabbbccc")]
    units = Units(tuple(ids), {"value": np.arange(8.0), "ones": np.ones(8)})
    draws = ABLATION.drawn(units, seed=5, resamples=50)
    weights = resample_weights(("a", "b", "c"), 5, 50)[:, [0, 0, 1, 1, 1, 2, 2, 2]]
    np.testing.assert_array_equal(draws.replicates.value, weights @ np.arange(8.0))
    assert draws.n == 3


def test_few_documents_have_no_interval_whatever_the_number_of_latents():
    few = figure(sample(np.random.default_rng(3), np.zeros(60), 1.0, 1.0, n_documents=4))
    assert few.value is not None
    assert (few.low, few.n_units) == (None, 4)


def test_a_share_that_is_never_seen_has_no_empty_interval():
    units = table(np.zeros(40), [f"d{i // 4}" for i in range(40)], range(40))
    e = estimate_of(ABLATION.drawn(units, seed=0, resamples=50), mean, interval="wilson")
    assert (e.value, e.low, e.n_units) == (0.0, 0.0, 10)
    assert e.high == pytest.approx(0.27753, abs=1e-4)  # Wilson's upper limit for 0 of 10
