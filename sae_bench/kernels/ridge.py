"""Least squares on sparse codes: the decoder that explains targets best, without an array ``[tokens, latents]``.

What is minimised over decoder D and bias b is the sum of ``|y - b - f D|^2`` over tokens plus ``ridge * |D|^2``, solved
for all columns of D at once by conjugate gradients. Codes are kept in blocks of tokens, by token and by latent, so that
both products of a step read them as sums over rows; products of a block are float32, and what is summed over blocks,
and every vector of the method, is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 0.01  # of the mean variance of a latent; from 1e-5 to 0.1 the explained variance was seen to be the same
CLOSE = 0.01  # of the right side: the residual at which the steps end; further ones were seen to explain 0.3 % more
MOST_STEPS = 40
ELEMENTS = 1 << 23  # of a decoder that is solved for at once: wider ones some columns after the other


class _Block(NamedTuple):
    """Codes of some tokens, by token and by latent, int32; ``of`` are the latents of the rows ``by_latent``."""

    by_token: tuple[Tensor, Tensor, Tensor]  # pointers without the last, latents, values
    by_latent: tuple[Tensor, Tensor, Tensor]  # likewise: tokens


class Ridge:
    """The sums and codes of which the decoder of ``n_latents`` latents is made; ``around`` is about where targets lie.

    ``around`` ``[d_out]`` is subtracted from targets first, which keeps their sums exact.
    """

    def __init__(self, n_latents: int, around: Tensor) -> None:
        self.n_tokens = 0
        self._n, self._around = n_latents, around.double()
        self._blocks: list[_Block] = []
        zeros = self._around.new_zeros
        self._cross, self._targets = zeros(n_latents, len(around)), zeros(len(around))
        self._codes, self._squares = zeros(n_latents), zeros(n_latents)

    def add(self, indptr: Tensor, indices: Tensor, values: Tensor, targets: Tensor) -> None:
        """Take in the CSR codes of some tokens, and what is to be explained of them ``[tokens, d_out]``."""
        y = (targets.double() - self._around).float()
        values, n = values.float(), len(indptr) - 1
        order = indices.argsort(stable=True)
        token = torch.repeat_interleave(torch.arange(n, device=indices.device), indptr.diff())
        counts = torch.bincount(indices, minlength=self._n)
        by_latent = (counts.cumsum(0) - counts).int(), token[order].int(), values[order]
        block = _Block((indptr[:-1].int(), indices.int(), values), by_latent)
        self._blocks.append(block)
        self.n_tokens += n
        self._targets += y.double().sum(0)
        self._cross += _product(block.by_latent, y)
        self._codes.index_add_(0, indices, values.double())
        self._squares.index_add_(0, indices, values.double().square())

    def solve(self) -> tuple[Tensor, Tensor]:
        """Decoder ``[n_latents, d_out]`` and bias ``[d_out]``, float64; rows of latents that never fire are 0."""
        n = max(self.n_tokens, 1)
        codes, targets = self._codes / n, self._targets / n
        spread = (self._squares - n * codes.square()).clamp(min=0)
        alive = self._squares > 0
        ridge = RIDGE * float(spread[alive].mean()) if bool(alive.any()) else 1.0
        right = self._cross - n * codes.outer(targets)
        scale = (1 / (spread + ridge + torch.finfo(spread.dtype).tiny)).unsqueeze(1)
        columns = right.split(max(1, ELEMENTS // max(self._n, 1)), 1)  # type: ignore[no-untyped-call]
        decoder = torch.cat([self._steps(some, scale, codes, ridge) for some in columns], 1)
        return decoder, self._around + targets - codes @ decoder

    def _steps(self, right: Tensor, scale: Tensor, codes: Tensor, ridge: float) -> Tensor:
        """Conjugate gradients, preconditioned by the diagonal, each column of ``right`` by itself."""
        found, rest = torch.zeros_like(right), right.clone()
        scaled = scale * rest
        step, length = scaled.clone(), (rest * scaled).sum(0)
        enough = CLOSE * float(right.norm())
        for _ in range(MOST_STEPS):
            if float(rest.norm()) <= enough:
                break
            moved = self._moved(step, codes, ridge)
            far = _quotient(length, (step * moved).sum(0))
            found += far * step
            rest -= far * moved
            scaled = scale * rest
            before, length = length, (rest * scaled).sum(0)
            step = scaled + _quotient(length, before) * step
        return found

    def _moved(self, decoder: Tensor, codes: Tensor, ridge: float) -> Tensor:
        """The matrix of the normal equations times a decoder."""
        shrunk = decoder.float()
        moved = ridge * decoder - self.n_tokens * codes.outer(codes @ decoder)
        for block in self._blocks:
            moved += _product(block.by_latent, _product(block.by_token, shrunk))
        return moved


def _product(rows: tuple[Tensor, Tensor, Tensor], dense: Tensor) -> Tensor:
    """Sparse rows times ``dense``."""
    pointers, columns, values = rows
    if len(columns) == 0:
        return dense.new_zeros(len(pointers), dense.shape[1])
    return torch.nn.functional.embedding_bag(columns, dense, pointers, mode="sum", per_sample_weights=values)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, 0 where nothing is left to explain."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
