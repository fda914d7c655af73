"""Token rules against brute force over all rules, plain loops, scikit-learn, planted latents and noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import average_precision_score

from sae_bench.kernels.graded_rules import average_precision, grade
from sae_bench.kernels.rules import TokenRule, derangement, fit, matches, score
from sae_bench.kernels.token_counts import firings, token_entropy
from tests.builders.rule_scores import loop_scores


def text(n, vocabulary, seed=0, documents=8):
    """Tokens, previous ones and documents; each document starts afresh."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, n)
    document = np.sort(rng.integers(0, documents, n))
    starts = np.append(True, document[1:] != document[:-1])
    return tokens, np.where(starts, -1, np.roll(tokens, 1)), document


def sparse(fires, activation=None):
    """Firings of a bool matrix `[latents, tokens]`."""
    latent, position = fires.nonzero()
    values = np.ones(len(latent)) if activation is None else activation[latent, position]
    return firings(latent, position, values, *fires.shape)


def random_latents(tokens, n_latents, seed=0, noise=0.2):
    """Latents that like some tokens more than others, `[latents, tokens]`."""
    rng = np.random.default_rng(seed)
    rates = rng.random((n_latents, tokens.max() + 1)) ** 3 * (1 - noise) + noise * 0.2
    return rng.random((n_latents, len(tokens))) < rates[:, tokens]


def loop_matches(rules, tokens, previous):
    found = []
    for i, rule in enumerate(rules):
        own = set(rule.tokens.tolist())
        added, removed = (set(map(tuple, pairs.tolist())) for pairs in rule[1:])
        for position, (u, v) in enumerate(zip(previous.tolist(), tokens.tolist(), strict=True)):
            if (v in own and (u, v) not in removed) or (u, v) in added:
                found.append((i, position))
    return found


def f1(predicted, actual):
    both = predicted.sum() + actual.sum()
    return 2 * (predicted & actual).sum() / both if both else math.nan


def predictions(rules, tokens, previous):
    out = np.zeros((len(rules), len(tokens)), dtype=bool)
    out[tuple(matches(rules, tokens, previous))] = True
    return out


def fit_f1(rules, tokens, previous, fires):
    return np.array([f1(p, a) for p, a in zip(predictions(rules, tokens, previous), fires, strict=True)])


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("at_most", [1, 2, 3, 64])
def test_the_token_set_has_the_best_f1_of_all_sets_of_its_size(seed, at_most):
    """Of a bounded size too, where the best set is no prefix of the order of precision any more."""
    tokens, previous, _ = text(60, 7, seed)
    fires = random_latents(tokens, 5, seed)
    rules = fit(tokens, previous, sparse(fires), 5, max_tokens=at_most, max_pairs=0)
    present = np.unique(tokens)
    sizes = range(min(at_most, len(present)) + 1)
    sets = [np.array(s, dtype=int) for k in sizes for s in itertools.combinations(present, k)]
    for rule, actual in zip(rules, fires, strict=True):
        assert rule.size == len(rule.tokens)
        best = max(f1(np.isin(tokens, s), actual) for s in sets)
        assert f1(np.isin(tokens, rule.tokens), actual) == pytest.approx(best, abs=1e-15)
        assert len(rule.tokens) <= at_most


@pytest.mark.parametrize("seed", range(12))
def test_without_a_bound_the_best_set_is_a_prefix_in_order_of_precision(seed):
    tokens, previous, _ = text(200, 12, seed)
    fires = random_latents(tokens, 4, seed)
    for rule, actual in zip(fit(tokens, previous, sparse(fires), 4, max_pairs=0), fires, strict=True):
        precision = np.array([actual[tokens == v].mean() if (tokens == v).any() else -1 for v in range(12)])
        inside = np.isin(np.arange(12), rule.tokens)
        assert precision[inside].min() > precision[~inside].max()
        prefixes = [np.argsort(-precision)[:k] for k in range(1, 13)]
        best = max(f1(np.isin(tokens, prefix), actual) for prefix in prefixes)
        assert f1(np.isin(tokens, rule.tokens), actual) == pytest.approx(best)


def pair_latents(tokens, previous, n_latents, seed):
    rng = np.random.default_rng(seed)
    rates = rng.random((n_latents, tokens.max() + 2, tokens.max() + 1)) ** 2
    return rng.random((n_latents, len(tokens))) < rates[:, previous + 1, tokens]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("at_most", [1, 2, 4])
def test_exceptions_are_the_best_for_the_tokens_of_the_rule(seed, least, at_most):
    tokens, previous, _ = text(40, 3, seed, documents=3)
    fires = pair_latents(tokens, previous, 2, seed)
    rules = fit(tokens, previous, sparse(fires), 2, max_pairs=at_most, least_pair=least)
    pairs, count = np.unique(np.stack([previous, tokens], 1), axis=0, return_counts=True)
    pairs = pairs[count >= least]
    for rule, actual in zip(rules, fires, strict=True):
        assert len(rule.added_pairs) + len(rule.removed_pairs) <= at_most
        start = np.isin(tokens, rule.tokens)
        best = 0.0
        for k in range(at_most + 1):
            for chosen in itertools.combinations(pairs, k):
                flipped = start.copy()
                for u, v in chosen:
                    flipped ^= (previous == u) & (tokens == v)
                best = max(best, f1(flipped, actual))
        assert fit_f1([rule], tokens, previous, actual[None])[0] == pytest.approx(best, abs=1e-15)


@pytest.mark.parametrize("seed", range(8))
def test_with_any_number_of_pairs_the_rule_is_the_best_of_all_rules(seed):
    """Then a rule can say yes or no to each pair, and the best of these is a prefix in order of their precision."""
    tokens, previous, _ = text(120, 4, seed)
    fires = pair_latents(tokens, previous, 3, seed)
    pair = previous * 10 + tokens
    rules = fit(tokens, previous, sparse(fires), 3, max_pairs=99, least_pair=1)
    for found, actual in zip(fit_f1(rules, tokens, previous, fires), fires, strict=True):
        order = sorted(np.unique(pair), key=lambda p: -actual[pair == p].mean())
        assert found == pytest.approx(max(f1(np.isin(pair, order[:k]), actual) for k in range(1, len(order) + 1)))


@given(seed=st.integers(0, 10_000), least=st.integers(1, 4), max_tokens=st.integers(1, 6), max_pairs=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_pairs_never_lower_the_f1_and_rules_are_in_order(seed, least, max_tokens, max_pairs):
    tokens, previous, _ = text(150, 6, seed)
    fires = random_latents(tokens, 3, seed)
    bounds = {"max_tokens": max_tokens, "least_pair": least}
    plain = fit(tokens, previous, sparse(fires), 3, max_pairs=0, **bounds)
    rules = fit(tokens, previous, sparse(fires), 3, max_pairs=max_pairs, **bounds)
    before, after = (fit_f1(some, tokens, previous, fires) for some in (plain, rules))
    assert ((after >= before) | np.isnan(before)).all()
    for rule, simple in zip(rules, plain, strict=True):
        assert np.isin(rule.tokens, simple.tokens).all()
        assert rule.size == len(rule.tokens) + len(rule.added_pairs) + len(rule.removed_pairs)
        assert len(rule.added_pairs) + len(rule.removed_pairs) <= max_pairs
        assert not np.isin(rule.added_pairs[:, 1], rule.tokens).any()
        assert np.isin(rule.removed_pairs[:, 1], rule.tokens).all()
        for part in rule:
            assert part.dtype == np.int64
            assert part.tolist() == sorted(part.tolist())
        for u, v in [*rule.added_pairs, *rule.removed_pairs]:
            assert ((previous == u) & (tokens == v)).sum() >= least


def planted(tokens, previous):
    """Fires on 3; on 3 after 5; on 3 but not after 5; on 2 at the start of a text; on 1, and on 3 after 5; never."""
    three, five = tokens == 3, previous == 5
    several = (tokens == 1) | (three & five)
    start = (previous == -1) & (tokens == 2)
    return np.stack([three, three & five, three & ~five, start, several, np.zeros_like(three)])


@pytest.mark.parametrize("vocabulary", [10, 150])
def test_planted_latents_get_exactly_their_rules(vocabulary):
    """Also where a token has more predecessors than a rule may remove."""
    tokens, previous, document = text(20_000, vocabulary, documents=3000)
    tokens[::150], previous[1::150] = 5, 5  # so that 5 comes before 3 often enough to be learnt
    tokens[1::150], previous[2::150] = 3, 3
    fires = planted(tokens, previous)
    rules = fit(tokens, previous, sparse(fires), 6)
    assert [[part.tolist() for part in rule] for rule in rules] == [
        [[3], [], []],
        [[], [[5, 3]], []],
        [[3], [], [[5, 3]]],
        [[], [[-1, 2]], []],
        [[1], [[5, 3]], []],
        [[], [], []],
    ]
    found = score(rules[:5], tokens, previous, sparse(fires[:5]), document, 3000).total()
    for figure in (found.f1, found.precision, found.recall, found.mass_recalled):
        np.testing.assert_array_equal(figure, 1)


def test_of_equal_rules_the_shorter_one():
    """Token 2 would only keep the F1 of {1}; "3 after 5" is one pair, and not "3, but not after 4"."""
    tokens = np.array([1, 2, 2, 2])
    (rule,) = fit(tokens, np.full(4, -1), sparse(np.array([[True, True, False, False]])), 1, max_pairs=0)
    assert rule.tokens.tolist() == [1]
    tokens, previous = np.array([1, *[2] * 6]), np.array([-1, 9, 9, 9, 8, 8, 8])  # and so would "2 after 9"
    (rule,) = fit(tokens, previous, sparse((np.arange(7) < 2)[None]), 1)
    assert [part.tolist() for part in rule] == [[1], [], []]
    tokens, previous = np.array([5, 3, 4, 3] * 5), np.array([-1, 5, 3, 4, *[3, 5, 3, 4] * 4])
    (rule,) = fit(tokens, previous, sparse((tokens == 3)[None] & (previous == 5)), 1)
    assert [part.tolist() for part in rule] == [[], [[5, 3]], []]
    (rule,) = fit(tokens, previous, sparse((tokens == 3)[None]), 1)
    assert [part.tolist() for part in rule] == [[3], [], []]


def test_noise_is_not_explained():
    """Firings at random: what the fit text seems to show is gone on other text, where the F1 is the rate of firing."""
    rng = np.random.default_rng(0)
    tokens, previous, document = text(20_000, 400, documents=50)
    planted_one = rng.random((20, 20_000)) < np.where(np.isin(tokens, range(20)), 0.9, 0.005)
    noise = rng.random((20, 20_000)) < 0.05
    half = 10_000
    held_out = []
    for fires in (planted_one, noise):
        rules = fit(tokens[:half], previous[:half], sparse(fires[:, :half]), 20)
        on_fit = fit_f1(rules, tokens[:half], previous[:half], fires[:, :half])
        rest = slice(half, None)
        found = score(rules, tokens[rest], previous[rest], sparse(fires[:, rest]), document[rest], 50).total()
        held_out.append((on_fit.mean(), found.f1.mean(), found.precision.mean()))
    assert held_out[0][0] > 0.85
    assert held_out[0][1] > 0.85
    assert held_out[1][0] < 0.3
    assert held_out[1][2] == pytest.approx(0.05, abs=0.005)
    assert held_out[1][1] < 0.08


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_laws(seed):
    """Rules do not depend on the order of latents and documents, the ids of tokens, and the length of the text."""
    rng = np.random.default_rng(seed)
    tokens, previous, document = text(300, 9, seed)
    fires = random_latents(tokens, 4, seed)
    activation = rng.random(fires.shape) + 0.1
    bounds = {"max_tokens": 99, "max_pairs": 99}  # what is cut off among parts of equal gain depends on the ids
    rules = fit(tokens, previous, sparse(fires), 4, **bounds)
    total = score(rules, tokens, previous, sparse(fires, activation), document, 8).total()

    order = rng.permutation(4)
    permuted = fit(tokens, previous, sparse(fires[order]), 4, **bounds)
    assert all(same(permuted[i], rules[j]) for i, j in enumerate(order))

    places = np.argsort(rng.permutation(8)[document], kind="stable")
    moved = fit(tokens[places], previous[places], sparse(fires[:, places]), 4, **bounds)
    assert all(map(same, moved, rules))

    twice = [np.tile(column, 2) for column in (tokens, previous, document)]
    both = sparse(np.tile(fires, 2), np.tile(activation, 2))
    doubled = fit(*twice[:2], both, 4, least_pair=6, **bounds)
    assert all(map(same, doubled, rules))
    again = score(doubled, *twice[:2], both, twice[2], 8).total()
    for name in ("precision", "recall", "f1", "mass_recalled"):
        np.testing.assert_allclose(getattr(again, name), getattr(total, name), rtol=1e-12)

    name_of = rng.permutation(50)[:10]
    names = np.append(name_of[:9], -1)
    renamed = fit(names[tokens], names[previous], sparse(fires), 4, **bounds)
    for ours, theirs in zip(renamed, rules, strict=True):
        assert ours.tokens.tolist() == sorted(names[theirs.tokens].tolist())
        for side in ("added_pairs", "removed_pairs"):
            assert getattr(ours, side).tolist() == sorted(names[getattr(theirs, side)].tolist())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_matches_and_scores_are_those_of_a_loop(seed):
    """Also with hand-made rules, whose parts overlap or name tokens that the text does not have."""
    rng = np.random.default_rng(seed)
    tokens, previous, document = text(80, 5, seed, documents=4)

    def pairs(n):
        return np.unique(rng.integers([-1, 0], [7, 7], (n, 2)), axis=0)

    rules = [TokenRule(np.unique(rng.integers(0, 7, n)), pairs(n), pairs(3)) for n in (3, 1, 0, 4)]
    found = matches(rules, tokens, previous)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == loop_matches(rules, tokens, previous)
    fires = rng.random((4, 80)) < 0.3
    activation = rng.random((4, 80)) + 0.1
    scores = score(rules, tokens, previous, sparse(fires, activation), document, 5)
    predicted = predictions(rules, tokens, previous)
    for d in range(5):
        here = document == d
        expected = [
            (predicted & fires)[:, here].sum(1),
            predicted[:, here].sum(1),
            fires[:, here].sum(1),
            np.full(4, here.sum()),
            (activation * fires)[:, here].sum(1),
            (activation * fires * predicted)[:, here].sum(1),
        ]
        for column, theirs in zip(scores, expected, strict=True):
            assert column.dtype == np.float64
            np.testing.assert_allclose(column[:, d], theirs, rtol=1e-12, atol=1e-15)


def test_ratios_are_ratios_of_sums_and_nan_without_meaning():
    tokens, previous = np.array([1, 2, 1, 2]), np.array([-1, 1, -1, 1])
    fires = np.array([[True, False, True, True], [False] * 4, [True] * 4])
    rules = [TokenRule(np.array([1]), *[np.zeros((0, 2), dtype=int)] * 2)] * 2 + [
        fit([], [], sparse(fires[:, :0]), 3)[0]
    ]
    scores = score(rules, tokens, previous, sparse(fires, 2.0 * fires), [0, 0, 1, 1], 2)
    total = scores.total()
    np.testing.assert_array_equal(scores.recall[0], [1, 0.5])
    np.testing.assert_array_equal(total.precision, [1, 0, math.nan])
    np.testing.assert_array_equal(total.recall, [2 / 3, math.nan, 0])
    np.testing.assert_array_equal(total.f1, [0.8, 0, 0])
    np.testing.assert_array_equal(total.mass_recalled, [2 / 3, math.nan, 0])
    np.testing.assert_array_equal(total.tokens, 4)
    assert math.isnan(score([rules[2]], tokens, previous, sparse(fires[1:2]), [0] * 4, 1).total().f1[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("strength", "least"), [(1.0, 1), (0.0, 3), (2.5, 2)])
def test_average_precision_is_that_of_scikit_learn(seed, strength, least):
    tokens, previous, _ = text(250, 8, seed)
    fires = random_latents(tokens, 5, seed, noise=0.05)
    held_out, before, _ = text(200, 10, seed + 100)
    actual = random_latents(np.append(held_out, 9), 5, seed, noise=0.05)[:, :-1]
    fires[3], actual[4] = False, False  # never on the fit text; never on the held-out text
    grades = grade(tokens, previous, sparse(fires), 5, strength=strength, least_pair=max(1, least))
    ours = average_precision(grades, held_out, before, sparse(actual))
    theirs = loop_scores(tokens, previous, fires, held_out, before, strength, max(1, least))
    for i in range(4):  # equal quotients of counts differ in their last bit where they are computed by other steps
        assert ours[i] == pytest.approx(average_precision_score(actual[i], theirs[i].round(12)), rel=1e-12)
    assert ours[3] == pytest.approx(actual[3].mean())
    assert math.isnan(ours[4])


def test_entropy_of_tokens():
    tokens, _, _ = text(500, 12)
    fires = random_latents(tokens, 4)
    fires[1] = tokens == 3
    fires[2] = False
    ours, n = token_entropy(tokens, sparse(fires), 4)
    assert n.tolist() == fires.sum(1).tolist()
    assert ours[1] == 0
    assert math.isnan(ours[2])
    for i in (0, 3):
        assert ours[i] == pytest.approx(entropy(np.bincount(tokens[fires[i]])))


@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_a_derangement_leaves_nothing_in_its_place(n):
    orders = [derangement(n, seed) for seed in range(20)]
    for order in orders:
        assert sorted(order) == list(range(n))
        assert not (order == np.arange(n)).any()
    np.testing.assert_array_equal(orders[0], derangement(n, 0))
    if n > 2:
        assert len({tuple(order) for order in orders}) > 1


def test_the_rule_of_another_latent_is_a_null():
    """Planted on different tokens, no rule says anything about another latent."""
    tokens, previous, document = text(2000, 20)
    found = sparse(np.stack([tokens == v for v in range(10)]))
    rules = fit(tokens, previous, found, 10)
    other = [rules[i] for i in derangement(10, 0)]
    assert (score(rules, tokens, previous, found, document, 8).total().f1 == 1).all()
    assert (score(other, tokens, previous, found, document, 8).total().f1 == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 2], [0, 1], [1, 1]), "latent of a firing must be 0 to 1, not 0 to 2"),
        (([0, 1], [0, 5], [1, 1]), "position of a firing must be 0 to 4, not 0 to 5"),
        (([0, 1], [0, 1], [1, 0]), "above 0"),
        (([0, 1], [0, 1], [1, math.nan]), "finite"),
        (([0, 0], [1, 1], [1, 2]), "comes twice"),
        (([0, 0], [1], [1, 2]), "three lists of one length"),
        (([0.5], [1], [1]), "whole numbers"),
    ],
)
def test_bad_firings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        firings(*arguments, 2, 5)


def test_bad_tokens_are_refused():
    none = firings([], [], [], 1, 2)
    for tokens, previous, message in (
        ([1, 2], [-1], "needs its previous one"),
        ([1, -2], [-1, 1], "0 or more"),
        ([1, 2], [-1, -2], "-1 or more"),
        ([1, 1 << 31], [-1, 1], "below 2\\^30"),
        ([1.0, 2.0], [-1, 1], "whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(tokens, previous, none, 1)
    with pytest.raises(ValueError, match="at least 2 latents"):
        derangement(1, 0)
    with pytest.raises(ValueError, match="needs a rule"):
        score([], [1, 2], [-1, 1], firings([0], [0], [1], 1, 2), [0, 0], 1)
