"""A setting that cannot act on an object in memory is refused before anything is measured, and nothing is moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_bench import evaluate
from sae_bench.api import Session
from sae_bench.errors import CoderError, ModelError, SaeBenchError, UsageError
from sae_bench.settings import Settings
from tests.builders.foreign_saes import Dense
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.builders.token_rows import HOOK, coder, token_rows


def never(what: str, done: int, total: int) -> None:
    raise AssertionError(f"{what} was begun")


def asked(sae: Any = None, **settings: Any) -> Any:
    given = {"model": tiny_gpt2(), "data": token_rows(), "tasks": "sparsity", "controls": "none", "resamples": 50}
    return evaluate(tiny_coder(hook=HOOK) if sae is None else sae, progress=never, **(given | settings))


def test_a_dtype_that_a_model_in_memory_does_not_have_is_refused() -> None:
    model = tiny_gpt2()
    with pytest.raises(ModelError, match=r"dtype='float64' cannot act on model .*, which is float32: .*model.to\("):
        asked(model=model, dtype="float64")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with pytest.raises(ModelError, match=r"dtype='float32' cannot act on model .*, which is bfloat16"):
        asked(model=tiny_gpt2().bfloat16(), dtype="float32")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_of_a_model_in_memory_is_its_own_and_may_be_said(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    for said in ("auto", name):
        session = Session(coder(), Settings(model=tiny_gpt2().to(dtype), data=token_rows(), dtype=said))
        assert session.subject.dtype == dtype
        assert {protocol.dtype for _, protocol in session.work[0].protocols.values()} == {name}


def test_a_model_that_is_loaded_is_in_float32_or_what_is_said(tmp_path: Any) -> None:
    tiny_gpt2().double().save_pretrained(tmp_path)
    for said, dtype in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        session = Session(coder(), Settings(model=tmp_path, data=token_rows(), dtype=said))
        assert session.subject.dtype == dtype


def test_a_device_where_a_model_in_memory_is_not_is_refused() -> None:
    with pytest.raises(ModelError, match=r"device='meta' cannot act on model .*, which is on cpu: .*model.to"):
        asked(device="meta")
    with pytest.raises(ModelError, match="no device is called 'nonsense': give cpu"):
        asked(device="nonsense")
    for said in ("auto", "cpu", "cpu:0"):
        session = Session(coder(), Settings(model=tiny_gpt2(), data=token_rows(), device=said))
        assert str(session.subject.device) == "cpu"


def test_weights_on_another_device_than_the_model_are_refused_before_the_pass() -> None:
    away = tiny_coder(hook=HOOK)
    away.weights = away.weights.to("meta")
    away.info.provenance["sha256"] = "0" * 64  # type: ignore[index]
    with pytest.raises(CoderError, match=r"is on meta, but .* on cpu: load it there"):
        asked(away)


def test_selecting_in_bfloat16_is_done_on_a_copy_or_refused() -> None:
    mine = coder()
    session = Session(mine, Settings(model=tiny_gpt2(), data=token_rows(), select_in="bfloat16"))
    assert session.work[0].entry.coder.select_in == "bfloat16"  # type: ignore[attr-defined]
    assert mine.select_in == "exact", "the user's own object stays as it is"
    with pytest.raises(UsageError, match="select_in='bfloat16' says nothing about code of your own"):
        asked(Dense(), hook_in=HOOK, select_in="bfloat16")


TOLD = [{"k": 3}, {"threshold": 1.0}, {"norm_factor": 2.0}, {"format": "native"}, {"layer": 1}]


@pytest.mark.parametrize("told", TOLD, ids=lambda told: next(iter(told)))
@pytest.mark.parametrize("make", [coder, Dense])
def test_what_is_told_of_files_says_nothing_about_an_object(make: Any, told: dict[str, Any]) -> None:
    with pytest.raises(CoderError, match=f"--{next(iter(told)).replace('_', '-')} says nothing about code of your own"):
        asked(make(), **told)


DATA: list[tuple[Any, dict[str, Any], str]] = [
    (["1 2 3 4", "5 6 7 8"], {"split": "train"}, "--split"),
    (["1 2 3 4", "5 6 7 8"], {"text_field": "body"}, "--text-field"),
    (token_rows(), {"split": "train"}, "--split"),
    (token_rows(), {"text_field": "body"}, "--text-field"),
    (token_rows().tolist(), {"split": "train"}, "--split"),
    (torch.from_numpy(token_rows()), {"split": "train"}, "--split"),
    (token_rows(), {"packed": True}, "--packed"),
    (token_rows(), {"bos": "yes"}, "--bos"),
    (token_rows(), {"context": 1000}, "--context"),
]


@pytest.mark.parametrize(("data", "settings", "flag"), DATA)
def test_a_flag_that_cannot_act_on_data_in_memory_is_refused(data: Any, settings: dict[str, Any], flag: str) -> None:
    from tests.builders.tiny_models import TinyTokenizer

    with pytest.raises(SaeBenchError, match=f"{flag} .*cannot act|cannot act.*{flag}"):
        asked(data=data, tokenizer=TinyTokenizer(), **settings)
