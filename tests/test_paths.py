"""Whatever takes a path takes a text, a pathlib.Path, and ``~`` for the home folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from sae_bench import demo, evaluate, load_sae, registry, resolve
from sae_bench.api import Session
from sae_bench.errors import CoderError, SaeBenchError
from sae_bench.judging import judge_options
from sae_bench.preflight.load import Loader
from sae_bench.results import store
from sae_bench.saes.load import expand, load_saes
from sae_bench.settings import PATHS, Settings
from sae_bench.verify import verify
from tests.builders.marks import slow_but
from tests.builders.tiny_models import VOCAB, WIDTH, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder, write_native
from tests.builders.token_rows import HOOK, token_rows

QUICK: dict[str, Any] = {"tasks": "reconstruction", "controls": "none", "resamples": 20, "device": "cpu"}
WRITTEN: dict[str, Callable[[str], str | Path]] = {
    "text": lambda name: str(Path.home() / name),
    "Path": lambda name: Path.home() / name,
    "text with ~": lambda name: f"~/{name}",
    "Path with ~": lambda name: Path("~") / name,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an SAE, text, labelled sets, tasks and a tokenizer."""
    home = tmp_path_factory.mktemp("home")
    tiny_gpt2().save_pretrained(home / "model")
    write_native(tiny_coder("topk", d_in=WIDTH, hook=HOOK), home / "sae", name=None)
    np.save(home / "ids.npy", token_rows())
    for part in ("train", "test"):
        (home / "sets" / "one").mkdir(parents=True, exist_ok=True)
        rows = "\n".join(f"{'a' if i % 2 else 'b'} {part} {i},{i % 2}" for i in range(24))
        (home / "sets" / "one" / f"{part}.csv").write_text(f"text,label\n{rows}\n")
    task = (registry.data_folder("tasks") / "sparsity" / "task.toml").read_text(encoding="utf-8")
    (home / "tasks" / "mine").mkdir(parents=True)
    (home / "tasks" / "mine" / "task.toml").write_text(task.replace('id = "sparsity"', 'id = "mine"'))
    return home


@pytest.fixture(params=WRITTEN)
def at(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """How a path below the home folder is written."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)  # nothing may be written or found here
    yield WRITTEN[request.param]
    assert list(tmp_path.iterdir()) == []


def measured(at: Any, home: Path) -> list[Any]:
    given = {"model": at("model"), "data": at("ids.npy"), "out": at("runs"), "overwrite": "always"}
    return evaluate(at("sae"), **given, **QUICK)


def of_run(at: Any, home: Path) -> None:
    results = measured(at, home)
    assert [result.status for result in results] == ["ok"]
    assert results[0].sae.name == "sae"


def of_verify(at: Any, home: Path) -> None:
    measured(at, home)
    (file,) = store.find(home / "runs")
    given = {"model": at("model"), "data": at("ids.npy"), "device": "cpu"}
    report = verify(at(str(file.relative_to(home))), at("sae"), share=1, **given)
    assert report.wrong == []


def of_load_sae(at: Any, home: Path) -> None:
    assert load_sae(at("sae")).info.name == "sae"
    assert [coder.info.name for _, coder in load_saes([at("sae")])] == ["sae"]
    assert [coder.info.name for _, coder in load_saes([at("s*e")])] == ["sae"]
    assert expand([at("sae"), str(home / "sae")]) == [str(home / "sae")]


def of_the_store(at: Any, home: Path) -> None:
    (result,) = measured(at, home)
    (file,) = store.find(at("runs"))
    written = at(str(file.relative_to(home)))
    assert store.read(written).sae.name == result.sae.name
    assert set(store.read_units(written)) == {"document"}
    tables = store.read_units(written)
    assert store.write(at("copied"), result, tables).is_relative_to(home / "copied")
    assert len(list(store.find(at("copied")))) == 1


def of_tasks(at: Any, home: Path) -> None:
    assert "mine" in registry.tasks(at("tasks"))
    settings = Settings(**QUICK | {"tasks": "mine"}, task_dir=at("tasks"), model="demo", data="demo", limit=4)
    assert list(Session("demo", settings).specs) == ["mine"]


def of_labelled_sets(at: Any, home: Path) -> None:
    settings = Settings(**QUICK | {"tasks": "probe_recovery"}, model="demo", limit=4, probe_data=at("sets"))
    suite = Session("demo", settings).inputs.suite
    assert suite is not None
    assert (suite.name, len(suite.sets)) == ("sets", 1)


def of_the_tokenizer(at: Any, home: Path) -> None:
    link = home / "tokenizer"
    if not link.exists():
        link.symlink_to(demo.MODEL_PATH)
    model = tiny_gpt2(vocab_size=1536)
    settings = Settings(**QUICK, model=model, tokenizer=at("tokenizer"), data=[f"one {i}" for i in range(40)])
    assert Session(tiny_coder("topk", d_in=WIDTH, hook=HOOK), settings).model.tokenizer is not None


def of_the_judges_cache(at: Any, home: Path) -> None:
    options = judge_options(Settings(judge_model="any", judge_cache=at("cache.sqlite")))
    assert options is not None
    assert options.cache == home / "cache.sqlite"


@pytest.mark.parametrize("way", slow_but(1, [*WRITTEN][::-1]))
def test_a_run_with_a_judge_writes_where_it_is_told(
    way: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    at = WRITTEN[way]
    given: dict[str, Any] = {"judge_cache": at("cache.sqlite"), "judge_batch": at("wanted.jsonl")}
    given |= {"judge_model": "any", "judge_base_url": "http://127.0.0.1:9"}
    few = {"autointerp.latents": 2, "autointerp.null_latents": 2}
    evaluate("demo", **QUICK | {"tasks": "autointerp", "parameters": few}, limit=64, **given)
    assert (home / "wanted.jsonl").is_file()
    assert (home / "cache.sqlite").is_file()
    for name in ("wanted.jsonl", "cache.sqlite"):
        (home / name).unlink()
    assert list(tmp_path.iterdir()) == []


def of_a_preflight(at: Any, home: Path) -> None:
    loader = Loader(Settings(model=at("model"), data=at("ids.npy"), device="cpu"), 64)
    assert loader.activations(load_sae(at("sae")).info).subject.width(HOOK) == WIDTH


def of_digests(at: Any, home: Path) -> None:
    said = [Settings(model=model, **QUICK) for model in (at("model"), str(home / "model"))]
    found = {resolve.opened(settings, resolve.model_source(settings.model, []), None).digests for settings in said}
    assert len(found) == 1


TAKERS = [
    of_run,
    of_verify,
    of_load_sae,
    of_the_store,
    of_tasks,
    of_labelled_sets,
    of_the_tokenizer,
    of_the_judges_cache,
]
TAKERS += [of_a_preflight, of_digests]


@pytest.mark.parametrize("taker", TAKERS, ids=lambda taker: taker.__name__)
def test_paths_are_taken_as_they_are_written(taker: Any, at: Any, home: Path) -> None:
    taker(at, home)


def test_every_setting_that_may_be_a_path_is_one_here() -> None:
    """A new one belongs into PATHS and above."""
    hints = get_type_hints(Settings)
    typed = {name for name, hint in hints.items() if "Path" in str(hint)}
    assert typed | {"model", "data", "tokenizer"} == set(PATHS)


@pytest.mark.parametrize("name", ["model", "data", "tokenizer", "task_dir", "probe_data"])
def test_a_home_folder_that_nobody_has_is_one_sentence(name: str) -> None:
    given: dict[str, Any] = {"model": "demo", "data": "demo", **QUICK} | {"tasks": "probe_recovery"}
    for path in ("~nobody_is_called_so/x", Path("~nobody_is_called_so/x")):
        with pytest.raises(SaeBenchError, match="~nobody_is_called_so"):
            evaluate("demo", **given | {name: path})


def test_a_path_is_never_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for ``model`` and ``data``: what a text names, a folder of that name does not."""
    monkeypatch.chdir(tmp_path)
    for place in ("demo", "demo/topk_k32", "m:f"):
        with pytest.raises(CoderError, match=f"there is no SAE at ./{place}"):
            load_sae(Path(place))
    write_native(tiny_coder("topk", d_in=WIDTH, hook=HOOK), tmp_path / "demo", name=None)
    assert load_sae(Path("demo")).info.name == "demo"
    assert load_sae("demo").info.name == f"demo/{demo.DEFAULT_SAE}"
    settings = Settings(model=tiny_gpt2(), data=torch.randint(1, VOCAB, (20, 8)).numpy(), **QUICK)
    assert [work.record.source for work in Session(Path("demo"), settings).work] == [f".{os.sep}demo"]


def test_one_sae_is_loaded_at_a_time() -> None:
    with pytest.raises(CoderError, match=r"demo/\* stands for 6 SAEs: load one of them"):
        load_sae("demo/*")
