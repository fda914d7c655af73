"""A batch that the device never waits for: run on a CPU under a guard that raises where a host would read anything.

And what is read late says what it would have said at once: figures, counters, failures, files of a run that was killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from sae_bench import evaluate
from sae_bench.engine import loss
from sae_bench.engine.batch import Batch
from sae_bench.engine.part import PartOfBatch
from sae_bench.engine.plan import Batches
from sae_bench.errors import ModelError
from sae_bench.kernels import waiting
from sae_bench.kernels.divergence import divergence, normaliser
from sae_bench.kernels.transfer import Fetch, free_bytes, onto
from sae_bench.models.huggingface_masks import masks_are_full
from sae_bench.saes.protocol import Codes
from sae_bench.session import run as session_run
from sae_bench.streams import beside
from sae_bench.streams.documents import DocumentsReader
from tests.builders import tiny_models
from tests.builders.interrupted import copied_at
from tests.builders.marks import slow_but, slow_but_each
from tests.builders.static_saes import StaticTopK
from tests.builders.tiny_saes import tiny_coder
from tests.builders.token_rows import LENGTH, token_rows
from tests.builders.waiting import NoWaiting, Waited

ON_TEXT = "reconstruction,sparsity,loss_recovered"


def settings(**changes: Any) -> dict[str, Any]:
    """A run of several batches of texts of several lengths on the tiny model."""
    given: dict[str, Any] = {"model": tiny_models.tiny_gpt2(), "tasks": ON_TEXT, "resamples": 20}
    given |= {"data": tiny_models.number_texts(24, shortest=6), "tokenizer": tiny_models.TinyTokenizer(), "context": 16}
    return given | {"controls": "permuted", "batch_tokens": 64} | changes


@pytest.fixture(name="never_waits")
def _never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_run, "may_wait", lambda device: False)


def both(monkeypatch: pytest.MonkeyPatch, saes: Callable[[], list[Any]], **changes: Any) -> list[Any]:
    """What a run finds in which the host waits, and one in which it does not."""
    found = []
    for waits in (True, False):
        with monkeypatch.context() as m:
            m.setattr(session_run, "may_wait", lambda device, waits=waits: waits)
            found.append(evaluate(saes(), **settings(**changes)))
    return found


# ---------------------------------------------------------------- the guard itself

X = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
MASK = torch.tensor([True, False])
READS: dict[str, Callable[[], Any]] = {
    "item": lambda: X[0, 0].item(),
    "bool": lambda: bool(X[0, 0]),
    "int": lambda: int(X[0, 0]),
    "float": lambda: float(X[0, 0]),
    "index": lambda: [1, 2][MASK.sum()],
    "if": lambda: 1 if MASK.all() else 0,
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "asarray": lambda: np.asarray(X),
    "cpu": lambda: X.cpu(),
    "to": lambda: X.to("cpu"),
    "nonzero": lambda: X.nonzero(),
    "where of one": lambda: torch.where(MASK),
    "masked_select": lambda: X.masked_select(X > 1),
    "mask": lambda: X[MASK],
    "mask of columns": lambda: X[:, MASK],
    "written by a mask": lambda: X.clone().__setitem__(MASK, X[:1]),
    "index_put by a mask": lambda: X.clone().index_put_((MASK,), X[:1]),
    "unique": lambda: torch.unique(X),
    "unique of rows": lambda: torch.unique(X, dim=0),
    "unique_consecutive": lambda: torch.unique_consecutive(X),
    "bincount": lambda: torch.bincount(MASK.long()),
    "equal": lambda: torch.equal(X, X),
    "repeat_interleave": lambda: X.repeat_interleave(torch.tensor([1, 2]), dim=0),
    "segment_reduce": lambda: torch.segment_reduce(X, "sum", lengths=torch.tensor([1, 1])),
    "contains": lambda: 1.0 in X,
}


@pytest.mark.parametrize("read", READS)
def test_the_guard_sees_every_way_to_wait(read: str) -> None:
    READS[read]()
    with pytest.raises(Waited), NoWaiting():
        READS[read]()


def test_the_guard_leaves_alone_what_needs_no_value() -> None:
    """Sizes, indexing by numbers, sums over segments of known length, and what the host has anyway."""
    with NoWaiting() as guard:
        guard.host(X)
        assert len(X) == X.shape[0] == 2
        assert X.numpy().sum() == 6
        X[torch.tensor([1, 0])][:, 1].to(torch.float64)
        X.repeat_interleave(torch.tensor([1, 2]), dim=0, output_size=3)
        torch.segment_reduce(X, "sum", lengths=torch.tensor([1, 1]), unsafe=True)
        X.clone().index_put_((torch.tensor([0, 0]), torch.tensor([1, 1])), X[0], accumulate=True)


# ---------------------------------------------------------------- a batch, from its start to its end


@pytest.fixture(name="guarded")
def _guarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every batch of documents begins under the guard; the list grows by one for each copy to the host."""
    guards: list[NoWaiting] = []
    copies: list[int] = []
    tensors, launch, start = Batches.tensors, DocumentsReader.launch, Fetch.start

    def on_host(self: Batches, *args: Any) -> tuple[Tensor, ...]:
        made = tensors(self, *args)
        if guards:
            guards[-1].host(*made)
        return made

    def begun(self: DocumentsReader, *args: Any) -> Any:
        with NoWaiting() as guard:
            guards.append(guard)
            try:
                return launch(self, *args)
            finally:
                guards.pop()

    def counted(self: Fetch) -> None:
        start(self)
        copies.append(len(self._staged))

    monkeypatch.setattr(session_run, "may_wait", lambda device: False)
    monkeypatch.setattr(Batches, "tensors", on_host)
    monkeypatch.setattr(DocumentsReader, "launch", begun)
    monkeypatch.setattr(Fetch, "start", counted)
    return copies


@pytest.mark.parametrize("family", slow_but(2, ["gemma2", "neox", "gpt2", "llama", "qwen2"]))
def test_nothing_waits_between_the_start_and_the_end_of_a_batch(guarded: list[int], family: str) -> None:
    """All tasks on text, several SAEs at two hook points, a control, texts that end early, for every block layout."""
    saes = [StaticTopK("a"), StaticTopK("b", seed=1, k=7), StaticTopK("c", hook="blocks.0.hook_resid_pre")]
    if family != "neox":  # it has no such place
        saes.append(StaticTopK("d", hook="blocks.1.hook_resid_mid"))
    texts = tiny_models.number_texts(14, shortest=6)
    found = evaluate(saes, **settings(model=tiny_models.FAMILIES[family](), data=texts, batch_tokens=48))
    assert {result.status for result in found} == {"ok"}
    assert len(guarded) > 2, "one copy begins for every batch"
    assert set(guarded) == {3}, "sums of all SAEs and tasks in one copy, counts in one, the outcomes of checks in one"


@pytest.mark.parametrize("activation", slow_but(2, ["relu", "abstopk", "topk", "jumprelu", "gated"]))
def test_an_sae_of_a_file_waits_once_to_encode_and_nowhere_else(
    guarded: list[int], monkeypatch: pytest.MonkeyPatch, activation: str
) -> None:
    """How many entries its codes have is known to the device alone, and the host reads it in one place."""
    read, reads, launch = waiting.read, list[int](), DocumentsReader.launch
    running: list[int] = []

    def on_purpose(values: Tensor) -> Any:
        reads.extend(running)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return read(values)

    def begun(self: DocumentsReader, index: int, *args: Any) -> Any:
        running[:] = [index]
        try:
            return launch(self, index, *args)
        finally:
            running.clear()

    monkeypatch.setattr(waiting, "read", on_purpose)
    monkeypatch.setattr(DocumentsReader, "launch", begun)
    sae = tiny_coder(activation)
    sae.waits = False
    found = evaluate(sae, **settings(controls="none"))
    assert {result.status for result in found} == {"ok"}
    assert reads == list(range(len(guarded))), "one for each batch"


def test_a_control_in_some_documents_of_a_batch_does_not_wait_either(
    guarded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "DOCUMENTS", 5)
    with_part: list[int] = []
    made = PartOfBatch.__init__

    def noted(self: PartOfBatch, *args: Any) -> None:
        with_part.append(1)
        made(self, *args)

    monkeypatch.setattr(PartOfBatch, "__init__", noted)
    model = tiny_models.tiny_gpt2().double()
    found = evaluate(saes(), **settings(model=model, dtype="float64", controls="permuted"))
    assert with_part
    assert guarded
    monkeypatch.undo()
    monkeypatch.setattr(beside, "DOCUMENTS", 5)
    waiting = evaluate(saes(), **settings(model=model, dtype="float64", controls="permuted"))
    assert all(alike(one, other) for one, other in zip(found, waiting, strict=True))


def test_a_batch_that_waits_is_found(guarded: list[int]) -> None:
    """Else the test above would be one that cannot fail."""

    class Reads(StaticTopK):
        def decode(self, codes: Codes, x: Any = None) -> Tensor:
            assert float(codes.values.sum()) != 0.5
            return super().decode(codes, x)

    with pytest.raises(Waited, match="__float__"):
        evaluate(Reads(), **settings())


# ---------------------------------------------------------------- the same as if it had waited


def saes() -> list[Any]:
    return [StaticTopK("a"), StaticTopK("b", seed=1)]


def alike(one: Any, other: Any) -> bool:
    """Whether two results say the same, figures but for rounding in float64."""
    words = [(r.sae.name, r.task, r.status, r.reason) for r in (one, other)]
    sets = [[("", r.metrics), *r.controls.items()] for r in (one, other)]
    pairs = [
        [getattr(m, what) for _, own in s for m in own.values() for what in ("value", "low", "high")] for s in sets
    ]
    return words[0] == words[1] and pairs[0] == [
        None if x is None else pytest.approx(x, rel=1e-9, abs=1e-9) for x in pairs[1]
    ]


def test_figures_and_counters_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same but for rounding: the product with the unembedding is made of fewer positions at a time."""
    waiting, never = both(monkeypatch, saes, model=tiny_models.tiny_gpt2().double(), dtype="float64")
    assert all(alike(one, other) for one, other in zip(never, waiting, strict=True))
    assert [result.provenance.counters for result in never] == [result.provenance.counters for result in waiting]


def test_divergence_without_looking_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding of the vocabulary, a token that one side excludes, and rows without probabilities."""
    clean, logits = torch.randn(2, 7, 130, generator=torch.Generator().manual_seed(0))
    clean[:, 120:] = logits[:, 120:] = -torch.inf
    logits[1, 3], clean[2, 4], clean[3, 5] = -torch.inf, -torch.inf, torch.nan
    of = normaliser(clean), normaliser(logits)
    one, other = (divergence(clean, of[0], logits, of[1], waits=waits) for waits in (True, False))
    assert torch.equal(one.nan_to_num(-1, -2, -3), other.nan_to_num(-1, -2, -3))
    assert one.isfinite().tolist() == [True, False, True, False, True, True, True]


@pytest.mark.parametrize("kill_at", [1, 3])
@pytest.mark.usefixtures("never_waits")
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    """The step that nobody had read is lost with the process, and measured again."""
    kill = copied_at(kill_at, tmp_path / "first", tmp_path / "killed", KeyboardInterrupt)
    given = settings(checkpoint_seconds=0)
    evaluate(saes(), out=tmp_path / "whole", **given)
    with pytest.raises(KeyboardInterrupt):
        evaluate(saes(), out=tmp_path / "first", progress=kill, **given)
    evaluate(saes(), out=tmp_path / "killed", **given)
    one, other = (
        {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert one == other


@pytest.mark.usefixtures("never_waits")
def test_a_step_begins_before_the_last_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    launch = DocumentsReader.launch

    def noted(self: DocumentsReader, index: int, *args: Any) -> Any:
        order.append(f"begin {index}")
        end = launch(self, index, *args)

        def read() -> Any:
            order.append(f"read {index}")
            return end()

        return read

    monkeypatch.setattr(DocumentsReader, "launch", noted)
    evaluate(StaticTopK(), **settings(controls="none"))
    assert order[:5] == ["begin 0", "begin 1", "read 0", "begin 2", "read 1"]
    assert sorted(order) == sorted(f"{what} {i}" for what in ("begin", "read") for i in range(len(order) // 2))


# ---------------------------------------------------------------- failures that are read late


class Breaks(StaticTopK):
    """Decodes to NaN in one batch of the run."""

    now: int | None = None  # the batch that runs

    def __init__(self, at: int) -> None:
        super().__init__("breaks", seed=2)
        self._at = at

    def decode(self, codes: Codes, x: Any = None) -> Tensor:
        return super().decode(codes, x) * (torch.nan if Breaks.now == self._at else 1)


@pytest.fixture(name="numbered")
def _numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = DocumentsReader.launch

    def begun(self: DocumentsReader, index: int, *args: Any) -> Any:
        Breaks.now = index
        try:
            return launch(self, index, *args)
        finally:
            Breaks.now = None

    monkeypatch.setattr(DocumentsReader, "launch", begun)


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize("at", slow_but(1, [1, 0, 2]))
def test_an_sae_that_decodes_to_nan_fails_alone(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    given = {"controls": "none", "model": tiny_models.tiny_gpt2().double(), "dtype": "float64"}
    waiting, never = both(monkeypatch, lambda: [Breaks(at), StaticTopK("good")], **given)
    assert all(alike(one, other) for one, other in zip(never, waiting, strict=True))
    assert {r.status for r in never if r.sae.name == "breaks"} == {"error"}
    assert {r.status for r in never if r.sae.name == "good"} == {"ok"}
    assert "the reconstruction holds NaN or infinite numbers" in str(never[0].reason)


@pytest.mark.parametrize("waits", [True, False])
def test_activations_that_are_not_finite_name_document_and_hook_point(
    monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """Of one token of one document; the run ends, whatever tasks made of it meanwhile."""
    model = tiny_models.tiny_gpt2()
    rows = token_rows()
    at = rows[(rows == 49).any(1)]
    monkeypatch.setattr(session_run, "may_wait", lambda device: waits)
    begun: list[Batch] = []
    made = Batch.__init__

    def watched(self: Batch, *args: Any, **names: Any) -> None:
        made(self, *args, **names)
        if self.names:  # no calibration
            begun.append(self)
            with torch.no_grad():
                model.transformer.wte.weight[49] = torch.inf

    assert len(at)
    monkeypatch.setattr(Batch, "__init__", watched)
    with pytest.raises(ModelError, match=r"not finite at blocks.1.hook_resid_post, first in document .* in torch") as e:
        evaluate(
            saes(),
            **settings(model=model, data=rows, tokenizer=None, context=None, controls="none", batch_tokens=LENGTH),
        )
    named = str(e.value).partition("first in document ")[2].partition(",")[0]
    bad = [b for b in begun if (b.layout.tokens == 49).any()]
    assert bad
    assert named == bad[0].names[0]
    assert len(begun) <= (1 if waits else 2) + begun.index(bad[0])


TASK = """
import torch

from sae_bench.tasks.base import Task


class Odd(Task):
    batches = 0

    def passes(self):
        return 1

    def shared(self, site):
        return {"tokens": site.sum(torch.ones(len(site.kept), dtype=torch.float64), site.kept)}

    def measure(self, view):
        Odd.batches += 1
        return MEASURE
"""
MEASURES = {
    "a column is NaN": """{"odd": view.sum(torch.full((len(view.kept),), float("nan")), view.kept)}""",
    "a column is too long": """{"odd": torch.ones(99, dtype=torch.float64)}""",
    "no columns": "3",
    "a key for other values": """{"odd": view.sum_predictions(
        view.scores(view.target * 0, "k").ce + view.scores(view.target * 2, "k").ce)}""",
    "values that are NaN": """{"odd": view.sum_predictions(view.scores(view.target / 0, "k").ce).nan_to_num()}""",
    "a partner fails": """{"odd": view.sum(sum(p.x_hat.sum(1) for p in view.partners).nan_to_num(), view.kept)}""",
    "it raises": "{}['odd']",
}
DEFINITION = """
id = "odd"
version = 1
title = "Odd"
question = "What does a task look like that goes wrong?"
code = "odd_task:Odd"
figures = "odd_figures"
pairs = true

[metrics.odd]
name = "odd"
unit = "1"
better = "none"
table = "document"
description = "nothing"
"""
FIGURES = """
from sae_bench.units.bootstrap import Ratio
from tests.builders.marks import slow_but, slow_but_each


def metrics(parameters):
    return {"odd": lambda s: Ratio(s.odd, s.tokens, "the number of tokens")}
"""


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize("what", slow_but_each(2, MEASURES))
def test_a_task_that_goes_wrong_fails_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    name = f"odd_task_{list(MEASURES).index(what)}"
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "task.toml").write_text(DEFINITION.replace("odd_task", name), encoding="utf-8")
    (tmp_path / f"{name}.py").write_text(TASK.replace("MEASURE", MEASURES[what]), encoding="utf-8")
    (tmp_path / "odd_figures.py").write_text(FIGURES, encoding="utf-8")
    given = {"tasks": "odd,reconstruction", "task_dir": tmp_path, "controls": "none", "dtype": "float64"}
    given |= {"model": tiny_models.tiny_gpt2().double()}
    waiting, never = both(monkeypatch, lambda: [StaticTopK("good"), Breaks(1)], **given)
    assert all(alike(one, other) for one, other in zip(never, waiting, strict=True))
    by = {(r.sae.name, r.task): r for r in never}
    assert by["good", "odd"].status == "error"
    assert by["good", "reconstruction"].status == "ok"
    assert by["breaks", "reconstruction"].status == "error"


# ---------------------------------------------------------------- small parts


def test_chunks_grow_with_free_memory_and_stay_within_it() -> None:
    assert loss.chunk_elements(None) == loss.CHUNK_ELEMENTS
    assert free_bytes(torch.device("cpu")) is None
    sizes = [loss.chunk_elements(1 << bits) for bits in range(10, 42)]
    assert sizes == sorted(sizes)
    assert sizes[0] == loss.CHUNK_ELEMENTS
    assert sizes[-1] == loss.MOST_CHUNK_ELEMENTS
    for free in (1 << 30, (1 << 33) - 1, 3 << 30, 140 << 30):
        size = loss.chunk_elements(free)
        assert size & (size - 1) == 0
        assert size * 4 * loss.CHUNK_COPIES <= free / loss.CHUNK_SHARE
    assert loss.chunk_elements(20 << 30) == loss.chunk_elements(30 << 30), "a little more memory changes no cut"


def test_a_fetch_gives_back_what_was_added() -> None:
    given = [torch.arange(6).reshape(2, 3), torch.tensor(2.5), torch.zeros(0, 4), torch.ones(2, dtype=torch.bool)]
    given += [torch.arange(4.0).reshape(2, 2).T, torch.arange(3)]
    for waits in (True, False):
        fetch = Fetch(waits)
        numbers = [fetch.add(tensor) for tensor in given]
        fetch.start()
        for number, tensor in reversed(list(zip(numbers, given, strict=True))):
            assert fetch.read(number).dtype == tensor.numpy().dtype
            np.testing.assert_array_equal(fetch.read(number), tensor.numpy())
    np.testing.assert_array_equal(onto(np.arange(3), torch.device("cpu")), np.arange(3))


def test_only_our_passes_are_told_that_masks_are_full() -> None:
    """A mask with padding is still seen as one by whoever runs the model beside us, in another thread too."""
    model = tiny_models.tiny_llama()
    tokens, mask = torch.ones(1, 6, dtype=torch.int64), torch.tensor([[0, 0, 1, 1, 1, 1]])
    plain = model(tokens, attention_mask=mask).logits
    found: list[Tensor] = []

    def beside() -> None:
        found.append(model(tokens, attention_mask=mask).logits)

    with masks_are_full():
        ignored = model(tokens, attention_mask=mask).logits
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
    assert not torch.allclose(ignored, plain), "else this test cannot fail"
    assert torch.equal(found[0], plain)
    assert torch.equal(model(tokens, attention_mask=mask).logits, plain)
