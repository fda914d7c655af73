"""The pass over labelled texts: its cost, that figures do not depend on how work is cut up, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.metrics import log_loss, roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_bench import demo
from sae_bench.api import evaluate
from sae_bench.errors import DataError, ResultError, UsageError
from sae_bench.registry import load, tasks
from sae_bench.results import recompute, store
from sae_bench.saes.load import load_sae
from sae_bench.schema import Result
from sae_bench.tasks.ceiling import PROBES as PROBES_OF_CEILING
from sae_bench.units import nested
from tests.builders.marks import slow_but
from tests.builders.said import complaints
from tests.builders.tiny_models import WIDTH, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.conftest import Run

PROBES = "probe_recovery,sparse_probing"
SAES = ["demo/topk_k16", "demo/relu"]
QUICK: dict[str, Any] = {  # of cross-validation, where it is not what is tested
    f"{task}.{name}": value
    for task, names in (("probe_recovery", {}), ("sparse_probing", {"strengths": [0.1]}))
    for name, value in ({"folds": 2, "ceiling_strengths": [0.1]} | names).items()
}
Example = tuple[str, int]


def write_set(folder: Path, name: str, parts: dict[str, list[Example]], suffix: str) -> None:
    """A set in one of the three formats."""
    (folder / name).mkdir(parents=True)
    for part, rows in parts.items():
        file = folder / name / f"{part}.{suffix}"
        if suffix == "jsonl":
            file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        elif suffix == "csv":
            with file.open("w", newline="") as lines:
                csv.writer(lines).writerows([("text", "label"), *rows])
        else:
            texts, labels = zip(*rows, strict=True)
            pq.write_table(pa.table({"text": texts, "label": labels}), file)


def examples(attribute: str, documents: list[demo.DemoDocument], train: int = 28) -> dict[str, list[Example]]:
    """Texts labelled by an attribute, the same number of each class as far as they go."""
    has = [d.text for d in documents if d.attributes[attribute]][:24]
    lacks = [d.text for d in documents if not d.attributes[attribute]][: 48 - len(has)]
    assert len(has) >= 10, attribute
    mixed = [pair for both in zip([(t, 1) for t in has], [(t, 0) for t in lacks], strict=False) for pair in both]
    mixed += [(t, 0) for t in lacks[len(has) :]]
    return {"train": mixed[:train], "test": mixed[train:]}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small sets of demo texts, one in each format; the last two share texts."""
    folder = tmp_path_factory.mktemp("data") / "mine"
    texts = list({d.text: d for d in demo.documents(320, seed=3)}.values())
    write_set(folder, "english", examples("language_en", texts[:100], 20), "jsonl")
    write_set(folder, "numbers", examples("contains_number", texts[100:200]), "csv")
    write_set(folder, "questions", examples("has_question", texts[100:]), "parquet")
    return folder


def quick(given: dict[str, Any]) -> dict[str, Any]:
    """Little cross-validation for the tasks that are asked for."""
    return {name: value for name, value in QUICK.items() if name.partition(".")[0] in given["tasks"].split(",")}


def run(saes: Any, sets: Path | None, **given: Any) -> dict[tuple[str, str], Result]:
    """Results by SAE and task, on the demo model and a folder of sets."""
    defaults: dict[str, Any] = {"probe_data": sets, "tier": "smoke", "limit": 8, "controls": "none", "tasks": PROBES}
    found = evaluate(saes, **(defaults | {"resamples": 40, "parameters": quick(defaults | given)} | given))
    return {(r.sae.name, r.task): r for r in found}


@pytest.fixture(scope="module")
def small(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, str], Result], Path]:
    """Two SAEs on the three sets, and where the files are."""
    out = tmp_path_factory.mktemp("out")
    return run(SAES, sets, controls="permuted,identity", out=out), out


@pytest.fixture(scope="module")
def kinds() -> dict[str, Result]:
    """One SAE on the seven kinds of demo text, by task."""
    found = run("demo", None, probe_sets="kind_*", controls="permuted,identity", resamples=60)
    return {task: result for (_, task), result in found.items()}


def figures(results: dict[tuple[str, str], Result]) -> dict[str, float | None]:
    return {
        f"{sae} {task} {name} {control}": metric.value
        for (sae, task), result in results.items()
        for control, metrics in [("", result.metrics), *result.controls.items()]
        for name, metric in metrics.items()
    }


def assert_close(one: dict[str, float | None], other: dict[str, float | None], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value is None:
            assert other[name] is None, name
        else:
            assert other[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


@pytest.fixture
def cli(cli: Run) -> Run:
    """A run on the demo in an empty folder; returns exit code, stdout, stderr."""
    small = ("--controls", "none", "--limit", 8, "--resamples", 40, "--tier", "smoke")
    return partial(cli, "run", "--quiet", *small)


# ---------------------------------------------------------------- what comes out


@pytest.mark.slow
def test_the_demo_has_figures_with_intervals(kinds: dict[str, Result]) -> None:
    for task, result in kinds.items():
        assert (result.status, result.reason) == ("ok", None)
        assert set(result.metrics) == set(tasks()[task].metrics)
        for name, metric in result.metrics.items():
            assert metric.value is not None, name
            assert metric.low is not None, name
            assert metric.n_units == 128  # test texts, which the seven sets share
        over_sets = result.details["over sets"]
        for name, wide in over_sets.items():
            own = result.metrics[name]
            assert wide["value"] == own.value
            assert own.low is not None
            assert own.high is not None
            assert wide["high"] - wide["low"] > own.high - own.low
        assert len(over_sets) > 2
        assert {one["ceiling"] for one in result.details["sets"].values()} <= set(PROBES_OF_CEILING)
    assert float(kinds["probe_recovery"].metrics["probe_r"].value or 0) > 0.5
    assert float(kinds["probe_recovery"].metrics["probe_r_shuffled"].value or 0) < 0.1


def test_what_stands_beside_a_score(kinds: dict[str, Result]) -> None:
    """A permuted decoder is a control where directions are read; the identity is the residual's channels."""
    for task, share in (("probe_recovery", "probe_share"), ("sparse_probing", "share_k16")):
        result = kinds[task]
        permuted = ["permuted"] if task == "probe_recovery" else []
        assert list(result.controls) == ["best_channels", "full_residual", "identity", *permuted]
        assert result.controls["best_channels"][share].value == 0
        assert result.controls["full_residual"][share].value == 1
        assert "probe_r_shuffled" not in result.controls["full_residual"]
        for name, metric in result.controls["best_channels"].items():
            assert result.controls["identity"][name] == metric
        # in what sees codes alone it would be the SAE once more, as a rival that cannot be told from it
        seen = {"probe_write", "probe_features", "probe_write_shuffled"}
        assert set(result.controls.get("permuted", seen)) == seen
        assert not {"probe_r", "auroc_k1"} & set(result.against.get("permuted", {}))
    between = kinds["probe_recovery"].metrics["probe_share"].value
    assert between is not None
    assert 0 < between < 1


def test_a_control_does_not_take_the_place_of_the_best_channels(
    sets: Path, small: tuple[dict[tuple[str, str], Result], Path]
) -> None:
    """The control "channels" keeps the largest channels of a token only; the floor of the share searches them all."""
    key = ("demo/topk_k16", "probe_recovery")
    plain = small[0][key].controls
    beside = run(key[0], sets, tasks=key[1], controls="permuted,identity,channels")[key].controls
    assert beside["best_channels"] == plain["best_channels"]
    assert len(beside) == len(plain) + 1


def test_details_hold_one_entry_a_set(small: tuple[dict[tuple[str, str], Result], Path]) -> None:
    results, out = small
    for (_, name), result in results.items():
        task = load(tasks()[name].code)(tasks()[name])
        of_sets = result.details["sets"]
        assert list(of_sets) == ["english", "numbers", "questions"]
        file = store.path_of(out, result.sae, name, result.version, result.protocol)
        again = nested.draw(store.read_units(file)["example"], seed=0, resamples=40)
        headlines = {metric for metric, spec in task.spec.metrics.items() if spec.headline}
        for set_name, shown in of_sets.items():
            assert set(shown["metrics"]) == headlines
            if name == "probe_recovery":
                assert 0 <= shown["latent"] < result.sae.n_latents
                assert 0 < shown["density"] < 1
                assert shown["sign"] == np.sign(shown["weight"])
            else:
                assert len(shown["latents"]) == len(set(shown["latents"])) == 16
            for metric in headlines:
                own = nested.each_set(again, task.metrics[metric])
                e = next(e for unit, e in own.items() if unit.startswith(f"{set_name}@"))
                own_row = shown["metrics"][metric]
                assert (own_row["value"], own_row["low"], own_row["high"]) == (e.value, e.low, e.high)
                assert own_row.get("reason") == e.reason
        assert result.metrics[{"probe_recovery": "probe_r"}.get(name, "auroc_k1")].low is not None
        assert "over sets" not in result.details  # that of three sets would be made up


def test_figures_are_those_of_the_chosen_latent_by_hand(
    sets: Path, small: tuple[dict[tuple[str, str], Result], Path]
) -> None:
    """Every text once more through transformers and the SAE, without anything of the engine."""
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    layer = int(demo.HOOK.split(".")[1]) + 1
    rows = [json.loads(line) for line in (sets / "english" / "test.jsonl").read_text().splitlines()]
    for name in SAES:
        sae, shown = load_sae(name), small[0][name, "probe_recovery"].details["sets"]["english"]
        pooled = []
        for row in rows:
            ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
            ids = [tokenizer.bos_token_id, *ids][: sae.info.context_size or 128]
            with torch.no_grad():
                x = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
            pooled.append(float(sae.encode(x[1:]).dense()[:, shown["latent"]].max()))
        labels = np.array([row["label"] for row in rows])
        p = 1 / (1 + np.exp(-(shown["weight"] * np.array(pooled) + shown["bias"])))
        assert shown["metrics"]["probe_loss"]["value"] == pytest.approx(log_loss(labels, p), rel=1e-4)
        assert shown["metrics"]["probe_auroc"]["value"] == pytest.approx(roc_auc_score(labels, p), abs=1e-9)


# ---------------------------------------------------------------- what it costs, and how it is cut


def test_each_text_runs_once_for_any_number_of_saes_and_tasks(
    sets: Path, small: tuple[dict[tuple[str, str], Result], Path]
) -> None:
    rows: set[str] = set()
    for name, suffix in (("english", "jsonl"), ("numbers", "csv"), ("questions", "parquet")):
        for part in ("train", "test"):
            file = sets / name / f"{part}.{suffix}"
            if suffix == "jsonl":
                rows |= {json.loads(line)["text"] for line in file.read_text().splitlines()}
            elif suffix == "csv":
                with file.open(newline="") as lines:
                    rows |= {row["text"] for row in csv.DictReader(lines)}
            else:
                rows |= set(pq.read_table(file)["text"].to_pylist())
    assert len(rows) < 3 * 48  # two sets share texts
    one = run("demo/relu", sets, tasks="sparse_probing")["demo/relu", "sparse_probing"]
    for result in (one, *small[0].values()):
        assert result.provenance.counters["labelled_prefix"] == len(rows)
        assert result.provenance.protocol.n_documents == len(rows)
        assert not [name for name in result.provenance.counters if "suffix" in name or "decode" in name]
    assert one.provenance.counters["labelled_encode"] == len(rows)
    # a permuted decoder encodes nothing of its own
    assert small[0]["demo/relu", "sparse_probing"].provenance.counters["labelled_encode"] == 2 * len(rows)


@pytest.mark.slow
def test_no_figure_changes_with_the_batch_size(sets: Path) -> None:
    given: dict[str, Any] = {"dtype": "float64", "controls": "permuted"}
    given["probe_sets"] = "numbers,questions"  # which share texts
    small, large = (figures(run("demo/relu", sets, batch_tokens=n, **given)) for n in (150, 5000))
    assert_close(small, large, 1e-6)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of texts that begin in a few ways: most latents are strongest in what several texts share."""
    folder = tmp_path_factory.mktemp("data") / "alike"
    texts = [d.text.split() for d in demo.documents(120, seed=5)]
    begun = [" ".join(texts[i % 5][:16] + own[: 1 + i % 7]) for i, own in enumerate(texts)]
    labels = [(i // 5) % 2 == (i % 4 == 0) for i in range(len(begun))]
    rows = list(dict(zip(begun, labels, strict=True)).items())
    parts = {"train": [row for i, row in enumerate(rows) if i % 8 < 5], "test": [*rows[5::8], *rows[6::8], *rows[7::8]]}
    write_set(folder, "alike", {part: [(text, int(y)) for text, y in own] for part, own in parts.items()}, "jsonl")
    return folder


def test_texts_that_begin_alike_are_ties_in_any_batch(alike: Path) -> None:
    """Float32 rounds equal activations of batches of other shapes otherwise, and a rank would order them by that."""
    one, other = (run("demo/relu", alike, batch_tokens=n, limit=4) for n in (60, 5000))
    assert_close(figures(one), figures(other), 1e-5)
    for key, result in one.items():
        own, again = (r.details["sets"]["alike"] for r in (result, other[key]))
        assert [own.get(name) for name in ("latent", "latents")] == [again.get(name) for name in ("latent", "latents")]


@pytest.mark.parametrize("sae", slow_but(1, SAES[::-1]))
def test_two_saes_at_once_are_two_runs(sets: Path, small: tuple[dict[tuple[str, str], Result], Path], sae: str) -> None:
    alone = run(sae, sets, controls="permuted,identity")
    for (name, task), result in alone.items():
        beside = small[0][name, task]
        assert result.metrics == beside.metrics
        assert result.controls == beside.controls
        assert result.details == beside.details
        assert result.protocol == beside.protocol


@pytest.mark.parametrize("task", ["sparsity,sparse_probing", "probe_recovery"])
@pytest.mark.slow
def test_a_task_alone_is_the_task_beside_others(
    sets: Path, small: tuple[dict[tuple[str, str], Result], Path], task: str
) -> None:
    """The two tasks pool in different ways, from one pass."""
    for key, result in run("demo/relu", sets, tasks=task, controls="permuted").items():
        if key in small[0]:
            assert result.metrics == small[0][key].metrics
            assert result.details == small[0][key].details


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kill_at", slow_but(1, [3, 1]))
def test_a_killed_run_goes_on_to_the_same_bits(sets: Path, tmp_path: Path, kill_at: int) -> None:
    given: dict[str, Any] = {"tasks": f"sparsity,{PROBES}", "controls": "permuted", "checkpoint_seconds": 0}
    run("demo/relu", sets, out=tmp_path / "whole", **given)
    steps = 0

    def kill(what: str, done: int, total: int) -> None:
        nonlocal steps
        steps += what == "labelled sets"
        if steps == kill_at:
            shutil.copytree(tmp_path / "first", tmp_path / "killed")
            raise Killed

    with pytest.raises(Killed):
        run("demo/relu", sets, out=tmp_path / "first", progress=kill, **given)
    ticks: list[int] = []
    run(
        "demo/relu",
        sets,
        out=tmp_path / "killed",
        **given,
        progress=lambda w, d, t: ticks.append(d) if "sets" in w else 0,
    )
    assert ticks[0] == (0 if kill_at == 1 else 1)  # a group of sets that was measured is not measured again
    whole, resumed = (
        {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert len(whole) == 3 * 2 + 1
    assert resumed == whole


def test_figures_beside_an_sae_follow_from_their_units(small: tuple[dict[tuple[str, str], Result], Path]) -> None:
    """Also those of a control that has none of what sees codes alone; one that it must have is missed."""
    files = list(store.find(small[1]))
    assert {store.read(file).task for file in files} == set(PROBES.split(","))
    for file in files:
        assert recompute.differences(store.read(file), store.read_units(file))[1] == []
    (file, *_) = (file for file in files if store.read(file).task == "probe_recovery")
    result = store.read(file)
    left = {name: one for name, one in result.controls["permuted"].items() if name != "probe_write"}
    forged = result.model_copy(update={"controls": result.controls | {"permuted": left}})
    wrong = recompute.differences(forged, store.read_units(file))[1]
    assert "control permuted, probe_write is not in the result, though its units are" in wrong


def test_a_finished_run_is_not_repeated(sets: Path, small: tuple[dict[tuple[str, str], Result], Path]) -> None:
    results, out = small
    calls: list[str] = []
    again = run(SAES, sets, controls="permuted,identity", out=out, progress=lambda what, *_: calls.append(what))
    assert not calls
    assert again == results


class Raises:
    """Fails on the n-th call of encode."""

    def __init__(self, on_call: int) -> None:
        self.inner = load_sae("demo/topk_k16")
        self.info, self.left = self.inner.info, on_call

    def encode(self, x: torch.Tensor) -> Any:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("out of luck")
        return self.inner.encode(x)

    def decode(self, codes: Any, x: torch.Tensor | None = None) -> torch.Tensor:
        return self.inner.decode(codes, x)

    def decoder_rows(self, latents: torch.Tensor) -> torch.Tensor:
        return self.inner.decoder_rows(latents)


@pytest.mark.parametrize("on_call", slow_but(1, [4, 2]))  # the first call identifies the coder
def test_an_sae_that_raises_is_an_error_and_the_others_go_on(sets: Path, on_call: int) -> None:
    given = {"controls": "permuted", "batch_tokens": 600, "probe_sets": "numbers,questions"}
    alone = figures(run("demo/relu", sets, **given))
    both = run([Raises(on_call), "demo/relu"], sets, **given)
    for task in PROBES.split(","):
        assert both["demo/topk_k16", task].status == "error"
        assert "out of luck" in str(both["demo/topk_k16", task].reason)
        assert not both["demo/topk_k16", task].metrics
    assert_close(figures({k: v for k, v in both.items() if k[0] == "demo/relu"}), alone, 1e-12)


# ---------------------------------------------------------------- units


def test_units_come_back_and_ids_that_tables_share_are_stored_once(
    small: tuple[dict[tuple[str, str], Result], Path],
) -> None:
    results, out = small
    result = results["demo/relu", "probe_recovery"]
    file = store.path_of(out, result.sae, result.task, result.version, result.protocol)
    tables = store.read_units(file)
    assert set(tables) == {
        f"{of}{kind}" for of in ("", "control/identity/", "control/permuted/") for kind in ("example", "dataset")
    }
    assert tables["control/identity/example"].ids == tables["example"].ids
    n = sum(one["test_examples"] for one in result.details["sets"].values())
    assert len(nested.by_set(tables["example"])) == 3
    assert len(tables["example"]) == len(set(tables["example"].ids)) == n + 3 * 20  # refits
    task = load(tasks()[result.task].code)(tasks()[result.task])
    for name, metric in task.metrics.items():
        again = nested.estimate(nested.draw(tables["example"], seed=0, resamples=40), metric)
        assert (again.value, again.low) == (result.metrics[name].value, result.metrics[name].low)


@pytest.mark.parametrize("ids", [{"as": "missing"}, {"as": "example"}, {"as": ["example"]}, {"like": "dataset"}, None])
def test_a_damaged_reference_between_tables_is_one_sentence(
    small: tuple[dict[tuple[str, str], Result], Path], tmp_path: Path, ids: Any
) -> None:
    """`ids` is written for the table "example" itself, so that a reference to it goes in a circle."""
    results, out = small
    result = results["demo/relu", "probe_recovery"]
    file = store.path_of(out, result.sae, result.task, result.version, result.protocol)
    units = file.with_suffix(".units.safetensors")
    header = units.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    stored = json.loads(metadata["ids"])
    assert stored["control/identity/example"] == {"as": "example"} or stored["example"]["as"] in stored
    save_file(
        load_file(units), tmp_path / units.name, {"ids": json.dumps(stored | {"example": ids, "dataset": ["a"] * 3})}
    )
    with pytest.raises(ResultError, match="is not a table of units"):
        store.read_units(tmp_path / file.name)


# ---------------------------------------------------------------- settings


@pytest.mark.slow
def test_a_parameter_changes_the_protocol_and_is_recorded(
    sets: Path, small: tuple[dict[tuple[str, str], Result], Path]
) -> None:
    key = ("demo/relu", "probe_recovery")
    plain, few = small[0][key], quick({"tasks": key[1]})
    changed = run("demo/relu", sets, tasks=key[1], parameters=few | {"probe_recovery.pooling": "mean"})[key]
    assert "pooling" not in plain.provenance.protocol.parameters
    assert changed.provenance.protocol.parameters == plain.provenance.protocol.parameters | {"pooling": "mean"}
    assert changed.protocol != plain.protocol
    assert changed.metrics["probe_loss"].value != plain.metrics["probe_loss"].value
    told = few | {"probe_recovery.pooling": "max"}
    same = run("demo/relu", sets, tasks=key[1], parameters=told, controls="permuted")[key]
    assert (same.protocol, same.metrics) == (plain.protocol, plain.metrics)


@pytest.mark.slow
def test_other_sets_are_another_protocol(sets: Path, small: tuple[dict[tuple[str, str], Result], Path]) -> None:
    fewer = run("demo/relu", sets, probe_sets="english,numbers")
    for key, result in fewer.items():
        assert result.protocol != small[0][key].protocol
        assert list(result.details["sets"]) == ["english", "numbers"]
        for name in ("english", "numbers"):
            one, other = (
                of | {"metrics": {m: e["value"] for m, e in of["metrics"].items()}, "density": 0}
                for of in (result.details["sets"][name], small[0][key].details["sets"][name])
            )  # intervals are equal but for the rounding of other batches
            assert one == other


def test_parameters_on_the_command_line(cli: Run, sets: Path, tmp_path: Path) -> None:
    given = ("--sae", "demo/relu", "--probe-data", sets, "--tasks", "probe_recovery", "--json", "--out", "out")
    code, out, error = cli(*given, "--param", "probe_recovery.pooling=mean", "--param", "probe_recovery.ridge=1")
    assert (code, complaints(error)) == (0, [])
    assert json.loads(out)["results"][0]["status"] == "ok"
    result = store.read(next(iter(store.find(tmp_path / "out"))))
    assert result.provenance.protocol.parameters == {"pooling": "mean", "ridge": 1.0}


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("probe_recovery.poling=mean", "did you mean 'pooling'"),
        ("probe_recvery.pooling=mean", "did you mean 'probe_recovery'"),
        ("sparsity.pooling=mean", "no task 'sparsity' is measured"),
        ("probe_recovery.pooling=3", "must be of type str (as 'max' is), not 3"),
        ("probe_recovery.folds=2.5", "must be of type int (as 4 is), not 2.5"),
        ("probe_recovery.folds=true", "must be of type int"),
        ("probe_recovery.ridge=tiny", "must be of type float"),
        ("probe_recovery.pooling=sum", "pooling must be one of max, mean, last"),
        ("pooling=mean", "must be TASK.NAME=VALUE"),
        ("probe_recovery.pooling", "must be TASK.NAME=VALUE"),
    ],
)
def test_parameters_that_are_not_there_or_of_another_type_are_refused(cli: Run, parameter: str, message: str) -> None:
    code, out, error = cli("--sae", "demo/relu", "--tasks", PROBES, "--param", parameter)
    assert (code, out) == (2, "")
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "parameter", ["sparse_probing.folds=1", "sparse_probing.strengths=[]", "probe_recovery.ridge=nan"]
)
def test_values_that_cannot_work_are_one_sentence(cli: Run, sets: Path, parameter: str) -> None:
    code, out, error = cli("--sae", "demo/relu", "--tasks", PROBES, "--probe-data", sets, "--param", parameter)
    assert (code, out) == (2, "")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_pre_activations_can_be_read_with_any_type_of_the_model(sets: Path, dtype: str) -> None:
    given: dict[str, Any] = {"tasks": "probe_recovery", "dtype": dtype}
    few = quick(given)
    codes = run("demo/relu", sets, **given)["demo/relu", "probe_recovery"]
    dense = run("demo/relu", sets, **given, parameters=few | {"probe_recovery.source": "pre_activations"})
    result = dense["demo/relu", "probe_recovery"]
    assert result.status == "ok"
    assert result.controls == codes.controls  # channels and the residual have no pre-activations
    assert result.metrics != codes.metrics


def test_pre_activations_that_an_sae_does_not_offer_are_refused(sets: Path) -> None:
    with pytest.raises(UsageError, match=r"offers no pre-activations; leave probe_recovery\.source at codes"):
        run(Raises(-1), sets, parameters={"probe_recovery.source": "pre_activations"})


# ---------------------------------------------------------------- sets that cannot be used


def test_a_set_of_one_class_is_refused_by_name(cli: Run, sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(sets, folder)
    rows = [(d.text, 1) for d in demo.documents(30, seed=11)]
    write_set(folder, "all_positive", {"train": rows[:20], "test": rows[20:]}, "csv")
    with pytest.raises(DataError, match="all_positive"):
        run("demo/relu", folder)
    code, out, error = cli("--sae", "demo/relu", "--tasks", PROBES, "--probe-data", folder)
    assert (code, out) == (2, "")
    assert "'all_positive'" in error
    assert "0 negative" in error
    assert len(error.strip().splitlines()) == 1


def test_no_usable_set_is_a_skipped_task_with_the_reason(cli: Run, tmp_path: Path) -> None:
    """The demo's texts hold no such phrase; what can be measured is measured all the same."""
    shutil.copytree(demo.MODEL_PATH, tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(d.text.replace("\n", " ") for d in demo.documents(80)))
    given = ["--sae", "demo/relu", "--model", tmp_path / "model", "--data", tmp_path / "text.txt"]
    given += ["--probe-sets", "phrase_high_school,phrase_living_room", "--json"]
    code, out, error = cli(*given, "--tasks", f"sparsity,{PROBES}")
    assert code == 0
    assert [said for said in complaints(error) if "0 of 2 labelled sets are available" not in said] == []
    found = {r["task"]: r for r in json.loads(out)["results"]}
    assert found["sparsity"]["status"] == "ok"
    for task in PROBES.split(","):
        assert found[task]["status"] == "skipped"
        assert found[task]["reason"].startswith("0 of 2 sets available (")
        assert "--probe-data" in found[task]["reason"]
        assert not found[task]["metrics"]
    code, out, _ = cli(*given, "--tasks", PROBES)
    assert code == 0
    assert [r["status"] for r in json.loads(out)["results"]] == ["skipped", "skipped"]


def test_token_ids_without_a_tokenizer_skip_what_needs_text() -> None:
    rows = np.random.default_rng(0).integers(1, 50, (16, 10))
    found = evaluate(tiny_coder("topk"), model=tiny_gpt2(), data=rows, tasks="all", controls="none", resamples=20)
    status = {r.task: r.status for r in found}
    assert status["sparsity"] == "ok"
    assert status["probe_recovery"] == status["sparse_probing"] == "skipped"
    assert all("need a tokenizer" in str(r.reason) for r in found if r.task in PROBES.split(","))
    assert found[0].sae.d_in == WIDTH


def test_a_set_that_is_not_there_is_named_with_a_suggestion(cli: Run) -> None:
    code, _, error = cli("--sae", "demo/relu", "--tasks", PROBES, "--probe-sets", "kind_nws")
    assert code == 2
    assert "kind_news" in error
