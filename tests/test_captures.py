"""Sequences in which latents are ablated pass the model's first part once, whatever else reads them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_bench.api import Session, evaluate
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch
from sae_bench.engine.plan import Options
from sae_bench.engine.workspace import Workspace
from sae_bench.schema import Result
from sae_bench.settings import Settings
from sae_bench.streams import captures
from sae_bench.streams.captures import Captures, of_ablations, of_documents
from tests.builders.interrupted import Stopped, contents
from tests.builders.tiny_models import TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import coder_of, tiny_coder, tiny_rule, tiny_weights

ABLATIONS = "downstream_sparsity"
ON_DOCUMENTS = "reconstruction,sparsity,loss_recovered"
GIVEN: dict[str, Any] = {
    "data": number_texts(80, seed=3),
    "context": 16,
    "controls": "mean,permuted",
    "resamples": 50,
    "batch_tokens": 48,
    "device": "cpu",
    "tier": "smoke",
}
FEW = {"downstream_sparsity.positions": 1, "downstream_sparsity.latents": 1}


def saes() -> list[Any]:
    return [tiny_coder("topk"), coder_of(tiny_weights("relu"), tiny_rule("relu"), name="another")]


def ran(tasks: str, **more: Any) -> tuple[Session, list[Result]]:
    given = GIVEN | {"model": tiny_gpt2(), "tokenizer": TinyTokenizer(), "tasks": tasks} | more
    given["parameters"] = FEW if ABLATIONS in tasks else {}
    session = Session(saes(), Settings(**given))
    session.subject.counters.update(dict.fromkeys(session.subject.counters, 0))
    return session, session.run(lambda what, done, total: None)


def passed(session: Session) -> int:
    """Sequences that passed the model's first part."""
    return session.subject.counters["prefix"]


def sequences(session: Session) -> int:
    """Those of the text: each of calibration and of evaluation."""
    return len(session.inputs.corpus.evaluation) + len(session.inputs.corpus.calibration)


def for_l0(session: Session) -> int:
    """Sequences that are read to count the active latents of an SAE with thresholds, for its controls: all of 32."""
    return len(session.inputs.corpus.evaluation)


def figures(results: list[Result]) -> dict[Any, Any]:
    return {(r.sae.name, r.task): (r.status, r.metrics, r.controls) for r in results}


def test_every_document_passes_the_first_part_once_in_a_run_of_all_tasks_on_text() -> None:
    session, results = ran(f"{ON_DOCUMENTS},token_rules,{ABLATIONS}")
    assert {r.status for r in results} == {"ok"}
    assert session.inputs.options.ablation_documents == 8
    explained = {r.provenance.counters.get("explain_prefix", 0) for r in results}
    assert passed(session) == sequences(session) + for_l0(session) + sum(explained)
    assert results[0].provenance.counters["calibration_prefix"] == passed(session) - 32 - sum(explained)
    assert {r.provenance.counters.get("ablation_prefix", 0) for r in results} == {0}


def test_every_document_of_the_demo_passes_the_first_part_once() -> None:
    given: dict[str, Any] = {"tasks": f"{ON_DOCUMENTS},{ABLATIONS}", "tier": "smoke", "controls": "none"}
    session = Session("demo/topk_k32", Settings(limit=16, resamples=20, parameters=FEW, **given))
    session.subject.counters["prefix"] = 0
    session.run(lambda what, done, total: None)
    assert passed(session) == sequences(session) == 16 + 16


def test_ablations_alone_pass_their_documents_once() -> None:
    session, results = ran(ABLATIONS)
    assert results[0].provenance.counters["ablation_prefix"] == 8
    assert passed(session) == 8 + len(session.inputs.corpus.calibration) + for_l0(session)


@pytest.mark.slow
def test_no_figure_depends_on_which_tasks_run_beside_it() -> None:
    """To the bit: the batches are the same ones, whether or not anything is ablated."""
    together = figures(ran(f"{ON_DOCUMENTS},{ABLATIONS}")[1])
    apart = figures(ran(ON_DOCUMENTS)[1]) | figures(ran(ABLATIONS)[1])
    assert together == apart


@pytest.mark.parametrize("most", [6000, 0, 3000])
@pytest.mark.slow
def test_beyond_the_bound_documents_pass_again_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    tasks = f"{ON_DOCUMENTS},{ABLATIONS}"
    all_held, expected = ran(tasks)
    monkeypatch.setattr(captures.Captures.__init__, "__defaults__", (most,))
    session, results = ran(tasks)
    assert figures(results) == figures(expected)
    again = passed(session) - passed(all_held)
    assert 0 < again <= 2 * 8
    assert results[0].provenance.counters["ablation_prefix"] == again


@pytest.mark.parametrize("at", ["ablations 1", "evaluation 4", "ablations, first pass 1"])
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_files(tmp_path: Path, at: str) -> None:
    """What was held is gone; the model passes again, which is not counted."""

    def measure(out: Path, **more: Any) -> None:
        given = GIVEN | {"model": tiny_gpt2(), "tokenizer": TinyTokenizer(), "checkpoint_seconds": 0.0, "out": out}
        given["parameters"] = FEW
        evaluate(saes(), tasks=f"{ON_DOCUMENTS},{ABLATIONS}", **given, **more)

    def kill(what: str, done: int, total: int) -> None:
        if f"{what} {done}" == at:
            shutil.copytree(tmp_path / "first", tmp_path / "killed")
            raise Stopped

    with pytest.raises(Stopped):
        measure(tmp_path / "first", progress=kill)
    measure(tmp_path / "killed")
    measure(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def tokens_of(lengths: list[int], units: list[int] | None = None) -> TokenSet:
    ids = np.arange(sum(lengths), dtype=np.int32)
    of = np.array(units if units is not None else range(len(lengths)), dtype=np.int32)
    return TokenSet(ids, np.cumsum([0, *lengths]), of, tuple(f"unit {i}" for i in range(int(of.max()) + 1)))


@pytest.mark.parametrize("documents", [0, 1, 3, 7, None])
def test_batches_hold_every_sequence_once_and_those_of_ablations_as_they_are(documents: int | None) -> None:
    tokens = tokens_of([3, 9, 4, 4, 7, 2, 5, 5, 6], [0, 0, 1, 2, 2, 3, 4, 5, 6])
    options = Options(ablation_documents=documents)
    all_of_them = of_documents(tokens, options, 12).groups
    assert sorted(i for group in all_of_them for i in group) == list(range(9))
    assert set(of_ablations(tokens, options, 12).groups) <= set(all_of_them)
    longest = [max(len(tokens[i].ids) for i in group) for group in all_of_them]
    assert longest == sorted(longest, reverse=True), "a run that does not fit in memory fails at once"


def test_memory_is_bounded_and_given_back() -> None:
    """Two read them again: what is held goes when both have."""
    held = Captures(most=7_000)
    session, _ = ran("sparsity")
    work, inputs = session.subject, session.inputs
    batches = of_ablations(inputs.corpus.evaluation, inputs.options, 48)
    held.expect(batches)
    held.expect(batches)

    def batch(index: int) -> Batch:
        space = Workspace(work, ("blocks.1.hook_resid_post",), {})
        return Batch(space, *batches.tensors(index, inputs.options))

    for i, group in enumerate(batches.groups):
        held.offer(group, unread := batch(i))
        assert not held._kept or i, "what nobody has computed is not computed for this"
        _ = unread.capture
        held.offer(group, unread)
    size = sum(captures._bytes(one) for one in held._kept.values())
    assert 0 < len(held._kept) < len(batches)
    assert size <= 7_000
    for _ in range(2):
        assert held._kept
        for group in batches.groups:
            held.release(group)
    assert not held._kept
