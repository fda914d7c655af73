"""Which model on the hub an SAE means by the name in its files."""

from __future__ import annotations

import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from sae_bench import resolve
from sae_bench.errors import UsageError
from sae_bench.saes.model_names import hub_id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small", "gpt2"),
        ("gpt2", "gpt2"),
        ("gpt2-xl", "gpt2-xl"),
        ("gemma-2b", "google/gemma-2b"),
        ("gemma-2b-it", "google/gemma-2b-it"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("gemma-2-9b-it", "google/gemma-2-9b-it"),
        ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
        ("gemma-v3-27b-it", "google/gemma-3-27b-it"),
        ("gemma-v3-270m-pt", "google/gemma-3-270m"),
        ("gemma-3-270m-it", "google/gemma-3-270m-it"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("pythia-2.8b", "EleutherAI/pythia-2.8b"),
        ("pythia-19m-deduped-v0", "EleutherAI/pythia-70m-deduped-v0"),
        ("pythia-160m-seed2", "EleutherAI/pythia-160m-seed2"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("llama-3.2-1b", "meta-llama/Llama-3.2-1B"),
        ("Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("Llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"),
        ("Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("mistral-7b-instruct", "mistralai/Mistral-7B-Instruct-v0.1"),
        ("Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("Qwen3-30B-A3B-Base", "Qwen/Qwen3-30B-A3B-Base"),
        ("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("DeepSeek-R1-Distill-Llama-8B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("gpt-oss-20b", "openai/gpt-oss-20b"),
        ("gpt-neo-1.3B", "EleutherAI/gpt-neo-1.3B"),
        ("tiny-stories-33M", "roneneldan/TinyStories-33M"),
        ("some/model", "some/model"),
    ],
)
def test_names_in_files_become_ids(name, expected):
    assert hub_id(name) == expected


@pytest.mark.parametrize(
    "name", ["", "demo", "my-model", "gemma-3-1b", "gpt2-smal", "pythia", "gelu-1l", "gpt2-small\n"]
)
def test_a_name_that_is_not_known_is_not_guessed(name):
    assert hub_id(name) is None


def test_the_names_agree_with_those_of_transformer_lens():
    registry = pytest.importorskip("transformer_lens.supported_models")
    official = {o.lower() for o in registry.OFFICIAL_MODEL_NAMES}
    compared = 0
    for model, aliases in registry.MODEL_ALIASES.items():
        for alias in aliases:
            ours = hub_id(alias)
            if "/" not in alias and ours is not None and ours.lower() in official:
                assert ours.lower() == model.lower(), alias
                compared += 1
    assert compared > 60


def info(model, name="sae", **provenance):
    return SimpleNamespace(name=name, model=model, provenance=provenance)


def test_a_name_that_is_replaced_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="sae declares the model 'gpt2-small', which is taken to be 'gpt2' of the hub"):
        assert resolve.model_source(None, [info("gpt2-small")]) == "gpt2"


@pytest.mark.parametrize("name", ["gpt2", "a/b", "nobody-knows"])
def test_a_name_that_stays_is_not_worth_a_word(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve.model_source(None, [info(name)]) == name


def test_a_local_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2-small").mkdir()
    assert resolve.model_source(None, [info("gpt2-small")]) == "gpt2-small"


def test_what_the_user_gives_is_not_replaced():
    assert resolve.model_source("gpt2-small", [info("pythia-70m")]) == "gpt2-small"


@pytest.mark.filterwarnings("ignore:.*is taken to be:UserWarning")
def test_two_names_of_one_model_are_one_model():
    assert resolve.model_source(None, [info("gpt2-small"), info("gpt2")]) == "gpt2"
    with pytest.raises(UsageError, match="which model do the SAEs read"):
        resolve.model_source(None, [info("gpt2-small"), info("gpt2-xl")])


def test_names_need_no_torch():
    code = (
        "import sys, sae_bench.saes.model_names; sys.exit('torch' in sys.modules or 'transformer_lens' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
