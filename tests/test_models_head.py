"""The product with the unembedding apart from a pass: the same logits, of the positions that are asked for alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench.engine import rest
from sae_bench.engine.batch import Batch
from sae_bench.engine.workspace import Workspace
from sae_bench.models.edits import ResidualMid
from sae_bench.models.hooks import Hook
from sae_bench.models.huggingface import HuggingFaceSubject
from sae_bench.saes.calibration import Moments
from tests.builders import tiny_models
from tests.builders.kernel_inputs import LargestAllocation

HOOK = "blocks.1.hook_resid_post"


def texts() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, tiny_models.VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    return tokens, torch.arange(9) < torch.tensor([[9], [5], [7]])


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_logits_of_some_positions_are_those_of_a_whole_pass(family: str) -> None:
    """With a cap on them too."""
    subject = HuggingFaceSubject(tiny_models.FAMILIES[family]().double(), "tiny")
    assert subject.head is not None
    assert subject.head is subject.head
    tokens, mask = texts()
    capture = subject.capture(tokens, mask, [HOOK])
    x = capture.activations[HOOK] + 0.1
    whole, _ = rest.logits(subject, capture, HOOK, x)
    before = dict(subject.counters)
    apart, passed = rest.logits(subject, capture, HOOK, x, apart=True)
    assert subject.counters["suffix"] == before["suffix"] + 3 == before["suffix"] + passed
    assert apart.rows.shape[-1] == tiny_models.WIDTH
    assert apart.width == whole.width == tiny_models.VOCAB
    for where in (apart.place[mask], apart.place[1, 2:5], apart.place[::-1, 0]):
        torch.testing.assert_close(apart.take(where), whole.take(where))
    torch.testing.assert_close(subject.resume(capture, HOOK, x).flatten(0, 1), whole.rows, rtol=0, atol=0)


def gemma_of(**changes: Any) -> Any:
    return tiny_models.tiny_gemma2(**changes)


def doubled(model: Any) -> Any:
    """A model that does to its logits what nobody has heard of."""
    forward = model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits - 0.1 * out.logits.square()
        return out

    model.forward = changed
    return model


def test_where_more_is_done_to_logits_passes_go_on_to_the_end() -> None:
    subject = HuggingFaceSubject(doubled(tiny_models.tiny_llama()), "tiny")
    assert subject.head is None
    tokens, mask = texts()
    capture = subject.capture(tokens, mask, [HOOK])
    found, _ = rest.logits(subject, capture, HOOK, capture.activations[HOOK], apart=True)
    assert found.head is None
    assert torch.equal(found.rows, subject.resume(capture, HOOK, capture.activations[HOOK]).flatten(0, 1))


def test_a_cap_is_found_by_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that says another number than the model applies is not believed."""
    model = gemma_of()
    assert model.config.final_logit_softcapping
    subject = HuggingFaceSubject(model, "tiny")
    forward = subject._forward

    def other(tokens: Tensor, count: str) -> Tensor:
        logits = forward(tokens, count)
        return 2 * torch.tanh(logits / 2)

    monkeypatch.setattr(subject, "_forward", other)
    assert subject.head is None


def test_logits_of_a_spliced_batch_never_exist_whole() -> None:
    subject = HuggingFaceSubject(tiny_models.tiny_gpt2(vocab_size=4000), "tiny")
    moments = Moments(torch.zeros(16).double(), torch.eye(16).double(), torch.randn(8, 16), 5.0, 8)
    work = Workspace(subject, (HOOK,), {HOOK: moments}, waits=False)
    work.prepare()
    work.chunk = 8 * 4000  # some positions at a time
    tokens = torch.randint(4000, (8, 16), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    batch = Batch(work, tokens, attention, attention)
    assert batch.clean.logits.rows.shape == (8 * 16, 4000), "the clean ones are kept: every score needs them"
    values = batch.activations(HOOK) * 0.9
    with LargestAllocation() as seen:
        scores = batch.scores(HOOK, values, "replaced")
    assert seen.numbers <= work.chunk < tokens.numel() * 4000 / 8, seen.by
    waiting = Batch(Workspace(subject, (HOOK,), {HOOK: moments}), tokens, attention, attention)
    for one, other in zip(scores, waiting.scores(HOOK, values, "replaced"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_stream_that_is_no_sum_is_found_late_in_the_same_words(scale: float) -> None:
    put: list[tuple[Tensor, Exception]] = []
    hook = Hook("ln", "in", "residual_mid", 1, "blocks.1.hook_resid_mid", scale=scale)
    edits = ResidualMid(lambda old: old + 1, hook, lambda bad, error: put.append((bad, error)))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    edits.block_input(x)
    edits.branch_output(x)
    assert edits._stream is not None
    edits.verify(edits._stream.clone())
    edits.verify(edits._stream + 1)
    assert [bool(bad) for bad, _ in put] == [False, True]
    at_once = ResidualMid(lambda old: old + 1, hook)
    at_once.block_input(x)
    at_once.branch_output(x)
    with pytest.raises(type(put[1][1]), match="do not simply add attention") as raised:
        at_once.verify(edits._stream + 1)
    assert str(raised.value) == str(put[1][1])
