"""Controls are measured on a sample of documents, by rules that nothing but the text and the SAE decides."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_bench import registry, verify
from sae_bench.api import Session, evaluate
from sae_bench.results import store
from sae_bench.results.recompute import differences
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import Codes
from sae_bench.schema import CONTROL_RULES, Result
from sae_bench.settings import Settings
from sae_bench.show.results import result_tables
from sae_bench.streams import beside, confirm
from tests.builders import boards
from tests.builders.marks import slow_but
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.token_rows import LENGTH, coder, token_rows
from tests.conftest import ON_TEXT

SAMPLE = 12  # documents, in place of 128
AT_DECISION = 18  # steps of three documents in the pass over the text
SHARED = ("pca", "random", "random_l0")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small text has a sample too."""
    monkeypatch.setattr(beside, "DOCUMENTS", SAMPLE)


def run(saes: Any, **settings: Any) -> dict[tuple[str, str], Result]:
    """Results by SAE and task, on the tiny model in float64."""
    given: dict[str, Any] = {"model": tiny_gpt2().double(), "data": token_rows(60), "dtype": "float64"}
    given |= {"resamples": 50, "tasks": ON_TEXT, "tier": "full"}
    return {(result.sae.name, result.task): result for result in evaluate(saes, **(given | settings))}


def no_better(name: str = "no better") -> LinearCoder:
    """An SAE whose directions are worth no more than in another order: all of them are one."""
    made = coder(name)
    made.weights.W_dec.copy_(made.weights.W_dec[:1].expand_as(made.weights.W_dec))
    return made


def documents(result: Result, control: str) -> set[int]:
    """On how many documents the figures of a control are that need not all of the text."""
    return {metric.n_units for metric in result.controls[control].values() if metric.value is not None}


@pytest.mark.slow
def test_with_a_thousand_documents_a_control_costs_as_many_passes_as_the_sample_has() -> None:
    rows = token_rows(1070)
    result = run([coder("a"), coder("b", k=6)], data=rows)["a", "loss_recovered"]
    counters, n = result.provenance.counters, result.provenance.protocol.n_documents
    assert n > 800
    assert beside.DOCUMENTS == 128
    assert counters["prefix"] == counters["suffix_clean"] == n
    means = counters["suffix_spliced"] - 2 * n - 128 * (2 * len(SHARED) + 2)  # each SAE has its own permuted decoder
    assert 0 < means <= counters["suffix_mean"], "the control mean is one vector, and the identity no pass at all"
    assert not [name for name in counters if name.startswith("confirm")]
    for control in result.controls:
        assert documents(result, control) == {128}
    assert result.details["controls as measured"]["pca"]["documents"] == 128
    assert documents(result, "identity") == {128}


@pytest.mark.usefixtures("few")
def test_the_sample_is_of_documents_and_not_of_places() -> None:
    """The same documents in another order; and of the first few of them those that are in the sample of all."""
    tokens = Session(coder(), Settings(model=tiny_gpt2(), data=token_rows(60), tier="full")).inputs.corpus.evaluation
    chosen = beside.control_documents(tokens, 0)
    assert len(chosen) == SAMPLE < tokens.n_units
    order = np.random.default_rng(0).permutation(tokens.n_units)
    turned = dataclasses.replace(tokens, unit_ids=tuple(tokens.unit_ids[i] for i in order))
    assert {turned.unit_ids[i] for i in beside.control_documents(turned, 0)} == {tokens.unit_ids[i] for i in chosen}
    fewer = dataclasses.replace(tokens, unit_ids=tokens.unit_ids[:30])
    assert {i for i in chosen if i < 30} <= beside.control_documents(fewer, 0)
    assert beside.control_documents(tokens, 1) != chosen


@pytest.mark.usefixtures("few")
def test_figures_of_the_sae_are_those_of_a_run_without_controls() -> None:
    """To the bit: controls are measured in parts of the batches of the SAE, which stay what they are."""
    alone, beside_ = run(coder(), controls="none"), run(coder(), controls="all")
    for key, result in alone.items():
        assert beside_[key].metrics == result.metrics


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("batch_tokens", slow_but(1, [7 * LENGTH, LENGTH, 10_000]))
def test_no_figure_of_a_control_changes_with_the_batch_size(batch_tokens: int) -> None:
    saes = [coder("a", k=3), no_better()]  # an L0 that is on no whole point of the grid, and an SAE that ties
    first, second = (
        run(saes, controls="all", batch_tokens=3 * LENGTH),
        run(saes, controls="all", batch_tokens=batch_tokens),
    )
    for key, result in first.items():
        assert result.controls.keys() == second[key].controls.keys()
        for control, metrics in result.controls.items():
            for name, metric in metrics.items():
                other = second[key].controls[control][name]
                assert other.n_units == metric.n_units, (key, control, name)
                assert (other.value is None) == (metric.value is None)
                if metric.value is not None:
                    assert other.value == pytest.approx(metric.value, rel=1e-7, abs=1e-9), (key, control, name)


@pytest.mark.usefixtures("few")
def test_an_sae_has_the_same_controls_alone_and_among_others_in_any_order() -> None:
    """To the bit: also where others share them, select more of the same dictionary, or need all documents."""
    alone = run(coder("a", k=3), controls="all")
    others = [coder("wide", k=11), no_better(), coder("b", k=3, seed=2), coder("n", n=50), coder("l", seed=5, k=2)]
    for order in ([coder("a", k=3), *others], [*reversed(others), coder("a", k=3)]):
        among = run(order, controls="all")
        for key, result in alone.items():
            assert among[key].controls == result.controls
            assert among[key].details == result.details


@pytest.mark.usefixtures("few")
def test_a_control_that_ties_is_measured_on_all_documents_and_for_that_sae_alone() -> None:
    found = run([coder("good"), no_better()])
    for task, fidelity in (("reconstruction", "fvu"), ("loss_recovered", "kl")):
        n = found["good", task].metrics[fidelity].n_units
        assert documents(found["good", task], "permuted") == {SAMPLE}
        assert documents(found["no better", task], "permuted") == {n}
        assert "documents" not in found["no better", task].details["controls as measured"].get("permuted", {})
        assert any(f"{fidelity} says nothing about the latents" in c for c in found["no better", task].cautions)
        assert not found["good", task].cautions
    own = found["no better", "reconstruction"]
    ours, theirs = own.metrics["fvu"].value, own.controls["permuted"]["fvu"].value
    assert ours == pytest.approx(theirs, rel=1e-6), "the caution is of all documents, as the figures beside it are"
    assert documents(found["no better", "sparsity"], "random") == {SAMPLE}, "it has no fidelity that could tie"
    passes = own.provenance.counters
    assert passes["confirm_prefix"] == own.metrics["fvu"].n_units - SAMPLE
    assert passes["confirm_suffix_spliced"] <= 3 * passes["confirm_prefix"]


@pytest.mark.usefixtures("few")
def test_what_all_documents_say_of_a_tie_is_what_a_run_without_a_sample_says(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = run(no_better())
    monkeypatch.setattr(beside, "DOCUMENTS", 10_000)
    whole = run(no_better())
    for task in ("reconstruction", "loss_recovered"):
        assert sampled["no better", task].cautions == whole["no better", task].cautions
        one, other = (found["no better", task].controls["permuted"] for found in (sampled, whole))
        for name, metric in other.items():
            assert one[name].n_units == metric.n_units
            pairs = [(getattr(one[name], what), getattr(metric, what)) for what in ("value", "low", "high")]
            for ours, theirs in pairs:
                assert ours == (None if theirs is None else pytest.approx(theirs, rel=1e-9, abs=1e-12)), name


@pytest.mark.usefixtures("few")
def test_a_figure_over_all_of_the_text_has_no_value_for_a_sample() -> None:
    """On fewer tokens more latents are dead: beside the share of all text, that of a sample would mislead."""
    sparsity = run(coder())["tiny", "sparsity"]
    dead = sparsity.controls["random"]["dead_fraction"]
    assert dead.value is None
    assert f"measured on {SAMPLE} documents" in str(dead.reason)
    assert sparsity.metrics["dead_fraction"].value is not None
    assert sparsity.controls["random"]["l0"].value == sparsity.details["controls as measured"]["random"]["l0"]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kill_at", slow_but(1, [AT_DECISION, AT_DECISION + 1, 2, AT_DECISION - 1, AT_DECISION + 6]))
def test_a_run_that_is_killed_anywhere_ends_with_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    """In the pass over the text, at the decision, and in the second pass, of an SAE that needs one."""
    settings: dict[str, Any] = {"batch_tokens": LENGTH * 3, "checkpoint_seconds": 0}

    def saes() -> list[LinearCoder]:
        return [coder("a"), no_better()]

    run(saes(), out=tmp_path / "whole", **settings)
    steps: list[str] = []

    def kill(what: str, done: int, total: int) -> None:
        if what in ("evaluation", confirm.NAME):
            steps.append(what)
            if len(steps) > kill_at:
                shutil.copytree(tmp_path / "first", tmp_path / "killed")
                raise Killed

    with pytest.raises(Killed):
        run(saes(), out=tmp_path / "first", progress=kill, **settings)
    assert (steps[-1] == confirm.NAME) == (kill_at >= AT_DECISION), "the second pass comes when the first has ended"
    run(saes(), out=tmp_path / "killed", **settings)
    whole, resumed = (
        {f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("*") if f.is_file()}
        for name in ("whole", "killed")
    )
    assert resumed == whole


@pytest.mark.usefixtures("few")
def test_what_was_measured_on_a_sample_can_be_checked_by_others(tmp_path: Path) -> None:
    """Figures follow from the units, whose columns of the hook point are stored once; and verify goes on."""
    run([coder("a"), no_better()], out=tmp_path)
    for file in store.find(tmp_path):
        result, tables = store.read(file), store.read_units(file)
        n, wrong = differences(result, tables)
        assert (wrong, n > 10) == ([], True)
        sampled = tables["control/random/document"]
        assert "x" not in sampled.columns
        assert "energy" not in sampled.columns
        assert not (set(sampled.ids) - set(tables["document"].ids))
    file = next(file for file in store.find(tmp_path) if "reconstruction" in file.name and "no" not in str(file.parent))
    report = verify.verify(
        file, coder("a"), model=tiny_gpt2().double(), data=token_rows(60), dtype="float64", share=0.3, seed=1
    )
    assert not report.wrong


@pytest.mark.usefixtures("few")
def test_edited_rows_of_a_sampled_control_are_not_its_figures(tmp_path: Path) -> None:
    run(coder(), out=tmp_path)
    file = next(file for file in store.find(tmp_path) if "reconstruction" in file.name)
    result, tables = store.read(file), store.read_units(file)
    tables["control/random/document"].columns["error"][3] *= 2  # type: ignore[index]
    _, wrong = differences(result, tables)
    assert wrong
    assert all(sentence.startswith(("control random, ", "against random, ")) for sentence in wrong)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("how", ["other documents", "fewer, the worst", "one twice"])
def test_the_documents_of_a_control_are_not_chosen(tmp_path: Path, how: str) -> None:
    """Those on which a control does badly make an SAE look good; figures of the chosen rows are right as such."""
    run(coder(), out=tmp_path, tasks="reconstruction")
    (file,) = store.find(tmp_path)
    result, tables = store.read(file), store.read_units(file)
    own, sampled = tables["document"], tables["control/random/document"]
    assert not differences(result, tables)[1]
    worst = np.argsort(sampled.columns["error"])[::-1]
    rows = {"fewer, the worst": worst[:6], "one twice": [*range(SAMPLE - 1), 0]}.get(how, range(SAMPLE))
    chosen = sampled.select(list(rows))
    if how == "other documents":
        others = [unit for unit in own.ids if unit not in sampled.ids][:SAMPLE]
        chosen = dataclasses.replace(chosen, ids=tuple(others), common=None)
    _, wrong = differences(result, {**tables, "control/random/document": chosen})
    assert any("are not those by which a sample of the text begins" in sentence for sentence in wrong)


@pytest.mark.usefixtures("few")
def test_a_figure_over_all_of_the_text_cannot_be_made_up_for_a_sample(tmp_path: Path) -> None:
    """A dead share of a control that is high makes an SAE look good, and there is no table to hold it against."""
    run(coder(), out=tmp_path, tasks="sparsity")
    (file,) = store.find(tmp_path)
    result, tables = store.read(file), store.read_units(file)
    forged = result.metrics["dead_fraction"].model_copy(update={"value": 0.9, "low": 0.8, "high": 0.95})
    controls = {**result.controls, "random": {**result.controls["random"], "dead_fraction": forged}}
    _, wrong = differences(result.model_copy(update={"controls": controls}), tables)
    assert len(wrong) == 1
    assert wrong[0].startswith("control random, dead_fraction has a value, but there is no fold table")


def test_results_with_controls_of_older_rules_are_measured_again(tmp_path: Path) -> None:
    calls: list[str] = []
    settings: dict[str, Any] = {"out": tmp_path, "data": token_rows(), "tasks": "reconstruction"}
    run(coder(), **settings)
    (file,) = store.find(tmp_path)
    result = store.read(file)
    assert result.provenance.control_rules == CONTROL_RULES
    run(coder(), progress=lambda what, *_: calls.append(what), **settings)
    assert not calls
    older = result.model_copy(update={"provenance": result.provenance.model_copy(update={"control_rules": 1})})
    store.write(tmp_path, older, store.read_units(file))
    run(coder(), controls="none", progress=lambda what, *_: calls.append(what), **settings)
    assert not calls, "without controls nothing has changed"
    again = run(coder(), progress=lambda what, *_: calls.append(what), **settings)["tiny", "reconstruction"]
    assert calls
    assert again.provenance.control_rules == CONTROL_RULES
    assert again.protocol == result.protocol


@pytest.mark.usefixtures("few")
def test_controls_that_all_fail_leave_the_figures_of_the_sae(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_bench.saes import graded

    def broken(self: Any, codes: Codes, x: torch.Tensor) -> Codes:
        raise RuntimeError("no luck")

    alone = run(coder(), controls="none")
    monkeypatch.setattr(graded.Graded, "cut", broken)
    found = run(coder(), controls=",".join(SHARED))
    for key, result in found.items():
        assert result.status == "ok"
        assert result.metrics == alone[key].metrics
        assert not result.controls
        seen = set(SHARED) - ({"random_l0"} if key[1] == "sparsity" else set())  # which sees codes alone
        assert set(result.details["controls without figures"]) == seen
        assert "no luck" in result.details["controls without figures"]["pca"]


@pytest.mark.usefixtures("few")
def test_a_control_that_fails_on_further_documents_is_lost_for_the_sae_that_needs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another SAE, which was told from it in the sample, keeps the figures that it has alone."""
    measured = confirm.Confirming.step

    def step(self: confirm.Confirming, index: int, progress: Any) -> Any:
        part = measured(self, index, progress)
        if index == 1:
            keys = {key[1] for key in part.rows}
            part.failures |= dict.fromkeys(keys, "no luck")
            part.rows, part.totals = {}, {}
        return part

    twins = [coder("a", seed=3), no_better()]
    monkeypatch.setattr(confirm.Confirming, "step", step)
    found = run(twins, batch_tokens=3 * LENGTH)
    lost = found["no better", "reconstruction"].details["controls without figures"]
    assert lost.pop("random_fit").startswith("fitting a decoder of 40 latents takes 160 calibration tokens")
    assert lost == {"permuted": "no luck"}
    assert "permuted" in found["a", "reconstruction"].controls
    assert not found["no better", "reconstruction"].cautions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_identity_is_the_clean_pass_to_the_last_bit(dtype: str) -> None:
    """A deviation from the mean, and the mean again, is not what was there before, least of all in half precision."""
    model = tiny_gpt2() if dtype == "float32" else tiny_gpt2().to(torch.bfloat16)
    found = run(coder(), model=model, dtype=dtype, controls="identity")
    of_reconstruction = found["tiny", "reconstruction"].controls["identity"]
    for name, exact in {"fvu": 0, "mse": 0, "relative_reconstruction_bias": 1, "norm_ratio": 1}.items():
        assert of_reconstruction[name].value == exact, name
    assert of_reconstruction["cosine"].value == pytest.approx(1, abs=1e-15)
    loss = found["tiny", "loss_recovered"]
    own = loss.controls["identity"]
    assert own["ce_spliced"].value == own["ce_clean"].value
    assert own["kl"].value == 0
    assert own["delta_ce"].value == 0
    n = loss.provenance.protocol.n_documents
    assert loss.provenance.counters["suffix_spliced"] == n, "those of the SAE alone"
    assert np.isfinite(found["tiny", "sparsity"].controls["identity"]["l1"].value)


@pytest.mark.usefixtures("few")
def test_whoever_reads_figures_is_told_on_how_much_text_the_controls_stand(tmp_path: Path) -> None:
    """The header of a table names all documents, and a control beside the SAE was measured on a part of them."""
    results = list(run([coder("a"), no_better()], tasks="reconstruction", out=tmp_path).values())
    n = results[0].provenance.protocol.n_documents
    said = f"Controls of reconstruction: measured on {SAMPLE} of the {n} documents, and on all where an SAE cannot be"
    specs = registry.tasks()
    assert result_tables(results, specs).count(said) == 2
    tables = boards.make(tmp_path).tables
    assert [any(note.startswith(said) for note in table.notes) for table in tables] == [True, True]
    whole = [
        r.model_copy(update={"details": {"controls as measured": beside}})
        for r, beside in zip(results, ODD, strict=True)
    ]
    assert "measured on" not in result_tables(whole, specs), "these claim nothing that can be said"


ODD: tuple[Any, ...] = ({"pca": {"documents": 10**9}, "mean": 3, "random": {"documents": "7"}}, ["pca"])
