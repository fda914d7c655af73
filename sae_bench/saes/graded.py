"""Controls that have an L0 asked for, which need be no whole number, and share one dictionary with those of other L0.

What a control of one L0 selects is a part of what one of a higher L0 selects from the same dictionary. So the run
encodes with the one that selects most (:attr:`Graded.widest`), and each takes its own part of those codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.randomness import generator
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import CoderInfo, Codes, SparseCoder, TokenScale

ROWS = 4096  # tokens that are in float64 at once
WAVES = 8  # of the sawtooth, a standard deviation: with so many every density that is smooth gives equal shares

Keeps = Callable[[Codes, Tensor], Tensor]  # codes of [tokens, d_in] activations -> bool [entries]


@dataclass
class Family:
    """Controls that differ in how many latents of one dictionary they select; ``widest`` is what selects most."""

    widest: LinearCoder | None = None

    def join(self, base: LinearCoder, more: Callable[[LinearCoder, LinearCoder], bool]) -> None:
        """Take in what a member selects by; ``more(a, b)``: whether a selects more than b."""
        if self.widest is None or more(base, self.widest):
            self.widest = base


class Turns:
    """Which tokens get one latent more than others: a share of them that their company and their order do not change.

    A sawtooth of what a token measures in one random direction, in units of what is usual there: equal tokens are
    treated alike, and rounding moves a token from one side to the other as seldom as it moves any threshold.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, seed: int) -> None:
        width = len(mean)
        draw = generator(seed, "which tokens get one latent more")
        direction = torch.randn(width, generator=draw, dtype=torch.float64)
        direction = (direction / direction.norm()).to(mean.device)
        spread = float((direction @ covariance.double() @ direction).clamp(min=0).sqrt())
        self._direction = direction * (WAVES / spread if spread > 0 else 0)
        self._offset = float(mean.double() @ self._direction)

    def __call__(self, x: Tensor) -> Tensor:
        """A number in [0, 1) for each of ``x`` ``[tokens, d]``, float64 ``[tokens]``."""
        parts = [part.double() @ self._direction for part in torch.split(x, ROWS)]
        z = torch.cat(parts) - self._offset
        return z - z.floor()


@dataclass(frozen=True)
class Most:
    """Keeps the largest entries of every token, ``l0`` on average: the whole number below it, or one more.

    ``in_order``: the first latents instead of the largest entries, for components that are sorted.
    """

    l0: float
    turns: Turns
    in_order: bool = False

    def __call__(self, codes: Codes, x: Tensor) -> Tensor:
        """Bool ``[entries]``."""
        whole = math.floor(self.l0)
        count: Tensor | int = whole
        token = codes.token_of_entry()
        if self.l0 > whole:
            count = (whole + (self.turns(x) < self.l0 - whole).long())[token]
        return (codes.indices if self.in_order else ranks(codes, token)) < count


def ranks(codes: Codes, token: Tensor) -> Tensor:
    """Of every entry the number of larger ones of its token, int64 ``[entries]``; of equals the lower latent is first.

    ``token`` is that of every entry.
    """
    order = codes.values.abs().argsort(descending=True, stable=True)
    order = order[token[order].argsort(stable=True)]
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order), device=order.device)
    return found - codes.indptr[token]


class Graded:
    """What ``keeps`` leaves of the codes of ``base``, which selects no fewer; decoded as ``base`` decodes."""

    def __init__(self, info: CoderInfo, base: SparseCoder, keeps: Keeps, family: Family | None = None) -> None:
        self.info, self.base, self._keeps, self._family = info, base, keeps, family

    @property
    def widest(self) -> SparseCoder:
        """The coder of whose codes :meth:`cut` takes a part: for all that share it the same, so that it runs once."""
        return self._family.widest if self._family and self._family.widest is not None else self.base

    def cut(self, codes: Codes, x: Tensor) -> Codes:
        """What is this coder's own of what :attr:`widest`, or ``base``, makes of ``x`` ``[tokens, d_in]``."""
        return codes.only(self._keeps(codes, x))

    def encode(self, x: Tensor) -> Codes:
        """Latent activations of ``x`` ``[tokens, d_in]``."""
        return self.cut(self.base.encode(x), x)

    def decode(self, codes: Codes, x: Tensor | TokenScale | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``."""
        return self.base.decode(codes, x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]``."""
        return self.base.decoder_rows(latents)


class GradedLinear(Graded):
    """The same of a linear coder, which has pre-activations."""

    base: LinearCoder

    def over(self, base: LinearCoder) -> GradedLinear:
        """The same part of the codes of a coder with the same encoder, another decoder."""
        return GradedLinear(base.info, base, self._keeps, self._family)

    def pre_activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """What the latents ``start:stop`` see before any is selected ``[tokens, stop - start]``."""
        return self.base.pre_activations(x, start, stop)


def may_share(base: LinearCoder) -> bool:
    """Whether another of its family would put tokens into the same chunks, without which bits could differ."""
    return (base.rule.k or 0) <= topk.TILE_LATENTS
