"""Controls with fitted decoders in a whole run, and what a result says of its SAE beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_bench import registry
from sae_bench.api import Session, evaluate
from sae_bench.engine import calibrate, plan
from sae_bench.metrics import metrics_of
from sae_bench.results import store
from sae_bench.results.against import Side, against
from sae_bench.results.recompute import differences, unchecked
from sae_bench.schema import Against, MetricValue, Result
from sae_bench.settings import Settings
from sae_bench.show.against import in_words
from sae_bench.show.results import result_tables
from sae_bench.streams import beside
from sae_bench.units import Units
from sae_bench.units.bootstrap import too_few
from sae_bench.units.kinds import kind
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.token_rows import LENGTH, coder, token_rows
from tests.conftest import ON_TEXT

SAMPLE = 12
FITTED = ("random_fit", "permuted_fit")
CONTROLS = "mean,random,random_fit,permuted,permuted_fit,pursuit"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "DOCUMENTS", SAMPLE)


def run(saes: Any, **settings: Any) -> dict[tuple[str, str], Result]:
    """Results by SAE and task; dictionaries so small that there are 4 calibration tokens a latent."""
    given: dict[str, Any] = {"model": tiny_gpt2().double(), "data": token_rows(60), "dtype": "float64"}
    given |= {"resamples": 50, "tasks": ON_TEXT, "tier": "full", "controls": CONTROLS, "calibration_cache": False}
    return {(result.sae.name, result.task): result for result in evaluate(saes, **(given | settings))}


def small(name: str = "a", **changes: Any) -> Any:
    return coder(name, n=20, k=3, **changes)


def test_all_of_them_are_measured_and_an_order_of_strength_holds() -> None:
    result = run(small())["a", "reconstruction"]
    fvu = {name: values["fvu"].value for name, values in result.controls.items()}
    assert fvu.keys() == set(CONTROLS.split(","))
    assert fvu["random_fit"] < fvu["random"]
    assert fvu["permuted_fit"] < fvu["permuted"]
    assert "controls without figures" not in result.details


def test_tasks_that_see_codes_alone_have_no_control_of_another_decoder() -> None:
    """Beside such a task `permuted` is the SAE once more, and looks like a result."""
    specs = registry.tasks()
    for name, spec in specs.items():
        task = registry.load(spec.code)(spec)
        wanted = {control for control in registry.CONTROLS if task.wants_control(control.name)}
        blind = name in ("sparsity", "token_rules", "sparse_probing", "token_labels", "autointerp")
        assert task.sees_decoder != blind
        assert not blind or not {control.name for control in wanted if control.codes_of}
        for control in wanted:
            assert not task.lacking(control.name) or control.codes_of
        assert ("pursuit" in {control.name for control in wanted}) == (name in ("reconstruction", "loss_recovered"))
    assert set(run(small())["a", "sparsity"].controls) == {"mean", "random"}


def test_a_control_of_the_same_codes_is_the_sae_in_no_figure_that_orders() -> None:
    """It would be a rival that no SAE is told from; of what sees codes alone it has no figure."""
    for result in run(small(), tasks="reconstruction,loss_recovered", controls="permuted").values():
        for name, metric in result.controls["permuted"].items():
            assert metric.better == "none" or metric.value is None or metric.value != result.metrics[name].value, name


def test_the_fit_is_the_same_whatever_is_kept_of_the_calibration_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit in memory is read once more; figures do not change, to the bit."""
    saes = [small(), small("b", seed=2)]
    first = run(saes)
    monkeypatch.setattr(calibrate, "TEXT_BYTES", 0)
    again = run(saes)
    assert {key: result.controls for key, result in again.items()} == {k: r.controls for k, r in first.items()}


def test_no_more_of_the_text_is_held_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(small(), Settings(model=tiny_gpt2(), data=token_rows(60), tier="full"))
    tokens, options = session.inputs.corpus.calibration, session.inputs.options
    batches = plan.Batches.of(tokens, 3 * LENGTH)
    for most in (10, 40, 10_000):
        monkeypatch.setattr(calibrate, "TEXT_TOKENS", most)
        text = calibrate.CalibrationText(batches, options, lambda hooks: iter(()), torch.device("cpu"))
        assert text.n_tokens <= most + len(tokens)
        assert text.n_tokens >= min(most, tokens.n_tokens - 2 * len(tokens))


def test_the_order_of_saes_and_the_batch_size_change_nothing() -> None:
    a, b = small(), coder("b", n=24, k=3, seed=2)
    alone, among, other = run(a), run([b, a]), run(a, batch_tokens=2 * LENGTH)
    for key, result in alone.items():
        assert among[key].controls == result.controls
        assert among[key].against == result.against
        for control, values in result.controls.items():
            for name, value in values.items():
                if value.value is not None:
                    found = other[key].controls[control][name].value
                    assert found == pytest.approx(value.value, rel=1e-6, abs=1e-9), (control, name)


def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The decoders are fitted anew, on text that is read anew, when it goes on."""
    settings: dict[str, Any] = {"batch_tokens": LENGTH * 3, "checkpoint_seconds": 0, "tasks": "reconstruction"}
    run(small(), out=tmp_path / "whole", **settings)
    steps: list[str] = []

    class Killed(BaseException):
        pass

    def kill(what: str, done: int, total: int) -> None:
        steps.append(what)
        if what == "evaluation" and done > 3:
            shutil.copytree(tmp_path / "first", tmp_path / "killed")
            raise Killed

    with pytest.raises(Killed):
        run(small(), out=tmp_path / "first", progress=kill, **settings)
    run(small(), out=tmp_path / "killed", **settings)
    whole, resumed = (
        {f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("*") if f.is_file()}
        for name in ("whole", "killed")
    )
    assert resumed == whole


def test_an_sae_stands_against_each_control_by_pairs_on_common_documents(tmp_path: Path) -> None:
    run(small(), out=tmp_path)
    for file in store.find(tmp_path):
        result, tables = store.read(file), store.read_units(file)
        spec = registry.tasks()[result.task]
        for name, own in result.controls.items():
            directed = {m for m, v in own.items() if v.better != "none" and v.value is not None}
            assert directed == result.against.get(name, {}).keys(), (result.task, name)
            for metric, held in result.against.get(name, {}).items():
                table = spec.metrics[metric].table
                ids = tables[f"control/{name}/{table}"].ids
                of = kind(table)
                mine = tables[table].where(set(ids).__contains__) if table == "document" else tables[table]
                expected = float(_value(of, mine, metrics_of(spec)[metric])) - own[metric].value
                assert held.value == pytest.approx(expected, rel=1e-9, abs=1e-12)
                assert held.n_units == len(ids)
                if held.low is not None:
                    assert held.low <= held.value <= held.high
                better = (held.value > 0) == (result.metrics[metric].better == "higher")
                apart = ("better" if better else "worse") if spec.metrics[metric].orders else "differs"
                assert held.verdict in ("cannot be told apart", apart)


def _value(of: Any, units: Any, metric: Any) -> float:
    from sae_bench.units.bootstrap import quotient

    return float(quotient(of.point(of.totals(units), metric))[0])


@pytest.mark.parametrize("field", ["value", "low", "p", "verdict", "n_units"])
def test_what_is_claimed_against_a_control_is_computed_again(tmp_path: Path, field: str) -> None:
    run(small(), out=tmp_path, tasks="reconstruction")
    (file,) = store.find(tmp_path)
    result, tables = store.read(file), store.read_units(file)
    assert not differences(result, tables)[1]
    held = result.against["random"]["fvu"]
    other = {"value": held.value * 2, "low": (held.low or 0) - 1, "p": 0.4, "verdict": "better", "n_units": 3}
    if held.verdict == "better":
        other["verdict"] = "worse"
    forged = {
        **result.against,
        "random": {**result.against["random"], "fvu": held.model_copy(update={field: other[field]})},
    }
    _, wrong = differences(result.model_copy(update={"against": forged}), tables)
    assert len(wrong) == 1
    assert wrong[0].startswith("against random, fvu")


def test_an_sae_is_held_against_nobody_who_is_not_there(tmp_path: Path) -> None:
    """A name without figures or units behind it is a claim that nobody could check."""
    run(small(), out=tmp_path, tasks="reconstruction")
    (file,) = store.find(tmp_path)
    result, tables = store.read(file), store.read_units(file)
    held = result.against["random"]
    stranger = result.model_copy(update={"against": {**result.against, "gold": held}})
    assert any("held against gold, which has no figures" in said for said in differences(stranger, tables)[1])
    without = {name: table for name, table in tables.items() if not name.startswith("control/random/")}
    assert differences(result, without)[1] == ["the control random has figures but no units"]
    reference = result.model_copy(update={"controls": {**result.controls, "best_channels": result.controls["random"]}})
    assert unchecked(result, tables) == []
    assert unchecked(reference, tables) == ["best_channels"], "a verifier is told what was not checked"


def test_it_is_said_in_words() -> None:
    def held(value: float, verdict: str, low: float, high: float) -> str:
        return in_words("random_fit", Against(value=value, low=low, high=high, p=0.01, n_units=9, verdict=verdict))

    assert held(-0.21, "better", -0.23, -0.19) == "better than random_fit by 0.210 [0.190, 0.230]"
    assert held(0.21, "worse", 0.19, 0.23) == "worse than random_fit by 0.210 [0.190, 0.230]"
    assert held(0.01, "cannot be told apart", -0.1, 0.12) == "cannot be told from random_fit (0.01 [-0.10, 0.12])"
    assert held(0.02, "differs", 0.01, 0.03) == "differs from random_fit by 0.020 [0.010, 0.030]"
    result = run(small(), tasks="reconstruction")["a", "reconstruction"]
    said = result_tables([result], registry.tasks())
    assert "reconstruction, in pairs: fvu " in said
    assert "permuted_fit by" not in said, "what an SAE could reach is no rival"


def test_where_an_interval_and_a_verdict_part_both_are_said() -> None:
    """An interval is for one pair alone, and may leave out 0 where a verdict among several pairs says nothing."""
    said = {"value": 0.02, "low": 0.003, "high": 0.038, "n_units": 9, "verdict": "cannot be told apart"}
    found = in_words("pca", Against(**said, p=0.07))
    assert found == "cannot be told from pca (0.020 [0.003, 0.038] for this pair alone; p 0.07 among all pairs)"
    assert "rounding" in in_words("pca", Against(**said, p=0.001))
    assert (
        in_words("pca", Against(**(said | {"low": -0.001}), p=0.2)) == "cannot be told from pca (0.020 [-0.001, 0.038])"
    )


def test_what_holds_all_of_the_activation_is_no_rival() -> None:
    """A sentence that says how far the ceiling is would not say that a random dictionary is as good."""
    result = run(small(), tasks="reconstruction")["a", "reconstruction"]
    held = {
        name: {"cosine": Against(value=value, low=value - 0.1, high=value + 0.1, p=0.01, n_units=9, verdict=verdict)}
        for name, value, verdict in (
            ("identity", -0.3, "worse"), ("full_residual", -0.2, "worse"), ("pursuit", -0.15, "worse"),
            ("random", 0.2, "better"), ("pca", 0.4, "better"),
        )
    }  # fmt: skip
    said = result_tables([result.model_copy(update={"against": held})], registry.tasks())
    assert "in pairs: cosine better than random by 0.20 [0.10, 0.30]" in said


def test_nobody_is_better_in_what_nobody_is_ranked_by() -> None:
    """A control with fewer dead latents is no better dictionary, which a sentence on the nearest would say."""
    spec = registry.tasks()["sparsity"]
    result = run(small(), tasks="sparsity")["a", "sparsity"]
    assert not spec.metrics["dead_fraction"].orders
    held = Against(value=0.4, low=0.3, high=0.5, p=0.001, n_units=30, verdict="worse")
    forged = result.model_copy(update={"against": {"random": {"dead_fraction": held}}})
    assert "in pairs" not in result_tables([forged], {"sparsity": spec})
    assert "in pairs" not in result_tables([forged], {}), "the definition in the result says it too"
    loaded = {}
    for name, active in (("first", 0), ("other", 9)):
        columns = {"tokens": np.full(32, 100.0), "documents": np.full(32, 9.0), "contribution": np.zeros((32, 1))}
        columns["active"] = np.where(np.arange(20) % 2, 50, active) * np.ones((32, 1), dtype=int)
        loaded[name] = Side({"fold": Units(tuple(map(str, range(32))), columns)})
    both = {name: value.model_copy(update={"value": 0.5}) for name, value in result.metrics.items()}
    result = result.model_copy(update={"metrics": both, "controls": {"random": both}})
    assert (
        against(result, spec, loaded["first"], {"random": loaded["other"]})["random"]["dead_fraction"].verdict
        == "differs"
    )


def test_where_too_few_groups_tell_nothing_is_said_in_pairs() -> None:
    """ "Cannot be told apart" is a finding; of two documents there is none."""
    found = run(small(), tasks="reconstruction", limit=3)["a", "reconstruction"]
    assert found.against["random"]["fvu"].low is None
    said = result_tables([found], registry.tasks())
    assert "in pairs" not in said
    assert "design effect" not in said, "nor how wide an interval is that is not there"
    assert "it is of 3 groups, and" in said
    assert too_few(1, "groups").startswith("it is of 1 group, and")


def test_the_table_says_why_a_control_that_was_asked_for_is_not_in_it() -> None:
    found = [*run(coder("wide", n=400, k=3), tasks="reconstruction,sparsity").values()]
    said = result_tables(found, registry.tasks())
    assert "control random_fit has no figures: fitting a decoder of 400 latents takes 1600 calibration tokens" in said
    assert said.count("control random_fit has") == 1
    assert "control mean" not in said, "which has figures in one of the tables"
    strange = found[0].model_copy(update={"details": {"controls without figures": ["x"]}})
    assert "has no figures" not in result_tables([strange], registry.tasks())


def test_older_results_without_it_are_read() -> None:
    value = MetricValue(value=1.0, low=None, high=None, unit="1", better="lower", n_units=3)
    result = run(small(), tasks="reconstruction")["a", "reconstruction"]
    older = result.model_dump(mode="json")
    del older["against"]
    assert Result.model_validate(older).against == {}
    assert value.value == 1.0


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_the_l0_of_controls_is_that_of_an_sae_with_a_threshold_on_the_text_that_is_scored(
    tmp_path: Path, threshold: float
) -> None:
    """On calibration documents it has another one, as documents differ."""
    from sae_bench.saes.linear import LinearCoder, Nonlinearity

    made = small()
    sae = LinearCoder(made.info, made.weights, Nonlinearity("relu"), dtype=torch.float64)
    assert sae.weights.b_enc is not None
    sae.weights.b_enc.fill_(-threshold)
    result = run(sae, tasks="sparsity", controls="random", out=tmp_path)["a", "sparsity"]
    asked = result.details["controls as measured"]["random"]["l0_asked_for"]
    (file,) = store.find(tmp_path)
    units = store.read_units(file)
    own = units["document"].where(set(units["control/random/document"].ids).__contains__)
    assert len(own) == SAMPLE
    assert asked == pytest.approx(own.columns["active"].sum() / own.columns["tokens"].sum(), rel=0.005)


def test_what_fits_cost_is_said_beforehand() -> None:
    session = Session(small(), Settings(model=tiny_gpt2(), data=token_rows(60), tier="full", controls=CONTROLS))
    said = session.forecast()
    (fits,) = [value for key, value in said.items() if key.startswith("decoders fitted on ")]
    assert fits == {"random_fit, 20 latents": 1, "permuted_fit, 20 latents": 1}
    assert any(key.startswith("pursuit") for key in said)
    without = Session(small(), Settings(model=tiny_gpt2(), data=token_rows(60), tier="full", controls="random"))
    assert not [key for key in without.forecast() if key.startswith(("decoders", "pursuit"))]
