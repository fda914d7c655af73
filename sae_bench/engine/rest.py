"""Logits of the rest of the model, which sequences that carry the same activations pass as one.

Under zero and under mean ablation all positions but those outside the mask carry one vector. So sequences differ only
in where such positions stand and in what they carry: with one token before the text, in nothing, and one pass per batch
tells the logits of all of its sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_bench.models.subject import Capture, SubjectModel, is_bottleneck


class Logits(NamedTuple):
    """``rows`` ``[rows, vocab]``, and which of them belongs to each position: ``place`` int64 ``[batch, seq]``."""

    rows: Tensor
    place: Tensor

    @staticmethod
    def of(x: Tensor, sequence: Tensor | None = None) -> Logits:
        """From ``[passed, seq, vocab]``; ``sequence`` ``[batch]``: which of these is each one's, if not its own."""
        own = torch.arange(len(x), device=x.device) if sequence is None else sequence
        return Logits(x.flatten(0, 1), own.unsqueeze(1) * x.shape[1] + torch.arange(x.shape[1], device=x.device))


def logits(subject: SubjectModel, capture: Capture, hook: str, activation: Tensor) -> tuple[Logits, int]:
    """Logits when ``hook`` carries ``activation`` ``[batch, seq, d]``, and how many sequences passed the model for it.

    A sequence that ends early is equal to a longer one if it is so as far as it goes: what the model carries behind its
    end reaches no logits before it. Where logits depend on more than this activation, every sequence passes.
    """
    of = None
    if len(activation) > 1 and is_bottleneck(subject, hook):
        continued = _continued(activation, capture.attention_mask)
        first, kind = distinct(continued)
        if len(first) < len(activation):
            activation, capture, of = continued[first], capture.rows(first), kind
    return Logits.of(subject.resume(capture, hook, activation), of), len(activation)


def distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``x`` ``[n, seq, d]`` are first of their kind, ascending ``[kinds]``, and the kind of each ``[n]``."""
    kind = torch.unique(x[..., 0], dim=0, return_inverse=True)[1]
    if int(kind.max()) + 1 < len(x):  # their first channel does not tell all of them apart
        kind = torch.unique(x.flatten(1), dim=0, return_inverse=True)[1]
    own = torch.arange(len(x), device=x.device)
    first = torch.full_like(own, len(x)).scatter_reduce(0, kind, own, "amin")[kind]  # the first one equal to each
    firsts = torch.unique(first)
    return firsts, torch.searchsorted(firsts, first)


def _continued(x: Tensor, attention: Tensor) -> Tensor:
    """``x`` ``[n, seq, d]`` with the last real activation of every sequence repeated behind it."""
    own = torch.arange(len(x), device=x.device)
    return torch.where(attention.unsqueeze(2), x, x[own, attention.sum(1) - 1].unsqueeze(1))
