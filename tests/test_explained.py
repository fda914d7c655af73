"""No figure without an interval or a reason, no mark without a word about it: in results, and in every table."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from sae_bench import registry
from sae_bench.api import evaluate
from sae_bench.results import compare, gate, store
from sae_bench.schema import MetricValue, Result
from sae_bench.show import trust
from sae_bench.show.results import result_tables
from tests.builders.clusters import equal_documents, packed
from tests.builders.comparisons import save
from tests.builders.marks import slow_but
from tests.builders.results import result
from tests.conftest import Run


def run(**options: Any) -> list[Result]:
    return list(evaluate("demo/topk_k32", resamples=20, tier="smoke", tasks="*", **options))


@pytest.mark.parametrize(
    "options",
    [{"limit": 12}, pytest.param({"limit": 3, "controls": "none"}, marks=pytest.mark.slow)],
    ids=["with controls and references", "fewer documents than an interval needs"],
)
@pytest.mark.slow
def test_every_figure_of_a_run_has_an_interval_or_says_why_not(options: dict[str, Any]) -> None:
    found = run(**options)
    seen = 0
    for one in found:
        for name, values in {"": one.metrics, **one.controls}.items():
            for metric, value in values.items():
                seen += 1
                assert unexplained(value) is None, (one.task, name, metric)
    assert seen > 100
    text = result_tables(found, registry.tasks(), everything=True)
    for one in found:
        for metric, value in one.metrics.items():
            if value.value is not None and value.low is None:
                assert re.search(rf"\b{metric}\b.*: no interval, because ", text), metric


@pytest.mark.parametrize("n", slow_but(1, [3, 8]))
def test_every_figure_on_text_has_an_interval_or_says_why_not(n: int) -> None:
    for one in evaluate("demo/topk_k32", resamples=20, tasks="reconstruction", controls="mean", limit=n):
        for values in (one.metrics, *one.controls.values()):
            for metric, value in values.items():
                assert unexplained(value) is None, metric
                assert n >= 5 or value.low is None
                assert value.low is None or value.optimistic or value.high - value.low < 1e-6


def unexplained(value: MetricValue) -> str | None:
    """What a figure does not say and should."""
    if value.value is None:
        return None if value.reason else "why there is no value"
    return None if value.low is not None or value.no_interval else "why there is no interval"


def value(v: float, low: float | None, high: float | None, **said: Any) -> MetricValue:
    given: dict[str, Any] = {"unit": "1", "better": "lower", "n_units": 41, **said}
    return MetricValue(value=v, low=low, high=high, **given)


def table(**metrics: MetricValue) -> str:
    return result_tables([result(task="reconstruction", metrics=metrics)], registry.tasks(), everything=True)


def test_a_table_has_groups_design_effects_and_a_sign_with_its_legend() -> None:
    text = table(
        fvu=value(0.1, 0.09, 0.12, design_effect=2.34, optimistic="a few groups decide it (skewness 5.4)"),
        nmse=value(0.1, 0.09, 0.12),
        mse=value(0.1, None, None, no_interval="most resamples have no value"),
    )
    lines = text.splitlines()
    row = next(line for line in lines if " fvu " in line)
    assert row.split() == ["reconstruction", "fvu", "↓", "0.100", "[0.090,", "0.120]*", "41", "2.3"]
    assert next(line for line in lines if line.startswith("task")).split()[-4:-1] == ["groups", "design", "effect"]
    assert "* marks an interval that is too narrow, as the sample itself says: a few groups decide it: fvu (skewness " \
        "5.4)." in lines  # fmt: skip
    assert "0.1 (no interval)" in text
    assert "mse: no interval, because most resamples have no value" in lines
    assert trust.DESIGN in lines


def test_where_every_interval_is_marked_it_is_said_once() -> None:
    names = ("fvu", "nmse", "mse", "cosine", "norm_ratio")
    text = table(**{name: value(0.1, 0.09, 0.12, optimistic="41 groups") for name in names})
    assert trust.SIGN not in text
    assert text.count("too narrow") == 1
    assert "Every interval is too narrow, as the sample itself says: 41 groups." in text.splitlines()
    assert "design effect" not in text


def test_what_a_figure_has_besides_is_named_with_it() -> None:
    both = "41 groups; a few groups decide it (skewness 5.4)"
    text = table(fvu=value(0.1, 0.09, 0.12, optimistic=both), nmse=value(0.1, 0.09, 0.12, optimistic="41 groups"))
    assert "says: 41 groups; a few groups decide it: fvu (skewness 5.4)." in text


def test_a_legend_names_a_few_and_counts_the_others() -> None:
    rows = [(f"m{i}", value(0.1, 0.09, 0.12, optimistic="41 groups")) for i in range(9)]
    assert "41 groups: m0, m1, m2, m3 and 5 more." in trust.legend([*rows, ("x", value(0.1, 0.0, 0.2))])[0]
    assert trust.legend([("x", value(0.1, 0.0, 0.2))]) == []
    assert trust.legend(rows, signs=True)[0].startswith("* marks an interval")


def sides(folder: Any, rng: Any, make: Any, better: float = 1.0) -> list[Any]:
    units = make(rng)
    other = {**units.columns, "error": units.columns["error"] * better * rng.gamma(90, 1 / 90, len(units))}
    tables = [{"document": units}, {"document": type(units)(units.ids, other)}]
    return [save(folder / name, "reconstruction", t, ["nmse"], name) for name, t in zip("ab", tables, strict=True)]


def test_a_difference_is_over_groups_and_marked_as_figures_are(tmp_path: Any) -> None:
    a, b = map(compare.load, sides(tmp_path, np.random.default_rng(0), lambda rng: packed(rng, 41, tail=0.1)))
    d = compare.difference(a, b, "nmse")
    assert (d.n_units, d.left_out, d.method) == (41, (0, 0), "paired bootstrap")
    assert d.optimistic is not None
    assert d.optimistic.startswith("41 groups")
    assert d.design_effect == pytest.approx(1, abs=0.4)  # noise of rows: what documents share cancels
    a, b = map(compare.load, sides(tmp_path / "many", np.random.default_rng(0), lambda rng: equal_documents(rng, 150)))
    d = compare.difference(a, b, "nmse")
    assert (d.n_units, d.optimistic, d.design_effect) == (150, None, None)


def test_independent_samples_are_as_few_as_the_smaller_one(tmp_path: Any) -> None:
    first = sides(tmp_path, np.random.default_rng(0), lambda rng: packed(rng, 120, tail=0.1))[0]
    other = sides(tmp_path / "o", np.random.default_rng(1), lambda rng: packed(rng, 30, tag="o", tail=0.1))[1]
    d = compare.difference(compare.load(first), compare.load(other), "nmse", other_text=True)
    assert (d.n_units, d.method) == (30, "bootstrap")
    assert str(d.optimistic).startswith("30 groups")
    assert d.design_effect is not None


def test_a_document_that_one_side_lacks_leaves_its_group_to_both(tmp_path: Any) -> None:
    """Rows are paired by document and drawn by group."""
    units = packed(np.random.default_rng(0), 20)
    rows = [{"document": units}, {"document": units.select(range(1, len(units)))}]
    files = [save(tmp_path / n, "reconstruction", t, ["nmse"], n) for n, t in zip("ab", rows, strict=True)]
    d = compare.difference(*map(compare.load, files), "nmse")
    assert (d.n_units, d.left_out, d.value) == (20, (1, 0), 0.0)


def test_compare_and_check_show_marks_groups_and_design_effects(cli: Run, tmp_path: Any) -> None:
    a, b = sides(tmp_path, np.random.default_rng(0), lambda rng: packed(rng, 41), better=1.2)
    (tmp_path / "gates.toml").write_text("[reconstruction.nmse]\nallowed_loss = 0.5\n", encoding="utf-8")
    for verb in (("compare", a, b), ("check", b, "--baseline", a, "--sae-name", "a", "--gates", "gates.toml")):
        _, out, err = cli(*verb)
        assert "Every interval is too narrow, as the sample itself says: 41 groups" in out, out + err
        assert trust.DESIGN in out
        assert re.search(r"\s41\s+[\d.]+\s", out)
    _, out, _ = cli("compare", a, b, "--format", "json")
    assert '"optimistic": "41 groups' in out
    _, out, _ = cli("compare", a, b, "--format", "markdown")
    assert "design effect" in out


def test_an_outcome_says_over_how_many_groups_it_is(tmp_path: Any) -> None:
    a, b = map(compare.load, sides(tmp_path, np.random.default_rng(0), lambda rng: packed(rng, 41)))
    (outcome,) = gate.judge(b, a, {"nmse": gate.Gate(allowed_loss=0.5)})
    assert (outcome.n_units, str(outcome.optimistic)[:9]) == (41, "41 groups")


@pytest.mark.slow
def test_clusters_make_no_false_differences() -> None:
    """Pairs that differ in nothing but chance, in documents cut in pieces: told apart 5 times in 100 at most."""
    rng, told, by_row = np.random.default_rng(7), 0, 0
    bare = result(task="reconstruction")
    spec = registry.tasks()["reconstruction"]
    for trial in range(500):
        units = packed(rng, 60, tag=f"t{trial}", tail=0.4)
        turned = rng.lognormal(0, 0.2, 60)[np.unique([u.split("~")[0] for u in units.ids], return_inverse=True)[1]]
        other = type(units)(units.ids, {**units.columns, "error": units.columns["error"] * turned / np.exp(0.02)})
        told += apart(bare, spec, units, other)
        by_row += trial < 100 and apart(bare, spec, *(lone(one) for one in (units, other)))
    assert told / 500 <= 0.05 + 2 * 0.0098  # and the noise of 500 pairs
    assert by_row > 20


def lone(units: Any) -> Any:
    return type(units)(tuple(unit.replace("~", "-") for unit in units.ids), units.columns)


def apart(bare: Result, spec: Any, *units: Any) -> bool:
    from sae_bench.metrics import metrics_of

    metrics = {"nmse": metrics_of(spec)["nmse"]}
    loaded = [
        compare.Loaded(store.Path("x"), shown(bare, name), spec, metrics, {"document": one})
        for name, one in zip("ab", units, strict=True)
    ]
    return compare.difference(*loaded, "nmse").verdict != "cannot be told apart"


def shown(bare: Result, name: str) -> Result:
    return bare.model_copy(update={"metrics": {"nmse": value(0.1, None, None)}})
