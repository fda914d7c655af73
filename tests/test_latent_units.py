"""Means over latents that were measured on text: documents and latents are resampled, all latents being a census."""

import numpy as np
import pytest

from sae_bench.kernels.token_counts import Firings
from sae_bench.tasks import rule_noise
from sae_bench.tasks.tracked import Text, Tracked
from sae_bench.units import Units, latents
from sae_bench.units.bootstrap import Ratio, Sums, estimate_of
from sae_bench.units.folds import FOLDS
from sae_bench.units.kinds import estimate, kind

ALL = {"lowest": 0.0, "highest": 1.0}


def mean(s: Sums) -> Ratio:
    return Ratio(s.f1, s.latents, "the number of latents")


def table(n: int = 50, *, sampled: float = 0.1, common: float = 0.0, seed: int = 0, folds: int = FOLDS) -> Units:
    """Latents whose figure hangs on folds, all alike by ``common``."""
    draw = np.random.default_rng(seed)
    hangs = draw.normal(0, 0.001, (n, FOLDS)) + common * draw.normal(0, 1, FOLDS)
    tokens = np.tile(np.arange(1.0, FOLDS + 1) * (np.arange(FOLDS) < folds), (n, 1))
    columns = {"latents": np.ones(n), "f1": draw.normal(0.5, 0.1, n), "sampled": np.full(n, sampled)}
    columns |= {"f1@test": hangs - hangs.mean(1, keepdims=True), "tokens@test": tokens}
    return Units(tuple(map(str, range(n))), columns)


def error(units: Units) -> float:
    draws = kind("latent").drawn(units, seed=0, resamples=2000)
    return float((draws.replicates.f1 / draws.replicates.latents).std())


def test_what_documents_do_to_all_latents_is_in_the_interval() -> None:
    """Resampling latents alone, as before, says 0.1 / sqrt(50) whatever the text does to all of them."""
    assert error(table()) == pytest.approx(0.1 / np.sqrt(50), rel=0.25)
    assert error(table(common=0.02)) == pytest.approx(0.02 * np.sqrt(FOLDS), rel=0.35)


def test_all_latents_are_a_census_and_only_documents_are_drawn() -> None:
    few, half, whole = (error(table(common=0.001, sampled=share)) for share in (0.0, 0.5, 1.0))
    assert few > half > whole
    assert whole == pytest.approx(0.001 * np.sqrt(FOLDS), rel=0.6)


@pytest.mark.parametrize("measured", [200, 50])
@pytest.mark.parametrize("sampled", [0.0, 0.25])
def test_the_noise_of_the_text_in_each_latent_counts_once(measured: int, sampled: float) -> None:
    """Another sample of latents and of text moves their mean by both, also where some latents stand for all."""
    draw, n, text = np.random.default_rng(0), 200, 0.1 / np.sqrt(FOLDS)
    hangs = draw.normal(0, text, (n, FOLDS))
    column = draw.normal(0.5, 0.1, n) + hangs.sum(1)
    hangs[measured:] = 0
    hangs *= n / measured
    columns = {"latents": np.ones(n), "f1": column, "sampled": np.full(n, sampled), "f1@test": hangs}
    columns["tokens@test"] = np.full((n, FOLDS), 100.0)
    found = error(Units(tuple(map(str, range(n))), columns))
    assert found == pytest.approx(0.1 * np.sqrt((1 - sampled + 1) / n), rel=0.2)


def test_latents_without_the_figure_stay_out_of_it() -> None:
    """Of half of them nothing is measured: the mean over the others has their interval, and theirs alone."""
    draw, n = np.random.default_rng(1), 200
    there = np.arange(n) < 100
    hangs = draw.normal(0, 0.02, (n, FOLDS)) * there[:, None]
    column = (draw.normal(0.5, 0.1, n) + hangs.sum(1)) * there
    columns = {"latents": there.astype(float), "f1": column, "f1@test": hangs}
    columns["tokens@test"] = np.full((n, FOLDS), 100.0)
    alone = {name: one[:100] for name, one in columns.items()}
    ids = tuple(map(str, range(n)))
    assert error(Units(ids, columns)) == pytest.approx(error(Units(ids[:100], alone)), rel=0.05)


def test_a_table_of_an_older_result_reads_as_it_did() -> None:
    units = table()
    old = Units(units.ids, {name: units.columns[name] for name in ("latents", "f1")})
    found = estimate_of(kind("latent").drawn(old, seed=0, resamples=200), mean)
    assert found.n_units == 50
    assert found.value == pytest.approx(units.columns["f1"].mean())


def test_the_order_of_latents_changes_nothing() -> None:
    units, order = table(common=0.01), np.random.default_rng(1).permutation(50)
    one, other = (
        estimate_of(kind("latent").drawn(u, seed=0, resamples=200), mean) for u in (units, units.select(order))
    )
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (np.arange(400), None),
        (np.arange(400) // 2, None),
        (np.arange(400) // 10, "40 groups"),
        (np.maximum(np.arange(400) - 60, 0), "one group holds 15 % of the tokens"),
    ],
)
def test_an_interval_over_few_groups_or_a_large_one_is_marked(groups: np.ndarray, said: str | None) -> None:
    """However many latents there are: they were all measured on one text."""
    one = Text(np.arange(400) % 7, np.full(400, -1), np.arange(400), 400, np.arange(400) % FOLDS, groups)
    plain = table()
    for fit, found in ((one, said), (Text(*[*vars(one).values()][:4]), said)):
        columns = {**plain.columns, **one.columns("test", 50), **fit.columns("fit", 50)}
        e = estimate_of(kind("latent").drawn(Units(plain.ids, columns), seed=0, resamples=50), mean)
        assert (e.optimistic, e.n_units) == (found, min(50, len(np.unique(groups))))
    alone = estimate_of(kind("latent").drawn(plain, seed=0, resamples=50), mean)
    assert (alone.optimistic, alone.n_units) == (None, 50)


def test_an_interval_ends_where_figures_do() -> None:
    """What folds do to latents is added to first order, and may add up to less than nothing: `submit` refused that."""
    draws = kind("latent").drawn(table(common=0.2), seed=0, resamples=200)
    free, bound = estimate(draws, mean, interval="bootstrap"), estimate(draws, mean, interval="bootstrap", **ALL)
    assert free.low < 0
    assert free.high > 1
    assert (bound.low, bound.value, bound.high) == (0, free.value, 1)
    above = estimate(draws, lambda s: mean(s)._replace(offset=1.0), interval="bootstrap", **ALL)
    assert above.low <= above.value == above.high, "a figure that rounding puts above 1 is in its interval"
    nothing = kind("latent").drawn(table(folds=2), seed=0, resamples=20)
    assert estimate(nothing, mean, interval="bootstrap", **ALL).low is None


@pytest.mark.parametrize("folds", [1, 4])
def test_few_documents_have_no_interval(folds: int) -> None:
    found = estimate_of(kind("latent").drawn(table(folds=folds), seed=0, resamples=50), mean)
    assert (found.n_units, found.low) == (folds, None)


def test_two_dictionaries_on_one_text_move_together() -> None:
    a, b = (
        kind("latent").drawn(u, seed=0, resamples=500).replicates for u in (table(30, common=0.05, sampled=1.0),) * 2
    )
    assert (a.f1 == b.f1).all()
    other = Units(table().ids, {**table(common=0.05, sampled=1.0).columns, "tokens@test": np.full((50, FOLDS), 7.0)})
    first, second = (kind("latent").drawn(u, seed=0, resamples=500).replicates.f1 for u in (table(common=0.05), other))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2, "other text has other weights"


def test_the_influence_of_a_fold_is_the_derivative_by_its_weight() -> None:
    draw = np.random.default_rng(0)
    above, below = draw.random((3, FOLDS)), 1 + draw.random((3, FOLDS))
    below[2] = 0
    hangs, weights = latents.of_quotient(above, below), np.ones(FOLDS)
    weights[5] += 1e-6
    moved = (above @ weights)[:2] / (below @ weights)[:2] - above.sum(1)[:2] / below.sum(1)[:2]
    assert hangs[:2, 5] == pytest.approx(moved / 1e-6, rel=1e-3)
    assert not hangs[2].any(), "where there is no figure nothing hangs"


def watched() -> Tracked:
    draw = np.random.default_rng(0)
    text = Text(np.arange(400) % 7, np.full(400, -1), np.repeat(np.arange(40), 10), 40)
    found = Firings(
        np.repeat([0, 1, 2], 60), np.concatenate([np.sort(draw.permutation(400)[:60]) for _ in range(3)]), np.ones(180)
    )
    return Tracked(np.array([3, 5, 9]), np.full(3, 0.1), text, found, text, found, 1.0)


def test_leaving_out_folds_takes_their_tokens_and_firings_alone() -> None:
    whole, part = watched(), watched().without("test", 2, 8)
    kept = whole.test.fold % 8 != 2
    assert (part.test.tokens == whole.test.tokens[kept]).all()
    assert len(part.test_firings.latent) == kept[whole.test_firings.position].sum()
    assert (part.test.document[part.test_firings.position] % 8 != 2).all()
    assert len(part.fit.tokens) == 400


def test_some_latents_stand_for_all_and_a_figure_that_hangs_on_nothing_says_so() -> None:
    def scored(some: Tracked) -> dict[str, np.ndarray]:
        n = len(some.latents)
        return {"rate": np.bincount(some.fit_firings.latent, minlength=n) / len(some.fit.tokens), "fixed": np.ones(n)}

    found = rule_noise.of_some(watched(), np.arange(3), "fit", scored)
    assert not found["fixed@fit"].any()
    assert found["rate@fit"].any(axis=1).all()
    assert found["rate@fit"].sum(axis=1) == pytest.approx(np.zeros(3), abs=1e-6)
