"""Checking a result: an honest one passes however it is looked at, and every kind of forgery is named."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file
from scipy.stats import hypergeom

from sae_bench import demo, registry
from sae_bench.api import Session, evaluate
from sae_bench.errors import ResultError, SaeBenchError
from sae_bench.files import sha256
from sae_bench.results import recompute, store
from sae_bench.results.against import Side, against
from sae_bench.schema import Protocol
from sae_bench.settings import Settings
from sae_bench.units import Units, pack
from sae_bench.verify import Report, _odds, verify
from tests.builders.judge_server import Messages, Server
from tests.builders.marks import slow_but
from tests.builders.said import complaints
from tests.conftest import Run

SETS = "base64,code_comment,contains_number,has_question,uppercase_word"
QUICK: dict[str, Any] = {"tier": "smoke", "limit": 64, "resamples": 50, "controls": "mean,permuted"}
ON_TEXT = ("reconstruction", "sparsity", "loss_recovered")
ON_LABELS = ("probe_recovery", "sparse_probing")
TASKS = (*ON_TEXT, *ON_LABELS, "downstream_sparsity", "token_rules")
FOLDS: dict[str, Any] = {  # of cross-validation, which is not what is tested
    **{f"{task}.{name}": value for task in ON_LABELS for name, value in (("folds", 2), ("ceiling_strengths", [0.1]))},
    "sparse_probing.strengths": [0.01, 0.1],
}
Tables = dict[str, Units]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small result of every task on one SAE of the demo world."""
    out = tmp_path_factory.mktemp("made")
    evaluate("demo", tasks=",".join(TASKS), probe_sets=SETS, parameters=FOLDS, out=out, **QUICK)
    return {store.read(file).task: file for file in store.find(out)}


def again(file: Path, sae: str | Path = "demo", share: float = 0.1, **given: Any) -> Report:
    """The check with a fixed choice of rows, unless ``seed`` is given."""
    return verify(file, str(sae), **({"share": share, "seed": 0} | given))


def copied(file: Path, to: Path) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    for one in (file, file.with_suffix(".units.safetensors")):
        shutil.copy(one, to / one.name)
    return to / file.name


def rewritten(
    file: Path,
    to: Path,
    change: Callable[[dict[str, Any]], Any] = lambda content: None,
    rows: Callable[[Tables], Any] = lambda tables: None,
    figures: bool = False,
) -> Path:
    """A copy that somebody edited who knows the format: the hash of the protocol and the digest of units are always
    right, and with ``figures`` so are all metrics of SAE and controls, and what one is against another."""
    file = copied(file, to)
    tables = store.read_units(file)
    rows(tables)
    arrays, metadata = pack(tables)
    save_file(arrays, file.with_suffix(".units.safetensors"), metadata)
    content = json.loads(file.read_text())
    change(content)
    content["protocol"] = store.protocol_hash(Protocol(**content["provenance"]["protocol"]))
    content["units_sha256"] = sha256(store.units_of(file))
    file.write_bytes(store.to_json(content))
    if figures:
        result = store.read(file)
        own = {kind: table for kind, table in tables.items() if "/" not in kind}
        parts = [(content["metrics"], own)]
        parts += [(values, recompute._control(name, tables)) for name, values in content["controls"].items()]
        spec, seed, resamples = (
            recompute.definition(result),
            result.provenance.protocol.seed,
            result.provenance.resamples,
        )
        for values, units in parts:
            found = recompute.figures(spec, units, seed, resamples)
            for name, e in ((name, e) for name, e in found.items() if name in values):
                said = ("value", "low", "high", "reason", "no_interval", "optimistic", "design_effect")
                values[name] |= {field: getattr(e, field) for field in said}
                values[name]["n_units"] = e.n_units
        file.write_bytes(store.to_json(content))
        sides = {name: Side(kept) for name in content["against"] if (kept := recompute._control(name, tables))}
        held = against(store.read(file), recompute.definition(result), Side(own), sides)
        content["against"] |= {n: {m: one.model_dump() for m, one in by.items()} for n, by in held.items()}
        file.write_bytes(store.to_json(content))
    return file


def scaled(tables: Tables, kind: str, factor: Any, rows: Any = slice(None), only: str | None = None) -> None:
    """Multiply the rows of a table, or of one of its columns."""
    table, columns = tables[kind], {}
    for name, column in table.columns.items():
        columns[name] = column.copy()
        if only in (None, name):
            shape = (-1,) + (1,) * (column.ndim - 1)
            columns[name][rows] *= np.broadcast_to(factor, len(table))[rows].reshape(shape)
    tables[kind] = Units(table.ids, columns)


def said(report: Report, *parts: str) -> bool:
    """Whether one sentence about what is wrong holds all these parts."""
    return any(all(part in sentence for part in parts) for sentence in report.wrong)


# ---------------------------------------------------------------- an honest result


@pytest.mark.parametrize(
    "share", [pytest.param(0.05, marks=pytest.mark.slow), 0.3, pytest.param(1, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "task", slow_but(3, (t for t in (*TASKS[:1], *TASKS[3:4], *TASKS[5:], *TASKS[1:3], *TASKS[4:5])))
)
def test_an_untouched_result_passes_with_another_batch_size(made: dict[str, Path], task: str, share: float) -> None:
    report = again(made[task], share=share, batch_tokens=700)
    assert report.wrong == []
    assert (report.rows > 0) == (task != "token_rules" or share == 1)
    assert any("figures with their intervals were computed again from the units" in line for line in report.checked)
    if share < 1 and task == "token_rules":
        assert any("no row was measured again" in line and "--share 1" in line for line in report.checked)
    else:
        assert any(line.endswith("chosen by seed 0)") and "measured again" in line for line in report.checked)


def test_every_figure_of_sae_and_controls_is_computed_again(made: dict[str, Path]) -> None:
    result = store.read(made["reconstruction"])
    assert set(result.controls) == {"mean", "permuted"}
    n, wrong = recompute.differences(result, store.read_units(made["reconstruction"]))
    assert (n, wrong) == (3 * len(result.metrics), [])


def test_the_sentence_counts_the_documents_of_the_task(made: dict[str, Path]) -> None:
    """Rules are made from fewer documents than there are."""
    n = store.read(made["token_rules"]).provenance.protocol.n_documents
    report = again(made["token_rules"], share=1)
    assert any(line.startswith(f"{n} of {n} documents were measured again") for line in report.checked), report.checked


def test_a_fresh_choice_is_made_unless_the_seed_is_given(made: dict[str, Path]) -> None:
    reports = [verify(made["sparsity"], "demo") for _ in range(2)]
    seeds = {re.findall(r"chosen by seed (\d+)", " ".join(r.checked))[0] for r in reports}
    assert len(seeds) == 2
    assert all(r.rows == 3 and not r.wrong for r in reports)


def judge(messages: Messages) -> str:
    """Explains, and thinks of every window something that only its name decides."""
    names = re.findall(r"^\[(\w+)\]", messages[-1]["content"], re.MULTILINE)
    answers = [{"id": name, "p": 20 + 60 * (sum(map(ord, name)) % 2)} for name in names]
    return json.dumps({"explanation": "some words", "answers": answers})


@pytest.mark.parametrize("share", slow_but(1, [0.05, 1]))
def test_what_a_judge_said_is_checked_without_asking_again(judged: Path, share: float) -> None:
    """Its answers cannot be measured again, but figures follow from them, and inputs have digests."""
    report = again(judged, share=share)
    assert report.wrong == []
    assert any("no row was measured again" in line and "judge" in line for line in report.checked), report.checked


def test_an_edited_figure_of_a_judge_is_named(judged: Path, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metrics"]["detection_worst"]["value"] += 0.1

    assert said(again(rewritten(judged, tmp_path, change)), "detection_worst: value is")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small result of autointerp. The judge is gone afterwards, and so is its key."""
    out = tmp_path_factory.mktemp("judged")
    few = {"autointerp.latents": 3, "autointerp.null_latents": 2}
    with pytest.MonkeyPatch.context() as patch, Server(judge) as server:
        patch.setenv("OPENAI_API_KEY", "nobody")
        given = {"judge_model": "m", "judge_base_url": server.url, "judge_cache": out / "judge.sqlite"}
        evaluate(
            "demo", tasks="autointerp", limit=128, resamples=50, controls="none", parameters=few, out=out / "results",
            **given,
        )  # fmt: skip
    file = next(store.find(out / "results"))
    assert store.read(file).metrics["detection_worst"].value is not None
    return file


# ---------------------------------------------------------------- edited figures


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("what", ["value", "low", "high"])
def test_an_edited_figure_is_named(made: dict[str, Path], tmp_path: Path, task: str, what: str) -> None:
    result = store.read(made[task])
    name, metric = next((k, v) for k, v in result.metrics.items() if v.low is not None and v.low < v.high)
    claimed = {"value": (metric.value + metric.high) / 2, "low": (metric.low + metric.value) / 2}
    claimed["high"] = (metric.high + metric.value) / 2

    def change(content: dict[str, Any]) -> None:
        content["metrics"][name][what] = claimed[what]

    edited = store.read(rewritten(made[task], tmp_path, change))
    _, wrong = recompute.differences(edited, store.read_units(made[task]))
    units_give = getattr(metric, what)
    ours = [sentence for sentence in wrong if sentence.startswith(f"{name}: {what} is {claimed[what]} in the result")]
    assert len(wrong) == len(ours) == 1
    assert float(ours[0].rpartition(" ")[2]) == pytest.approx(units_give, rel=1e-9)


def test_edited_figures_fail_the_whole_check(made: dict[str, Path], tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metrics"]["fvu"]["low"] *= 0.99
        nothing = dict.fromkeys(("value", "low", "high", "optimistic"))
        content["metrics"]["cosine"] |= {**nothing, "reason": "lost"}
        del content["metrics"]["mse"]
        content["controls"]["permuted"]["nmse"]["high"] += 1

    report = again(rewritten(made["reconstruction"], tmp_path, change))
    assert said(report, "fvu: low is")
    assert said(report, "cosine: value is None in the result, but its units give")
    assert said(report, "mse is not in the result, though its units are")
    assert said(report, "control permuted, nmse: high is")
    assert len(report.wrong) == 6  # value, low and high of cosine


def test_a_mark_that_was_taken_off_is_missed(made: dict[str, Path], tmp_path: Path) -> None:
    """An interval that is too narrow must not pass for one that is not; older results have no marks."""
    assert store.read(made["reconstruction"]).metrics["fvu"].optimistic

    def change(content: dict[str, Any]) -> None:
        content["metrics"]["fvu"]["optimistic"] = None

    report = again(rewritten(made["reconstruction"], tmp_path / "new", change))
    assert said(report, "fvu: optimistic is None in the result, but its units say")
    assert len(report.wrong) == 1

    def older(content: dict[str, Any]) -> None:
        change(content)
        content["schema_version"] = 2

    assert not again(rewritten(made["reconstruction"], tmp_path / "old", older)).wrong


def test_a_metric_that_no_unit_stands_behind_is_wrong(made: dict[str, Path], tmp_path: Path) -> None:
    """Else the table that would tell the truth is left out, and nothing contradicts the figures."""

    def change(content: dict[str, Any]) -> None:
        content["metrics"]["fvu"] |= {"value": 0.001, "low": 0.0005, "high": 0.002}

    def rows(tables: Tables) -> None:
        for kind in list(tables):
            del tables[kind]
        tables["something"] = Units(("0",), {"n": np.ones(1)})

    report = again(rewritten(made["reconstruction"], tmp_path, change, rows))
    assert said(report, "document") or said(report, "fvu")


def test_a_metric_that_the_task_does_not_have_is_wrong(made: dict[str, Path], tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metrics"]["greatness"] = content["metrics"]["cosine"]

    assert said(again(rewritten(made["reconstruction"], tmp_path, change)), "greatness")


@pytest.mark.parametrize(("field", "value"), slow_but(1, [("n_units", 5000), ("unit", "nats"), ("better", "higher")]))
def test_what_stands_beside_a_figure_is_compared_too(
    made: dict[str, Path], tmp_path: Path, field: str, value: Any
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metrics"]["fvu"][field] = value

    assert said(again(rewritten(made["reconstruction"], tmp_path, change)), "fvu", field)


def test_a_control_without_units_cannot_be_made_up(made: dict[str, Path], tmp_path: Path) -> None:
    """A weak control makes an SAE look good."""

    def change(content: dict[str, Any]) -> None:
        content["controls"]["random"] = content["controls"]["mean"]

    assert said(again(rewritten(made["reconstruction"], tmp_path, change)), "random")


# ---------------------------------------------------------------- tables of controls


def test_a_column_that_a_control_shares_with_the_sae_is_stored_once_and_restored(made: dict[str, Path]) -> None:
    tables = store.read_units(made["reconstruction"])
    control, own = tables["control/permuted/document"], tables["document"]
    assert "energy" not in control.columns  # of the activations, so the same for all
    assert "error" in control.columns
    whole = recompute._control("permuted", tables)["document"]
    assert set(whole.columns) == set(own.columns)
    assert (whole.columns["energy"] == own.columns["energy"]).all()
    assert (whole.columns["error"] == control.columns["error"]).all()


def test_edited_rows_of_a_control_are_not_its_figures(made: dict[str, Path], tmp_path: Path) -> None:
    def rows(tables: Tables) -> None:
        scaled(tables, "control/mean/document", 1.5, only="error")

    file = rewritten(made["reconstruction"], tmp_path, rows=rows)
    _, wrong = recompute.differences(store.read(file), store.read_units(file))
    assert all(sentence.startswith("control mean, ") for sentence in wrong)
    value = store.read(file).controls["mean"]["fvu"].value
    ours = next(s for s in wrong if s.startswith(f"control mean, fvu: value is {value} in the result"))
    assert float(ours.rpartition(" ")[2]) == pytest.approx(1.5 * value)


# ---------------------------------------------------------------- edited rows


@pytest.mark.slow  # of all rows: the next test
def test_an_edited_row_is_found_exactly_when_it_is_measured_again(made: dict[str, Path], tmp_path: Path) -> None:
    """The figures follow from the forged rows, so that nothing but a measurement can tell."""
    table = store.read_units(made["reconstruction"])["document"]
    row = int(table.columns["error"].argmax())

    def rows(tables: Tables) -> None:
        scaled(tables, "document", 0.5, [row], only="error")

    file = rewritten(made["reconstruction"], tmp_path, rows=rows, figures=True)
    session = Session("demo", Settings(tasks="reconstruction", **QUICK))
    place = session.inputs.corpus.evaluation.unit_ids.index(table.ids[row])
    caught = {}
    for seed in range(4):
        chosen = np.random.default_rng(seed).choice(64, 19, replace=False)
        report = again(file, share=0.3, seed=seed)
        assert said(report, f"document {table.ids[row]}: error differs by 0.5 of its size (1 of 19 rows do)") == bool(
            report.wrong
        )
        caught[seed] = bool(report.wrong)
        assert caught[seed] == (place in chosen)
    assert len(set(caught.values())) == 2
    report = again(file, share=1)
    assert report.wrong == [f"document {table.ids[row]}: error differs by 0.5 of its size (1 of 64 rows do)"]


EDITED = {
    "sparsity": ("document", "magnitude"),
    "loss_recovered": ("document", "ce_spliced"),
    "probe_recovery": ("example", "loss"),
    "downstream_sparsity": ("ablation", "sparsity"),
    "token_rules": ("latent", "f1"),
}


@pytest.mark.parametrize("task", slow_but(1, ["token_rules", *sorted({*EDITED} - {"token_rules"})]))
def test_one_edited_row_of_any_task_is_found_when_all_are_measured(
    made: dict[str, Path], tmp_path: Path, task: str
) -> None:
    kind, column = EDITED[task]
    table = store.read_units(made[task])[kind]
    row = int(np.abs(table.columns[column]).argmax())
    file = rewritten(
        made[task], tmp_path, rows=lambda tables: scaled(tables, kind, 0.5, [row], only=column), figures=True
    )
    report = again(file, share=1)
    assert said(report, f"{kind} {table.ids[row]}: {column} differs by 0.5 of its size (1 of {len(table)} rows do)")
    assert len(report.wrong) == 1


def dropped(table: Units, rows: int) -> Units:
    """Without its worst rows."""
    return table.select(np.sort(np.argsort(table.columns["error"])[: len(table) - rows]))


def doubled(table: Units, rows: int) -> Units:
    """With its best rows twice."""
    best = np.argsort(table.columns["error"])[:rows]
    return table.select([*range(len(table)), *best])


def invented(table: Units, rows: int) -> Units:
    """With rows of documents that nobody measured."""
    more = doubled(table, rows)
    return Units((*table.ids, *(f"{i:016x}" for i in range(rows))), more.columns)


@pytest.mark.parametrize("share", slow_but(1, [0.1, 1]))
@pytest.mark.parametrize("forgery", slow_but(2, [dropped, doubled, invented]))
def test_rows_that_were_dropped_doubled_or_invented(
    made: dict[str, Path], tmp_path: Path, forgery: Callable[[Units, int], Units], share: float
) -> None:
    """Which documents there are is known without a measurement, so every check finds these."""

    def rows(tables: Tables) -> None:
        tables["document"] = forgery(tables["document"], 2)
        for name in [name for name in tables if "/" in name]:
            del tables[name]

    file = rewritten(made["reconstruction"], tmp_path, rows=rows, figures=True)
    report = again(file, share=share)
    assert said(report, "document"), report.wrong


def test_rows_of_other_documents_are_not_the_documents_asked_for(made: dict[str, Path], tmp_path: Path) -> None:
    def rows(tables: Tables) -> None:
        for kind, table in tables.items():
            tables[kind] = Units(tuple(f"{i:016x}" for i in range(len(table))), table.columns)

    report = again(rewritten(made["reconstruction"], tmp_path, rows=rows, figures=True))
    assert said(report, "6 document rows are not in the result, for instance")


@pytest.mark.parametrize("task", slow_but(1, ["downstream_sparsity", "probe_recovery"]))
def test_dropped_rows_of_other_tables_are_missed(made: dict[str, Path], tmp_path: Path, task: str) -> None:
    kind = {"probe_recovery": "example", "downstream_sparsity": "ablation"}[task]

    def rows(tables: Tables) -> None:
        tables[kind] = tables[kind].select(range(1, len(tables[kind]), 2))
        for name in [name for name in tables if "/" in name]:
            del tables[name]

    report = again(rewritten(made[task], tmp_path, rows=rows, figures=True), share=0.3)
    assert said(report, f"{kind} rows are not in the result")


@pytest.mark.parametrize("number", slow_but(1, [math.nan, math.inf, -math.inf]))
def test_rows_that_are_no_numbers_are_wrong(made: dict[str, Path], tmp_path: Path, number: float) -> None:
    """A comparison with NaN is false, and a median that is infinite hides every difference."""

    def rows(tables: Tables) -> None:
        column = tables["document"].columns["ce_clean"]
        column[:40] = number
        scaled(tables, "document", 0.9, slice(40, None), only="ce_clean")

    report = again(rewritten(made["loss_recovered"], tmp_path, rows=rows), share=1)
    assert said(report, "document", "ce_clean differs")


def without(tables: Tables) -> None:
    del tables["document"].columns["error"]  # type: ignore[attr-defined]


def narrow(tables: Tables) -> None:
    tables["document"].columns["x"] = np.ones((64, 3))  # type: ignore[index]


def flat(tables: Tables) -> None:
    tables["document"].columns["x"] = np.ones(64)  # type: ignore[index]


def short(tables: Tables) -> None:  # what controls share with the SAE cannot be restored any more
    tables["document"] = tables["document"].select(range(20))


@pytest.mark.parametrize("rows", slow_but(1, [narrow, short, without, flat]))
def test_a_table_of_another_shape_is_a_sentence(
    made: dict[str, Path], tmp_path: Path, rows: Callable[[Tables], None]
) -> None:
    """Whoever made the file chose what is in it; none of it may end in a traceback."""
    try:
        found = again(rewritten(made["reconstruction"], tmp_path, rows=rows), share=1).wrong
    except ResultError as error:
        found = [str(error)]
    assert any("document" in sentence or "fvu" in sentence or "column" in sentence for sentence in found)


# ---------------------------------------------------------------- other inputs


def other_sae(folder: Path, change: float) -> Path:
    """The SAE of the demo with one weight changed."""
    shutil.copytree(demo.sae_path(demo.DEFAULT_SAE), folder)
    weights = load_file(folder / "weights.safetensors")
    weights["W_dec"][3, 5] += np.asarray(change, dtype=weights["W_dec"].dtype)
    save_file(weights, folder / "weights.safetensors")
    return folder


def test_one_changed_weight_is_another_sae(made: dict[str, Path], tmp_path: Path) -> None:
    report = again(made["reconstruction"], other_sae(tmp_path / "sae", 1e-3))
    assert said(report, "other weights: the result names", "the SAE given here has")
    assert (report.rows, len(report.wrong)) == (0, 1)


def test_one_changed_weight_is_another_model(made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(demo.MODEL_PATH, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[-1]
    weights[name].flat[0] += np.asarray(1e-3, dtype=weights[name].dtype)
    save_file(weights, file, {"format": "pt"})
    report = again(made["reconstruction"], model=tmp_path / "model", data="demo")
    assert said(report, "other model_sha256:")
    assert (report.rows, len(report.wrong)) == (0, 1)


def test_a_model_or_text_elsewhere_with_the_same_content_is_the_same(made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(demo.MODEL_PATH, tmp_path / "my model")
    shutil.copytree(demo.sae_path(demo.DEFAULT_SAE), tmp_path / "my sae")
    report = again(made["reconstruction"], tmp_path / "my sae", model=tmp_path / "my model", data="demo")
    assert (report.wrong, report.rows) == ([], 6)


def test_one_changed_document_is_other_data(tmp_path: Path) -> None:
    texts = [document.text for document in demo.documents(120, seed=5)]
    files = []
    for i in range(2):
        files.append(tmp_path / f"{i}.jsonl")
        lines = [texts[0] + " the" * i, *texts[1:]]
        files[i].write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    evaluate("demo", data=files[0], tasks="sparsity", out=tmp_path / "out", **(QUICK | {"controls": "none"}))
    result = next(store.find(tmp_path / "out"))
    assert again(result, data=files[0]).wrong == []
    report = again(result, data=files[1])
    assert said(report, "other data_sha256:") or said(report, "other calibration_sha256:")
    assert report.rows == 0
    assert said(again(result), "other data_sha256:")  # the text of the demo, where none is given


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"hook_in": "blocks.1.hook_resid_post"}, "other hooks_in: ('blocks.2.hook_resid_post',) in the result"),
        ({"mask": "none"}, "other mask: special in the result, none here"),
        ({"limit": 60}, "other n_documents: 64 in the result, 60 here"),
        ({"dtype": "float64"}, "other dtype: float32 in the result, float64 here"),
        ({"mean_from": "evaluation"}, "other mean_from: calibration in the result, evaluation here"),
    ],
)
def test_other_conditions_are_named(made: dict[str, Path], given: dict[str, Any], says: str) -> None:
    report = again(made["reconstruction"], **given)
    assert said(report, says), report.wrong
    assert report.rows == 0


PRETENDED = {
    "task_sha256": "0" * 64,
    "model_sha256": "1" * 64,
    "data_sha256": "2" * 64,
    "calibration_sha256": "3" * 64,
    "n_documents": 5000,
    "mask": "none",
    "special_ids": [7],
    "hooks_out": ["blocks.3.hook_resid_post"],
    "dtype": "float64",
    "version": 9,
    "parameters": {"kindness": 2},
}


def test_a_protocol_that_was_edited_together_with_its_hash(made: dict[str, Path], tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["provenance"]["protocol"] |= PRETENDED

    report = again(rewritten(made["reconstruction"], tmp_path, change))
    assert report.rows == 0
    for name in PRETENDED:
        assert said(report, f"other {name}: "), name


def test_one_edited_field_of_the_protocol_is_enough(made: dict[str, Path], tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["provenance"]["protocol"]["mask"] = "none"

    report = again(rewritten(made["reconstruction"], tmp_path, change))
    assert report.wrong == ["other mask: none in the result, special here"]
    assert report.rows == 0


@pytest.mark.parametrize(
    ("field", "value"), slow_but(1, [("n_latents", 65536), ("architecture", "jumprelu"), ("d_in", 768)])
)
def test_an_sae_that_is_described_as_another_is_wrong(
    made: dict[str, Path], tmp_path: Path, field: str, value: Any
) -> None:
    """The board shows and filters by these."""

    def change(content: dict[str, Any]) -> None:
        content["sae"][field] = value

    assert said(again(rewritten(made["reconstruction"], tmp_path, change)), field)


def test_rows_measured_on_another_sae_are_found(made: dict[str, Path], tmp_path: Path) -> None:
    """Somebody submits the figures of a better SAE under the digest of this one."""
    evaluate("demo/topk_k16", tasks="reconstruction", out=tmp_path / "out", **(QUICK | {"controls": "none"}))
    sha = store.read(made["reconstruction"]).sae.weights_sha256

    def change(content: dict[str, Any]) -> None:
        content["sae"]["weights_sha256"] = sha

    report = again(rewritten(next(store.find(tmp_path / "out")), tmp_path / "forged", change))
    assert said(report, "document ", "error differs by", "(6 of 6 rows do)")


def test_another_seed_than_0_is_said(tmp_path: Path) -> None:
    evaluate("demo", tasks="sparsity", seed=3, out=tmp_path, **(QUICK | {"controls": "none"}))
    report = again(next(store.find(tmp_path)))
    assert report.wrong == ["the seed is 3; results are compared at seed 0, since a seed can be chosen"]
    assert report.rows > 3  # measured again all the same


def test_a_parameter_that_the_protocol_does_not_tell_is_found_by_measuring(tmp_path: Path) -> None:
    given = QUICK | {"controls": "none", "tasks": "downstream_sparsity"}
    evaluate("demo", parameters={"downstream_sparsity.horizon": 2}, out=tmp_path / "out", **given)
    result = next(store.find(tmp_path / "out"))
    spec = registry.tasks()["downstream_sparsity"]

    def change(content: dict[str, Any]) -> None:
        assert content["provenance"]["settings"].pop("parameters") == {"downstream_sparsity.horizon": 2}
        del content["provenance"]["protocol"]["parameters"]["horizon"]
        content["provenance"]["protocol"]["task_sha256"] = registry.definition_sha256(spec)

    assert again(result, share=0.3).wrong == []
    report = again(rewritten(result, tmp_path / "forged", change), share=0.3)
    assert said(report, "ablation ", "tokens differs by", "rows do)")


def test_a_setting_that_contradicts_the_protocol_is_named(made: dict[str, Path], tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["provenance"]["settings"] |= {
            "mask": "first",
            "parameters": {"loss_recovered.smallest_denominator_nats": 1},
        }

    report = again(rewritten(made["loss_recovered"], tmp_path, change))
    assert said(report, "other mask: special in the result, first here")
    assert said(report, "other parameters: {} in the result, {'smallest_denominator_nats': 1.0} here")


# ---------------------------------------------------------------- settings that the result keeps


@pytest.mark.parametrize(
    ("task", "changes"),
    slow_but(
        1,
        [
            ("sparsity", {"bos": "no", "mask": "first"}),
            ("reconstruction", {"mask": "none", "mean_from": "evaluation"}),
            ("reconstruction", {"context": 24}),
            (
                "probe_recovery",
                {
                    "probe_sets": "has_question",
                    "parameters": {
                        "probe_recovery.pooling": "mean",
                        "probe_recovery.folds": 2,
                        "probe_recovery.ceiling_strengths": [0.1],
                    },
                },
            ),
            ("loss_recovered", {"parameters": {"loss_recovered.smallest_denominator_nats": 0.5}}),
            ("sparsity", {"hook_in": "blocks.1.hook_resid_post", "hook_out": "blocks.1.hook_resid_post"}),
            ("sparsity", {"packed": True, "dtype": "float64"}),
            ("token_rules", {"parameters": {"token_rules.latents": 20}, "resamples": 30, "limit": 32}),
        ],
    ),
)
def test_settings_need_not_be_given_again(tmp_path: Path, task: str, changes: dict[str, Any]) -> None:
    evaluate("demo", tasks=task, out=tmp_path, **(QUICK | {"controls": "none", "limit": 16} | changes))
    file = next(store.find(tmp_path))
    assert changes.items() <= store.read(file).provenance.settings.items()
    report = again(file, share=1)
    assert report.wrong == []
    assert report.rows > 0


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ({"colour": "red"}, "provenance.settings holds 'colour', which is no setting"),
        ({"\x1b[2J": 1}, r"'\x1b[2J'"),
        ({"mask": "all"}, "mask"),
        ({"limit": 0}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"mask": ["special"]}, "mask"),
        ({"parameters": 3}, "parameters"),
        ({"hook_in": 3}, "hook_in"),
    ],
)
def test_settings_that_cannot_be_are_refused(made: dict[str, Path], tmp_path: Path, kept: Any, says: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["provenance"]["settings"] |= kept

    with pytest.raises(SaeBenchError) as caught:
        again(rewritten(made["sparsity"], tmp_path, change))
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["model", "data", "tokenizer", "task_dir", "probe_data", "judge_base_url", "judge_cache", "device"]
)
def test_a_result_does_not_say_where_its_verifier_reads_or_sends(
    made: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """A stranger's file must not choose the task code that is imported, nor the server that gets the judge's key."""

    def change(content: dict[str, Any]) -> None:
        content["provenance"]["settings"][name] = str(tmp_path)

    with pytest.raises(ResultError, match=f"provenance.settings holds '{name}'"):
        again(rewritten(made["sparsity"], tmp_path, change))


# ---------------------------------------------------------------- tolerances


def perturbed(file: Path, to: Path, kind: str, relative: float, rows: Any = slice(None)) -> Path:
    n = len(store.read_units(file)[kind])
    factor = 1 + relative * np.random.default_rng(0).choice([-1, 1], n)
    return rewritten(file, to, rows=lambda tables: scaled(tables, kind, factor, rows), figures=True)


CASES = slow_but(1, [("reconstruction", "document"), ("token_rules", "latent"), ("loss_recovered", "document")])


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_what_other_hardware_does_to_rows_passes(made: dict[str, Path], tmp_path: Path, task: str, kind: str) -> None:
    assert again(perturbed(made[task], tmp_path, kind, 1e-5), share=1).wrong == []


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_a_difference_in_all_rows_fails(made: dict[str, Path], tmp_path: Path, task: str, kind: str) -> None:
    report = again(perturbed(made[task], tmp_path, kind, 1e-2), share=1)
    assert said(report, f"{kind}: ", "differs by over 0.001 of its size in 100 % of rows")
    report = again(perturbed(made[task], tmp_path, kind, 1e-2), share=0.05)
    assert bool(report.wrong) == (kind == "document")  # sums over all of the text are not measured from a part


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_one_row_that_is_far_off_fails(made: dict[str, Path], tmp_path: Path, task: str, kind: str) -> None:
    table = store.read_units(made[task])[kind]
    largest = int(np.argmax(next(c for c in table.columns.values() if c.ndim == 1 and np.ptp(c) > 0)))
    report = again(perturbed(made[task], tmp_path, kind, 0.2, [largest]), share=1)
    assert said(report, f"{kind} {table.ids[largest]}: ", "differs by 0.2 of its size (1 of")


def firings(file: Path, to: Path, more: Callable[[Any], Any]) -> Report:
    """What is found where the counts of latents ``[32, latents]`` are others, and the figures follow from these."""

    def rows(tables: Tables) -> None:
        table = tables["fold"]
        counts = more(table.columns["active"].astype(np.int64))
        tables["fold"] = Units(table.ids, {**table.columns, "active": counts.astype(np.uint16)})

    return again(rewritten(file, to, rows=rows, figures=True), share=1)


def test_a_latent_that_is_active_on_one_token_more_passes(made: dict[str, Path], tmp_path: Path) -> None:
    """A rare one too: on other hardware it may be at its threshold."""

    def flipped(counts: Any) -> Any:
        often = counts.sum(0)
        rare, frequent = often.argmin(), often.argmax()
        fold = counts[:, frequent].argmax()
        counts[fold, rare] += 1
        counts[fold, frequent] -= 1
        return counts

    assert firings(made["sparsity"], tmp_path, flipped).wrong == []


@pytest.mark.parametrize("latents", [1, None])
def test_firings_that_nobody_measured_are_found(made: dict[str, Path], tmp_path: Path, latents: int | None) -> None:
    """Of one latent many, or one of each, as for hiding that all are dead."""

    def forged(counts: Any) -> Any:
        fold, often = counts[:, 0].argmax(), counts.sum(0).argsort()
        chosen = often[:latents]
        counts[fold, chosen] += 30 if latents else 1
        counts[fold, often[-1]] -= 30 if latents else len(often) - 1
        return np.maximum(counts, 0)

    report = firings(made["sparsity"], tmp_path, forged)
    assert said(report, "fold"), report.wrong


@pytest.mark.parametrize(("task", "kind"), [CASES[0], CASES[2]])
def test_a_few_rows_that_are_a_little_off_pass(made: dict[str, Path], tmp_path: Path, task: str, kind: str) -> None:
    """A latent at its threshold may flip on other hardware."""
    assert again(perturbed(made[task], tmp_path, kind, 1e-2, [5, 40]), share=1).wrong == []


def test_one_flip_in_a_small_sample_passes(made: dict[str, Path], tmp_path: Path) -> None:
    """3 % of all rows may flip, so that the sample of three may hold one."""
    ids = store.read_units(made["reconstruction"])["document"].ids
    session = Session("demo", Settings(tasks="reconstruction", **QUICK))
    chosen = session.inputs.corpus.evaluation.unit_ids[int(np.random.default_rng(0).choice(64, 3, replace=False)[0])]
    file = perturbed(made["reconstruction"], tmp_path, "document", 1e-2, [ids.index(chosen)])
    report = again(file, share=0.05)
    assert report.rows == 3
    assert report.wrong == []


# ---------------------------------------------------------------- how likely a forgery is seen

ODDS = re.compile(r"rows forged in (\d+) of the (\d+) (.+) would have been seen with probability (\d\.\d\d)")


@pytest.mark.slow
def test_the_probability_of_the_report_is_that_of_drawing_without_replacement(made: dict[str, Path]) -> None:
    for task, share, looked_at in (("sparsity", 0.05, 3), ("sparsity", 0.3, 19), ("probe_recovery", 0.4, 2)):
        report = again(made[task], share=share)
        found = [match.groups() for line in report.checked if (match := ODDS.fullmatch(line))]
        assert len(found) == (3 if task == "sparsity" else 1)  # 1, 5 and 20 % of five sets is one set
        for forged, total, what, probability in found:
            assert what == ("documents" if task == "sparsity" else "labelled sets")
            exact = 1 - hypergeom.pmf(0, int(total), int(forged), looked_at)
            assert float(probability) == pytest.approx(exact, abs=0.00501)
    assert not any(ODDS.fullmatch(line) for line in again(made["sparsity"], share=1).checked)


@hypothesis_settings(max_examples=200, deadline=None)
@for_all(total=st.integers(1, 5000), share=st.floats(0, 1), part=st.sampled_from([0.01, 0.05, 0.2, 1.0]))
def test_the_probability_is_hypergeometric(total: int, share: float, part: float) -> None:
    looked_at = max(1, round(share * total))
    forged, of, _, probability = ODDS.fullmatch(_odds(part, total, looked_at, "documents")).groups()  # type: ignore[union-attr]
    assert (int(forged), int(of)) == (max(1, round(part * total)), total)
    assert float(probability) == pytest.approx(1 - hypergeom.pmf(0, total, int(forged), looked_at), abs=0.00501)


@pytest.mark.slow
def test_the_probability_is_how_often_forged_rows_are_drawn() -> None:
    for part, total, looked_at in ((0.05, 64, 3), (0.2, 64, 19), (0.01, 500, 25)):
        forged, _, _, probability = ODDS.fullmatch(_odds(part, total, looked_at, "documents")).groups()  # type: ignore[union-attr]
        draws = [np.random.default_rng(seed).choice(total, looked_at, replace=False) for seed in range(4000)]
        seen = np.mean([draw.min() < int(forged) for draw in draws])
        assert seen == pytest.approx(float(probability), abs=0.03)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def cli(cli: Run) -> Run:
    """Run the verb; returns exit code, stdout, stderr."""
    return lambda file, *arguments: cli("verify", file, "--sae", "demo", "--quiet", *arguments)


def test_exit_codes_and_sentences(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    code, out, error = cli(made["sparsity"], "--share", 0.1, "--seed", 7)
    assert (code, complaints(error)) == (0, [])
    assert "6 of 64 documents were measured again (6 rows; chosen by seed 7)" in out
    assert out.endswith("\nnothing wrong was found\n")

    def change(content: dict[str, Any]) -> None:
        content["metrics"]["l0"]["low"] -= 1

    file = rewritten(made["sparsity"], tmp_path, change)
    code, out, error = cli(file)
    assert (code, complaints(error)) == (1, [])
    assert "WRONG: l0: low is" in out
    code, out, error = cli(file, "--json")
    found = json.loads(out)
    assert (code, complaints(error), found["ok"], found["rows"]) == (1, [], False, 3)
    assert len(found["wrong"]) == 1
    code, out, _ = cli(made["sparsity"], "--json", "--batch-tokens", 300)
    found = json.loads(out)
    assert (code, found["ok"], found["wrong"]) == (0, True, [])
    assert set(found) == {"ok", "checked", "wrong", "rows"}


@pytest.mark.parametrize("share", [0, 2, -1, "nan"])
def test_a_share_that_cannot_be_is_refused(cli: Run, made: dict[str, Path], share: Any) -> None:
    code, out, error = cli(made["sparsity"], "--share", share)
    assert (code, out) == (2, "")
    assert "share" in error
    assert len(error.splitlines()) == 1


def unmeasured(status: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content.update(status=status, reason="the judge was\x1b[2J ill", metrics={}, controls={})

    return change


def of_task(name: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["task"] = name

    return change


def without_reason(content: dict[str, Any]) -> None:
    content["metrics"]["l0"]["value"] = None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unmeasured("error"), "has the status error, so there is nothing to verify"),
        (unmeasured("skipped"), "has the status skipped"),
        (of_task("telepathy"), "the task 'telepathy', which is not installed here"),
        (of_task("\x1b[2J"), "which is not installed here"),
        (of_task("reconstruction"), ""),
        (without_reason, "'metrics.l0'"),
    ],
)
def test_what_cannot_be_verified_is_one_sentence(
    cli: Run, made: dict[str, Path], tmp_path: Path, change: Any, says: str
) -> None:
    code, out, error = cli(rewritten(made["sparsity"], tmp_path, change))
    assert (code, out) == (2, "")
    assert says in error
    assert len(error.splitlines()) == 1
    assert error.rstrip("\n").isprintable()


def test_files_that_are_not_whole_are_one_sentence(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    file = copied(made["sparsity"], tmp_path)
    units = file.with_suffix(".units.safetensors")
    whole = units.read_bytes()
    for content, says in (
        (whole[:-100], "is not a table of units"),
        (b"", "is not a table of units"),
        (save({"document/n": np.zeros(2)}), "is not a table of units"),
        (None, "has no table of units beside it"),
    ):
        units.unlink()
        if content is not None:
            units.write_bytes(content)
        code, out, error = cli(file)
        assert (code, out) == (2, ""), says
        assert says in error
        assert len(error.splitlines()) == 1
    file.write_bytes(file.read_bytes()[:-20])
    code, out, error = cli(file)
    assert (code, out) == (2, "")
    assert "is not valid JSON" in error
    code, out, error = cli(tmp_path / "nothing.json")
    assert (code, out) == (2, "")
    assert "there is no file or folder" in error


@pytest.mark.parametrize("resamples", [0, -5, 10**12])
def test_a_number_of_resamples_that_cannot_be_is_refused(
    cli: Run, made: dict[str, Path], tmp_path: Path, resamples: int
) -> None:
    """A file from elsewhere must not take all memory."""

    def change(content: dict[str, Any]) -> None:
        content["provenance"]["resamples"] = resamples

    code, out, error = cli(rewritten(made["sparsity"], tmp_path, change))
    assert (code, out) == (2, "")
    assert "resamples" in error


def test_a_parameter_of_another_type_is_refused(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["provenance"]["protocol"]["parameters"] = {"smallest_denominator_nats": "\x1b[2J"}

    code, out, error = cli(rewritten(made["loss_recovered"], tmp_path, change))
    assert code in (1, 2)
    assert "smallest_denominator_nats" in out + error
    assert "\x1b" not in out + error


def test_hostile_names_are_harmless(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b[31m../../x\r\nWRONG: nothing\u202e\x07"

    def change(content: dict[str, Any]) -> None:
        content["sae"] |= {"name": evil, "source": evil, "format": evil, "weights_sha256": evil}
        content["provenance"]["protocol"] |= {"model": evil, "data": evil, "dtype": evil, "hooks_in": [evil]}
        content["metrics"][evil] = content["metrics"]["l0"]
        content["controls"][evil] = content["controls"]["mean"]
        content["controls"][evil]["l0"] |= {"high": 1e9}

    def rows(tables: Tables) -> None:
        for kind, table in list(tables.items()):
            tables[kind] = Units((evil, *table.ids[1:]) if len(table) else (), table.columns)
        tables[f"control/{evil}/document"] = tables["control/mean/document"]
        tables[evil] = Units((evil,), {evil.replace("/", ""): np.ones(1)})

    before = sorted(tmp_path.rglob("*"))
    file = rewritten(made["sparsity"], tmp_path / "evil", change, rows)
    files = sorted(tmp_path.rglob("*"))
    for sae_given in (["--seed", 0], ["--share", 1, "--seed", 0]):
        code, out, error = cli(file, *sae_given)
        assert (code, complaints(error)) == (1, [])
        assert all(character.isprintable() or character == "\n" for character in out)
        assert "other dtype:" in out
        assert not [line for line in out.splitlines() if line.startswith("WRONG: nothing")]
    assert sorted(tmp_path.rglob("*")) == files
    assert len(before) == 0
