"""The subject model: the language model whose activations an SAE reads, seen through capture, splice and resume.

Back ends implement the same protocol. Two are built in, Hugging Face `transformers` (the default) and TransformerLens;
entry points of the group `sae_bench.backends` add others. Each names a `Backend`, as "module:attribute".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

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


class Suffix(Protocol):
    """What runs behind a hook point after a change at one position, with keys and values of the clean run.

    It belongs to one capture. `kept_per_token` counts the numbers that keys and values of one token take.
    """

    kept_per_token: int

    def logits(self, sequence: int, position: int, activations: Tensor, steps: int) -> Tensor:
        """Return logits `[n, steps, vocab_size]` at `position` of a row of the capture and behind it.

        Each of `activations` `[n, d]` in turn stands at the hook point there; position + steps is at most the length of
        the capture's sequences.
        """


@runtime_checkable
class SubjectModel(Protocol):
    """A language model with hook points. No method computes gradients or leaves anything behind in the model.

    `model` is the module itself. `vocab_size` counts the rows of the output head that the configuration declares,
    `n_layers` the blocks; `backend` is the name under which the back end is registered; `counters` counts sequences:
    "prefix" (capture), "suffix" (resume), "full" (splice), "selftest" (the model's own checks).

    A back end may leave out the members in `OPTIONAL`, which say what it can do faster than whole passes.
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

        Then `resume` gives sequences with equal activations equal logits, whatever their tokens are. A back end without
        this method counts as one where it is False.
        """

    def continuation(self, capture: Capture, hook: str) -> Suffix | None:
        """Return what can run from a change at one position of `hook` with the keys and values of the clean run.

        None where the back end cannot, as for one without this method. Asked only where `can_resume`; what is returned
        is compared with full splices before it is used, and what it raises there counts as a failed comparison.
        """

    def selftests(self, hook: str) -> tuple[str, ...]:
        """Return what the back end's self-tests found at `hook`, a sentence each; ModelError where one fails.

        A back end without this method has tested nothing.
        """

    def canonical_name(self, hook: str) -> str:
        """Return the name that all names of the same place share: results are held together by it.

        A back end without this method counts as one where every place has one name.
        """


OPTIONAL = ("is_bottleneck", "continuation", "canonical_name", "selftests")


class Backend(Protocol):
    """What opens a model: the class of a subject model, or a function."""

    def __call__(self, model: nn.Module, name: str, *, copy_model: bool) -> SubjectModel:
        """Return `model`, a causal language model of `transformers`, as a subject model of this name.

        With `copy_model` somebody else holds the model: what would change it is done to a copy. Raises ModelError for a
        model that the back end cannot run.
        """


def is_bottleneck(subject: SubjectModel, hook: str) -> bool:
    """Ask `SubjectModel.is_bottleneck`, which is optional."""
    ask = getattr(subject, "is_bottleneck", None)
    return bool(ask(hook)) if ask else False


def canonical_name(subject: SubjectModel, hook: str) -> str:
    """Ask `SubjectModel.canonical_name`, which is optional."""
    ask: Callable[[str], str] | None = getattr(subject, "canonical_name", None)
    return ask(hook) if ask else hook


def suffix_of(subject: SubjectModel, capture: Capture, hook: str) -> Suffix | None:
    """Ask `SubjectModel.continuation`, which is optional."""
    ask: Callable[[Capture, str], Suffix | None] | None = getattr(subject, "continuation", None)
    return ask(capture, hook) if ask else None


def selftests_of(subject: SubjectModel, hook: str) -> tuple[str, ...]:
    """Ask `SubjectModel.selftests`, which is optional."""
    ask: Callable[[str], tuple[str, ...]] | None = getattr(subject, "selftests", None)
    return ask(hook) if ask else (f"none: the backend {subject.backend} has no self-tests",)


def missing_members(subject: object) -> list[str]:
    """Return the members of `SubjectModel` that `subject` lacks, without those in `OPTIONAL`."""
    methods = [name for name, value in vars(SubjectModel).items() if callable(value) and not name.startswith("_")]
    needed = [name for name in (*SubjectModel.__annotations__, *methods) if name not in OPTIONAL]
    return [name for name in needed if not hasattr(subject, name)]


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
    ids, mask = tokens.cpu().numpy(), attention_mask.cpu().numpy().astype(bool)  # the host has them already
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ModelError(
            f"token ids must be from 0 to {vocab_size - 1}, but the batch has {low if low < 0 else high}; "
            "the tokenizer does not belong to this model"
        )
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ModelError("padding must be on the right: a real token stands behind a padding position")
