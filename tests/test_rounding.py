"""Whatever ranks, chooses or sorts into parts gives the same where values differ by rounding alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from sae_bench.board.ranks import from_intervals
from sae_bench.engine.workspace import Entry
from sae_bench.kernels import graded_rules
from sae_bench.kernels.divergence import normaliser, peak_place
from sae_bench.kernels.logistic import logistic_cv
from sae_bench.kernels.pool import Entries, pool, pool_dense
from sae_bench.kernels.ranks import TOLERANCE, auroc, clusters, exceeds, lowest, positive, settled, top
from sae_bench.kernels.token_counts import Firings
from sae_bench.kernels.trie import explain
from sae_bench.results.compare_intervals import p_value
from sae_bench.saes.protocol import codes_from_dense
from sae_bench.schema import MetricValue
from sae_bench.streams.outputs import extremes
from sae_bench.streams.prefixes import Prefixes, shared_prefixes
from sae_bench.streams.sampling import Sampled, sampled_latents
from sae_bench.tasks.autointerp import prompts
from sae_bench.tasks.autointerp.windows import Window, cases
from sae_bench.tasks.downstream_sparsity import _deciles
from sae_bench.units import Units
from tests.builders.tiny_saes import activations, tiny_coder
from tests.builders.windows import SIZES, planted

NOISE = 1e-7  # relative: what another shape of a batch changes in float32


def noisy(values: torch.Tensor, seed: int, size: float = NOISE) -> torch.Tensor:
    drawn = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.double() * (1 + size * (2 * drawn - 1))


def coarse(n: int, seed: int, distinct: int = 12) -> torch.Tensor:
    """Values of which many are equal, a third of them 0."""
    draw = torch.Generator().manual_seed(seed)
    levels = torch.randn(distinct, generator=draw, dtype=torch.float64).exp()
    values = levels[torch.randint(distinct, (n,), generator=draw)]
    return values * (torch.rand(n, generator=draw) > 1 / 3)


def some_labels(n: int, seed: int) -> torch.Tensor:
    return torch.arange(n) % 2 == torch.randint(2, (n,), generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- clusters and what is made of them


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(6, 200), exponent=st.integers(-200, 200), negate=st.booleans())
def test_auroc_is_that_of_exact_ties_whatever_noise_order_and_scale(seed, n, exponent, negate):
    exact, labels = coarse(n, seed), some_labels(n, seed)
    labels[:2] = torch.tensor([True, False])
    sign = -1 if negate else 1
    value, pseudo = auroc(sign * noisy(exact, seed) * 10.0**exponent, labels)
    assert value == pytest.approx(roc_auc_score(labels, sign * exact), abs=1e-12)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    again, mixed = auroc(sign * noisy(exact, seed + 1)[order], labels[order])
    assert again == value
    assert torch.equal(mixed, pseudo[order])
    monotone = auroc(sign * noisy(exact, seed + 2).sqrt(), labels)[0]
    assert monotone == value


@pytest.mark.parametrize("centre", [0.0, 1000.0])
@pytest.mark.parametrize("n", [1000, 150_000])
def test_a_dense_column_is_no_tie(n, centre):
    """Neighbours of a long column lie as near as rounding does, and a chain of them would be one cluster."""
    draw = np.random.default_rng(0)
    labels = draw.random(n) < 0.4
    scores = centre + draw.standard_normal(n) + labels
    value = auroc(torch.from_numpy(scores), torch.from_numpy(labels))[0]
    assert value == pytest.approx(roc_auc_score(labels, scores), abs=1e-4 if n < 10_000 else 1e-6)
    assert value > 0.7


def test_clusters_join_small_gaps_and_nothing_reaches_zero_or_infinity():
    inf = float("inf")
    values = torch.tensor(
        [0.0, 1.0, 1.0 + 9e-7, 1.0 + 1.8e-6, 1.0 + 1e-5, 1e-300, -1e-300, inf, 1e300, inf, -inf, -0.0],
        dtype=torch.float64,
    )
    assert clusters(values).tolist() == [2, 4, 4, 4, 5, 3, 1, 7, 6, 7, 0, 2]
    assert clusters(values[:0]).tolist() == []
    assert settled(values)[1:4].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="NaN"):
        clusters(torch.tensor([1.0, float("nan")]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 3000), k=st.integers(1, 20))
def test_the_largest_are_those_of_exact_ties_the_lowest_place_first(seed, n, k):
    exact = coarse(n, seed)
    expected = exact.argsort(descending=True, stable=True)[:k]
    assert torch.equal(top(noisy(exact, seed), k), expected)
    assert torch.equal(top(noisy(exact, seed)), exact.argsort(descending=True, stable=True))
    assert lowest(noisy(exact, seed)) == int(exact.argmin()) or exact.min() == exact[lowest(noisy(exact, seed))]


def test_a_tie_that_goes_on_behind_what_is_looked_at_first_is_seen():
    values = noisy(torch.ones(5000), 0)
    assert top(values, 3).tolist() == [0, 1, 2]
    values[4000] = 2
    assert top(values, 3).tolist() == [4000, 0, 1]


def test_a_probe_that_knows_nothing_of_a_balanced_set_says_no():
    assert positive(torch.tensor([1e-17, -1e-17, 0.0, 1e-3, -1e-3])).tolist() == [False, False, False, True, False]


# ---------------------------------------------------------------- the places that rank or choose


def test_of_penalties_that_do_the_same_the_strongest_is_taken():
    """A billionth part of a penalty changes held-out losses by less than rounding, in either direction."""
    strengths = [1.0, 1 + 1e-9]
    for seed in range(6):
        x, labels = noisy(coarse(120, seed).view(60, 2), seed), some_labels(60, seed)
        assert logistic_cv(x, labels, strengths, folds=3, seed=0).strength == strengths[1]


def test_the_sign_of_a_maximum_is_not_that_of_rounding():
    for seed in range(8):
        pair = noisy(torch.tensor([1.0, -1.0]), seed)
        entries = Entries(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), pair)
        assert float(pool(entries, "max", 1, torch.tensor([2])).values) > 0
        assert float(pool_dense(pair[:, None], torch.tensor([2]), "max")) > 0
    assert float(pool_dense(torch.tensor([[1.0], [-1.01]]), torch.tensor([2]), "max")) < 0


@pytest.mark.parametrize("vocabulary", [3, 64, 1000])
def test_the_most_likely_token_of_near_ties_is_the_lowest(vocabulary):
    exact = torch.ones(40, vocabulary).double()
    exact[:, 1:] *= 3
    for seed in range(3):
        logits = noisy(exact, seed).float()
        assert set(peak_place(logits, normaliser(logits).peak).tolist()) == {1}


def test_shown_tokens_of_near_ties_are_in_order_of_their_ids():
    exact = torch.zeros(3, 500).double()
    exact[:, 100:120], exact[:, 300:303] = 2.0, -1.0
    for seed in range(3):
        found = extremes(noisy(exact, seed))
        assert found["promoted_token"].tolist() == [[100, 101, 102, 103, 104]] * 3
        assert found["suppressed_token"].tolist() == [[300, 301, 302, 0, 1]] * 3


def test_ablated_latents_do_not_change_with_rounding():
    """The draw is by rank of contribution: a rank that rounding gives would draw another latent."""
    coder, x = tiny_coder("relu"), activations(6)
    codes = coder.encode(x)
    at = torch.arange(6)
    places = Sampled(at, at, at, tuple(f"d{i}" for i in range(6)))
    exact = coarse(len(codes.indices), 1, distinct=3) + 1
    drawn = [
        sampled_latents(Entry("a", "a", coder), x, codes, noisy(exact, seed), places, 3, 0).latent.tolist()
        for seed in range(4)
    ]
    assert len(drawn[0]) == 18
    assert drawn[1:] == [drawn[0]] * 3


def test_windows_do_not_change_with_rounding():
    watched = planted()

    def tied(own: Firings, seed: int) -> Firings:
        levels = own.activation.round(0) + 1
        return own._replace(activation=noisy(torch.from_numpy(levels), seed).numpy())

    def places(seed: int) -> list:
        mixed = replace(
            watched, fit_firings=tied(watched.fit_firings, seed), test_firings=tied(watched.test_firings, seed + 1)
        )
        return [
            [[(w.start, w.stop, w.stratum) for w in kind] for kind in (case.shown, case.contrast, case.scored)]
            for case in cases(mixed, SIZES, 0)
        ]

    first = places(0)
    assert len(first) > 2
    assert all(places(seed) == first for seed in (2, 4))


def test_shown_strengths_do_not_change_with_rounding():
    tokens, exact = np.arange(5), torch.tensor([0.0, 1.0, 3.0, 9.0, 18.0])  # 9 a / 18 is a half, one and a half, ...
    shown = {
        prompts.marked(Window(0, 5, tokens, noisy(exact, seed).numpy(), 0), 18.0, lambda ids: "x" * len(ids))
        for seed in range(8)
    }
    assert shown == {"x<<x>>(1)<<x>>(2)<<x>>(5)<<x>>(9)"}


def test_deciles_do_not_change_with_rounding():
    n = 101
    exact = coarse(n, 5, distinct=20) + 1
    ids = tuple(f"d{i}@0:{i % 7}" for i in range(n))
    table = Units(ids, {"token_share": np.arange(n) / n, "token_scored": np.ones(n), "ablations": np.ones(n)})
    plain = _deciles(table, exact.numpy())
    for seed in range(4):
        again = _deciles(table, noisy(exact, seed).numpy())
        assert [one["ablations"] for one in again] == [one["ablations"] for one in plain]
        assert [one["value"] for one in again] == [one["value"] for one in plain]


def test_equal_quotients_of_counts_are_one_step():
    """1/10 + 2/10 and 3/10 differ in their last bit, and are one score."""
    score = np.array([0.1 + 0.2, 0.3, 0.5])
    seen = np.array([[1.0, 0.0, 1.0], [2.0, 2.0, 1.0]])
    found = graded_rules._by_steps(np.zeros(3, dtype=np.int64), score, seen, 1)
    fires, ranked = np.array([1, 0, 0, 0, 1]), np.array([0.3, 0.3, 0.3, 0.3, 0.5])
    assert found[0] == pytest.approx(average_precision_score(fires, ranked))


@pytest.mark.parametrize(("alone", "pattern"), [(0.5, (4,)), (0.1, (3, 4))])
def test_half_of_an_activation_is_half_but_for_rounding(alone, pattern):
    """The last token keeps exactly half of it alone, or with padding before it: rounding decides nothing."""
    for seed in range(8):
        draws = itertools.count(100 * seed)

        def activation(texts, draws=draws):
            after = {3: 1.0, None: alone}
            exact = [after.get(t[-2] if len(t) > 1 else None, 0.5) * (t[-1] == 4) for t in texts]
            return noisy(torch.tensor(exact), next(draws)).tolist()

        found = explain([[2, 3, 4]], [1.0], activation, 9).trie
        assert [own for own, _ in found.patterns()] == [pattern]


def test_intervals_that_touch_but_for_rounding_are_no_order():
    def exactly(value: float) -> MetricValue:
        return MetricValue(value=value, low=value, high=value, n_units=5, unit="", better="higher")

    assert from_intervals([exactly(0.1 + 0.2), exactly(0.3)], "higher") == [(1, 2), (1, 2)]
    assert from_intervals([exactly(0.4), exactly(0.3)], "higher") == [(1, 1), (2, 2)]


def test_a_replicate_that_is_zero_but_for_rounding_lies_on_neither_side():
    draw = np.random.default_rng(0)
    drawn = np.where(draw.random(1000) < 0.2, 0.0, draw.normal(1, 0.2, 1000))
    plain = p_value(1.0, drawn, 30)
    shaken = p_value(1.0, drawn + draw.choice([-1e-17, 1e-17], 1000), 30)
    assert shaken == plain


def test_above_means_by_more_than_rounding():
    assert not exceeds(1.0, 1.0 - TOLERANCE / 2)
    assert exceeds(1.0, 1.0 - 2 * TOLERANCE)
    assert not exceeds(0.0, 0.0)


# ---------------------------------------------------------------- texts that begin alike


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=8))
def test_a_prefix_has_a_number_if_and_only_if_two_texts_have_it(texts):
    found, n = shared_prefixes([np.array(text) for text in texts])
    numbers: dict[tuple[int, ...], int] = {}
    for text, own in zip(texts, found, strict=True):
        for length in range(1, len(text) + 1):
            prefix = tuple(text[:length])
            assert (length <= len(own)) == (sum(tuple(t[:length]) == prefix for t in texts) > 1)
            if length <= len(own):
                assert numbers.setdefault(prefix, int(own[length - 1])) == own[length - 1]
    assert sorted(numbers.values()) == list(range(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_was_computed_first_stands_for_all_that_begin_alike(dtype):
    texts = [[5, 6, 7], [5, 6, 8, 9], [5, 1], [2], [5, 6, 7]]
    exact = {p: torch.randn(4, dtype=torch.float64) for text in texts for p in _prefixes(text)}
    cpu = torch.device("cpu")
    with Prefixes([np.array(text) for text in texts]) as alike:
        rows, seen = {}, {}
        for batch in ([1, 0], [4, 2], [3]):
            where = [p for i in batch for p in _prefixes(texts[i])]
            x = noisy(torch.stack([exact[p] for p in where]), len(rows), torch.finfo(dtype).eps).to(dtype)
            shared, prefix = alike.activations("hook", x, alike.of(batch, cpu))
            codes = alike.codes("sae", codes_from_dense(x.clamp(min=0)), prefix).dense()
            assert torch.equal(codes, shared.clamp(min=0))
            for p, own, now in zip(where, x, shared, strict=True):
                first = seen.setdefault(p, own)
                assert torch.equal(now, first)
                rows[p, len(rows)] = now


def test_activations_that_are_not_equal_behind_equal_tokens_are_left_as_they_are():
    """A mixture of experts may send equal tokens of two batches to other experts."""
    cpu = torch.device("cpu")
    with Prefixes([np.array([1, 2]), np.array([1, 2])]) as alike:
        alike.activations("hook", torch.ones(2, 3), alike.of([0], cpu))
        other = torch.tensor([[1.0, 1.0, 1.0 + 1e-6], [1.0, 1.0, 1.5]])
        x, prefix = alike.activations("hook", other, alike.of([1], cpu))
    assert torch.equal(x, torch.stack([torch.ones(3), other[1]]))
    assert prefix.tolist() == [0, -1]


def _prefixes(text: list[int]) -> list[tuple[int, ...]]:
    return [tuple(text[: i + 1]) for i in range(len(text))]
