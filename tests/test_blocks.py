"""Batches that are encoded together: weights are read once for all of them, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench import evaluate
from sae_bench.engine import block
from sae_bench.engine.block import block_tokens
from sae_bench.engine.workspace import Entry
from sae_bench.saes.protocol import Codes
from sae_bench.streams import documents
from tests.builders import tiny_models
from tests.builders.marks import slow_but
from tests.builders.static_saes import StaticTopK
from tests.builders.token_rows import coder

ON_TEXT = "reconstruction,sparsity,loss_recovered"


def settings(**changes: Any) -> dict[str, Any]:
    """A run of several batches of texts of several lengths on the tiny model."""
    given: dict[str, Any] = {"model": tiny_models.tiny_gpt2(), "tasks": ON_TEXT, "resamples": 20}
    given |= {"data": tiny_models.number_texts(24, shortest=6), "tokenizer": tiny_models.TinyTokenizer(), "context": 16}
    return given | {"controls": "mean,permuted", "batch_tokens": 64} | changes


def blocks_of(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(documents, "block_tokens", lambda saes: tokens)


def found(results: list[Any]) -> list[Any]:
    return [(r.sae.name, r.task, r.status, r.reason, r.metrics, r.controls) for r in results]


def counted(results: list[Any]) -> list[Any]:
    return [result.provenance.counters for result in results]


@pytest.mark.parametrize("tokens", slow_but(1, [100, 200, 10_000]))
def test_no_figure_and_no_counter_changes_with_the_block(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """To the bit: every product has the shape that it has without blocks."""
    saes = [coder("a"), coder("b", seed=1), coder("c", k=2, hook="blocks.0.hook_resid_post")]
    alone = evaluate(saes, **settings())
    blocks_of(monkeypatch, tokens)
    together = evaluate(saes, **settings())
    assert found(together) == found(alone)
    assert counted(together) == counted(alone)


class Noted(StaticTopK):
    """Keeps in which order SAEs encode and decode, of the tokens of the run."""

    order: list[tuple[str, str, int]] = []  # noqa: RUF012

    def encode(self, x: Tensor) -> Codes:
        Noted.order.append(("encode", self.info.name, len(x)))
        return super().encode(x)

    def decode(self, codes: Codes, x: Any = None) -> Tensor:
        Noted.order.append(("decode", self.info.name, codes.n_tokens))
        return super().decode(codes, x)


def orders(
    monkeypatch: pytest.MonkeyPatch, tokens: int, room: int = 1 << 30, names: str = "ab"
) -> list[tuple[str, str, int]]:
    """What some SAEs do between the first batch and the end."""
    blocks_of(monkeypatch, tokens)
    monkeypatch.setattr(block, "ROOM", room)

    def progress(what: str, done: int, total: int) -> None:
        if what == "evaluation" and done == 0:
            Noted.order.clear()

    evaluate([Noted(name, seed=i) for i, name in enumerate(names)], progress=progress, **settings(controls="none"))
    return list(Noted.order)


def walks(order: list[tuple[str, str, int]], what: str) -> list[str]:
    """Which SAE's weights are read: one walk ends where another SAE's are."""
    names = [name for did, name, _ in order if did == what]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_weights_are_walked_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = orders(monkeypatch, 0)
    batches = len([did for did, name, _ in one_by_one if (did, name) == ("encode", "a")])
    assert batches > 3
    assert walks(one_by_one, "encode") == walks(one_by_one, "decode") == ["a", "b"] * batches
    whole = orders(monkeypatch, 10_000)
    assert walks(whole, "encode") == walks(whole, "decode") == ["a", "b"]
    assert sorted(whole) == sorted(one_by_one), "each batch once, with the same tokens"
    halves = orders(monkeypatch, sum(n for did, name, n in whole if (did, name) == ("encode", "a")) // 2)
    assert walks(halves, "encode") == ["a", "b"] * 2


def test_reconstructions_that_have_no_room_are_made_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first SAEs are decoded ahead, as far as there is room; encoding takes no such room."""
    whole = orders(monkeypatch, 10_000, names="abc")
    n = sum(n for did, name, n in whole if (did, name) == ("decode", "a"))
    for room, once in ((4 * tiny_models.WIDTH * n, True), (0, False)):
        order = orders(monkeypatch, 10_000, room=room, names="abc")
        assert walks(order, "encode") == ["a", "b", "c"]
        assert (walks(order, "decode").count("a") == 1) == once
        assert walks(order, "decode").count("b") > 2
        assert sorted(order) == sorted(whole)


class Fails(StaticTopK):
    """Raises, or gives NaN, where a batch has so many tokens."""

    def __init__(self, how: str, tokens: int) -> None:
        super().__init__("fails", seed=2)
        self.how, self.tokens = how, tokens

    def encode(self, x: Tensor) -> Codes:
        if self.how == "encode" and len(x) == self.tokens:
            raise RuntimeError("out of luck")
        return super().encode(x)

    def decode(self, codes: Codes, x: Any = None) -> Tensor:
        return super().decode(codes, x) * (torch.nan if self.how == "decode" and codes.n_tokens == self.tokens else 1)


@pytest.mark.parametrize("how", ["encode", "decode"])
def test_an_sae_that_fails_in_a_block_fails_in_the_same_words(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    sizes = [n for did, name, n in orders(monkeypatch, 0) if (did, name) == ("encode", "a")]
    last = next(n for n in reversed(sizes) if sizes.count(n) == 1)
    given = settings(controls="none")
    blocks_of(monkeypatch, 0)
    alone = evaluate([Fails(how, last), StaticTopK("good")], **given)
    blocks_of(monkeypatch, 10_000)
    together = evaluate([Fails(how, last), StaticTopK("good")], **given)
    assert found(together) == found(alone)
    assert {r.status for r in together if r.sae.name == "fails"} == {"error"}
    assert {r.status for r in together if r.sae.name == "good"} == {"ok"}


@pytest.mark.slow
def test_a_run_that_was_killed_within_a_block_goes_on_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocks_of(monkeypatch, 10_000)
    given = settings(checkpoint_seconds=0)
    saes = [coder("a"), coder("b", seed=1)]

    def kill(what: str, done: int, total: int) -> None:
        if what == "evaluation" and done == 2:
            shutil.copytree(tmp_path / "first", tmp_path / "killed")
            raise KeyboardInterrupt

    evaluate(saes, out=tmp_path / "whole", **given)
    with pytest.raises(KeyboardInterrupt):
        evaluate(saes, out=tmp_path / "first", progress=kill, **given)
    evaluate(saes, out=tmp_path / "killed", **given)
    one, other = (
        {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert one == other


def test_blocks_are_for_weights_that_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [Entry(name, name, coder(name, seed=i)) for i, name in enumerate("ab")]
    weights = sum(t.nbytes for e in two for t in (e.coder.weights.W_enc, e.coder.weights.W_dec))  # type: ignore[attr-defined]
    for memory, blocks in ((weights, True), (4 * weights, False)):
        monkeypatch.setattr(block, "_memory", lambda memory=memory: memory)
        assert block_tokens(two) == (block.TOKENS if blocks else 0)
    monkeypatch.setattr(block, "_memory", lambda: 1)
    assert block_tokens(two[:1]) == 0, "one SAE is read once a batch, in whatever order"
    assert block_tokens([two[0], two[0]]) == 0, "the same encoder twice is one"
    foreign: Any = SimpleNamespace(encoder=StaticTopK(), key="x")
    assert block_tokens([foreign, foreign]) == 0
    monkeypatch.undo()
    assert block_tokens(two) == 0, "ordinary SAEs on an ordinary machine"
