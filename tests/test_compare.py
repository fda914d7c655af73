"""Comparing SAEs: equal ones are rarely told apart, different ones are, and nothing that was changed is believed."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_bench.cli import compare as verb
from sae_bench.cli.exits import MEANING, Exit
from sae_bench.errors import ResultError, SaeBenchError, UsageError
from sae_bench.results import compare, compare_intervals, store
from sae_bench.results.compare_intervals import Proportion, holm, p_value, p_value_of_shares, square_and_add
from sae_bench.show.text import code, markdown
from sae_bench.units import Units, folds, nested
from sae_bench.units.bootstrap import quotient, total
from tests.builders.comparisons import HOSTILE, documents, examples, frame, save
from tests.builders.results import changed
from tests.builders.verbs import runner

TRIALS = 200
MANY = pytest.param(TRIALS, marks=pytest.mark.slow)
APART = "cannot be told apart"


# --- synthetic results -----------------------------------------------------------------------------------------------


def pair(folder, task, tables, metrics, names=("a", "b"), **protocol):
    return [compare.load(save(folder, task, t, metrics, n, **protocol)) for n, t in zip(names, tables, strict=True)]


def nmse(folder, a, b):
    return compare.difference(*pair(folder, "reconstruction", [{"document": a}, {"document": b}], ["nmse"]), "nmse")


def share_of(found):
    return np.mean([d.verdict != APART for d in found])


def most(trials):
    """The share of 5 %, and the error of so many trials."""
    return 0.05 + 2.5 * (0.05 * 0.95 / trials) ** 0.5


# --- equal SAEs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def null_documents(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("null")
    return [nmse(folder, *documents(rng, 40, (0.1, 0.1), f"t{trial}d")) for trial in range(TRIALS)]


def test_equal_saes_on_the_same_documents_are_rarely_told_apart(null_documents):
    assert share_of(null_documents) <= most(len(null_documents))
    assert {d.method for d in null_documents} == {"paired bootstrap"}


def test_p_values_are_uniform_where_there_is_no_difference(null_documents):
    p = np.array([d.p for d in null_documents])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert all((d.p < 0.05) == (d.low > 0 or d.high < 0) for d in null_documents if not 0.04 < d.p < 0.06)


@pytest.mark.parametrize("trials", [40, MANY])
def test_one_sae_on_two_halves_of_the_documents_is_rarely_told_apart(tmp_path, trials):
    rng, found = np.random.default_rng(1), []
    for trial in range(trials):
        (whole,) = documents(rng, 80, (0.1,), f"h{trial}d")
        halves = [{"document": whole.select(np.arange(start, 80, 2))} for start in (0, 1)]
        a, b = (
            compare.load(save(tmp_path, "reconstruction", half, ["nmse"], data_sha256=digit * 64))
            for half, digit in zip(halves, "56", strict=True)
        )
        with pytest.raises(compare.NotComparable, match="data_sha256"):
            compare.difference(a, b, "nmse")
        found.append(compare.difference(a, b, "nmse", other_text=True))
    assert share_of(found) <= most(trials)
    assert {(d.method, d.left_out) for d in found} == {("bootstrap", (0, 0))}


def latents(values, **columns):
    n = len(values)
    return {"latent": frame(map(str, range(n)), f1=values, ok=1.0 - values, latents=np.ones(n), **columns)}


@pytest.mark.parametrize("trials", [40, MANY])
@pytest.mark.parametrize(("task", "metric", "rate"), [
    ("token_rules", "rule_f1", None),
    *(("autointerp", "failed_fraction", rate) for rate in (0.004, 0.02, 0.1)),
])  # fmt: skip
def test_equal_saes_with_other_latents_are_rarely_told_apart(tmp_path, task, metric, rate, trials):
    rng, found = np.random.default_rng(2), []
    for trial in range(trials):
        draws = [rng.beta(2, 5, 150) if rate is None else rng.random(200) < rate for _ in range(2)]
        names = [f"{trial}{side}" for side in "ab"]
        found.append(compare.difference(*pair(tmp_path, task, map(latents, draws), [metric], names), metric))
    assert share_of(found) <= most(trials)
    assert all(d.low < d.high for d in found)


@pytest.mark.parametrize("trials", [40, MANY])
def test_an_sae_with_permuted_latents_is_never_told_apart(tmp_path, trials):
    rng, found = np.random.default_rng(3), []
    values = rng.beta(2, 5, 100)
    for trial in range(trials):
        tables = [latents(values), latents(rng.permutation(values))]
        names = ["a", f"permuted {trial}"]
        found.append(compare.difference(*pair(tmp_path, "token_rules", tables, ["rule_f1"], names), "rule_f1"))
    assert {d.verdict for d in found} == {APART}
    assert max(abs(d.value) for d in found) < 1e-12


@pytest.mark.parametrize("trials", [40, MANY])
def test_equal_saes_on_labelled_sets_are_rarely_told_apart(tmp_path, trials):
    rng = np.random.default_rng(4)
    sides = [pair(tmp_path, "probe_recovery", examples(rng, f"x{t}"), ["probe_loss"]) for t in range(trials)]
    found = [compare.difference(*side, "probe_loss") for side in sides]
    assert share_of(found) <= most(trials)
    assert {d.n_units for d in found} == {20}


def ablations(rng, tag, shift=0.0):
    """Two SAEs whose latents have the same effects, numbered alike or not, each with its own sample of them."""
    places = np.repeat(np.arange(30), 8)
    hard = rng.normal(0, 0.3, 30)[places]
    effects = rng.normal(0, 0.3, 60)
    tables = []
    for add in (0.0, shift):
        own = rng.integers(0, 60, len(places))
        values = 1 + add + hard + effects[own] + rng.normal(0, 0.2, len(places))
        ids = [f"{tag}d{d}@{i}:{m}" for i, (d, m) in enumerate(zip(places, own, strict=True))]
        tables.append({"ablation": frame(ids, kl=values, tokens=np.ones(len(ids)))})
    return tables


@pytest.mark.parametrize("trials", [40, MANY])
def test_equal_saes_with_other_ablated_latents_are_rarely_told_apart(tmp_path, trials):
    rng, found = np.random.default_rng(5), []
    for trial in range(trials):
        sides = pair(tmp_path, "downstream_sparsity", ablations(rng, f"y{trial}"), ["effect_kl"], (f"a{trial}", "b"))
        found.append(compare.difference(*sides, "effect_kl"))
    assert share_of(found) <= most(trials)


# --- different SAEs --------------------------------------------------------------------------------------------------


def shifted_pairs(folder, rng, trials, size):
    """Pairs of SAEs on 100 documents; the second leaves ``size`` more of the energy unexplained."""
    for trial in range(trials):
        a, b = documents(rng, 100, (0.1, 0.1), f"p{size}-{trial}d")
        error = b.columns["error"] + size * b.columns["energy"]
        yield nmse(folder, a, Units(b.ids, {"error": error, "energy": b.columns["energy"]}))


@pytest.mark.slow
def test_a_difference_as_large_as_said_is_found_four_times_of_five(tmp_path):
    rng = np.random.default_rng(6)
    size = float(np.mean([d.detectable for d in shifted_pairs(tmp_path, rng, TRIALS // 2, 0.0)]))
    found = list(shifted_pairs(tmp_path, rng, 2 * TRIALS, size))
    assert 0.74 <= np.mean([d.verdict == "worse" for d in found]) <= 0.86
    assert np.mean([d.low <= size <= d.high for d in found]) >= 1 - most(2 * TRIALS)


@pytest.mark.parametrize(("n", "errors"), [(10**6, 2.8016), (40, 2.91), (5, 4.156)])
def test_the_detectable_difference_in_standard_errors(n, errors):
    assert compare_intervals.detectable(1.0, n) == pytest.approx(errors, abs=0.002)


def test_pairing_finds_what_independent_samples_do_not(tmp_path):
    rng = np.random.default_rng(7)
    a, b = documents(rng, 60, (0.1, 0.12), "d")
    paired = nmse(tmp_path, a, b)
    assert paired.verdict == "worse"
    c = Units(tuple(f"other {unit}" for unit in b.ids), b.columns)
    one, other = (
        compare.load(save(tmp_path, "reconstruction", {"document": t}, ["nmse"], data_sha256=digit * 64))
        for t, digit in ((a, "5"), (c, "6"))
    )
    apart = compare.difference(one, other, "nmse", other_text=True)
    assert apart.value == pytest.approx(paired.value, rel=1e-9)
    assert apart.verdict == APART
    assert apart.detectable > 2 * paired.detectable


def test_the_interval_is_that_of_another_library_for_a_mean(tmp_path):
    rng = np.random.default_rng(8)
    n = 300
    x = rng.gamma(3, 1, n)
    y = x + rng.normal(0.1, 0.5, n)
    tables = [{"document": frame([f"d{i}" for i in range(n)], active=v, tokens=np.ones(n))} for v in (x, y)]
    d = compare.difference(*pair(tmp_path, "sparsity", tables, ["l0"]), "l0")
    reference = stats.bootstrap(
        (x, y), lambda a, b, axis: b.mean(axis) - a.mean(axis), paired=True, n_resamples=20000, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert d.value == pytest.approx((y - x).mean(), rel=1e-12)
    assert d.low == pytest.approx(reference.confidence_interval.low, abs=0.05 * width)
    assert d.high == pytest.approx(reference.confidence_interval.high, abs=0.05 * width)
    assert d.detectable == pytest.approx(2.8 * reference.standard_error, rel=0.06)
    assert d.p == pytest.approx(stats.ttest_rel(y, x).pvalue, rel=0.6)
    assert d.verdict == "differs"


@pytest.mark.parametrize(("metric", "verdict"), [("nmse", "better"), ("cosine", "worse"), ("norm_ratio", "differs")])
def test_verdicts_follow_the_direction_of_the_metric(tmp_path, metric, verdict):
    one = np.random.default_rng(9).uniform(50, 100, 50)
    columns = ("error", "cosine", "norm_ratio")
    tables = [
        {
            "document": frame(
                map(str, range(50)), energy=one, cosine_tokens=one, norm_ratio_tokens=one,
                **{name: factor * one * np.linspace(0.9, 1, 50) for name in columns},
            )
        }
        for factor in (0.5, 0.4)
    ]  # fmt: skip
    d = compare.difference(*pair(tmp_path, "reconstruction", tables, [metric]), metric)
    assert d.value < 0
    assert d.verdict == verdict


def test_a_constant_difference_is_as_sure_as_a_sign_test(tmp_path):
    """A TopK SAE has the same L0 on every document."""
    n = 20
    tables = [
        {"document": frame(map(str, range(n)), active=k * np.arange(1, n + 1), tokens=np.arange(1, n + 1))}
        for k in (16, 32)
    ]
    d = compare.difference(*pair(tmp_path, "sparsity", tables, ["l0"]), "l0")
    assert (d.value, d.low, d.high) == pytest.approx((16, 16, 16))
    assert d.p == 2.0**-19
    assert d.verdict == "differs"


# --- the same, and parts of it ---------------------------------------------------------------------------------------


def both_tables(rng, n=30, m=50):
    table = frame([f"d{i}" for i in range(n)], active=rng.uniform(5, 9, n), tokens=np.ones(n))
    active = rng.integers(0, 2, (folds.FOLDS, m)) * (rng.random(m) < 0.7)
    return {"document": table, "fold": folds.table(table, active, np.ones(m))}


@pytest.mark.parametrize("sha", [None, "ab" * 32])
def test_identical_results_differ_by_exactly_nothing(tmp_path, sha):
    tables = both_tables(np.random.default_rng(10))
    a, b = pair(tmp_path, "sparsity", [tables, tables], ["l0", "dead_fraction"], sha=sha)
    for metric in ("l0", "dead_fraction"):
        d = compare.difference(a, b, metric)
        assert d.value == 0
        assert d.verdict == APART
        assert d.p == 1
    table = latents((np.random.default_rng(10).random(50) < 0.3).astype(float))
    d = compare.difference(
        *pair(tmp_path, "autointerp", [table, table], ["failed_fraction"], sha=sha), "failed_fraction"
    )
    assert d.low < 0 < d.high  # of a share of units: never an empty interval
    assert d.method == ("paired shares (Newcombe)" if sha else "bootstrap")


@given(order=st.randoms(use_true_random=False))
@settings(max_examples=5, deadline=None)
def test_the_order_of_units_changes_nothing(tmp_path_factory, order):
    tables = both_tables(np.random.default_rng(11))
    other = both_tables(np.random.default_rng(12))
    shuffled = {kind: t.select(order.sample(range(len(t)), len(t))) for kind, t in other.items()}
    metrics, folder = ["l0", "dead_fraction"], tmp_path_factory.mktemp("order")
    a, b = pair(folder, "sparsity", [tables, other], metrics)
    c = compare.load(save(folder / "c", "sparsity", shuffled, metrics, "b"))
    for metric in metrics:
        assert compare.difference(a, b, metric) == compare.difference(a, c, metric)


def test_documents_that_one_lacks_are_left_out(tmp_path):
    a, b = documents(np.random.default_rng(13), 40, (0.1, 0.2), "d")
    kept_a, kept_b = list(range(3, 40)), list(range(35))
    part = nmse(tmp_path, a.select(kept_a), b.select(kept_b))
    common = [i for i in kept_a if i in kept_b]
    whole = nmse(tmp_path, a.select(common), b.select(common))
    assert (part.left_out, part.n_units) == ((5, 3), 32)
    assert (part.a, part.b, part.value, part.low, part.high, part.p) == (
        whole.a, whole.b, whole.value, whole.low, whole.high, whole.p,
    )  # fmt: skip
    none = nmse(tmp_path, a.select([0, 1]), b.select([2, 3]))
    assert none.verdict == "not compared"
    assert none.reason == "they have no unit in common"


def test_few_units_have_a_difference_and_no_verdict(tmp_path):
    d = nmse(tmp_path, *documents(np.random.default_rng(14), 4, (0.1, 0.9), "d"))
    assert d.value is not None
    assert (d.low, d.p, d.verdict) == (None, None, APART)
    assert "fewer than 5" in d.reason


def test_labelled_results_are_compared_on_the_sets_that_both_cover(tmp_path):
    one, other = examples(np.random.default_rng(15), "x", shift=0.2)
    of_ten = [i for i, unit in enumerate(other["example"].ids) if int(unit[1 : unit.index("@")]) < 10]
    part = {"example": other["example"].select(of_ten)}
    a = compare.load(save(tmp_path, "probe_recovery", one, ["probe_loss"], "a"))
    b = compare.load(save(tmp_path, "probe_recovery", part, ["probe_loss"], "b", data_sha256="7" * 64, n_documents=9))
    d = compare.difference(a, b, "probe_loss")
    assert (d.n_units, d.left_out, d.verdict) == (10, (10, 0), "worse")
    means = [t["example"].columns["loss"][of_ten if t is one else slice(None)].mean() for t in (one, part)]
    assert d.value == pytest.approx(means[1] - means[0])
    c = compare.load(save(tmp_path, "probe_recovery", part, ["probe_loss"], "c", data_sha256="7" * 64, seed=3))
    with pytest.raises(compare.NotComparable, match=r"data_sha256.*seed \(0 and 3\)"):
        compare.difference(a, c, "probe_loss")


def test_a_set_without_a_value_in_one_result_counts_in_neither(tmp_path):
    """Else one SAE would be scored without its hardest set."""
    rng = np.random.default_rng(16)
    ids = [f"s{i}@x:t{i}-{j}" for i in range(12) for j in range(6)]
    true_positive = (rng.random(72) < 0.6).astype(float)
    miss = 1 - true_positive
    gone = np.array([not unit.startswith("s3@") for unit in ids], dtype=float)
    tables = [
        {"example": frame(ids, true_positive=true_positive * g, false_positive=0 * miss, false_negative=miss * g)}
        for g in (np.ones(72), gone)
    ]
    a = compare.load(save(tmp_path, "probe_recovery", tables[0], ["probe_f1"], "a"))
    file = tmp_path / "b.json"
    one = json.loads(save(tmp_path, "probe_recovery", tables[0], ["probe_f1"], "b").read_text())
    sets = [quotient(a.metrics["probe_f1"](total(t)))[0] for t in nested.by_set(tables[1]["example"]).values()]
    one["metrics"]["probe_f1"]["value"] = float(np.nanmean(sets))
    file.write_text(json.dumps(one))
    b_units = store.write(tmp_path / "units", store.read(file), tables[1])
    d = compare.difference(a, compare.load(b_units), "probe_f1")
    assert (d.value, d.n_units, d.left_out) == (0, 11, (1, 1))


def test_replicates_of_independent_latents_are_independent(tmp_path):
    """The names of latents are numbers; latent 3 of one SAE is not latent 3 of another."""
    values = np.random.default_rng(17).normal(0, 1, 200)
    rows = [latents(values), latents(values + 0.01)]
    other = compare.difference(*pair(tmp_path, "token_rules", rows, ["rule_f1"]), "rule_f1")
    same = compare.difference(*pair(tmp_path, "token_rules", rows, ["rule_f1"], sha="ab" * 32), "rule_f1")
    assert (other.method, same.method) == ("bootstrap", "paired bootstrap")
    assert other.high - other.low > 0.3
    assert same.high - same.low < 1e-9
    unknown = compare.difference(*pair(tmp_path, "token_rules", rows, ["rule_f1"], sha="0" * 64), "rule_f1")
    assert unknown.method == "bootstrap"  # a digest of zeros is none: not known to be the same weights


def test_documents_of_ablations_are_resampled_together_whatever_latents_are_taken_away(tmp_path):
    """Two SAEs with the same effects on the same documents differ by nothing, though other latents were active."""
    rng = np.random.default_rng(18)
    tables = ablations(rng, "z")
    hard = rng.normal(0, 1, 30)
    sides = []
    for table in tables:
        ids = table["ablation"].ids
        values = [1 + hard[int(unit.partition("@")[0][2:])] for unit in ids]
        sides.append({"ablation": frame(ids, kl=values, tokens=np.ones(len(ids)))})
    d = compare.difference(*pair(tmp_path, "downstream_sparsity", sides, ["effect_kl"]), "effect_kl")
    assert d.method == "paired bootstrap"
    assert d.high - d.low < 1e-9


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "low", "high"), [
    ((56, 70), (48, 80), -0.3339, -0.0524),  # Newcombe 1998, table II, method 10, with signs turned
    ((9, 10), (3, 10), -0.8090, -0.1705),
    ((6, 7), (2, 7), -0.8062, -0.0582),
    ((0, 20), (0, 10), -0.1611, 0.2775),
    ((10, 10), (0, 10), -1.0, -0.6075),
])  # fmt: skip
def test_shares_have_the_intervals_of_the_paper(a, b, low, high):
    one, other = (Proportion(x / n, n) for x, n in (a, b))
    found = square_and_add(one, other, 0.95)
    assert found == pytest.approx((low, high), abs=6e-5)
    p = p_value_of_shares(one, other)
    assert (p < 0.05) == (high < 0 or low > 0)
    assert p_value_of_shares(other, one) == pytest.approx(p)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_holm(p_values):
    found = holm(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        steps = [min(1.0, sum(q >= s for q in p_values) * s) for s in p_values if s <= p]
        assert adjusted == pytest.approx(max(steps))


@settings(max_examples=30, deadline=None)
@given(centre=st.floats(0.0, 6), n=st.integers(5, 500), seed=st.integers(0, 50))
def test_p_values_of_normal_replicates_are_those_of_a_t_test(centre, n, seed):
    replicates = np.random.default_rng(seed).normal(centre, 1, 2000)
    found = p_value(centre, replicates, n)
    expected = 2 * stats.t.sf(centre * np.sqrt((n - 1) / n), n - 1)
    assert np.log(found) == pytest.approx(np.log(expected), rel=0.25, abs=0.15)
    assert p_value(-centre, -replicates, n) == found


def test_p_values_fall_as_the_difference_grows():
    replicates = np.random.default_rng(0).gamma(3, 1, 2000) - 3
    found = [p_value(d, replicates + d, 50) for d in np.linspace(0.01, 12, 60)]
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert found[-1] < 1e-6
    assert p_value(1.0, np.full(100, np.nan), 9) is None
    assert compare_intervals.p_value(0.0, np.zeros(100), 9) == 1


def test_many_metrics_need_more(tmp_path):
    ds = [nmse(tmp_path, *documents(np.random.default_rng(s), 40, (0.1, 0.1), f"{s}d")) for s in range(20)]
    best = min(ds, key=lambda d: d.p)
    adjusted = compare.adjusted(ds)
    assert adjusted[ds.index(best)].p_adjusted == pytest.approx(min(1, 20 * best.p))
    assert [d.p for d in adjusted] == [d.p for d in ds]
    assert {d.verdict for d in adjusted} == {APART}


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(capsys):
    return runner(verb, "compare", capsys)


def some(folder, name, number, **changes):
    return save(
        folder, "sparsity", both_tables(np.random.default_rng(number)), ["l0", "dead_fraction"], name, **changes
    )


@pytest.mark.parametrize(("field", "value"), [
    ("model_sha256", "8" * 64), ("data_sha256", "8" * 64), ("mask", "none"), ("seed", 5), ("n_documents", 9),
    ("dtype", "bfloat16"), ("calibration_sha256", "8" * 64),
])  # fmt: skip
def test_other_conditions_are_refused_by_name(tmp_path, cli, field, value):
    code, out, err = cli(some(tmp_path, "a", 1), some(tmp_path, "b", 2, **{field: value}))
    assert (code, out) == (3, "")
    assert f"differ in {field} (" in err
    assert err.count("\n") == 1
    text = field in ("data_sha256", "n_documents", "calibration_sha256")
    assert ("--other-text" in err) == text
    assert cli(tmp_path / "a", tmp_path / "b", "--other-text")[0] == (0 if text else 3)


def test_folders_are_compared_task_by_task(tmp_path, cli):
    rng = np.random.default_rng(20)
    for name, table in zip("ab", documents(rng, 30, (0.1, 0.2), "d"), strict=True):
        some(tmp_path, name, 3)
        save(tmp_path, "reconstruction", {"document": table}, ["nmse"], name)
    save(tmp_path, "token_rules", latents(rng.random(20)), ["rule_f1"], "b")
    some(tmp_path, "b", 3, n_documents=64)
    code, out, _ = cli(tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "token_rules: no result of A" in out
    rows = {line.split()[1]: line for line in out.splitlines() if line.startswith(("sparsity ", "reconstruction "))}
    assert list(rows) == ["nmse", "l0", "dead_fraction"]
    assert rows["nmse"].endswith("worse")
    assert rows["l0"].endswith(APART)


def test_of_several_protocols_the_one_with_most_documents_is_shown(tmp_path, cli):
    for name in "ab":
        for n in (2, 64):
            some(tmp_path, name, n, n_documents=n)
    code, out, _ = cli(tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "measured under 2 protocols that can be compared; shown is the one with most documents, 64" in out


def test_json_has_every_pair_and_nothing_that_is_not_json(tmp_path, cli):
    files = [some(tmp_path, name, seed) for seed, name in enumerate("abc")]
    code, out, _ = cli(*files, "--format", "json")
    content = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert code == 0
    assert [(c["a"], c["b"]) for c in content["comparisons"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    rows = [{d["metric"]: d for d in c["differences"]} for c in content["comparisons"]]
    assert rows[1]["l0"]["difference"] - rows[0]["l0"]["difference"] == pytest.approx(rows[2]["l0"]["difference"])
    assert {"low", "high", "p", "p_adjusted", "detectable", "verdict", "n_units", "left_out"} <= rows[0]["l0"].keys()
    text = cli(*files, "--pairs", "first")[1]
    assert text.count("95 % interval") == 2


def test_metrics_are_chosen_and_typos_told(tmp_path, cli):
    files = [some(tmp_path, name, seed) for seed, name in enumerate("ab")]
    assert "dead_fraction" not in cli(*files, "--metrics", "l*")[1]
    with pytest.raises(UsageError, match="dead_fraction"):
        cli(*files, "--metrics", "dead_fractoin")


def test_a_metric_that_one_lacks_is_named_and_the_others_compared(tmp_path, cli):
    a = some(tmp_path, "a", 0)
    b = save(tmp_path, "sparsity", both_tables(np.random.default_rng(1)), ["l0"], "b")
    code, out, _ = cli(a, b)
    assert code == 0
    assert "sparsity: B has no dead_fraction" in out
    with pytest.raises(UsageError, match="no metric 'dead_fraction'"):
        compare.difference(compare.load(a), compare.load(b), "dead_fraction")


def test_results_without_units_are_shown_and_not_compared(tmp_path, cli):
    code, out, err = cli(some(tmp_path, "a", 0), some(tmp_path, "b", 1, units=False))
    assert code == Exit.NOT_COMPARABLE
    assert "without units" in MEANING[Exit.NOT_COMPARABLE]
    assert "not compared" in out
    assert "the second has no units, and only units can be compared" in err
    assert f"{compare.load(next((tmp_path / 'b').rglob('*@*.json'))).result.metrics['l0'].value:.4g}" in out


def test_the_same_file_twice_and_several_saes_in_a_folder_are_usage_errors(tmp_path, cli):
    a, _ = some(tmp_path, "a", 0), some(tmp_path, "b", 1)
    with pytest.raises(UsageError, match="given twice"):
        cli(a, tmp_path / "a")
    with pytest.raises(UsageError, match=r"results of 2 SAEs: 'a' .*, 'b' "):
        cli(tmp_path, a)
    with pytest.raises(UsageError, match="2 or more results, not 1"):
        cli(a)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no result below .*empty"):
        cli(a, tmp_path / "empty")
    with pytest.raises(UsageError, match="no file or folder"):
        cli(a, tmp_path / "nowhere")
    shutil.copytree(tmp_path / "a", tmp_path / "a" / "copy")
    with pytest.raises(UsageError, match="the same task under the same protocol"):
        cli(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("style", ["text", "markdown"])
def test_a_hostile_name_stays_a_name(tmp_path, cli, style):
    sha = "ab" * 32
    code, out, _ = cli(some(tmp_path, HOSTILE, 0, sha=sha), some(tmp_path, "b", 1), "--format", style)
    assert code == 0
    assert "\x1b" not in out
    assert "row" in out
    assert not any(line.lstrip().startswith("| row") for line in out.splitlines())
    if style == "markdown":
        (shown,) = [line for line in out.splitlines() if line.startswith("- A: ")]
        assert shown.startswith("- A: <code>a&#124;b &#96;x&#96; &#60;img")  # code, in which nothing is markup
        assert shown.count("<code>") == shown.count("</code>") == 1
        widths = {line.replace("\\|", "").count("|") for line in out.splitlines() if line.startswith("|")}
        assert widths == {10}


@pytest.mark.parametrize("text", ["`", "``a`", "a`b``c", "plain", " ", "x|y", "", "</code>"])
def test_code_spans_cannot_be_left(text):
    shown = code(text)
    start, end = ("`", "`") if shown.startswith("`") else ("<code>", "</code>")
    assert shown.startswith(start)
    assert shown.endswith(end)
    assert not set(shown[len(start) : len(shown) - len(end)]) & set("`<>|")


def test_markup_in_text_is_escaped():
    assert markdown("a|b*c*<i>") == "a\\|b\\*c\\*&lt;i&gt;"
    assert "@someone" not in markdown("@someone http://x")
    assert "http://" not in markdown("@someone http://x")


# --- files that were changed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "value", "match"), [
    (("metrics", "l0", "value"), 3.0, r"'metrics\.l0\.value' is 3, but the units beside it give"),
    (("metrics", "l0", "better"), "higher", r"'metrics\.l0\.better' must be 'none'"),
    (("metrics", "l00"), {"value": 1, "low": None, "high": None, "unit": "1", "better": "none", "n_units": 1},
     r"'metrics\.l00' is not a metric of sparsity; did you mean 'l0'"),
    (("metrics", "l0", "value"), float("nan"), r"'metrics\.l0\.value' is not a finite number"),
    (("schema_version",), 99, "schema 99"),
    (("provenance", "protocol", "mask"), "none", "'protocol' must be the hash"),
    (("task",), "sparsitty", "'task' is 'sparsitty'"),
    (("version",), 7, "'version' is 7"),
    (("surprise",), 1, "'surprise'"),
])  # fmt: skip
def test_changed_results_are_refused_with_file_and_field(tmp_path, path, value, match):
    file = some(tmp_path, "a", 0)
    changed(file, *path, value=value)
    with pytest.raises(ResultError, match=match) as error:
        compare.load(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("tables", "match"), [
    (lambda t: t | {"document": frame(["d0", "d0"], active=[1, 2], tokens=[1, 1])}, "'d0' more than once"),
    (lambda t: t | {"document": frame(["d0", "d1"], active=[1, 2])}, "'document' does not give 'l0'.*tokens"),
    (lambda t: {"document": t["document"]}, "no table 'fold'"),
    (lambda t: t | {"document": frame(["d0", "d1"], active=[np.nan, 2], tokens=[1, 1])}, "units beside it give nan"),
])  # fmt: skip
def test_changed_units_are_refused_with_their_file(tmp_path, tables, match):
    file = some(tmp_path, "a", 0)
    store.write(tmp_path, store.read(file), tables(both_tables(np.random.default_rng(0))))
    with pytest.raises(ResultError, match=match) as error:
        compare.load(file)
    assert str(file.with_suffix("").name) in str(error.value)


@pytest.mark.parametrize("suffix", [".json", ".units.safetensors"])
def test_truncated_files_are_refused(tmp_path, suffix):
    file = some(tmp_path, "a", 0)
    half = file.with_suffix(suffix)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    with pytest.raises(ResultError, match=r"truncated\?") as error:
        compare.load(file)
    assert str(half) in str(error.value)


# --- real SAEs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two SAEs of the demo, and one of them with its latents in another order."""
    from safetensors.numpy import load_file, save_file

    from sae_bench import demo
    from sae_bench.cli.main import main

    folder = tmp_path_factory.mktemp("real")
    source = demo.sae_path("relu")
    shutil.copytree(source, folder / "permuted")
    weights = load_file(source / "weights.safetensors")
    order = np.random.default_rng(0).permutation(weights["W_enc"].shape[1])
    moved = {
        name: np.ascontiguousarray(w if name == "b_dec" else w[:, order] if name == "W_enc" else w[order])
        for name, w in weights.items()
    }
    save_file(moved, folder / "permuted" / "weights.safetensors")
    saes = [arg for sae in ("demo/relu", "demo/topk_k32", folder / "permuted") for arg in ("--sae", str(sae))]
    tasks = ["--tasks", "reconstruction,sparsity,loss_recovered", "--tier", "smoke"]
    out = folder / "results"
    assert main(["run", *saes, *tasks, "--model", "demo", "--controls", "none", "--quiet", "--out", str(out)]) == 0
    return {path.name: path for path in out.iterdir()}


def test_real_saes_are_told_apart(real, cli):
    code, out, _ = cli(real["demo__relu"], real["demo__topk_k32"], "--format", "json", "--all-metrics")
    rows = {d["metric"]: d for d in json.loads(out)["comparisons"][0]["differences"]}
    assert code == 0
    assert rows["fvu"]["verdict"] == "better"
    assert rows["l0"]["verdict"] == "differs"
    assert rows["dead_fraction"]["verdict"] == "differs"  # nobody is ranked by it
    assert rows["ce_clean"]["difference"] == rows["ce_clean"]["low"] == rows["ce_clean"]["high"] == 0
    for row in rows.values():
        assert row["difference"] is None or row["low"] <= row["difference"] <= row["high"]


def test_a_real_sae_with_its_latents_permuted_cannot_be_told_apart(real, cli):
    """Sums in another order differ by rounding, on every document alike: no p-value may make that a difference."""
    (permuted,) = [path for name, path in real.items() if not name.startswith("demo__")]
    code, out, _ = cli(real["demo__relu"], permuted, "--format", "json", "--all-metrics")
    rows = json.loads(out)["comparisons"][0]["differences"]
    assert code == 0
    assert len(rows) > 30
    assert {row["verdict"] for row in rows} <= {APART, "not compared"}


def test_nothing_imports_torch(tmp_path):
    files = [str(some(tmp_path, name, seed)) for seed, name in enumerate("ab")]
    program = (
        "import argparse, sys\n"
        "from sae_bench.cli import check, compare\n"
        "parser = argparse.ArgumentParser(); verbs = parser.add_subparsers(); compare.add(verbs); check.add(verbs)\n"
        "assert not {'numpy', 'scipy', 'pydantic', 'tabulate'} & set(sys.modules)\n"
        f"args = parser.parse_args(['compare', *{files!r}])\n"
        "assert args.function(args) == 0\n"
        f"args = parser.parse_args(['check', {files[1]!r}, '--baseline', {files[0]!r}])\n"
        "assert args.function(args) in (0, 1)\n"
        "assert not {'torch', 'transformers', 'transformer_lens', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_everything_that_is_refused_is_an_error_of_the_package():
    assert issubclass(compare.NotComparable, SaeBenchError)
