"""A hub that is out of reach: nobody waits for it, and one sentence says what lacks and how to get it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from sae_bench import demo, hub
from sae_bench.api import Session, evaluate
from sae_bench.demo import document
from sae_bench.errors import DataError, ModelError, SaeBenchError, UsageError
from sae_bench.saes.load import load_sae
from sae_bench.sealing import build
from sae_bench.settings import Settings
from sae_bench.suites import record
from sae_bench.suites.record import read
from tests.builders import hub_mirror
from tests.builders.suites import written
from tests.builders.tiny_saes import tiny_coder, write_saelens
from tests.conftest import Run

MODEL, TEXT = "org/tiny-model", "org/tiny-text"
PATIENCE = "0.3"  # seconds, instead of those of a user


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, a network, and nothing known of who answered before."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", PATIENCE)
    hub._asked.clear()
    return tmp_path / "cache"


@pytest.fixture(params=["offline", "refused", "hole"])
def connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Each way of having no network; the connections that were made to the address that never answers."""
    if request.param == "offline":
        yield []
        return
    online(monkeypatch)
    if request.param == "refused":
        monkeypatch.setattr(constants, "ENDPOINT", hub_mirror.refused())
        yield []
        return
    with hub_mirror.hole() as (address, taken):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield taken


def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def sae(tmp_path: Path, model: str = "gpt2-small", dataset: str | None = "Skylion007/openwebtext") -> Path:
    return write_saelens(tiny_coder("topk"), tmp_path / "sae", {"model_name": model, "dataset_path": dataset})


def hub_suite(folder: Path, **said: Any) -> Path:
    """A suite of a model and a text of the hub, as people write it."""
    text = {"source": TEXT, "bos": "yes"}
    file = written(folder, "mirrored-v1", model={"id": MODEL}, text=text, **said)
    file.write_text(file.read_text().replace(f'source = "{TEXT}"', f'source = "{TEXT}"\nfiles = ["data/*.parquet"]'))
    return file


# ---------------------------------------------------------------- what lacks is said at once


def test_what_a_suite_lacks_is_said_at_once(cli: Run, tmp_path: Path, connections: list[Any]) -> None:
    for flags in (("--suite", "gpt2-small"), ()):
        hub._asked.clear()
        connections.clear()
        code, _, error = cli("run", "--sae", sae(tmp_path), *flags)
        assert code == 2
        said = error.splitlines()[-1]
        assert "the suite gpt2-small needs the model openai-community/gpt2 and the data set NeelNanda/pile-10k" in said
        assert "run 'hf download openai-community/gpt2 && hf download NeelNanda/pile-10k --repo-type dataset'" in said
        assert len(connections) <= 1  # asked once, and never again


def test_what_an_sae_of_no_suite_lacks_is_said_at_once(tmp_path: Path, connections: list[Any]) -> None:
    """Its model, and the text that its configuration names."""
    with pytest.raises(ModelError) as refused:
        evaluate(sae(tmp_path, "EleutherAI/pythia-70m"))
    assert "the run (by what the files of the SAE say) needs the model EleutherAI/pythia-70m" in str(refused.value)
    assert "the model EleutherAI/pythia-70m and the data set Skylion007/openwebtext of the hub" in str(refused.value)
    assert "run 'hf download EleutherAI/pythia-70m && hf download Skylion007/openwebtext" in str(refused.value)
    assert len(connections) <= 1


def test_a_text_that_cannot_be_had_is_said_at_once(tmp_path: Path, connections: list[Any]) -> None:
    with pytest.raises(DataError) as refused:
        evaluate("demo/relu", data="org/some-text", tier="smoke")
    assert "the text org/some-text is a data set of the hub that is not on this machine" in str(refused.value)
    assert len(connections) <= 1


def test_labelled_sets_of_the_hub_are_left_out_at_once(tmp_path: Path, connections: list[Any]) -> None:
    """A model and a text of files, and probe sets that cannot be had: each says why, and nobody waits."""
    model = tmp_path / "model"
    shutil.copytree(demo.MODEL_PATH, model)
    texts = [document(n, split="eval").text for n in range(80)]
    session = Session("demo/relu", Settings(model=model, data=texts, tasks="probe_recovery", tier="smoke"))
    assert session.inputs.suite is not None
    assert len(session.inputs.suite.skipped) > 80
    assert len(connections) <= 1


def test_a_tokenizer_of_the_hub_does_not_wait(tmp_path: Path, connections: list[Any]) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo.MODEL_PATH, model)
    with pytest.raises(SaeBenchError, match="no tokenizer found at 'org/tokens'"):
        evaluate("demo/relu", model=model, tokenizer="org/tokens", data=["a", "b"], tier="smoke")
    assert len(connections) <= 1


def test_an_sae_of_the_hub_does_not_wait(connections: list[Any]) -> None:
    with pytest.raises(SaeBenchError, match="org/saes"):
        evaluate("hf:org/saes/one", tier="smoke")
    assert len(connections) <= 1


def test_switches_are_as_they_were_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online(monkeypatch)
    monkeypatch.setattr(constants, "ENDPOINT", hub_mirror.refused())
    with pytest.raises(DataError):
        evaluate("demo/relu", data="org/some-text", tier="smoke")
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


def test_what_an_sae_names_is_its_text_and_said(tmp_path: Path) -> None:
    """SAELens writes what an SAE was trained on into its configuration."""
    model, text = tmp_path / "model", tmp_path / "text.jsonl"
    shutil.copytree(demo.MODEL_PATH, model)
    text.write_text("".join(json.dumps({"text": document(n, split="eval").text}) + "\n" for n in range(60)))
    one = write_saelens(
        load_sae("demo/topk_k16"), tmp_path / "sae", {"model_name": str(model), "dataset_path": str(text)}
    )
    with pytest.warns(UserWarning, match="the text is what the SAE names in its configuration"):
        session = Session(one, Settings(tier="smoke"))
    assert session.inputs.corpus.source == str(text)
    assert session.suite is None


def test_an_sae_that_names_no_text_is_one_sentence(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo.MODEL_PATH, model)
    with pytest.raises(DataError, match=r"text to evaluate on is needed: give --data FILE.*does not say what it was"):
        evaluate("demo/relu", model=model, tier="smoke")


# ---------------------------------------------------------------- a mirror


@pytest.fixture
def repositories(tmp_path: Path) -> dict[tuple[str, str], Path]:
    """The demo's model and text as repositories of the hub."""
    model, text = tmp_path / "repositories" / "model", tmp_path / "repositories" / "text"
    shutil.copytree(demo.MODEL_PATH, model)
    (model / "onnx").mkdir()
    (model / "onnx" / "model.safetensors").write_bytes(b"of another framework, and not to be fetched")
    (text / "data").mkdir(parents=True)
    (text / "README.md").write_text("text")
    rows = pa.table({"text": [document(n, split="eval").text for n in range(120)]})
    pq.write_table(rows, text / "data" / "train-00000-of-00001.parquet")
    return {("model", MODEL): model, ("dataset", TEXT): text}


def test_a_suite_is_sealed_and_run_from_a_cache_of_the_hubs_layout(
    cli: Run, tmp_path: Path, own_cache: Path, repositories: dict[tuple[str, str], Path]
) -> None:
    """As on a machine without a network to which the cache was carried."""
    places = {kind: hub_mirror.cached(own_cache, kind, name, one) for (kind, name), one in repositories.items()}
    file = hub_suite(tmp_path)
    code, _, error = cli("suite", "build", file)
    assert code == 0, error
    seal = read(file).suite.seal
    assert seal is not None
    assert seal.model_revision == places["model"].name
    assert seal.text_revision == places["dataset"].name
    assert (seal.documents, len(seal.tasks)) == (12, 2)
    results = evaluate("demo/topk_k16", suite=file)
    protocol = results[0].provenance.protocol
    assert (protocol.model, protocol.data) == (MODEL, "tiny-text")
    assert results[0].suite == read(file).claim


def test_the_text_of_another_commit_is_refused(
    tmp_path: Path, own_cache: Path, repositories: dict[tuple[str, str], Path]
) -> None:
    for (kind, name), one in repositories.items():
        hub_mirror.cached(own_cache, kind, name, one)
    file = hub_suite(tmp_path)
    build(str(file), None, lambda what, done, total: None)
    shutil.rmtree(own_cache)
    pq.write_table(
        pa.table({"text": [document(n, split="train").text for n in range(120)]}),
        repositories["dataset", TEXT] / "data" / "train-00000-of-00001.parquet",
    )
    for (kind, name), one in repositories.items():
        hub_mirror.cached(own_cache, kind, name, one)
    with pytest.raises(UsageError, match=r"needs the data set org/tiny-text at .* of the hub, which is not on this"):
        evaluate("demo/topk_k16", suite=file)


@pytest.mark.slow
def test_a_suite_is_sealed_where_there_is_a_network(
    tmp_path: Path, own_cache: Path, repositories: dict[tuple[str, str], Path]
) -> None:
    """The command in a process of its own, against a server that speaks what huggingface_hub asks for."""
    file = hub_suite(tmp_path, rest='[references]\nhooks = ["blocks.2.hook_resid_post"]')
    with hub_mirror.serving(repositories) as (address, asked):
        environment = {n: v for n, v in os.environ.items() if n not in ("HF_HUB_OFFLINE", "HF_HUB_ETAG_TIMEOUT")}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "sae_bench.cli.main"]
        for part in (["suite", "build", str(file)], ["run", "--suite", str(file), "--sae", "demo/topk_k16", "--json"]):
            done = subprocess.run([*command, *part], env=environment, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    seal = read(file).suite.seal
    assert seal is not None
    assert seal.model_revision == hub_mirror.commit_of(repositories["model", MODEL])
    assert seal.text_revision == hub_mirror.commit_of(repositories["dataset", TEXT])
    assert record.reference_rows(read(file))
    assert any("parquet" in line for line in asked)
    assert not any("onnx" in line and "resolve" in line for line in asked)


def test_a_hub_that_answers_and_has_not_what_is_wanted_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror, or a proxy that answers for everything, is no network that brings a model."""

    def gone(*_: Any, **__: Any) -> None:
        raise OSError("404 Not Found")

    monkeypatch.setattr(hub, "silent", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    with pytest.raises(
        ModelError, match=r"404 Not Found; run 'hf download org/tiny-model' where it can, or give a local"
    ):
        hub.folder(hub.Repository(MODEL), hub.OF_MODEL, ModelError)
