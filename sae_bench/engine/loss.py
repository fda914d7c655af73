"""Cross-entropy and KL from logits, a bounded number of them at a time: no second copy of a batch's logits is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sae_bench.engine.rest import Logits
from sae_bench.kernels.divergence import Normaliser, Scores, divergence, near_peak, normaliser, peak_place

CHUNK_ELEMENTS = 1 << 19  # 2 MiB in float32: small enough that a chunk stays in the cache of a CPU between passes
MOST_CHUNK_ELEMENTS = 1 << 26  # 256 MiB in float32: beyond it a device gains nothing
CHUNK_COPIES = 8  # arrays of the size of a chunk in float32 that scoring makes at its peak, with room to spare
CHUNK_SHARE = 4  # a chunk and what is made of it may take this part of a device's free memory


@dataclass(frozen=True)
class Clean:
    """The clean model's logits as they came from it, with what is known of each prediction.

    norm: of each predicting position, ``[positions]``; loss: cross-entropy there, nats, float64 ``[positions]``; top:
    the most likely token there, the lowest of near-ties, int64 ``[positions]``.
    """

    logits: Logits
    norm: Normaliser
    loss: Tensor
    top: Tensor

    @property
    def unchanged(self) -> Scores:
        """What is said where nothing is replaced: the same cross-entropy, no divergence, and agreement."""
        return Scores(self.loss, torch.zeros_like(self.loss), torch.ones_like(self.loss, dtype=torch.bool))


def chunk_elements(free: int | None) -> int:
    """How many logits are scored at once where ``free`` bytes of a device are not in use (None: on a CPU).

    A power of two, so that a little more or less memory does not change how a run is cut.
    """
    if free is None:
        return CHUNK_ELEMENTS
    fitting = max(1, free // (4 * CHUNK_COPIES * CHUNK_SHARE))
    return min(MOST_CHUNK_ELEMENTS, max(CHUNK_ELEMENTS, 1 << (fitting.bit_length() - 1)))


def clean_scores(logits: Logits, at: ArrayLike, targets: Tensor, *, elements: int | None = None) -> Clean:
    """What :func:`score` compares with; the arguments are as there. Keeps ``logits`` itself."""
    # results have their places before the first chunk: small ones made between large ones would split the heap
    peak, total, loss = _numbers(targets, 3)
    top = torch.zeros_like(targets)
    for part, (rows,) in _chunks(at, elements, logits):
        norm = normaliser(rows)
        peak[part], total[part] = norm
        loss[part] = _cross_entropy(rows, norm, targets[part])
        top[part] = peak_place(rows, norm.peak)
    return Clean(logits, Normaliser(peak, total), loss, top)


def score(
    logits: Logits, at: ArrayLike, targets: Tensor, clean: Clean, *, elements: int | None = None, waits: bool = True
) -> Scores:
    """Cross-entropy of ``targets``, KL(clean || logits) and agreement of every predicting position.

    ``at`` bool ``[batch, seq]``, on the host; ``targets`` ``[positions]``; ``clean`` of the same positions. Half
    precision is taken to float32 first. ``elements`` logits at a time, by default as many as suit a CPU; ``waits``:
    whether the host may read what the device has found.
    """
    loss, kl = _numbers(targets, 2)
    agrees = torch.zeros_like(targets, dtype=torch.bool)
    for part, (rows, reference) in _chunks(at, elements, logits, clean.logits):
        norm = normaliser(rows)
        loss[part] = _cross_entropy(rows, norm, targets[part])
        of_clean = Normaliser(clean.norm.peak[part].to(rows), clean.norm.total[part])
        kl[part] = divergence(reference, of_clean, rows, norm, waits=waits)
        agrees[part] = rows.gather(1, clean.top[part].unsqueeze(1)).squeeze(1) >= near_peak(norm.peak.to(rows))
    return Scores(loss, kl, agrees)


def _numbers(like: Tensor, n: int) -> Tensor:
    return torch.zeros(n, *like.shape, dtype=torch.float64, device=like.device)


def _cross_entropy(rows: Tensor, norm: Normaliser, targets: Tensor) -> Tensor:
    return norm.log() - rows.gather(1, targets.unsqueeze(1)).squeeze(1).double()


def _chunks(at: ArrayLike, elements: int | None, *logits: Logits) -> Iterator[tuple[slice, list[Tensor]]]:
    """Some of the positions ``at``, and their rows ``[positions, vocab]`` in each of ``logits``, not to be changed."""
    step = max(1, (elements or CHUNK_ELEMENTS) // logits[0].width)
    here = np.asarray(at)
    places = [of.place[here] for of in logits]
    for start in range(0, len(places[0]), step):
        part = slice(start, min(start + step, len(places[0])))
        rows = [of.take(where[part]) for of, where in zip(logits, places, strict=True)]
        yield part, [array if array.dtype == torch.float64 else array.float() for array in rows]
