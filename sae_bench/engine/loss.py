"""Cross-entropy and KL from logits, in rows of bounded size."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.kernels.divergence import divergence

CHUNK_ELEMENTS = 1 << 19  # small enough that a chunk stays in the cache between passes


def log_probabilities(logits: Tensor, at: Tensor) -> Tensor:
    """Log-softmax of the logits ``[batch, seq, vocab]`` at the positions ``at`` (bool ``[batch, seq]``).

    Returns ``[positions, vocab]`` in float32, or float64 if the logits are float64.
    """
    rows = logits[at]
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return torch.log_softmax(wide, dim=-1)


def score(logits: Tensor, at: Tensor, targets: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``targets`` and KL(clean || logits) of every predicting position, nats, float64 ``[positions]``.

    ``logits`` ``[batch, seq, vocab]``; ``at`` bool ``[batch, seq]``; ``targets`` ``[positions]``; ``clean`` the log
    probabilities of the clean model ``[positions, vocab]``. KL is from log-softmax: finite for confident logits.
    """
    where = at.nonzero()
    step = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    losses, divergences = [], []
    for start in range(0, len(where), step):
        part = slice(start, start + step)
        rows = logits[where[part, 0], where[part, 1]]
        logp = torch.log_softmax(rows if rows.dtype == torch.float64 else rows.float(), dim=-1)
        losses.append(-logp.gather(1, targets[part].unsqueeze(1)).squeeze(1).double())
        divergences.append(divergence(clean[part], logp))
    if not losses:
        nothing = torch.zeros(0, dtype=torch.float64, device=logits.device)
        return nothing, nothing
    return torch.cat(losses), torch.cat(divergences)
