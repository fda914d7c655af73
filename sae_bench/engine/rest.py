"""Logits of the rest of the model, which sequences that carry the same activations pass as one.

Under zero and under mean ablation all positions but those outside the mask carry one vector. So sequences differ only
in where such positions stand and in what they carry: with one token before the text, in nothing, and one pass per batch
tells the logits of all of its sequences. Which they are, the host knows (:attr:`sae_bench.engine.layout.Layout.alike`).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from sae_bench.engine.layout import Alike, Ints
from sae_bench.kernels.transfer import onto
from sae_bench.models.subject import Capture, SubjectModel, is_bottleneck


class Head(Protocol):
    """What makes logits ``[n, vocab_size]`` of hidden states ``[n, d]``."""

    vocab_size: int

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits of some positions."""
        ...


class Logits(NamedTuple):
    """``rows`` ``[rows, vocab]``, and which of them each position has: ``place`` ``[batch, seq]``, on the host.

    With a ``head`` the rows are hidden states, and logits are made of them when they are taken.
    """

    rows: Tensor
    place: Ints
    head: Head | None = None

    @property
    def width(self) -> int:
        """The size of the vocabulary."""
        return self.rows.shape[-1] if self.head is None else self.head.vocab_size

    @staticmethod
    def of(x: Tensor, sequence: Ints | None = None, head: Head | None = None) -> Logits:
        """From ``[passed, seq, vocab]``; ``sequence`` ``[batch]``: which of these is each one's, if not its own."""
        own = np.arange(len(x)) if sequence is None else sequence
        return Logits(x.flatten(0, 1), own[:, None] * x.shape[1] + np.arange(x.shape[1]), head)

    def take(self, where: Ints) -> Tensor:
        """The logits of some rows, not to be written into; most stand side by side, and then nothing is copied."""
        first, last = int(where[0]), int(where[-1])
        if np.array_equal(where, np.arange(first, last + 1)):
            rows = self.rows[first : last + 1]
        else:
            rows = self.rows.index_select(0, onto(where, self.rows.device))
        return rows if self.head is None else self.head(rows)


def logits(
    subject: SubjectModel,
    capture: Capture,
    hook: str,
    activation: Tensor,
    alike: Alike | None = None,
    *,
    apart: bool = False,
) -> tuple[Logits, int]:
    """Logits when ``hook`` carries ``activation`` ``[batch, seq, d]``, and how many sequences passed the model for it.

    ``alike`` says which sequences carry the same there. Where logits depend on more than this activation, every
    sequence passes. ``apart``: the product with the unembedding is left to whoever takes logits, if the back end can.
    """
    of = None
    if alike is not None and len(alike.firsts) < len(activation) and is_bottleneck(subject, hook):
        firsts = onto(alike.firsts, activation.device)
        activation, capture, of = activation.index_select(0, firsts), capture.rows(firsts), alike.kind
    head = getattr(subject, "head", None) if apart and subject.can_resume(hook) else None
    if head is not None:
        return Logits.of(subject.hidden(capture, hook, activation), of, head), len(activation)  # type: ignore[attr-defined]
    return Logits.of(subject.resume(capture, hook, activation), of), len(activation)
