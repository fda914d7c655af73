"""Figures over labelled sets: the mean over sets, with an interval that counts both the sets and their examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sae_bench.units import Units
from sae_bench.units import bootstrap as statistics
from sae_bench.units.bootstrap import Ratio, Sums, resample_weights
from sae_bench.units.nested import by_set, common, draw, each_set, estimate

Array = NDArray[np.float64]


def mean(s: Sums) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Array = s.x / s.examples
    return value


def share(s: Sums) -> Ratio:
    with np.errstate(divide="ignore", invalid="ignore"):
        return Ratio(mean(s), s.y / s.examples, "y")


def table(rows: list[tuple[str, float, float]]) -> Units:
    """Rows of (id, x, y)."""
    ids, x, y = zip(*rows, strict=True)
    columns = {"examples": np.ones(len(ids)), "x": np.array(x, dtype=float), "y": np.array(y, dtype=float)}
    return Units(ids, columns)


def some_rows(n_sets: int, seed: int = 0, fewest: int = 3) -> list[tuple[str, float, float]]:
    """Sets of unequal size and level, whose texts have names of their own."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_sets):
        level = rng.normal()
        rows += [
            (f"set{i}@d{i}:t{i}-{j}", level + rng.normal(), 3 + rng.random()) for j in range(fewest + rng.integers(9))
        ]
    return rows


def plain(rows: list[tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    """Mean x and mean y of each set, by loops."""
    sums: dict[str, list[float]] = {}
    for unit, x, y in rows:
        one = sums.setdefault(unit.rsplit(":", 1)[0], [0.0, 0.0, 0.0])
        for i, v in enumerate((1.0, x, y)):
            one[i] += v
    return {name: (x / n, y / n) for name, (n, x, y) in sums.items()}


def assert_close(a: statistics.Estimate, b: statistics.Estimate) -> None:
    """Equal but for rounding; an interval that is missing is missing in both."""
    assert (a.n_units, a.reason) == (b.n_units, b.reason)
    for one, other in ((a.value, b.value), (a.low, b.low), (a.high, b.high)):
        assert (one is None) == (other is None), (a, b)
        if one is not None:
            assert one == pytest.approx(other, rel=1e-9, abs=1e-12), (a, b)


@settings(max_examples=25, deadline=None)
@given(n_sets=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_set_counts_the_same_whatever_its_size(n_sets: int, seed: int) -> None:
    rows = some_rows(n_sets, seed)
    draws = draw(table(rows), seed=0, resamples=20)
    of_sets = list(plain(rows).values())
    assert estimate(draws, mean).value == pytest.approx(sum(x for x, _ in of_sets) / n_sets, rel=1e-12)
    ratio = sum(x for x, _ in of_sets) / sum(y for _, y in of_sets)
    assert estimate(draws, share).value == pytest.approx(ratio, rel=1e-12)
    assert estimate(draws, mean).n_units == n_sets


def test_a_quotient_keeps_its_offset_and_its_reason() -> None:
    rows = some_rows(6)
    draws = draw(table(rows), seed=0, resamples=20)
    one = estimate(draws, lambda s: Ratio(-mean(s), s.y / s.examples, "y", offset=1.0))
    assert one.value == pytest.approx(1 - float(estimate(draws, share).value or 0), rel=1e-12)
    none = estimate(draws, lambda s: Ratio(mean(s), 0 * s.y, "the way to go"))
    assert none.value is None
    assert "the way to go is 0" in str(none.reason)


def test_replicates_are_weighted_means_over_reweighted_sets() -> None:
    """The whole two-level bootstrap once more, by loops over its public weights."""
    rows, n = some_rows(7, 3), 40
    draws = draw(table(rows), seed=5, resamples=n)
    tables = by_set(table(rows))
    of_sets = resample_weights(tuple(tables), 5, n)
    expected = []
    for r in range(n):
        top = bottom = 0.0
        for i, one in enumerate(tables.values()):
            w = resample_weights(one.ids, 5, n)[r]
            if w.sum() > 0:
                top += of_sets[r, i] * float(w @ one.columns["x"]) / float(w.sum())
                bottom += of_sets[r, i]
        expected.append(top / bottom if bottom else math.nan)
    found = estimate(draws, mean)
    low, high = statistics.percentile_interval(float(found.value or 0), np.array(expected), 7, 0.95)
    assert found.low == pytest.approx(low, rel=1e-12)
    assert found.high == pytest.approx(high, rel=1e-12)


@pytest.mark.parametrize(("n_sets", "trials"), [(12, 120), pytest.param(40, 500, marks=pytest.mark.slow)])
def test_the_interval_holds_the_mean_of_all_sets_that_could_have_been_drawn(n_sets: int, trials: int) -> None:
    """Normal effects of sets and normal noise of examples, each as large as the other in the mean of a set."""
    rng = np.random.default_rng(n_sets)
    size, inside = 8, 0
    ids = tuple(f"s{i}@d:t{i}-{j}" for i in range(n_sets) for j in range(size))
    for trial in range(trials):
        x = np.repeat(rng.normal(0, 1, n_sets), size) + rng.normal(0, math.sqrt(size), n_sets * size)
        found = estimate(draw(Units(ids, {"examples": np.ones(len(ids)), "x": x}), seed=trial, resamples=120), mean)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0 <= found.high
    assert 0.93 <= inside / trials <= 0.995


def test_the_interval_counts_sets_and_not_only_examples() -> None:
    """Were the examples alone drawn, many examples of few sets would look like certainty about all sets."""
    rng = np.random.default_rng(0)
    rows = [
        (f"s{i}@d:t{i}-{j}", level + 0.01 * rng.normal(), 1.0) for i, level in enumerate(range(8)) for j in range(30)
    ]
    found = estimate(draw(table(rows), seed=0, resamples=500), mean)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 2  # the standard error over sets is 0.87
    # and with equal sets what is left is the noise of the examples
    rows = [(f"s{i}@d:t{i}-{j}", rng.normal(), 1.0) for i in range(8) for j in range(30)]
    found = estimate(draw(table(rows), seed=0, resamples=500), mean)
    assert found.low is not None
    assert found.high is not None
    assert 0.15 < found.high - found.low < 0.9


@pytest.mark.parametrize(("n_sets", "has"), [(1, False), (4, False), (5, True)])
def test_few_sets_have_a_figure_and_no_interval(n_sets: int, has: bool) -> None:
    found = estimate(draw(table(some_rows(n_sets)), seed=0, resamples=50), mean)
    assert found.value is not None
    assert (found.low is not None, found.high is not None) == (has, has)


def test_no_set_has_a_reason() -> None:
    none = draw(Units((), {"examples": np.zeros(0), "x": np.zeros(0)}), seed=0, resamples=20)
    assert estimate(none, mean) == statistics.Estimate(None, None, None, 0, "there is no labelled set to measure")
    assert each_set(none, mean) == {}


def test_the_same_text_has_the_same_weights_in_every_set() -> None:
    """Sets that share texts err together; were they drawn apart, the interval over such sets would be too narrow."""
    rows = [(f"{name}:t{j}", float(j), 1.0) for name in ("a@1", "b@2") for j in range(10)]
    draws = draw(table([rows[i] for i in (*range(10), *range(19, 9, -1))]), seed=0, resamples=60)
    np.testing.assert_allclose(draws.replicates[0].x, draws.replicates[1].x, rtol=1e-12)
    assert len(np.unique(draws.replicates[0].x)) > 20
    other = draw(table([(unit.replace("t", "u"), x, y) for unit, x, y in rows]), seed=0, resamples=60)
    assert not np.allclose(other.replicates[0].x, draws.replicates[0].x)


def test_a_set_has_the_same_weights_beside_any_other_sets() -> None:
    """Two SAEs are compared in pairs, also where one has been measured on more sets."""
    rows = some_rows(6)
    whole, part = (
        draw(table(r), seed=1, resamples=30) for r in (rows, [r for r in rows if not r[0].startswith("set3")])
    )
    at = [whole.names.index(name) for name in part.names]
    np.testing.assert_array_equal(whole.weights[:, at], part.weights)


@settings(max_examples=12, deadline=None)
@given(order=st.randoms(), seed=st.integers(0, 20))
def test_the_order_of_rows_does_not_matter(order: Any, seed: int) -> None:
    rows = some_rows(6, seed)
    shuffled = list(rows)
    order.shuffle(shuffled)
    one, other = (draw(table(r), seed=0, resamples=40) for r in (rows, shuffled))
    for metric in (mean, share):
        assert_close(estimate(other, metric), estimate(one, metric))
        alone, again = each_set(one, metric), each_set(other, metric)
        assert alone.keys() == again.keys()
        for name, e in alone.items():
            assert_close(again[name], e)


def test_only_sets_with_the_same_content_are_compared() -> None:
    rows = some_rows(4)
    other = [(unit.replace("set1@d1", "set1@other"), x + 1, y) for unit, x, y in rows if not unit.startswith("set2")]
    a, b = common(table(rows), table(other[::-1]))
    assert set(by_set(a)) == set(by_set(b)) == {"set0@d0", "set3@d3"}
    assert sorted(a.ids) == sorted(b.ids)
    assert a.ids == tuple(unit for unit, _, _ in rows if unit[:4] in ("set0", "set3"))
    np.testing.assert_array_equal(b.columns["x"], [x for unit, x, _ in other[::-1] if unit[:4] in ("set0", "set3")])
    none, nothing = common(table(rows), table([("z@1:t", 1.0, 1.0)]))
    assert len(none) == len(nothing) == 0


def test_a_set_that_is_undefined_in_a_replicate_is_left_out_of_it() -> None:
    """A set of one example is empty in a third of the replicates; it must not make them undefined, nor count as 0."""
    rows = [("one@d:only", 5.0, 1.0), *[(f"s{i}@d:t{i}-{j}", 5.0, 1.0) for i in range(5) for j in range(6)]]
    found = estimate(draw(table(rows), seed=0, resamples=200), mean)
    assert (found.value, found.low, found.high) == pytest.approx((5.0, 5.0, 5.0), rel=1e-12)
    quotient = estimate(draw(table(rows), seed=0, resamples=200), share)
    assert (quotient.value, quotient.low, quotient.high) == pytest.approx((5.0, 5.0, 5.0), rel=1e-12)


def test_a_set_whose_figure_is_undefined_does_not_undo_the_others() -> None:
    rows = [*some_rows(5), ("bad@d:t0", math.nan, 1.0), ("bad@d:t1", 1.0, 1.0)]
    draws = draw(table(rows), seed=0, resamples=50)
    of_sets = [x for x, _ in plain(rows[:-2]).values()]
    assert estimate(draws, mean).value == pytest.approx(np.mean(of_sets), rel=1e-12)
    assert each_set(draws, mean)["bad@d"].value is None
    assert each_set(draws, mean)["bad@d"].reason


@pytest.mark.parametrize("metric", [mean, share, lambda s: Ratio(mean(s), 0 * s.y, "y")])
def test_a_set_alone_has_the_figure_that_it_has_by_itself(metric: statistics.Metric) -> None:
    units = table(some_rows(6, 2, fewest=2))
    found = each_set(draw(units, seed=3, resamples=80), metric)
    tables = by_set(units)
    assert found.keys() == tables.keys()
    for name, own in tables.items():
        assert_close(found[name], statistics.estimate(own, metric, seed=3, resamples=80))


def test_seeds_give_other_draws_of_the_same_figure() -> None:
    units = table(some_rows(6))
    first, again, other = (estimate(draw(units, seed=s, resamples=50), mean) for s in (0, 0, 1))
    assert first == again
    assert other.value == first.value
    assert other.low != first.low
