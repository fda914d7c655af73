"""Intervals: right as often as they say, the same for the same units, and absent with a reason where there are none."""

import math
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_bench.units import Units, adding, weights
from sae_bench.units import bootstrap as statistics
from sae_bench.units.bootstrap import MAX_GROUPS, Ratio, Sums, estimate, percentile_interval, resample, total, wilson
from tests.builders.marks import slow_but


def table(ids=None, **columns):
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    n = len(next(iter(columns.values())))
    return Units(tuple(ids or (f"unit {i}" for i in range(n))), columns)


def ratio(s: Sums) -> Ratio:
    return Ratio(s.a, s.b, "the sum of b")


def mean(s: Sums) -> Ratio:
    return Ratio(s.a, s.one, "the number of units")


def coverage(draw, truth, metric, n, *, simulations=1200, interval="bootstrap"):
    """Share of simulated tables whose interval holds the truth."""
    rng = np.random.default_rng(20240)
    ids = tuple(f"unit {i}" for i in range(n))
    inside = 0
    for _ in range(simulations):
        e = estimate(Units(ids, draw(rng, n)), metric, interval=interval, resamples=1000)
        inside += e.low <= truth <= e.high
    return inside / simulations


def skewed_ratio(rng, n):
    """Documents of unequal length with a moderately skewed rate: what FVU and CE look like."""
    b = rng.gamma(4, rng.integers(40, 128, n))
    return {"a": 0.1 * b * rng.lognormal(0, 0.5, n), "b": b}


@pytest.mark.parametrize(
    ("draw", "truth", "metric", "n", "interval"),
    slow_but(
        4,
        [
            (skewed_ratio, 0.1 * math.exp(0.125), ratio, 150, "bootstrap"),
            (lambda rng, n: {"a": rng.gamma(2, 1, n), "one": np.ones(n)}, 2.0, mean, 100, "bootstrap"),
            (lambda rng, n: {"a": rng.normal(3, 1, n), "one": np.ones(n)}, 3.0, mean, 30, "bootstrap"),
            (lambda rng, n: {"a": rng.normal(3, 1, n), "one": np.ones(n)}, 3.0, mean, 5, "bootstrap"),
            (lambda rng, n: {"a": (rng.random(n) < 0.3) * 1.0, "one": np.ones(n)}, 0.3, mean, 200, "bootstrap"),
            (lambda rng, n: {"a": (rng.random(n) < 0.3) * 1.0, "one": np.ones(n)}, 0.3, mean, 200, "wilson"),
            (lambda rng, n: {"a": (rng.random(n) < 0.02) * 1.0, "one": np.ones(n)}, 0.02, mean, 400, "wilson"),
        ],
    ),
    ids=[
        "ratio of sums",
        "mean",
        "mean of 30",
        "mean of 5",
        "fraction",
        "fraction by Wilson",
        "rare fraction by Wilson",
    ],
)
def test_a_95_percent_interval_holds_the_truth_95_times_in_100(draw, truth, metric, n, interval):
    found = coverage(draw, truth, metric, n, interval=interval)
    assert 0.93 <= found <= 0.97


def test_bootstrap_standard_error_is_that_of_the_delta_method():
    columns = skewed_ratio(np.random.default_rng(0), 400)
    a, b = columns["a"], columns["b"]
    value = a.sum() / b.sum()
    delta = math.sqrt(((a - value * b) ** 2).sum()) / b.sum()
    s = resample(table(a=a, b=b), seed=1, resamples=8000)
    assert np.std(s.a / s.b) == pytest.approx(delta, rel=0.03)


def test_standard_error_and_interval_agree_with_scipy():
    a = np.random.default_rng(3).gamma(2, 1, 300)
    reference = stats.bootstrap((a,), np.mean, n_resamples=8000, rng=np.random.default_rng(0), method="percentile")
    s = resample(table(a=a, one=np.ones(300)), seed=0, resamples=8000)
    assert np.std(s.a / s.one) == pytest.approx(reference.standard_error, rel=0.03)
    e = estimate(table(a=a, one=np.ones(300)), mean, resamples=8000)
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert e.low == pytest.approx(reference.confidence_interval.low, abs=0.05 * width)
    assert e.high == pytest.approx(reference.confidence_interval.high, abs=0.05 * width)


def test_the_mean_of_the_weights_is_one_and_so_is_their_variance():
    s = resample(table(one=np.ones((500, 1)), each=np.eye(500)), seed=0, resamples=2000)
    assert s.each.mean() == pytest.approx(1, abs=0.005)
    assert s.each.var() == pytest.approx(1, abs=0.01)
    between = np.corrcoef(s.each[:, :40].T) - np.eye(40)
    assert np.abs(between).max() < 0.12  # independent units: about 1/sqrt(2000) = 0.022


def test_a_unit_has_the_same_weights_in_every_table():
    """This is what makes differences of two SAEs on the same documents paired."""
    ids = [f"unit {i}" for i in range(9)]
    whole = resample(table(ids, each=np.eye(9)), seed=4, resamples=100).each
    order = [5, 2, 7]
    part = resample(table([ids[i] for i in order], each=np.eye(3)), seed=4, resamples=100).each
    assert (part == whole[:, order]).all()
    other = resample(table(ids, each=np.eye(9)), seed=5, resamples=100).each
    assert (other != whole).mean() > 0.3


def test_fewer_resamples_are_the_first_of_more():
    columns = table(a=np.arange(20.0))
    assert (resample(columns, seed=0, resamples=50).a == resample(columns, seed=0, resamples=500).a[:50]).all()


def test_an_estimate_does_not_depend_on_the_order_of_rows():
    columns = skewed_ratio(np.random.default_rng(1), 50)
    plain = table(**columns)
    shuffled = plain.select(np.random.default_rng(2).permutation(50))
    one, other = estimate(plain, ratio), estimate(shuffled, ratio)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-13)


def test_two_runs_give_the_same_bits():
    columns = table(**skewed_ratio(np.random.default_rng(1), 50))
    one = estimate(columns, ratio, seed=7)
    weights._KEPT.clear()
    assert estimate(columns, ratio, seed=7) == one


def test_more_units_than_groups_are_resampled_in_bounded_memory():
    n = 5 * MAX_GROUPS
    columns = skewed_ratio(np.random.default_rng(0), n)
    units = table(**columns)
    a, b = columns["a"], columns["b"]
    value = a.sum() / b.sum()
    se = math.sqrt(((a - value * b) ** 2).sum()) / b.sum()
    e = estimate(units, ratio)
    assert e.n_units == n
    assert e.value == pytest.approx(value, rel=1e-13)
    assert e.high - e.low == pytest.approx(2 * 1.96 * se, rel=0.1)
    assert statistics.resample_weights(tuple(f"group {g}" for g in range(3)), 0, 10).shape == (10, 3)
    assert len(adding.pooled(units)) <= MAX_GROUPS
    wide = Units(units.ids, {"x": np.stack([a, b], 1)})
    assert adding.pooled(wide).columns["x"].sum(0) == pytest.approx([a.sum(), b.sum()])


def test_large_tables_with_the_same_ids_are_resampled_together():
    """Grouping is by id alone, so pairing survives it."""
    n = MAX_GROUPS + 500
    a = np.random.default_rng(0).normal(5, 1, n)
    difference = resample(table(a=a + 0.25), seed=0, resamples=200).a - resample(table(a=a), seed=0, resamples=200).a
    count = resample(table(a=np.ones(n)), seed=0, resamples=200).a
    assert difference == pytest.approx(0.25 * count, rel=1e-9)


@settings(deadline=None)
@given(n=st.integers(1, 3000), data=st.data(), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_that_of_scipy(n, data, confidence):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k / n, n, confidence)
    reference = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert low == pytest.approx(reference.low, abs=1e-12)
    assert high == pytest.approx(reference.high, abs=1e-12)
    assert 0 <= low <= k / n <= high <= 1
    assert high > low


def test_none_of_n_still_has_an_interval():
    e = estimate(table(a=np.zeros(200), one=np.ones(200)), mean, interval="wilson")
    assert (e.value, e.low) == (0.0, 0.0)
    assert e.high == pytest.approx(1.96**2 / (200 + 1.96**2), rel=1e-3)


def test_no_unit_gives_a_reason():
    for interval in ("bootstrap", "wilson"):
        e = estimate(Units((), {"a": np.zeros(0), "b": np.zeros(0)}), ratio, interval=interval)
        assert (e.value, e.low, e.high, e.n_units) == (None, None, None, 0)
        assert "no unit" in e.reason


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_units_give_a_figure_without_an_interval(n):
    """Many resamples of two units hold neither: that is no noise of the denominator."""
    a = np.arange(1.0, n + 1)
    e = estimate(table(a=a, b=np.full(n, 2.0)), ratio)
    assert (e.low, e.high, e.n_units, e.reason) == (None, None, n, None)
    assert e.value == pytest.approx(a.mean() / 2)


def test_a_denominator_of_zero_gives_a_reason_and_no_infinity():
    for a in ([1.0, 2.0], [0.0, 0.0]):
        e = estimate(table(a=a, b=[0.0, 0.0]), ratio)
        assert (e.value, e.low, e.high) == (None, None, None)
        assert e.reason == "the sum of b is 0, and must be above 0 to divide by it"


def test_a_denominator_within_noise_of_zero_gives_a_reason():
    """Its quotient would be a number like any other, and another one on other documents."""
    b = np.random.default_rng(0).normal(0.1, 1, 100)  # the sum is 1.9 standard errors above 0
    e = estimate(table(a=np.ones(100), b=b), ratio)
    assert b.sum() > 0
    assert e.value is None
    assert "within noise of 0" in e.reason
    clear = estimate(table(a=np.ones(100), b=b + 0.5), ratio)
    assert 0 < clear.low < clear.value < clear.high


def test_a_negative_denominator_gives_a_reason():
    """Costs, counts and energies are positive: (6.00 - 6.10) / (6.00 - 6.26) would read as a score of 0.38."""
    e = estimate(table(a=np.full(50, -0.1), b=np.full(50, -0.26)), ratio)
    assert e.value is None
    assert e.reason == "the sum of b is -13, and must be above 0 to divide by it"


def test_a_denominator_below_its_floor_gives_a_reason():
    e = estimate(table(a=np.ones(9), b=np.ones(9)), lambda s: Ratio(s.a, s.b, "the cost", floor=9.5))
    assert e.value is None
    assert e.reason == "the cost is 9, and must be above 9.5 to divide by it"


@settings(deadline=None, max_examples=60)
@given(
    a=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=6),
    b=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=6, max_size=6),
    quotient=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_no_estimate_holds_a_number_that_is_not_finite(a, b, quotient):
    units = table(a=a, b=b[: len(a)])
    e = estimate(units, ratio if quotient else (lambda s: s.a), resamples=40)
    assert (e.value is None) == (e.reason is not None)
    assert (e.low is None) == (e.high is None)
    for number in (e.value, e.low, e.high):
        assert number is None or math.isfinite(number)
    if e.value is not None and e.low is not None:
        assert e.low <= e.value <= e.high


def test_an_interval_holds_its_figure_even_if_the_resamples_do_not():
    low, high = percentile_interval(5.0, np.linspace(0, 1, 100), 50, 0.95)
    assert low < 1 < 5.0 == high


def test_an_interval_of_mostly_undefined_resamples_is_none():
    replicates = np.full(100, np.nan)
    replicates[:10] = 1.0
    assert percentile_interval(1.0, replicates, 50, 0.95) == (None, None)


def test_an_unknown_column_is_named_with_those_that_exist():
    with pytest.raises(AttributeError, match=r"no column c; it has \['a', 'b'\]"):
        _ = total(table(a=[1.0], b=[2.0])).c


def test_columns_with_a_prefix_are_seen_without_it():
    s = resample(table(first_a=[1.0, 2.0], a=[5.0, 6.0]), seed=0, resamples=10)
    assert (s.under("first_").a == s.first_a).all()


def test_wide_columns_keep_their_width():
    units = table(x=np.arange(6.0).reshape(3, 2))
    assert total(units).x.tolist() == [[6.0, 9.0]]
    assert resample(units, seed=0, resamples=7).x.shape == (7, 2)


def test_a_standard_run_costs_little(capsys):
    """512 documents, 20 columns, 20 metrics: printed, since time is not a matter of right or wrong."""
    rng = np.random.default_rng(0)
    units = table(**{f"c{i}": rng.random(512) for i in range(20)}, wide=rng.random((512, 768)))
    weights._KEPT.clear()
    start = time.perf_counter()
    for i in range(20):
        estimate(units, lambda s, i=i: Ratio(getattr(s, f"c{i}"), s.c0, "c0"))
    seconds = time.perf_counter() - start
    with capsys.disabled():
        sys.stdout.write(f" [20 estimates of 2,000 resamples of 512 documents: {seconds:.2f} s] ")
