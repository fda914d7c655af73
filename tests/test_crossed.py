"""The bootstrap over documents and latents: its intervals hold the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_bench.units import Units, crossed
from sae_bench.units.bootstrap import Ratio, estimate_of, resample_weights


def mean(s):
    return Ratio(s.value, s.ones, "the number of rows")


def table(values, documents, latents):
    ids = tuple(f"{d}@{i}:{m}" for i, (d, m) in enumerate(zip(documents, latents, strict=True)))
    return Units(ids, {"value": np.asarray(values, dtype=float), "ones": np.ones(len(ids))})


def figure(units, resamples=400, seed=0):
    return estimate_of(crossed.draw(units, seed=seed, resamples=resamples), mean)


def world(rng, of_document, of_latent, of_row, n_documents=25, per_document=6, n_latents=60):
    documents = np.repeat(np.arange(n_documents), per_document)
    latents = rng.integers(0, n_latents, len(documents))
    values = rng.normal(0, of_document, n_documents)[documents] + rng.normal(0, of_latent, n_latents)[latents]
    tag = rng.integers(1 << 30)  # other documents in every world: weights go by name
    return table(values + rng.normal(0, of_row, len(documents)), [f"{tag}d{d}" for d in documents], latents)


@pytest.mark.parametrize("spread", [(1.0, 0.0, 0.3), (0.0, 1.0, 0.3), (0.7, 0.7, 0.3), (0.0, 0.0, 1.0)])
def test_intervals_cover_whether_documents_or_latents_make_the_noise(spread):
    rng = np.random.default_rng(0)
    found = [figure(world(rng, *spread)) for _ in range(200)]
    covered = np.mean([e.low <= 0 <= e.high for e in found])
    assert covered >= 0.92


@pytest.mark.parametrize("spread", [(1.0, 0.0, 0.3), (0.0, 0.0, 1.0)])
def test_intervals_are_as_wide_as_the_figure_moves_and_no_wider(spread):
    """Products of two weights alone would make them 1.7 times as wide where only single rows are noisy."""
    rng = np.random.default_rng(0)
    found = [figure(world(rng, *spread)) for _ in range(150)]
    width = np.mean([e.high - e.low for e in found]) / (2 * 1.96)
    assert 0.85 < width / np.std([e.value for e in found]) < 1.3


def test_latents_alone_would_be_too_narrow_where_documents_make_the_noise():
    units = world(np.random.default_rng(1), 1.0, 0.0, 0.1)
    alone = table(units.columns["value"], range(len(units)), [unit.rpartition(":")[2] for unit in units.ids])
    both, latents = figure(units), figure(alone)
    assert both.high - both.low > 1.5 * (latents.high - latents.low)


def test_replicates_are_products_of_the_two_weights():
    units = table([1.0, 2.0, 4.0], ["a", "b", "a"], [3, 3, 7])
    draws = crossed.draw(units, seed=5, resamples=50)
    documents = resample_weights(("a", "b"), 5, 50)
    latents = resample_weights(("latent 3", "latent 7"), 5, 50)
    weights = documents[:, [0, 1, 0]] * latents[:, [0, 0, 1]]
    np.testing.assert_array_equal(draws.replicates.value, weights @ np.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(draws.replicates.ones, weights.sum(1))
    assert draws.n == 2


@given(st.permutations(range(12)), st.sampled_from([1, 7, 1 << 22]))
@settings(max_examples=20, deadline=None)
def test_order_of_rows_and_size_of_chunks_change_nothing(order, chunk):
    units = world(np.random.default_rng(2), 1.0, 1.0, 1.0, n_documents=4, per_document=3)
    expected = figure(units, 60)
    before, crossed.CHUNK = crossed.CHUNK, chunk
    try:
        found = figure(units.select(list(order)), 60)
    finally:
        crossed.CHUNK = before
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-12
    )


def test_few_documents_have_no_interval_and_no_rows_no_figure():
    few = figure(world(np.random.default_rng(3), 1.0, 1.0, 1.0, n_documents=4))
    assert few.value is not None
    assert (few.low, few.n_units) == (None, 4)


def test_a_share_that_is_never_seen_has_no_empty_interval():
    units = table(np.zeros(40), [f"d{i // 4}" for i in range(40)], range(40))
    e = estimate_of(crossed.draw(units, seed=0, resamples=50), mean, interval="wilson")
    assert (e.value, e.low, e.n_units) == (0.0, 0.0, 10)
    assert e.high == pytest.approx(0.27753, abs=1e-4)  # Wilson's upper limit for 0 of 10
