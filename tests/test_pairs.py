"""A task that looks at other SAEs of the run: its protocol names them, and nobody else's does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_bench.api import Session, evaluate
from sae_bench.errors import ResultError
from sae_bench.results import store
from sae_bench.settings import Settings
from sae_bench.verify import verify
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import HOOK, tiny_coder
from tests.builders.token_rows import token_rows

DEFINITION = """
id = "apart"
version = 1
title = "Apart"
question = "How far are the reconstructions of two SAEs from one another?"
code = "apart_task:Apart"
figures = "apart_figures"
pairs = true

[metrics.apart]
name = "apart"
unit = "activation^2"
better = "none"
table = "document"
description = "mean squared distance to the reconstructions of the other SAEs of the run"
"""
CODE = """
import torch

from sae_bench.tasks.base import Task


class Apart(Task):
    def measure(self, view):
        ones = torch.ones(len(view.kept), dtype=torch.float64)
        apart = sum(((view.x_hat - other.x_hat).double().square().sum(1) for other in view.partners), 0 * ones)
        return {"tokens": view.sum(ones, view.kept), "apart": view.sum(apart, view.kept)}
"""
FIGURES = """
from sae_bench.units.bootstrap import Ratio


def metrics(parameters):
    return {"apart": lambda s: Ratio(s.apart, s.tokens, "the number of tokens")}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "apart").mkdir()
    for name, text in (
        ("apart/task.toml", DEFINITION),
        ("apart_task.py", CODE),
        ("apart_figures.py", FIGURES),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Of a quick run on the tiny model."""
    given: dict[str, Any] = {"model": tiny_gpt2(), "data": token_rows(), "tasks": "apart,reconstruction"}
    return given | {"task_dir": folder, "controls": "none", "resamples": 20} | changes


def coders() -> dict[str, Any]:
    return {name: tiny_coder("topk", seed=seed, hook=HOOK) for seed, name in enumerate("abc")}


def test_the_protocol_names_the_partners_of_such_a_task_alone(tasks: Path) -> None:
    saes = coders()
    session = Session(saes, Settings(**settings(tasks)))
    digests = {work.record.name: work.record.weights_sha256 for work in session.work}
    assert len(set(digests.values())) == 3
    for work in session.work:
        others = sorted(digest for name, digest in digests.items() if name != work.record.name)
        assert work.protocols["apart"][1].parameters == {"partners": others}
        assert work.protocols["reconstruction"][1].parameters == {}
    alone = Session({"a": saes["a"]}, Settings(**settings(tasks))).work[0]
    assert alone.protocols["apart"][1].parameters == {"partners": []}
    assert alone.protocols["apart"][0] != session.work[0].protocols["apart"][0]
    assert alone.protocols["reconstruction"] == session.work[0].protocols["reconstruction"]


def test_its_figure_is_the_same_from_either_side_and_in_any_order(tasks: Path) -> None:
    saes = coders()
    two = {name: saes[name] for name in "ab"}
    found = {r.sae.name: r.metrics["apart"] for r in evaluate(two, **settings(tasks, tasks="apart"))}
    turned = evaluate(dict(reversed(two.items())), **settings(tasks, tasks="apart", batch_tokens=40))
    assert found["a"].value == pytest.approx(found["b"].value, rel=1e-12)
    assert found["a"].value is not None
    assert found["a"].value > 0
    for result in turned:
        assert result.metrics["apart"].value == pytest.approx(found[result.sae.name].value, rel=1e-6)


def test_a_partner_that_fails_is_an_error_of_the_task_and_not_of_the_sae(tasks: Path) -> None:
    saes = coders()

    def broken(x: Any) -> Any:
        raise RuntimeError("gone")

    saes["b"].encode = broken
    found = {(r.sae.name, r.task): r for r in evaluate(saes, **settings(tasks))}
    for name in "ac":
        assert found[name, "reconstruction"].status == "ok"
        assert found[name, "apart"].status == "error"
        assert str(found[name, "apart"].reason).startswith("task apart: the SAE b, which it looks at, fails")
    assert {found["b", task].status for task in ("apart", "reconstruction")} == {"error"}


def test_results_that_are_there_are_found_and_measured_again_together(tasks: Path, tmp_path: Path) -> None:
    given = settings(tasks, out=tmp_path)
    evaluate({name: sae for name, sae in coders().items() if name != "c"}, **given)
    again = Session({name: sae for name, sae in coders().items() if name != "c"}, Settings(**given))
    assert again.missing == []
    more = Session(coders(), Settings(**given))
    assert [sorted(work.finished) for work in more.work] == [["reconstruction"], ["reconstruction"], []]
    assert more.missing == more.work  # whoever is looked at must be there


def test_verify_says_that_it_lacks_the_partners(tasks: Path, tmp_path: Path) -> None:
    evaluate(coders(), **settings(tasks, tasks="apart", out=tmp_path))
    file = next(store.find(tmp_path))
    with pytest.raises(ResultError, match="was measured beside other SAEs, which verify cannot be given"):
        verify(file, "demo", task_dir=tasks)
