"""What a result was measured with stands beside the protocol: it is said where results meet, and refuses nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_bench import registry
from sae_bench.api import Session, evaluate
from sae_bench.results import store
from sae_bench.results.environment import environment
from sae_bench.settings import Settings
from sae_bench.verify import verify
from tests.builders.comparisons import frame, save
from tests.builders.results import changed
from tests.builders.said import complaints
from tests.builders.tiny_models import WIDTH, TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.builders.variations import HOOK
from tests.conftest import Run

ELSEWHERE: list[tuple[tuple[str, ...], Any, str]] = [
    (("versions", "torch"), "9.9", "torch 2, 9.9"),
    (("platform",), "Plan9 pdp11", "platform Linux, Plan9 pdp11"),
    (("device",), "cuda:0", "device cpu, cuda:0"),
    (("environment",), {"attention": "eager"}, ""),  # the other one does not say it
    (("versions", "transformer-lens"), "4", ""),
]
NEW = {"resamples": 50, "config_sha256": "5" * 64, "tokenizer_sha256": "6" * 64, "backend": "hf"}


def pair(folder: Path, **protocol: Any) -> list[Path]:
    """Results of two SAEs on the same documents."""
    found = []
    for name in "ab":
        energy = np.full(40, 50.0)
        error = energy * np.random.default_rng(ord(name)).uniform(0.1, 0.2, 40)
        units = {"document": frame([f"d{i}" for i in range(40)], error=error, energy=energy)}
        found.append(save(folder, "reconstruction", units, ["nmse"], name, **protocol))
    return found


@pytest.mark.parametrize(("path", "value", "says"), ELSEWHERE)
def test_compare_check_and_board_say_what_differs(
    cli: Run, tmp_path: Path, path: tuple[str, ...], value: Any, says: str
) -> None:
    a, b = pair(tmp_path / "runs")
    said = {verb: cli(*arguments) for verb, arguments in verbs(a, b, tmp_path).items()}
    assert all("environment" not in out for _, out, _ in said.values())
    changed(b, "provenance", *path, value=value)
    for verb, arguments in verbs(a, b, tmp_path).items():
        code, out, _ = cli(*arguments)
        assert code == said[verb][0] == 0, verb
        sentences = [line for line in out.splitlines() if "different environments" in line]
        assert len(sentences) == bool(says), verb
        assert all(f"({says})" in line for line in sentences), verb


def verbs(a: Path, b: Path, folder: Path) -> dict[str, list[Any]]:
    (folder / "gates.toml").write_text("[reconstruction.nmse]\nallowed_loss = 9.0\n")
    check = ["check", b, "--baseline", a, "--gates", folder / "gates.toml"]
    return {"compare": ["compare", a, b], "check": check, "board": ["board", a.parents[2], "--metrics", "nmse"]}


def test_a_package_counts_where_its_back_end_ran(tmp_path: Path) -> None:
    (file, _) = pair(tmp_path)
    changed(file, "provenance", "versions", "transformer-lens", value="4")
    assert "transformer-lens" not in environment(store.read(file).provenance)
    changed(file, "provenance", "backend", value="tl")
    assert environment(store.read(file).provenance)["transformer-lens"] == "4"


def test_a_result_that_knows_less_is_refused_in_one_sentence(cli: Run, tmp_path: Path) -> None:
    (old, _), (_, new) = pair(tmp_path / "old"), pair(tmp_path / "new", **NEW)
    code, out, err = cli("compare", old, new)
    assert (code, out) == (3, "")
    (sentence,) = complaints(err)
    assert "is of an older sae-bench" in sentence
    assert "does not say config_sha256, tokenizer_sha256, backend; measure it again" in sentence
    (_, other) = pair(tmp_path / "seed", seed=3, **NEW)
    assert "seed (0 and 3)" in cli("compare", old, other)[2]


def test_another_number_of_replicates_can_be_compared(cli: Run, tmp_path: Path) -> None:
    (a, _), (_, b) = pair(tmp_path / "few", **NEW), pair(tmp_path / "many", **NEW | {"resamples": 80})
    assert store.read(a).protocol != store.read(b).protocol
    assert cli("compare", a, b)[0] == 0


def test_old_results_are_read_with_the_hash_that_they_have(references: Path) -> None:
    for file in sorted((references / "results_v1").glob("*.json")):
        result = store.read(file)
        assert result.protocol == store.protocol_hash(result.provenance.protocol)
        assert result.provenance.protocol.backend is None


# --- of a run --------------------------------------------------------------------------------------------------------


def tiny(**changes: Any) -> dict[str, Any]:
    told = {"model": tiny_gpt2(), "tokenizer": TinyTokenizer(), "data": number_texts(40), "context": 16}
    return told | {"tasks": "reconstruction", "controls": "none", "resamples": 20, "device": "cpu"} | changes


def sae() -> Any:
    return tiny_coder("topk", d_in=WIDTH, hook=HOOK)


def test_a_run_says_with_what_it_was_measured() -> None:
    (result,) = evaluate(sae(), **tiny())
    said = environment(result.provenance)
    assert said["torch"] == torch.__version__
    assert {"transformers", "sae-bench-suite", "python", "platform"} <= said.keys()
    assert (said["device"], said["tokenizer"]) == ("cpu", "TinyTokenizer")
    assert said["attention"] in ("sdpa", "eager")
    assert "transformer-lens" not in said


def test_what_was_changed_in_memory_is_named() -> None:
    model = tiny_gpt2()
    model.transformer.h[0].mlp.act = torch.nn.ReLU()
    (result,) = evaluate(sae(), **tiny(model=model))
    assert result.provenance.model == {"departures": ["transformer.h.0.mlp.act is ReLU, not NewGELUActivation"]}
    (plain,) = evaluate(sae(), **tiny())
    assert plain.provenance.model == {}


def test_the_dtype_of_a_module_in_memory_is_its_own() -> None:
    (result,) = evaluate(sae(), **tiny(model=tiny_gpt2().double()))
    assert result.provenance.protocol.dtype == "float64"


@pytest.mark.parametrize("edit", ["task.py", "figures.py"])
def test_code_of_a_task_of_ones_own_names_its_results(
    tmp_path: Path, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run after an edit says that everything is there already."""
    top = f"own_{edit.partition('.')[0]}"
    shipped = (registry.data_folder("tasks") / "reconstruction" / "task.toml").read_text()
    text = shipped.replace('id = "reconstruction"', f'id = "{top}"')
    text = text.replace("sae_bench.tasks.reconstruction", f"{top}.task")
    text = text.replace("sae_bench.metrics.reconstruction", f"{top}.figures")
    (tmp_path / top).mkdir()
    (tmp_path / top / "task.toml").write_text(text)
    for name, module in (("__init__", ""), ("task", "from sae_bench.tasks.reconstruction import *\n"),
                         ("figures", "from sae_bench.metrics.reconstruction import *\n")):  # fmt: skip
        (tmp_path / top / f"{name}.py").write_text(module)
    given = tiny(tasks=top, task_dir=tmp_path)

    def named() -> str:
        return Session(sae(), Settings(**given)).work[0].protocols[top][0]

    before = named()
    assert named() == before
    (tmp_path / top / edit).write_text((tmp_path / top / edit).read_text() + "\nEDITED = True\n")
    assert named() != before


def test_verify_says_where_it_was_measured_and_finds_nothing_wrong(tmp_path: Path) -> None:
    evaluate(sae(), **tiny(out=tmp_path))
    (file,) = store.find(tmp_path)
    given = {name: value for name, value in tiny().items() if name in ("model", "tokenizer", "data", "device")}
    here = verify(file, sae(), seed=0, **given)
    assert here.wrong == []
    assert not any("another environment" in sentence for sentence in here.checked)
    changed(file, "provenance", "versions", "torch", value="1.0")
    there = verify(file, sae(), seed=0, **given)
    assert there.wrong == []
    (sentence,) = (s for s in there.checked if "another environment" in s)
    assert f"(torch 1.0, {torch.__version__})" in sentence
    assert "rows may differ by 0.001 of their size" in sentence


def test_verify_names_an_older_result_in_one_sentence(tmp_path: Path) -> None:
    evaluate(sae(), **tiny(out=tmp_path))
    (file,) = store.find(tmp_path)
    content = json.loads(file.read_text())
    for name in ("resamples", "config_sha256", "tokenizer_sha256", "backend", "bos", "code_sha256"):
        del content["provenance"]["protocol"][name]
    protocol = type(store.read(file).provenance.protocol)(**content["provenance"]["protocol"])
    file.write_text(json.dumps(content | {"protocol": store.protocol_hash(protocol)}))
    given = {name: value for name, value in tiny().items() if name in ("model", "tokenizer", "data", "device")}
    (sentence,) = verify(file, sae(), seed=0, **given).wrong
    assert "older sae-bench, and does not say resamples, config_sha256, tokenizer_sha256, backend" in sentence
    shutil.rmtree(tmp_path)
