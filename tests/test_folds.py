"""Shares of latents over text: intervals of documents, not of latents, whatever is dead, dense, few or alike."""

import json
from pathlib import Path

import numpy as np
import pytest

from sae_bench.metrics.sparsity import blocks, metrics
from sae_bench.results import compare
from sae_bench.units import Units, folds
from sae_bench.units.bootstrap import Estimate, estimate_of, percentile_interval, quotient
from sae_bench.units.kinds import kind
from tests.builders.comparisons import save
from tests.builders.views import task

TOKENS = 50  # of a document
METRICS = {name: metric for name, metric in metrics({}).items() if name.startswith("d")}


def counts(n_documents: int, n_latents: int, seed: int = 0, clustered: float = 0.3) -> np.ndarray:
    """On how many tokens of each document latents are active: rare and frequent ones, in some documents only."""
    draw = np.random.default_rng(seed)
    rate = np.exp(draw.uniform(np.log(2e-5), np.log(0.3), n_latents))
    there = draw.random((n_documents, n_latents)) < clustered
    return draw.binomial(TOKENS, np.minimum(rate / clustered, 1) * there)


def table(active: np.ndarray, names: list[str] | None = None, tokens: int = TOKENS) -> Units:
    names = [f"document {i}" for i in range(len(active))] if names is None else names
    by_fold = np.zeros((folds.FOLDS, active.shape[1]), dtype=np.int64)
    np.add.at(by_fold, [folds.fold_of(name) for name in names], active)
    documents = Units(tuple(names), {"tokens": np.full(len(names), float(tokens))})
    return folds.table(documents, by_fold, active.sum(0) * np.linspace(1, 2, active.shape[1]))


def figures(units: Units, resamples: int = 200) -> dict[str, Estimate]:
    draws = kind("fold").drawn(units, seed=0, resamples=resamples)
    return {name: estimate_of(draws, metric) for name, metric in METRICS.items()}


def test_the_order_of_documents_and_of_latents_changes_nothing() -> None:
    active, order = counts(60, 80), np.random.default_rng(1).permutation(60)
    plain = figures(table(active))
    names = [f"document {i}" for i in range(60)]
    assert figures(table(active[order], [names[i] for i in order])) == plain
    for name, e in figures(table(active[:, ::-1])).items():
        if "contribution" not in name:  # the builder's sizes go with the number of a latent
            assert e == plain[name], name


def test_copies_pieces_and_documents_of_one_group_are_in_one_fold() -> None:
    """Else the same text would stand on both sides of a half, and the halves would be too much alike."""
    assert folds.fold_of("a#2") == folds.fold_of("a") == folds.fold_of("a/3") == folds.fold_of("a#2/1")
    grouped = [f"book~{i:02d}" for i in range(20)]
    assert len({folds.fold_of(name) for name in [*grouped, "book~07/4"]}) == 1
    units = table(counts(20, 5), grouped)
    assert units.columns["documents"].sum() == 1
    assert figures(units)["dead_fraction"].low is None, "one group has no interval"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([f"document {i}" for i in range(120)], None),
        ([f"document {i}" for i in range(60)], "60 groups"),
        ([f"g{i % 20}~{i}" for i in range(120)], "20 groups"),
        ([f"g{max(0, i - 30)}~{i}" for i in range(150)], "one group holds 21 % of the tokens"),
    ],
)
def test_an_interval_over_few_groups_or_a_large_one_is_marked(names: list[str], said: str | None) -> None:
    """As those over documents are: dead and dense latents of one sample are no surer than its FVU."""
    units = table(counts(len(names), 60), names)
    for name, e in figures(units).items():
        assert (e.optimistic, e.low is None) == (said, False), name
    without = {name: column for name, column in units.columns.items() if name != "largest"}
    assert all("holds" not in str(e.optimistic) for e in figures(Units(units.ids, without)).values())


@pytest.mark.parametrize("what", ["tokens", "documents", "largest", "active", "ids"])
def test_folds_that_are_not_of_the_documents_beside_them_are_told(what: str) -> None:
    """More groups than there are make an interval narrow, fewer firings make latents dead."""
    active = counts(60, 80)
    documents = Units(
        tuple(f"document {i}" for i in range(60)), {"tokens": np.full(60, float(TOKENS)), "active": active.sum(1) * 1.0}
    )
    units = table(active)
    assert folds.disagree({"document": documents, "fold": units}) is None
    assert folds.disagree({"fold": units}) is None
    columns = {name: column + (column > 0) if name == what else column for name, column in units.columns.items()}
    ids = units.ids[::-1] if what == "ids" else units.ids
    assert folds.disagree({"document": documents, "fold": Units(ids, columns)}) is not None


@pytest.mark.parametrize("n", [1, 3, 4])
def test_few_documents_have_figures_and_no_interval(n: int) -> None:
    for name, e in figures(table(counts(n, 40))).items():
        assert (e.value is not None, e.low, e.n_units) == (True, None, n), name


@pytest.mark.parametrize(("rate", "share"), [(0, 1.0), (TOKENS, 0.0)])
def test_all_dead_and_none_dead_have_intervals_that_are_not_empty(rate: int, share: float) -> None:
    """A sample in which nothing is dead does not know that nothing ever is."""
    found = figures(table(np.full((40, 30), rate)))["dead_fraction"]
    assert (found.value, found.n_units) == (share, 40)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert 0.5 / 30 < found.high - found.low < 1 / 30


def test_unused_latents_of_a_wide_dictionary_are_dead_and_move_nothing() -> None:
    active = counts(60, 64)
    wide = np.concatenate([active, np.zeros((60, 192), dtype=np.int64)], axis=1)
    few, many = (figures(table(one))["dead_fraction"] for one in (active, wide))
    assert many.value * 256 == few.value * 64 + 192
    assert (many.high - many.low) * 256 == pytest.approx((few.high - few.low) * 64, rel=0.15)


def test_two_saes_of_different_width_are_compared_in_pairs() -> None:
    """What a text does to both is no difference: the interval of a pair is narrower than of two samples."""
    active = counts(100, 400, clustered=0.1)
    half = active[:, ::2]
    draws = [kind("fold").drawn(table(one), seed=0, resamples=400) for one in (active, half)]
    metric = METRICS["dense_fraction_1pct"]
    paired = quotient(metric(draws[0].replicates)) - quotient(metric(draws[1].replicates))
    apart = quotient(metric(draws[0].replicates)) - np.roll(quotient(metric(draws[1].replicates)), 1)
    assert paired.std() < 0.9 * apart.std()


def test_an_sae_is_equal_to_itself() -> None:
    a, b = (kind("fold").drawn(table(counts(50, 60)), seed=0, resamples=50) for _ in range(2))
    for metric in METRICS.values():
        assert (quotient(metric(a.replicates)) == quotient(metric(b.replicates))).all()


def test_figures_of_other_numbers_of_tokens_are_not_compared(tmp_path: Path) -> None:
    active = counts(50, 60)
    same, more = table(active), table(np.concatenate([active, active[:5]]), [f"other {i}" for i in range(55)])
    assert kind("fold").apart(same, same) is None
    assert "2500 tokens and the second on 2750" in str(kind("fold").apart(same, more))
    sides = [
        compare.load(save(tmp_path, "sparsity", {"fold": units}, ["dead_fraction"], name, data_sha256=name * 32))
        for name, units in (("ab", same), ("cd", more))
    ]
    found = compare.difference(*sides, "dead_fraction", other_text=True)
    assert (found.value, found.verdict) == (None, "not compared")
    assert "measure both on equally many" in str(found.reason)


def test_counts_are_kept_small_and_sums_stay_exact() -> None:
    units = table(counts(40, 100))
    assert units.columns["active"].dtype.itemsize <= 2
    big = np.zeros((3, 2), dtype=np.int64)
    big[:, 0] = 2**31
    assert folds.active_tokens(table(big)).tolist() == [3 * 2**31, 0]


def test_the_curve_goes_down_to_the_figure_and_on_to_what_more_text_shows() -> None:
    active = counts(400, 600, clustered=0.05)
    half = table(active[:200])
    on_half, on_all = (int((one.sum(0) == 0).sum()) for one in (active[:200], active))
    n = [folds.expected_dead(half, k) for k in (1, 2, 4, 8, 16, 32)]
    assert n == sorted(n, reverse=True)
    assert n[-1] == pytest.approx(on_half)
    assert abs(folds.dead_at_twice(half) - on_all) < 0.35 * (on_half - on_all)
    assert folds.dead_at_twice(table(active[:3])) is None


def test_the_curve_is_shown() -> None:
    units = table(counts(200, 60))
    details = json.loads(json.dumps(task("sparsity").details({"document": units, "fold": units})))
    shown = {block.title: block for block in blocks(details)}
    points = shown["Latents that are dead on so many tokens"].series[0].points
    assert points[-1] == (200 * TOKENS, details["never_active"] / 60)
    assert len(blocks({name: one for name, one in details.items() if name != "dead_by_tokens"})) == 1, "older results"


def drawn(population: np.ndarray, n: int, trial: int, draw: np.random.Generator) -> Units:
    active = population[draw.integers(len(population), size=n)]
    return table(active, [f"{trial} {i}" for i in range(n)])


@pytest.mark.parametrize("trials", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_intervals_hold_what_draws_of_documents_give_in_the_mean(trials: int) -> None:
    """And those of latents (Wilson), which they replace, are several times as wide for dense latents."""
    draw, population = np.random.default_rng(0), counts(2000, 400, clustered=0.05)
    found = [figures(drawn(population, 100, trial, draw)) for trial in range(trials)]
    for name in METRICS:
        mean = float(np.mean([one[name].value for one in found]))
        held = np.mean([one[name].low <= mean <= one[name].high for one in found])
        assert held > (0.89 if trials > 50 else 0.6), name
        if trials > 50:
            spread = np.std([one[name].value for one in found])
            width = np.mean([one[name].high - one[name].low for one in found])
            # where one latent of 400 is near a threshold, folds make intervals twice as wide as draws are apart
            assert width < 4 * 2.2 * spread, f"{name}: wider than documents are apart"


def test_replicates_are_around_the_figure() -> None:
    """A plain resample has fewer different documents, and more dead latents: its interval would not hold the figure."""
    units = table(counts(100, 400, clustered=0.05))
    draws = kind("fold").drawn(units, seed=0, resamples=400)
    for metric in METRICS.values():
        value, replicates = float(quotient(metric(draws.points))[0]), quotient(metric(draws.replicates))
        low, high = percentile_interval(value, replicates, draws.n, 0.95)
        assert abs(np.median(replicates) - value) < 0.2 * (high - low)
