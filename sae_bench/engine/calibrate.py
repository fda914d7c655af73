"""What is known of the activations before anything is scored: moments at each hook point on calibration documents.

Controls may read more of that text than the samples of the moments hold: :class:`CalibrationText`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from sae_bench.data.mask import inside
from sae_bench.engine.batch import Batch
from sae_bench.engine.plan import Batches, Options
from sae_bench.errors import DataError
from sae_bench.saes.calibration import Moments

SAMPLE_TOKENS = 4096
TEXT_TOKENS = 65_536  # that controls read: 4 for each of the latents of the widest decoder that is fitted
TEXT_BYTES = 1 << 30  # of their activations at once


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


class CalibrationText:
    """Activations of at most ``TEXT_TOKENS`` tokens of the sequences of ``batches``, spread evenly over them.

    Those of the pass that measures the moments are kept where they fit in ``TEXT_BYTES``; else, and where that pass is
    not made since the moments are there, the model reads the text once more for the hook points that are asked for.
    ``read`` gives the batches of that pass. Rows are those of the host, and ``device`` is where they are wanted.
    """

    def __init__(
        self, batches: Batches, options: Options, read: Callable[[Sequence[str]], Iterable[Batch]], device: torch.device
    ) -> None:
        of = [batches.tokens[i].ids for group in batches.groups for i in group]
        counts = [int(inside(ids, options.mask, options.special_ids).sum()) for ids in of]
        self._share = -(-TEXT_TOKENS // max(len(counts), 1))
        self.n_tokens = sum(min(count, self._share) for count in counts)
        self._read, self._device = read, device
        self._rows: dict[str, list[Tensor]] = {}

    def watched(self, batches: Iterable[Batch], hooks: Sequence[str]) -> Iterator[Batch]:
        """The same batches; what they hold at ``hooks`` is kept, if there is room for it."""
        rows: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        for batch in batches:
            yield batch
            spread = _spread(batch, self._share) if rows else None
            for hook, own in rows.items():
                x = batch.activations(hook)
                own.append(x[spread].cpu())
            if sum(self.n_tokens * own[0][:1].nbytes for own in rows.values() if len(own[0])) > TEXT_BYTES:
                rows = {}
        self._rows |= rows

    def pairs(self, hook_in: str, hook_out: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Activations at two hook points, of at most ``most`` tokens, in parts."""
        if not {hook_in, hook_out} <= self._rows.keys():
            self._again(sorted({hook_in, hook_out}))
        step, before = max(1, -(-self.n_tokens // max(most, 1))), 0
        for x, y in zip(self._rows[hook_in], self._rows[hook_out], strict=True):
            chosen = slice(-before % step, None, step)
            before += len(x)
            yield x[chosen].to(self._device), y[chosen].to(self._device)

    def _again(self, hooks: Sequence[str]) -> None:
        """Read the text for these hook points alone; those of other SAEs make room."""
        self._rows.clear()
        rows: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        with torch.no_grad():
            for batch in self._read(hooks):
                spread = _spread(batch, self._share)
                for hook, own in rows.items():
                    own.append(batch.activations(hook)[spread].cpu())
        self._rows = rows

    def forget(self) -> None:
        """Let go of all activations."""
        self._rows.clear()
