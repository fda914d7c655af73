"""The subject model: the language model whose activations an SAE reads, seen through capture, splice and resume.

Two back ends implement the same protocol: Hugging Face `transformers` (the default) and TransformerLens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sae_bench.errors import ModelError


@dataclass
class Capture:
    """Activations of one batch, and what is needed to go on from them.

    tokens: int64 `[batch, seq]`; attention_mask: bool `[batch, seq]`, True = real token, padding on the right;
    activations: by hook name, `[batch, seq, d]`; carry: by block index, that block's input `[batch, seq, d_model]`.
    """

    tokens: Tensor
    attention_mask: Tensor
    activations: dict[str, Tensor]
    carry: dict[int, Tensor] = field(default_factory=dict)

    def rows(self, index: Tensor) -> Capture:
        """Select sequences; `index` is int64 `[rows]` and may repeat (many interventions on one sequence)."""
        return Capture(
            self.tokens[index],
            self.attention_mask[index],
            {name: x[index] for name, x in self.activations.items()},
            {layer: x[index] for layer, x in self.carry.items()},
        )


@runtime_checkable
class SubjectModel(Protocol):
    """A language model with hook points. No method computes gradients or leaves anything behind in the model.

    `model` is the module itself. `vocab_size` counts the rows of the output head that the configuration declares,
    `n_layers` the blocks; `counters` counts sequences: "prefix" (capture), "suffix" (resume), "full" (splice),
    "selftest" (the model's own checks).
    """

    name: str
    model: torch.nn.Module
    device: torch.device
    dtype: torch.dtype
    vocab_size: int
    n_layers: int
    context_length: int | None
    backend: str
    counters: dict[str, int]

    def width(self, hook: str) -> int:
        """Return the size of the last axis at `hook`; ModelError if the model has no such hook."""

    def capture(self, tokens: Tensor, attention_mask: Tensor, hooks: Sequence[str]) -> Capture:
        """Return the activations `[batch, seq, d]` at `hooks`; the model runs up to the deepest of them only."""

    def splice(self, tokens: Tensor, attention_mask: Tensor, replacements: Mapping[str, Tensor]) -> Tensor:
        """Return logits `[batch, seq, vocab_size]` with the activation at each hook replaced; `{}` is the clean run."""

    def resume(self, capture: Capture, hook: str, activation: Tensor) -> Tensor:
        """Return what `splice` would, but run only what follows `hook` where that is exact (see `can_resume`)."""

    def can_resume(self, hook: str) -> bool:
        """Whether resuming at `hook` gives the logits of a full splice; tested once for a model and hook, then kept."""

    def is_bottleneck(self, hook: str) -> bool:
        """Whether all that the rest of the model reads stands at `hook`: logits follow from the activation alone.

        Then `resume` gives sequences with equal activations equal logits, whatever their tokens are.
        """


def check_batch(tokens: Tensor, attention_mask: Tensor, vocab_size: int, context_length: int | None) -> None:
    """Raise ModelError unless `tokens` int `[batch, seq]` fits the model and `attention_mask` pads on the right."""
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.numel() == 0:
        raise ModelError(f"token ids must be integers [batch, seq], not {tokens.dtype} {list(tokens.shape)}")
    if attention_mask.shape != tokens.shape:
        raise ModelError(
            f"the attention mask must have the shape {list(tokens.shape)} of the tokens, "
            f"not {list(attention_mask.shape)}"
        )
    if context_length is not None and tokens.shape[1] > context_length:
        raise ModelError(
            f"a sequence has {tokens.shape[1]} tokens, but the model takes at most {context_length}; "
            "use a shorter context"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        raise ModelError(
            f"token ids must be from 0 to {vocab_size - 1}, but the batch has {low if low < 0 else high}; "
            "the tokenizer does not belong to this model"
        )
    mask = attention_mask.bool()
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ModelError("padding must be on the right: a real token stands behind a padding position")
