"""The language model and tokenizer of the world "context", as a user would have them in memory.

A Llama of two blocks. The attention of the first one is wired by hand: it reads out of the residual stream which words
stand there, works out of these and of earlier ones which features hold, and adds their sum. All else adds nothing. It
knows no more than a causal model does, and is written apart from what says the truth (:mod:`.context_words`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_bench.validity.context_words import (
    BEGIN,
    BEHIND,
    ID,
    IN_SENTENCE,
    IN_TEXT,
    INSIDE,
    LAST_NOUN,
    NOUNS,
    WORDS,
    Term,
    whats,
)  # fmt: skip
from sae_bench.validity.context_world import FEATURES, LENGTH, WIDTH, World
from sae_bench.validity.subject import idle_llama, of_words

EPSILON = 1e-6


class Reading(nn.Module):
    """In place of the first attention: from the words to what the features that hold at each add to the stream."""

    spelling: Tensor
    directions: Tensor
    strengths: Tensor
    mean: Tensor
    what: Tensor
    begins: Tensor
    ends: Tensor
    back: Tensor
    free: Tensor

    def __init__(self, world: World) -> None:
        super().__init__()
        self.register_buffer("spelling", torch.from_numpy(world.spelling).float())
        self.register_buffer("directions", torch.from_numpy(world.directions).float())
        self.register_buffer("strengths", torch.from_numpy(world.strengths).float())
        self.register_buffer("mean", torch.from_numpy(world.mean).float())
        kinds = {name: torch.from_numpy(words) for name, words in whats().items()}
        self.register_buffer("what", torch.stack([kinds[term.what] for term in FEATURES], 1))
        begins, ends = zip(*(_between(term) for term in FEATURES), strict=True)
        self.register_buffer("begins", torch.stack(begins, 1))
        self.register_buffer("ends", torch.stack(ends, 1))
        back = [BEHIND.index(term.where) + 1 if term.where in BEHIND else 0 for term in FEATURES]
        self.register_buffer("back", torch.tensor(back))
        self.register_buffer("free", torch.tensor([not term.where for term in FEATURES]))

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """What is added to the stream, whose normalised form is given ``[batch, words, width]``."""
        words = (hidden_states.float() @ self.spelling.T).argmax(2)  # spellings are of one length
        there = self.what[words] & self._placed(words)
        added = (there * self.strengths[words]) @ self.directions + self.mean
        return added.to(hidden_states.dtype), None

    def _placed(self, words: Tensor) -> Tensor:
        """Whether the place is the right one for each feature ``[batch, words, features]``.

        Each asks which of two sets of words came last, as a head does that attends to the latest word of both; or, for
        those that count back, what stood there.
        """
        step = torch.arange(words.shape[1], device=words.device)[:, None]
        begun = torch.where(self.begins[words], step, -1).cummax(1).values
        ended = torch.where(self.ends[words], step, -1).cummax(1).values
        open_before = _moved(begun > ended, 1)
        behind = torch.zeros_like(open_before)
        for n in range(1, len(BEHIND) + 1):
            behind |= _moved(self.begins[words], n) & (self.back == n)
        return torch.where(self.back > 0, behind, open_before) | self.free


def _moved(flags: Tensor, by: int) -> Tensor:
    """Those of so many words before, false where there is none ``[batch, words, features]``."""
    return nn.functional.pad(flags, (0, 0, by, 0))[:, : flags.shape[1]]


def _between(term: Term) -> tuple[Tensor, Tensor]:
    """The words after which a place begins, and those after which it ends, each ``[types]``."""
    none = torch.zeros(len(WORDS), dtype=torch.bool)
    of = {name: torch.from_numpy(words) for name, words in whats().items()}.get(term.of, none)
    if term.where in INSIDE:
        opens, closes = (none.clone().index_fill_(0, torch.tensor([ID[mark]]), True) for mark in INSIDE[term.where])
        return opens, closes
    if term.where == IN_SENTENCE:
        return of, torch.from_numpy(whats()["stops"])
    if term.where == LAST_NOUN:
        nouns = torch.stack([torch.from_numpy(whats()[kind]) for kind in NOUNS]).any(0)
        return of, nouns & ~of
    assert term.where in ("", IN_TEXT, *BEHIND), term
    return of, none


def model(world: World) -> Any:
    """The model; its head says how likely each word is behind the features that hold, from text that no task reads."""
    made = idle_llama(len(WORDS), WIDTH, LENGTH, EPSILON)
    first, _ = made.model.layers
    with torch.no_grad():
        first.self_attn = Reading(world)
        made.model.embed_tokens.weight.copy_(torch.from_numpy(world.spelling))
        made.lm_head.weight.copy_(_head(world))
    return made


def _head(world: World) -> Tensor:
    """The linear map from the normalised stream to the next word's log odds that fits text best, by least squares."""
    ids = world.sample
    x = world.stream.reshape(*ids.shape, WIDTH)[:, :-1].reshape(-1, WIDTH)
    x = x / np.sqrt((x**2).mean(1, keepdims=True) + EPSILON)
    after = np.eye(len(WORDS))[ids[:, 1:].ravel()]
    common = after.mean(0) + 1e-4
    wanted = (after - common) / np.sqrt(common)  # logits move with the odds, less so for words that are rare
    inner = x.T @ x + 1e-3 * len(x) * np.eye(WIDTH)
    weight = np.linalg.solve(inner, x.T @ (2 * wanted + np.log(common)))
    return torch.from_numpy(weight.T)


def tokenizer() -> Any:
    """A token is a word; every text begins with a token of its own."""
    return of_words(dict(ID), BEGIN, LENGTH)
