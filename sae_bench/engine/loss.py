"""Cross-entropy and KL from logits, a bounded number of them at a time: no second copy of a batch's logits is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_bench.engine.rest import Logits
from sae_bench.kernels.divergence import Normaliser, Scores, divergence, near_peak, normaliser, peak_place

CHUNK_ELEMENTS = 1 << 19  # 2 MiB in float32: small enough that a chunk stays in the cache between passes
ACCELERATOR_CHUNK_ELEMENTS = 1 << 22  # fewer and larger operations, still 16 MiB each


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


def clean_scores(logits: Logits, at: Tensor, targets: Tensor) -> Clean:
    """What :func:`score` compares with; ``logits``, ``at`` and ``targets`` are as there. Keeps ``logits`` itself."""
    # results have their places before the first chunk: small ones made between large ones would split the heap
    peak, total, loss = _numbers(targets, 3)
    top = torch.zeros_like(targets)
    for part, (rows,) in _chunks(at, logits):
        norm = normaliser(rows)
        peak[part], total[part] = norm
        loss[part] = _cross_entropy(rows, norm, targets[part])
        top[part] = peak_place(rows, norm.peak)
    return Clean(logits, Normaliser(peak, total), loss, top)


def score(logits: Logits, at: Tensor, targets: Tensor, clean: Clean) -> Scores:
    """Cross-entropy of ``targets``, KL(clean || logits) and agreement of every predicting position.

    ``at`` bool ``[batch, seq]``; ``targets`` ``[positions]``; ``clean`` of the same positions. Half precision is taken
    to float32 first.
    """
    loss, kl = _numbers(targets, 2)
    agrees = torch.zeros_like(targets, dtype=torch.bool)
    for part, (rows, reference) in _chunks(at, logits, clean.logits):
        norm = normaliser(rows)
        loss[part] = _cross_entropy(rows, norm, targets[part])
        of_clean = Normaliser(clean.norm.peak[part].to(rows), clean.norm.total[part])
        kl[part] = divergence(reference, of_clean, rows, norm)
        agrees[part] = rows.gather(1, clean.top[part].unsqueeze(1)).squeeze(1) >= near_peak(norm.peak.to(rows))
    return Scores(loss, kl, agrees)


def _numbers(like: Tensor, n: int) -> Tensor:
    return torch.zeros(n, *like.shape, dtype=torch.float64, device=like.device)


def _cross_entropy(rows: Tensor, norm: Normaliser, targets: Tensor) -> Tensor:
    return norm.log() - rows.gather(1, targets.unsqueeze(1)).squeeze(1).double()


def _chunks(at: Tensor, *logits: Logits) -> Iterator[tuple[slice, list[Tensor]]]:
    """Some of the positions ``at``, and their rows ``[positions, vocab]`` in each of ``logits``, not to be changed."""
    most = CHUNK_ELEMENTS if at.device.type == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
    step = max(1, most // logits[0].rows.shape[-1])
    index = [of.place[at] for of in logits]
    places = [each.tolist() for each in index]
    for start in range(0, len(places[0]), step):
        part = slice(start, min(start + step, len(places[0])))
        rows = []
        for of, each, where in zip(logits, index, places, strict=True):
            first, last = where[start], where[part.stop - 1]
            unbroken = where[part] == list(range(first, last + 1))  # most are: then nothing is copied
            rows.append(of.rows[first : last + 1] if unbroken else of.rows[each[part]])
        yield part, [array if array.dtype == torch.float64 else array.float() for array in rows]
