"""What the host knows of a batch before the model runs: shapes, places, and which sequences carry the same.

All of it follows from tokens and masks, so that nothing has to be asked of a device while it works on the batch.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
REPLACED = -1  # stands for the one vector that all replaced positions carry
BEHIND = -2  # stands behind the end of a sequence; below all others, so that a sequence comes before what continues it


class Alike(NamedTuple):
    """Which sequences pass the model for all: ``firsts`` int64, ascending, and for each one its place in ``firsts``."""

    firsts: Ints
    kind: Ints


class Layout:
    """Tokens and masks ``[batch, seq]`` of a batch on the host, and what follows from them.

    ``T`` tokens are those of ``attention``, ``K`` of them ``kept``, and ``P`` make a prediction that counts.
    """

    def __init__(self, tokens: Ints, attention: Bools, keep: Bools, predicts: Bools) -> None:
        self.tokens, self.attention, self.keep, self.predicts = tokens, attention, keep, predicts
        self.targets: Ints = np.roll(tokens, -1, axis=1)[predicts]
        self.lengths: Ints = attention.sum(1)
        self.predictions: Ints = predicts.sum(1)
        self.real: Ints = np.flatnonzero(attention)
        self.kept: Bools = keep[attention]

    @staticmethod
    def of(tokens: Tensor, attention: Tensor, keep: Tensor, target: Tensor | None = None) -> Layout:
        """From what a run gives; ``target`` says what may be predicted (None: all)."""
        real: Bools = _on_host(attention)
        kept: Bools = _on_host(keep) & real
        successor = np.zeros_like(real)
        successor[:, :-1] = (real if target is None else real & _on_host(target))[:, 1:]
        return Layout(_on_host(tokens), real, kept, kept & successor)

    def rows(self, rows: Ints) -> Layout:
        """That of some sequences."""
        return Layout(self.tokens[rows], self.attention[rows], self.keep[rows], self.predicts[rows])

    @cached_property
    def kept_tokens(self) -> Ints:
        """Which of the T tokens are kept ``[K]``."""
        return np.flatnonzero(self.kept)

    @cached_property
    def kept_places(self) -> Ints:
        """Where the kept tokens stand among all positions of the batch, one row after the other ``[K]``."""
        return np.flatnonzero(self.keep)

    @cached_property
    def first_tokens(self) -> Ints:
        """Which of the T tokens stands at position 0 of each sequence that has one."""
        starts: Ints = np.cumsum(self.lengths) - self.lengths
        return starts[self.attention[:, 0]]

    @property
    def first(self) -> Bools:
        """Bool ``[T]``: position 0 of its sequence."""
        found = np.zeros(len(self.real), dtype=np.bool_)
        found[self.first_tokens] = True
        return found

    def sequence_of(self, token: int) -> int:
        """The sequence of one of the T tokens."""
        return int(self.real[token] // self.attention.shape[1])

    @cached_property
    def alike(self) -> Alike:
        """Who can pass for whom when every kept position carries one and the same vector.

        A model is causal: what stands at a position that is left alone follows from the tokens up to there, and what
        comes behind the end of a sequence reaches no logit before it. So a sequence passes with another one if that is
        at least as long, has the same positions replaced as far as the shorter one goes, and the same tokens up to the
        last one that is left alone there.
        """
        carried = np.where(self.keep, REPLACED, _prefixes(np.where(self.attention, self.tokens, BEHIND)))
        carried = np.where(self.attention, carried, BEHIND)
        order = np.lexsort((-np.arange(len(carried)), *carried.T[::-1]))
        of = np.arange(len(carried))
        # A sequence stands before all that continue it, and these follow without a gap: the next one tells.
        for one, following in zip(order[-2::-1], order[:0:-1], strict=True):
            n = self.lengths[one]
            if (carried[one, :n] == carried[following, :n]).all():
                of[one] = of[following]
        firsts, kind = np.unique(of, return_inverse=True)
        return Alike(firsts, kind.reshape(-1))


def _prefixes(tokens: Ints) -> Ints:
    """A number for every position ``[batch, seq]``: the same in two rows that have the same tokens up to there."""
    order = np.lexsort(tokens.T[::-1])
    rows = tokens[order]
    differs = np.zeros(tokens.shape, dtype=np.bool_)
    differs[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    found = np.empty(tokens.shape, dtype=np.int64)
    found[order] = differs.cumsum(0)
    return found


def _on_host(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
