"""FVU and L0 of a coder on given activations, in two halves of the documents so that luck in one does not decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_bench.engine.workspace import Entry, guarded
from sae_bench.kernels.outliers import outlier_bound
from sae_bench.metrics.reconstruction import CONSTANT
from sae_bench.saes.decoding import decode
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import SparseCoder
from sae_bench.tasks.reconstruction import MOST_OF_IT

DENSITY_WEIGHT = 0.4  # worth of a halved L0 in halvings of FVU: healthy SAEs trade about 0.35 for 1 on average
TILE = 1 << 14  # latents of which pre-activations are held at once
MOST_FVU = 0.7  # an explanation of an SAE must leave less unexplained than this
L0_VARIES = 1.5  # factor by which L0 on one text may differ from that on another
HEALTHY_FACTOR = 1.25  # L1 penalties shrink reconstructions by up to this factor
LEAST_L0 = 0.5  # an SAE with fewer active latents than this explains by its bias alone

Half = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """Sums over both halves of the compared tokens, float64.

    ``error`` sum of squared errors, ``variance`` of squared distances of the target from its mean over both halves,
    ``active`` number of active latents, ``tokens`` of tokens; ``xy`` and ``xx`` products of reconstruction and target,
    and of the reconstruction with itself, ``yy`` of the target.
    """

    error: Half
    variance: Half
    active: Half
    tokens: Half
    xy: Half
    xx: Half
    yy: Half

    @property
    def fvu(self) -> float:
        """Share of the variance that is not explained, at least 0; NaN where the target does not vary."""
        return _ratio(sum(self.error), sum(self.variance), CONSTANT * sum(self.yy))

    @property
    def l0(self) -> float:
        """Active latents of a token."""
        return _ratio(sum(self.active), sum(self.tokens))

    @property
    def slope(self) -> float:
        """What the reconstruction should be multiplied with to be nearest to its target; 1 when it is calibrated."""
        return _ratio(sum(self.xy), sum(self.xx))

    @property
    def sloped(self) -> Score:
        """The score if the reconstruction were multiplied with the slope of the other half of the documents."""
        slopes = [_ratio(self.xy[i], self.xx[i]) for i in (1, 0)]
        halves = zip(slopes, self.yy, self.xy, self.xx, strict=True)
        first, second = (max(yy - 2 * s * xy + s * s * xx, 0.0) for s, yy, xy, xx in halves)
        return Score((first, second), self.variance, self.active, self.tokens, self.xy, self.xx, self.yy)

    def cost(self, half: int, promised_l0: float | None) -> float:
        """What is to be small: log FVU and the log of L0; and L0's distance from a promised one, beyond a factor."""
        fvu = _ratio(self.error[half], self.variance[half], CONSTANT * self.yy[half])
        l0 = math.log(max(_ratio(self.active[half], self.tokens[half]), LEAST_L0))
        off = 0.0 if promised_l0 is None else max(0.0, abs(l0 - math.log(promised_l0)) - math.log(L0_VARIES))
        return math.log(max(fvu, 1e-12)) + DENSITY_WEIGHT * (l0 + off)

    def gain(self, other: Score, promised_l0: float | None) -> float:
        """By how much the cost falls if ``other`` were true, in the half where it falls less."""
        costs = [self.cost(half, promised_l0) - other.cost(half, promised_l0) for half in (0, 1) if self.tokens[half]]
        return min((cost for cost in costs if not math.isnan(cost)), default=math.nan)


def score(
    entry: Entry, coder: SparseCoder, x: Tensor, y: Tensor, half: Tensor, undo: Callable[[Tensor], Tensor] | None = None
) -> Score:
    """How ``coder`` reconstructs ``y`` ``[tokens, d_out]`` from ``x`` ``[tokens, d_in]``.

    ``half`` int64 ``[tokens]`` (0 or 1) is the half of each token; ``undo`` is applied to the reconstruction. Raises
    CoderFailure, under the name of ``entry``.
    """
    codes = guarded(entry, lambda: coder.encode(x))
    y_hat = guarded(entry, lambda: decode(coder, codes, x)).detach().double()
    if undo is not None:
        y_hat = undo(y_hat)
    target = y.double()
    centred = target - target.mean(0)
    return Score(
        error=_halves((target - y_hat).square().sum(1), half),
        variance=_halves(centred.square().sum(1), half),
        active=_halves(codes.counts().double(), half),
        tokens=_halves(torch.ones_like(half, dtype=torch.float64), half),
        xy=_halves((target * y_hat).sum(1), half),
        xx=_halves(y_hat.square().sum(1), half),
        yy=_halves(target.square().sum(1), half),
    )


def ordinary(y: Tensor) -> Tensor:
    """Bool ``[tokens]``: not among the few whose activations ``[tokens, d]`` hold more than half of the variance.

    All, where no few tokens do.
    """
    squares = (y.double() - y.double().mean(0)).square().sum(1)
    far = squares > outlier_bound(squares)
    return ~far if float(squares[far].sum()) > MOST_OF_IT * float(squares.sum()) else torch.ones_like(far)


def threshold_for(coder: LinearCoder, x: Tensor, l0: float) -> float | None:
    """The one threshold of all latents over which ``l0`` of a token's pre-activations lie on average.

    ``x`` ``[tokens, d_in]``. None where so many are not positive, or all lie over it.
    """
    wanted = round(l0 * len(x))
    if not 0 < wanted < len(x) * coder.info.n_latents:
        return None
    best = x.new_zeros(0, dtype=coder.dtype)
    for start in range(0, coder.info.n_latents, TILE):
        tile = coder.pre_activations(x, start, min(start + TILE, coder.info.n_latents)).flatten()
        best = torch.cat([best, tile]).topk(min(wanted + 1, len(best) + len(tile))).values
    value = float((best[-2] + best[-1]) / 2)
    return value if value > 0 else None


def _halves(values: Tensor, half: Tensor) -> Half:
    return float(values[half == 0].sum()), float(values[half == 1].sum())


def _ratio(a: float, b: float, rounding: float = 0.0) -> float:
    """A quotient, NaN where its denominator is nothing but rounding."""
    return a / b if b > rounding else math.nan
