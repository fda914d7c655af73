"""KL divergence between distributions given by log probabilities."""

from __future__ import annotations

import torch
from torch import Tensor


def divergence(clean: Tensor, logp: Tensor) -> Tensor:
    """KL(clean || logp) = sum p (log p - log q) of every row of ``[rows, vocabulary]``, nats, float64 ``[rows]``.

    Both are log-softmax outputs, so confident rows stay finite.
    """
    kl = (clean - logp).mul_(clean.exp()).sum(1, dtype=torch.float64)
    if not bool(kl.isfinite().all()):  # logits of -inf (padded vocabulary): 0 times infinity counts as 0
        p = clean.exp()
        kl = torch.where(p > 0, p * (clean - logp), 0).sum(1, dtype=torch.float64)
    return kl
