"""The language model of an SAE by whatever name its files have for it, and how a model in a folder is called."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from sae_bench.errors import SaeBenchError
from sae_bench.models.loading import _folder_name
from sae_bench.saes.load import load_sae
from sae_bench.saes.named_models import model_of
from sae_bench.saes.source import Source
from tests.builders.saelens_files import write_one
from tests.builders.tiny_saes import tiny_coder, write_native

CARD = "---\nlibrary_name: saelens\nbase_model: {}\n---\n# An SAE\n"


def folder(place: Path, **files: Any) -> Path:
    place.mkdir(parents=True)
    for name, content in files.items():
        file = place / name.replace("__", ".")
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return place


@pytest.mark.parametrize(
    ("files", "model"),
    [
        ({"cfg__json": {"model_name": "gpt2-small"}}, "gpt2-small"),
        ({"cfg__json": {"metadata": {"model_name": "google/gemma-2-2b"}}}, "google/gemma-2-2b"),
        ({"cfg__json": {"base_model": "gpt2"}}, "gpt2"),
        ({"config__json": {"trainer": {"lm_name": "EleutherAI/pythia-70m"}}}, "EleutherAI/pythia-70m"),
        ({"config__json": {"model": "gpt2"}}, "gpt2"),
        ({"config__json": {"base_model_name_or_path": "Qwen/Qwen3-8B"}}, "Qwen/Qwen3-8B"),
        ({"lm_config__json": {"model_name": "meta-llama/Llama-3.1-8B"}}, "meta-llama/Llama-3.1-8B"),
        ({"config__yaml": "model_name: google/gemma-2-2b\n"}, "google/gemma-2-2b"),
        ({"README__md": CARD.format("google/gemma-2-2b")}, "google/gemma-2-2b"),
        ({"README__md": CARD.format("[google/gemma-2-2b]")}, "google/gemma-2-2b"),
        ({"README__md": CARD.format("\n- gpt2\n- gpt2-medium")}, None),  # one of several: nobody knows which
        ({"README__md": "# base_model: gpt2\n"}, None),
        ({"README__md": "---\nbase_model: [unclosed\n---\n"}, None),
        ({"README__md": "---\nbase_model: &a gpt2\nother: *a\n---\n"}, None),
        ({"cfg__json": {"model": "relu"}}, None),  # no model of the hub
        ({"cfg__json": {"model_name": "/home/me/model"}}, None),
        ({"cfg__json": {"model_name": 3, "base_model": None}}, None),
        ({"cfg__json": "not json"}, None),
        ({}, None),
    ],
)
def test_a_model_is_found_under_any_of_its_names(files: dict[str, Any], model: str | None, tmp_path: Path) -> None:
    assert model_of(Source(folder(tmp_path / "sae", **files)), None) == (model, ())


def test_the_card_of_the_folder_above_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD.format("gpt2"))
    assert model_of(Source(folder(tmp_path / "sae")), None)[0] == "gpt2"


@pytest.mark.parametrize(
    ("own", "card"),
    [
        ("gpt2-small", "gpt2"),
        ("gpt2", "gpt2"),
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("/home/me/gemma-2-2b", "google/gemma-2-2b"),
    ],
)
def test_two_names_of_one_model_agree(own: str, card: str, tmp_path: Path) -> None:
    assert model_of(Source(folder(tmp_path / "sae", README__md=CARD.format(card))), own) == (own, ())


def test_names_that_disagree_are_said(tmp_path: Path) -> None:
    sae = write_one(tmp_path / "sae", metadata={"model_name": "gpt2-small"})
    (sae / "README.md").write_text(CARD.format("google/gemma-2-2b"))
    with pytest.warns(UserWarning, match="two language models") as said:
        info = load_sae(str(sae)).info
    assert info.model == "gpt2-small"
    assert [str(one.message) for one in said] == [
        f"{info.name}: the files name two language models: 'gpt2-small', which is taken, and 'google/gemma-2-2b' in "
        "base_model of README.md; --model settles it"
    ]


def test_a_layout_without_a_name_gets_that_of_its_card(tmp_path: Path) -> None:
    sae = write_native(tiny_coder(), tmp_path / "sae", model=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_sae(str(sae)).info.model is None
        (sae / "README.md").write_text(CARD.format("gpt2"))
        assert load_sae(str(sae)).info.model == "gpt2"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("lm/model", "lm/model"),
        ("gpt2-wiki/checkpoint-500", "gpt2-wiki/checkpoint-500"),
        ("gpt2-wiki/final_model", "gpt2-wiki/final_model"),
        ("gpt2-wiki/20000", "gpt2-wiki/20000"),
        ("gpt2-wiki/Best", "gpt2-wiki/Best"),
        ("models/gpt2", "gpt2"),
        ("models/gemma-2-2b", "gemma-2-2b"),
        ("models/model-of-mine", "model-of-mine"),
        ("hub/models--google--gemma-2-2b/snapshots/" + "a" * 40, "google/gemma-2-2b"),
        ("hub/models--gpt2/snapshots/" + "b" * 40, "gpt2"),
    ],
)
def test_a_folder_is_called_by_more_than_a_name_that_many_have(path: str, name: str) -> None:
    assert _folder_name(Path("/somewhere") / path) == name


def test_no_name_is_asked_for(tmp_path: Path) -> None:
    from sae_bench.resolve import model_source

    sae = write_native(tiny_coder(), tmp_path / "sae", model=None)
    with pytest.raises(SaeBenchError, match="declares none; give --model FOLDER, a hub id or demo"):
        model_source(None, [load_sae(str(sae)).info])
