"""Logits of the rest of the model, which sequences that carry the same activations pass as one.

Under zero and under mean ablation all positions but those outside the mask carry one vector. So sequences differ only
in where such positions stand and in what they carry: with one token before the text, in nothing, and one pass per batch
tells the logits of all of its sequences. Which they are, the host knows (:attr:`sae_bench.engine.layout.Layout.alike`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from sae_bench.engine.layout import Alike, Ints
from sae_bench.kernels.transfer import onto
from sae_bench.models.subject import Capture, SubjectModel, is_bottleneck


class Logits(NamedTuple):
    """``rows`` ``[rows, vocab]``, and which of them each position has: ``place`` ``[batch, seq]``, on the host."""

    rows: Tensor
    place: Ints

    @staticmethod
    def of(x: Tensor, sequence: Ints | None = None) -> Logits:
        """From ``[passed, seq, vocab]``; ``sequence`` ``[batch]``: which of these is each one's, if not its own."""
        own = np.arange(len(x)) if sequence is None else sequence
        return Logits(x.flatten(0, 1), own[:, None] * x.shape[1] + np.arange(x.shape[1]))


def logits(
    subject: SubjectModel, capture: Capture, hook: str, activation: Tensor, alike: Alike | None = None
) -> tuple[Logits, int]:
    """Logits when ``hook`` carries ``activation`` ``[batch, seq, d]``, and how many sequences passed the model for it.

    ``alike`` says which sequences carry the same there. Where logits depend on more than this activation, every
    sequence passes.
    """
    of = None
    if alike is not None and len(alike.firsts) < len(activation) and is_bottleneck(subject, hook):
        firsts = onto(alike.firsts, activation.device)
        activation, capture, of = activation.index_select(0, firsts), capture.rows(firsts), alike.kind
    return Logits.of(subject.resume(capture, hook, activation), of), len(activation)
