"""What normalises rows of logits, and the KL divergence between them, without a normalised copy of either.

Only differences of logits are multiplied and summed, so rounding grows with how far two rows differ and not with how
large logits are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels.ranks import TOLERANCE

_AT_ONCE = 64  # terms that are summed in the logits' own precision before float64 takes over: 4 times as fast on a CPU


class Normaliser(NamedTuple):
    """Of every row: ``peak`` ``[rows]``, its largest logit, and ``total``, the sum of exp(logit - peak), in float64."""

    peak: Tensor
    total: Tensor

    def log(self) -> Tensor:
        """The logarithm of the sum of exp(logit), float64 ``[rows]``."""
        return self.peak.double() + self.total.log()


class Scores(NamedTuple):
    """Of every prediction ``[P]``: cross-entropy and KL(clean || replaced), nats, float64, and agreement, bool.

    ``agrees``: the clean model's most likely token (the lowest of near-ties) has the highest logit here too.
    """

    ce: Tensor
    kl: Tensor
    agrees: Tensor


def normaliser(logits: Tensor) -> Normaliser:
    """What turns rows of logits ``[rows, vocabulary]``, float32 or float64, into probabilities.

    NaN for a row that has none: with a NaN, with plus infinity, or all minus infinity.
    """
    peak = logits.amax(1)
    return Normaliser(peak, _sums((logits - peak.unsqueeze(1)).exp_()))


def peak_place(logits: Tensor, peak: Tensor) -> Tensor:
    """Where each row of ``[rows, vocabulary]`` first comes near its ``peak`` (:func:`near_peak`), int64 ``[rows]``.

    Blocks are looked through before places: an argmax over whole rows takes ten times as long as their maxima.
    """
    least = near_peak(peak).unsqueeze(1)
    slab = max(1, logits.shape[1] // _AT_ONCE)
    tail = logits.shape[1] % slab
    body = logits[:, : logits.shape[1] - tail].reshape(len(logits), -1, slab)
    has = body.amax(2) >= least
    block = has.byte().argmax(1)
    own = body[torch.arange(len(logits), device=logits.device), block] >= least
    place = block * slab + own.byte().argmax(1)
    if not tail:
        return place
    last = logits.shape[1] - tail + (logits[:, -tail:] >= least).byte().argmax(1)
    return torch.where(has.any(1), place, last)


def near_peak(peak: Tensor) -> Tensor:
    """What a logit must reach to be the largest but for rounding, where the largest is ``peak`` ``[rows]``."""
    return torch.where(peak.isfinite(), peak - TOLERANCE * peak.abs(), peak)


def divergence(
    clean: Tensor, of_clean: Normaliser, logits: Tensor, of_logits: Normaliser, *, waits: bool = True
) -> Tensor:
    """KL(clean || logits) = sum p (log p - log q) of every row of ``[rows, vocabulary]``, nats, float64 ``[rows]``.

    Finite for confident rows; infinite where only ``logits`` holds minus infinity; NaN where either row has no
    normaliser. Without ``waits`` the host does not look at what was found: padding costs a pass over all rows then.
    """
    weights = (clean - of_clean.peak.unsqueeze(1)).exp_()
    shift = (of_clean.peak.double() - of_logits.peak.double()) + (of_clean.total / of_logits.total).log()
    if waits:
        kl = _sums((clean - logits).mul_(weights)) / of_clean.total - shift
        if bool(kl.isfinite().all()):
            return kl
    terms = (clean - logits).mul_(weights).masked_fill_(weights == 0, 0)  # logits of -inf: 0 times infinity counts as 0
    return _sums(terms) / of_clean.total - shift


def _sums(x: Tensor) -> Tensor:
    """Sums of rows, float64 ``[rows]``."""
    if x.dtype == torch.float64:
        return x.sum(1)
    slab = x.shape[1] // _AT_ONCE
    body = x[:, : slab * _AT_ONCE].reshape(len(x), _AT_ONCE, slab).sum(1)
    return body.sum(1, dtype=torch.float64) + x[:, slab * _AT_ONCE :].sum(1, dtype=torch.float64)
