"""Results that an earlier version wrote: later ones read them and make the same figures of their units."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_bench import registry
from sae_bench.api import Session
from sae_bench.errors import ResultError
from sae_bench.results import compare, store
from sae_bench.results.recompute import differences
from sae_bench.settings import Settings
from tests.builders.said import complaints
from tests.conftest import Run

STORED = Path(__file__).parent / "references" / "results_v1"
FILES = sorted(STORED.glob("*@v*.json"))

YOUNGER = {"token_labels"}  # than the version that wrote them

LACKING = {  # what figures are made of today, and these results do not hold
    "sparsity": ("the units have no fold table", r"no table 'fold', .*; measure again"),
    "downstream_sparsity": ("the units table has no column token_", r"has no column token_.*; measure again"),
}


def placed(to: Path) -> Path:
    """The stored results where a run would have written them."""
    for file in FILES:
        result = store.read(file)
        target = store.path_of(to, result.sae, result.task, result.version, result.protocol)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        units = ".units.safetensors"
        shutil.copy(file.with_suffix(units), target.with_suffix(units))
    return to


def test_there_is_one_of_every_task() -> None:
    assert {store.read(file).task for file in FILES} == set(registry.tasks()) - YOUNGER


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem.partition("@")[0])
def test_its_figures_follow_from_its_units(file: Path) -> None:
    result = store.read(file)
    n, wrong = differences(result, store.read_units(file))
    if result.task in LACKING:
        said, refused = LACKING[result.task]
        assert said in wrong[0]
        with pytest.raises(ResultError, match=refused):
            compare.load(file)
        return
    assert wrong == []
    assert n >= len(result.metrics)
    loaded = compare.load(file)
    for name in result.metrics:
        if result.metrics[name].value is not None:
            assert compare.difference(loaded, loaded, name).value == 0


def test_it_is_shown(cli: Run, tmp_path: Path) -> None:
    folder = placed(tmp_path / "results")
    code, out, err = cli("show", folder)
    assert (code, complaints(err)) == (0, [])
    for result in map(store.read, FILES):
        for name in result.metrics:
            assert name in out
        assert result.protocol[:8] in out
    code, out, err = cli("board", folder, "--format", "json", "--all-metrics")
    assert code == 0, err
    for result in map(store.read, FILES):
        assert f'"{result.task}"' in out


@pytest.mark.parametrize(
    "settings",
    [
        {
            "tasks": "reconstruction,sparsity,loss_recovered,probe_recovery,sparse_probing,downstream_sparsity",
            **{"tier": "smoke", "limit": 32, "probe_sets": "language_fr,kind_code"},
        },
        {
            "tasks": "autointerp,token_rules",
            **{"limit": 300, "judge_model": "m", "judge_base_url": "http://127.0.0.1:1/v1"},
            "parameters": {
                **{"autointerp.latents": 6, "autointerp.null_latents": 2, "token_rules.latents": 10},
            },
        },
    ],
    ids=["text and labels", "latents"],
)
def test_the_same_command_does_not_take_it_for_its_own(tmp_path: Path, settings: dict[str, Any]) -> None:
    """These know less of the model than a result does today, and nothing else of the run differs.

    So they are measured again and never compared: what they do not say may have been another.
    """
    folder = placed(tmp_path / "results")
    session = Session("demo", Settings(**settings, controls="mean,permuted", resamples=200, out=folder))
    assert session.forecast()["already there"] == []
    stored = {result.task: result.provenance.protocol for result in map(store.read, FILES)}
    for task in session.specs:
        _, now = session.work[0].protocols[task]
        then = stored[task].model_dump()
        other = {name for name, value in now.model_dump().items() if value != then[name]}
        assert {name for name in other if then[name] is None} >= {
            "config_sha256",
            "tokenizer_sha256",
            "backend",
            "resamples",
        }
        where = {"parameters"} if task == "autointerp" else set()  # older results do not say where the judge was
        assert {name for name in other if then[name] is not None} <= {"model_sha256", "task_sha256", *where}, task


def test_a_newer_schema_is_refused_in_one_sentence(tmp_path: Path) -> None:
    text = FILES[0].read_text(encoding="utf-8")
    assert '"schema_version": 1,' in text
    file = tmp_path / FILES[0].name
    file.write_text(text.replace('"schema_version": 1,', '"schema_version": 99,'), encoding="utf-8")
    with pytest.raises(store.ResultError, match="result schema 99"):
        store.read(file)
