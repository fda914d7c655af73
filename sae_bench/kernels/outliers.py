"""The few tokens and channels that are unlike all others: attention sinks, position 0, delimiters, outlier channels."""

from __future__ import annotations

import math

from torch import Tensor

SHARE = 0.01  # of the tokens
MOST = 0.1  # of the tokens: a group of outliers larger than this is a part of the text and not the exception
GAP = 4.0  # in squared distance: where two neighbours differ by more, a group of outliers ends
HALF = 0.5  # of the variance: who holds more decides every figure of it
CHANNELS = 3  # of the residual stream: models have a handful whose variance is many times that of all others
TIE = 1e-4  # relative: neighbours that differ by less are equal up to rounding, and stay on one side


def outlier_bound(squares: Tensor) -> float:
    """The squared distance beyond which the 1 % of tokens lie that are farthest from the mean.

    ``squares`` ``[tokens]`` are squared distances from it. Where more than 1 % are outliers, so that half of what the
    1 % leave would again be held by a few, the bound is the gap behind all of these, if that lies within the first
    10 %. A bound lies between two tokens whose distances differ by more than rounding, so that no token is on another
    side in another batch. Infinite where there is none.
    """
    ordered = squares.double().sort(descending=True).values
    n = len(ordered)
    first = math.ceil(SHARE * n)
    group = _group(ordered, first)
    for i in range(first if group is None else group, n):
        above, below = float(ordered[i - 1]), float(ordered[i])
        if above > (1 + TIE) * below:
            return math.sqrt(above * below)
    return math.inf


def top_channels(covariance: Tensor) -> Tensor:
    """Int64 ``[3]``: the channels of the largest variance, in their own order; of equal ones the first.

    ``covariance`` is ``[d, d]``; fewer than 3 channels are all of them. Nothing waits for the device.
    """
    largest: Tensor = covariance.diagonal().argsort(descending=True, stable=True)[:CHANNELS]
    return largest.sort().values


def _group(ordered: Tensor, first: int) -> int | None:
    """How many tokens belong to a group of outliers larger than the ``first``; None where there is no such group."""
    last = min(int(MOST * len(ordered)), len(ordered) - 1)
    gaps = (ordered[first:last] > GAP * ordered[first + 1 : last + 1]).nonzero().flatten()
    if not len(gaps):
        return None
    end = first + int(gaps[0]) + 1
    return end if float(ordered[first:end].sum()) > HALF * float(ordered[first:].sum()) else None
