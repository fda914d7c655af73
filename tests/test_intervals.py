"""Groups are what is resampled, and an interval that the sample itself calls too narrow is marked."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sae_bench.metrics.reconstruction import metrics as reconstruction
from sae_bench.schema import MetricValue
from sae_bench.units import Common, Units, bootstrap, kinds, sums, trust
from sae_bench.units.bootstrap import Estimate, Ratio
from sae_bench.units.groups import group_of, in_group
from tests.builders.clusters import alone, equal_documents, nmse, packed
from tests.builders.marks import slow_but

DOCUMENT = kinds.DOCUMENT


def figure(units: Units, metric: Any = nmse, resamples: int = 500) -> Estimate:
    return kinds.estimate(DOCUMENT.drawn(units, seed=0, resamples=resamples), metric, interval="bootstrap")


def added(units: Units) -> Units:
    """Rows added up by group, one after the other."""
    names = list(dict.fromkeys(map(group_of, units.ids)))
    rows = [[i for i, unit in enumerate(units.ids) if group_of(unit) == name] for name in names]
    columns = {n: np.stack([sum(column[i] for i in own) for own in rows]) for n, column in units.columns.items()}
    return Units(tuple(names), columns)


def test_rows_of_one_group_are_drawn_together() -> None:
    units = packed(np.random.default_rng(0), 30)
    one, other = figure(units), figure(added(units))
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-12)
    assert one.n_units == other.n_units == 30 < len(units)


def test_without_groups_every_number_is_what_it_was() -> None:
    """Weights go by the name of a row, as ever: results that are stored stay right to the last bit."""
    units = equal_documents(np.random.default_rng(0), 120, "document ")
    weights = bootstrap.resample_weights(units.ids, 0, 500).astype(np.float64)
    drawn = DOCUMENT.drawn(units, seed=0, resamples=500).replicates
    narrow = np.stack([units.columns[name] for name in units.columns], axis=1)
    assert all((getattr(drawn, name) == (weights @ narrow)[:, i]).all() for i, name in enumerate(units.columns))
    plain = bootstrap.estimate(units, nmse, resamples=500)
    found = figure(units)
    assert (found.value, found.low, found.high, found.n_units) == (plain.value, plain.low, plain.high, 120)
    assert found.design_effect is None


def test_copies_of_a_document_are_one_group() -> None:
    units = equal_documents(np.random.default_rng(0), 6)
    ids = ("a", "a#2", "a#3", "b", "c", "d")
    assert figure(Units(ids, units.columns)).n_units == 4


def test_a_group_has_the_same_weights_whatever_its_rows() -> None:
    """So a control, which is measured on some of the text, is compared in pairs by group too."""
    units = packed(np.random.default_rng(0), 8)
    whole = DOCUMENT.drawn(units, seed=3, resamples=50).replicates.tokens
    of_one = units.where(lambda unit: group_of(unit) == "d2")
    part = DOCUMENT.drawn(of_one, seed=3, resamples=50).replicates.tokens
    rest = DOCUMENT.drawn(units.where(lambda unit: group_of(unit) != "d2"), seed=3, resamples=50).replicates.tokens
    np.testing.assert_allclose(part + rest, whole)


def test_what_many_tables_share_is_grouped_and_summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    units = packed(rng, 12)
    common = Common(units.ids, {"x": rng.normal(size=(len(units), 5)), "tokens": units.columns["tokens"]})
    made: list[int] = []
    added_up = bootstrap.common_total
    monkeypatch.setattr("sae_bench.units.adding._added", counting("sae_bench.units.adding", "_added", made))
    found = []
    for error in rng.gamma(4, 0.05, (3, len(units))):
        table = Units(units.ids, {**common.columns, "error": error}, common)
        draws = DOCUMENT.drawn(table, seed=0, resamples=50)
        found.append((draws.replicates.x, draws.influence(spread_of_x)))
    assert added_up(common)
    assert made == [2, 1, 1, 1]  # what is shared, then the errors of each table
    assert found[0][0] is found[1][0] is found[2][0]
    assert found[0][1].groups is found[2][1].groups


def spread_of_x(s: Any) -> Any:
    return s.once(_spread, "x", "tokens")


def _spread(x: Any, tokens: Any) -> Any:
    return (x**2).sum(-1) / tokens


def counting(module: str, name: str, made: list[int]) -> Any:
    import importlib

    function = getattr(importlib.import_module(module), name)

    def counted(columns: Any, *rest: Any) -> Any:
        made.append(len(columns))
        return function(columns, *rest)

    return counted


WIDE = {"fvu", "mse", "top_tokens_variance", "fvu_without_top_tokens", "cosine"}


@pytest.mark.parametrize("slab", [1, 1 << 20])
def test_leaving_out_a_group_is_what_the_figure_is_without_it(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the metric makes of the sums, in slabs of any size, and of what many tables share."""
    monkeypatch.setattr(sums, "SLAB", slab)
    rng = np.random.default_rng(1)
    n = 9
    names = ("error", "energy", "cosine", "top_energy", "top_error", "rounding", "top_rounding")
    columns = {name: rng.random(n) + (3 if name == "energy" else 0) for name in names}
    columns |= {"cosine_tokens": np.full(n, 40.0), "top_tokens": np.full(n, 2.0)}
    shared = {"x": rng.normal(size=(n, 4)), "top_x": 0.1 * rng.normal(size=(n, 4)), "tokens": np.full(n, 40.0)}
    shared["energy"] = columns.pop("energy") * 100
    ids = tuple(in_group(f"g{i // 2}", str(i)) for i in range(n))
    common = Common(ids, shared)
    units = Units(ids, {**columns, **shared}, common)
    draws = DOCUMENT.drawn(units, seed=0, resamples=50)
    for name, metric in reconstruction({}).items():
        if name not in WIDE:
            continue
        influence = draws.influence(metric)
        assert influence is not None
        assert influence.rows is not None
        for place, group in enumerate(dict.fromkeys(map(group_of, ids))):
            rest = bootstrap.total(units.where(lambda unit, group=group: group_of(unit) != group))
            assert influence.groups[place] == pytest.approx(bootstrap.quotient(metric(rest))[0], rel=1e-9), name
        for row in range(n):
            rest = bootstrap.total(units.select([i for i in range(n) if i != row]))
            assert influence.rows[row] == pytest.approx(bootstrap.quotient(metric(rest))[0], rel=1e-9), name


# --- marks


def test_few_groups_mark_an_interval_and_many_equal_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    assert figure(equal_documents(rng, 99)).optimistic == "99 groups"
    assert figure(equal_documents(rng, 100)).optimistic is None


def test_one_large_group_marks_an_interval() -> None:
    units = equal_documents(np.random.default_rng(0), 150)
    columns = {name: np.array(column) for name, column in units.columns.items()}
    for column in columns.values():
        column[0] *= 45
    assert "one group holds 23 % of the tokens" in str(figure(Units(units.ids, columns)).optimistic)
    del columns["tokens"]  # the denominator then says how much of a figure a group holds, here of its energy
    assert "one group holds 18 % of the tokens" in str(figure(Units(units.ids, columns)).optimistic)


def test_a_few_groups_that_decide_a_figure_mark_its_interval() -> None:
    units = equal_documents(np.random.default_rng(0), 150)
    columns = {name: np.array(column) for name, column in units.columns.items()}
    columns["error"][:2] *= 40
    assert "a few groups decide it (skewness " in str(figure(Units(units.ids, columns)).optimistic)


def test_a_figure_that_only_one_group_has_is_marked() -> None:
    units = equal_documents(np.random.default_rng(0), 120)
    one = np.zeros(120)
    one[7] = 1.0

    def rare(s: Any) -> Any:
        return np.where(s.one > 0, s.error / np.maximum(s.one, 1e-9), np.nan)

    e = figure(Units(units.ids, {**units.columns, "one": one}), rare)
    assert e.optimistic is not None
    assert "without one of the groups there is no figure" in e.optimistic


def test_a_constant_figure_is_decided_by_no_group() -> None:
    """Position 0 is the same in every document; what differs there is the rounding of float32."""
    n = 150
    noise = 1 + 1e-9 * np.random.default_rng(0).lognormal(0, 3, n)
    ids = tuple(in_group(f"g{i // 2}", str(i)) for i in range(2 * n))
    error = np.repeat(noise, 2)
    e = figure(Units(ids, {"tokens": np.ones(2 * n), "error": error, "energy": np.ones(2 * n)}))
    assert (e.optimistic, e.design_effect) == (None, None)


def share_marked(draw: Any, trials: int) -> float:
    rng = np.random.default_rng(3)
    return float(np.mean([figure(draw(rng), resamples=40).optimistic is not None for _ in range(trials)]))


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.5])
def test_equal_independent_documents_are_hardly_ever_marked(spread: float) -> None:
    def draw(rng: np.random.Generator) -> Units:
        units = equal_documents(rng, 100)
        return Units(units.ids, {**units.columns, "error": 128 * rng.lognormal(0, spread, 100)})

    assert share_marked(draw, 300) <= 0.02


@pytest.mark.parametrize("n", slow_but(2, [20, 10, 50]))
def test_packed_text_whose_intervals_are_too_narrow_is_marked(n: int) -> None:
    assert share_marked(partial(packed, n=n, tail=1.5), 60) >= 0.9


@pytest.mark.parametrize(("n", "trials"), slow_but(1, [(60, 80), (100, 400), (400, 300)]))
def test_intervals_of_packed_text_hold_the_truth_by_group_and_not_by_row(n: int, trials: int) -> None:
    rng = np.random.default_rng(5)
    truth, held = 0.1 * math.exp(0.125), []
    for _ in range(trials):
        units = packed(rng, n)
        both = figure(units, resamples=300), figure(alone(units), resamples=300)
        held.append([e.low <= truth <= e.high for e in both])
    by_group, by_row = np.mean(held, axis=0)
    assert by_group >= 0.9
    assert by_row <= 0.8


# --- design effect


def test_the_design_effect_of_copies_is_the_root_of_their_number() -> None:
    units = equal_documents(np.random.default_rng(0), 200)
    rows = np.repeat(np.arange(200), 9)
    ids = tuple(in_group(f"g{row}", str(i)) for i, row in enumerate(rows))
    e = figure(Units(ids, {name: column[rows] for name, column in units.columns.items()}), resamples=2000)
    assert e.design_effect == pytest.approx(3, rel=0.06)
    many = trust.MOST_ROWS
    try:
        trust.MOST_ROWS = 300
        assert figure(Units(ids, {n: c[rows] for n, c in units.columns.items()}), resamples=2000).design_effect == (
            pytest.approx(3, rel=0.25)
        )
    finally:
        trust.MOST_ROWS = many


def test_pieces_that_are_not_alike_have_a_design_effect_of_one() -> None:
    rng = np.random.default_rng(0)
    units = equal_documents(rng, 1200)
    ids = tuple(in_group(f"g{i // 6}", str(i)) for i in range(1200))
    assert figure(Units(ids, units.columns), resamples=2000).design_effect == pytest.approx(1, abs=0.12)


# --- no interval


def test_few_groups_of_many_rows_have_no_interval_and_say_so() -> None:
    units = packed(np.random.default_rng(0), 4, pieces=30)
    e = figure(units)
    assert (e.low, e.high, e.optimistic) == (None, None, None)
    assert e.no_interval == "it is of 4 groups, and fewer than 5 tell too little"


def test_a_figure_that_most_resamples_do_not_have_says_so() -> None:
    units = equal_documents(np.random.default_rng(0), 20)

    def all_or_none(s: Any) -> Any:
        return np.where(s.tokens == units.columns["tokens"].sum(), 1.0, np.nan)

    e = figure(units, all_or_none)
    assert (e.value, e.low, e.no_interval) == (1.0, None, "most resamples have no value")


def test_a_reason_is_said_of_what_it_is_about() -> None:
    given: dict[str, Any] = {"unit": "1", "better": "lower", "n_units": 3}
    MetricValue(value=1.0, low=None, high=None, no_interval="3 groups", **given)
    old = MetricValue(value=1.0, low=None, high=None, **given)
    assert (old.no_interval, old.optimistic, old.design_effect) == (None, None, None)
    for wrong in (
        {"value": 1.0, "low": 0.0, "high": 2.0, "no_interval": "x"},
        {"value": 1.0, "low": None, "high": None, "optimistic": "x"},
        {"value": None, "low": None, "high": None, "reason": "r", "no_interval": "x"},
        {"value": 1.0, "low": 0.0, "high": 2.0, "design_effect": -1.0},
        {"value": 1.0, "low": 0.0, "high": 2.0, "design_effect": math.nan},
    ):
        with pytest.raises(ValidationError):
            MetricValue(**{"reason": None, **wrong}, **given)


def test_a_quotient_without_a_denominator_column_has_no_large_group() -> None:
    """A metric that is no quotient and has no column of tokens says nothing of how large groups are."""
    units = equal_documents(np.random.default_rng(0), 120)
    columns = {"error": units.columns["error"]}

    def plain(s: Any) -> Any:
        return s.error * 1.0

    assert figure(Units(units.ids, columns), plain).optimistic is None
    with np.errstate(all="ignore"):
        assert isinstance(nmse(bootstrap.total(units)), Ratio)
