"""What is known of the activations before anything is scored: moments at each hook point on calibration documents."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sae_bench.engine.batch import Batch
from sae_bench.errors import DataError
from sae_bench.saes.controls import Moments

SAMPLE_TOKENS = 4096


def calibrate(batches: Iterable[Batch], hooks: tuple[str, ...], n_sequences: int) -> dict[str, Moments]:
    """Moments at each of ``hooks`` over the tokens inside the mask; a sample spread evenly over the sequences."""
    a_sequence = -(-SAMPLE_TOKENS // max(n_sequences, 1))
    sums: dict[str, Tensor] = {}
    products: dict[str, Tensor] = {}
    samples: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    n_tokens = 0
    for batch in batches:
        spread = _spread(batch, a_sequence)
        n_tokens += int(batch.kept.sum())
        for hook in hooks:
            x = batch.activations(hook)
            kept = x[batch.kept].double()
            sums[hook] = sums.get(hook, 0) + kept.sum(0)
            products[hook] = products.get(hook, 0) + kept.T @ kept
            samples[hook].append(x[spread])
    if n_tokens < 2:
        raise DataError("the calibration documents hold fewer than 2 tokens inside the mask; give more text")
    return {hook: _moments(sums[hook], products[hook], samples[hook], n_tokens) for hook in hooks}


def _moments(sums: Tensor, products: Tensor, samples: list[Tensor], n_tokens: int) -> Moments:
    mean = sums / n_tokens
    covariance = products / n_tokens - mean.outer(mean)
    rms = float((products.diagonal().sum() / n_tokens).sqrt())
    sample = torch.cat(samples)
    fewer = sample[:: -(-len(sample) // SAMPLE_TOKENS)].contiguous()  # as it comes back from a file
    return Moments(mean, covariance, fewer, rms, n_tokens)


def _spread(batch: Batch, a_sequence: int) -> Tensor:
    """Bool ``[T]``: up to ``a_sequence`` kept tokens of every sequence, from the middles of as many equal stretches.

    Not from their beginnings: the first tokens of a text are unlike all others, and would be a fifth of five.
    """
    rank = batch.keep.long().cumsum(1) - 1
    count = batch.keep.sum(1, keepdim=True).clamp_min(1)
    share = count.clamp_max(a_sequence)
    middles = (2 * share * (rank + 1) - count + 2 * count - 1) // (2 * count)  # how many lie at this token or before it
    before = (2 * share * rank - count + 2 * count - 1) // (2 * count)
    chosen = batch.keep & (middles != before)
    return chosen[batch.attention]
