"""The rest of the model: sequences that carry the same pass once, and nobody can tell from the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_bench.engine import rest
from sae_bench.engine.layout import Layout
from sae_bench.models.huggingface import HuggingFaceSubject
from sae_bench.models.loading import load_subject
from tests.builders import tiny_models
from tests.builders.marks import slow_but

HOOK = "blocks.1.hook_resid_post"


def subject_of(model: Any) -> HuggingFaceSubject:
    return HuggingFaceSubject(model.double(), "tiny")


def texts(*lengths: int) -> tuple[Tensor, Tensor]:
    """Random tokens with BOS in front, and the mask of what is no padding."""
    tokens = torch.randint(
        1, tiny_models.VOCAB, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0)
    )
    tokens[:, 0] = 0
    return tokens, torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def ablated(x: Tensor, keep: Tensor, value: float) -> Tensor:
    return torch.where(keep.unsqueeze(2), torch.full_like(x, value), x)


def expected(subject: Any, tokens: Tensor, mask: Tensor, hook: str, x: Tensor) -> Tensor:
    """Full passes of one sequence after the other, at real positions ``[tokens, vocab]``."""
    rows = [subject.splice(tokens[i : i + 1], mask[i : i + 1], {hook: x[i : i + 1]})[0] for i in range(len(tokens))]
    return torch.stack(rows)[mask]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("value", slow_but(1, [0.7, 0.0]))
def test_ablated_texts_pass_as_one_and_give_the_logits_of_full_passes(family: str, value: float) -> None:
    """Shorter texts share the pass of the longest; one with a token outside the mask in its middle has its own."""
    subject = subject_of(tiny_models.FAMILIES[family]())
    tokens, mask = texts(9, 7, 9, 4, 8)
    tokens[2, 5] = 0
    keep = mask & (tokens != 0)
    for hook in (HOOK, "blocks.1.hook_resid_mid", "blocks.1.hook_resid_pre"):
        if family == "neox" and hook.endswith("mid"):
            continue
        capture = subject.capture(tokens, mask, [hook])
        x = ablated(capture.activations[hook], keep, value)
        found, passed = rest.logits(subject, capture, hook, x, Layout.of(tokens, mask, keep).alike)
        assert passed == 2, hook
        assert found.rows.shape == (2 * 9, tiny_models.VOCAB)
        torch.testing.assert_close(found.rows[found.place[mask]], expected(subject, tokens, mask, hook, x))


@pytest.mark.parametrize("hook", ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post:centered", "hook_embed"])
def test_where_logits_depend_on_more_than_the_activation_every_text_passes(hook: str) -> None:
    """Behind the MLP the stream goes on beside it; a centred activation lacks its mean; not every model resumes."""
    subject = subject_of(tiny_models.tiny_gpt2())
    tokens, mask = texts(9, 7, 9)
    capture = subject.capture(tokens, mask, [hook])
    x = ablated(capture.activations[hook], mask, 0.0)
    found, passed = rest.logits(subject, capture, hook, x, Layout.of(tokens, mask, mask).alike)
    assert not subject.is_bottleneck(hook)
    assert passed == 3
    torch.testing.assert_close(found.rows[found.place[mask]], expected(subject, tokens, mask, hook, x))


class ReadsTokens(nn.Module):
    """A last block that adds a trace of an embedding of the tokens, as models with embeddings in every layer do."""

    def __init__(self, block: nn.Module, model: Any) -> None:
        super().__init__()
        self.block = block
        self.table = nn.Parameter(torch.randn(tiny_models.VOCAB, tiny_models.WIDTH))
        self.seen: list[Tensor] = [torch.zeros(1, 1, dtype=torch.int64)]
        model.model.embed_tokens.register_forward_pre_hook(lambda _m, args: self.seen.__setitem__(0, args[0]))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.block(hidden_states, *args, **kwargs) + 1e-6 * self.table[self.seen[0]]
        return out


def test_a_model_that_reads_its_tokens_again_is_no_bottleneck() -> None:
    """It can be resumed, for resuming hands it its tokens; but texts with equal activations are not equal to it."""
    model = tiny_models.tiny_llama()
    model.model.layers[2] = ReadsTokens(model.model.layers[2], model)
    subject = subject_of(model)
    tokens, mask = texts(9, 9)
    capture = subject.capture(tokens, mask, [HOOK])
    x = ablated(capture.activations[HOOK], mask, 0.0)
    assert subject.can_resume(HOOK)
    assert not subject.is_bottleneck(HOOK)
    found, passed = rest.logits(subject, capture, HOOK, x, Layout.of(tokens, mask, mask).alike)
    assert passed == 2
    torch.testing.assert_close(found.rows[found.place[mask]], expected(subject, tokens, mask, HOOK, x))


class CountsSpecial(ReadsTokens):
    """A last block that looks at its tokens only where they are special."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        special = (self.seen[0] == 0).unsqueeze(2).to(hidden_states)
        out: Tensor = self.block(hidden_states, *args, **kwargs) + special * self.table[0]
        return out


def test_a_model_that_reads_special_tokens_alone_is_no_bottleneck() -> None:
    model = tiny_models.tiny_llama()
    model.model.layers[2] = CountsSpecial(model.model.layers[2], model)
    assert not subject_of(model).is_bottleneck(HOOK)


def test_the_other_back_end_passes_every_text() -> None:
    subject, _ = load_subject(tiny_models.tiny_gpt2(), backend="tl")
    tokens, mask = texts(6, 6)
    capture = subject.capture(tokens, mask, [HOOK])
    assert not subject.is_bottleneck(HOOK)
    alike = Layout.of(tokens, mask, mask).alike
    assert len(alike.firsts) == 1
    assert rest.logits(subject, capture, HOOK, torch.zeros_like(capture.activations[HOOK]), alike)[1] == 2
