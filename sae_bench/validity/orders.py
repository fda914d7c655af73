"""In which order a metric puts the SAEs of a ladder, and how far that is beyond noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST = 5  # SAEs for a correlation
EQUAL = 1e-6  # of the largest figure: what differs by less is rounding, of which every machine has its own
MOST = 1000.0  # a signal beyond it is said to be this


class Signal(NamedTuple):
    """Standard deviation over SAEs divided by that of noise, with its 95 % interval."""

    value: float
    low: float
    high: float


def ranks(values: Array) -> Array:
    """Ranks ``[n]`` from 1, of equal ones their mean; what differs from the next by rounding is equal."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    apart = np.diff(ordered) > EQUAL * np.abs(ordered).max()
    group = np.concatenate([[0], np.cumsum(apart)])
    place = np.arange(1.0, len(values) + 1)
    mean = np.bincount(group, place) / np.bincount(group)
    found = np.empty(len(values))
    found[order] = mean[group]
    return found


def spearman(values: Array, truth: Array, fewest: int = FEWEST) -> float | None:
    """Spearman's correlation over the SAEs that have both; None of too few, or where all are equally good.

    A metric that is the same for all follows no truth: 0.
    """
    there = np.isfinite(values) & np.isfinite(truth)
    if there.sum() < fewest:
        return None
    a, b = ranks(values[there]), ranks(truth[there])
    a, b = a - a.mean(), b - b.mean()
    if not b.any():
        return None
    return float((a @ b) / math.sqrt((a @ a) * (b @ b))) if a.any() else 0.0


def signal(values: Array) -> Signal | None:
    """Of figures ``[draws, SAEs]``; SAEs without a figure in some draw are left out. None of too few of either.

    A draw is a world of its own, and may shift all of its figures; that confuses no order and is no noise. So figures
    are a sum of a part of the draw, one of the SAE, and noise, whose variance is the mean square of what is left with
    (draws - 1)(SAEs - 1) degrees of freedom, pooled over SAEs. From the mean square between SAEs that of the noise is
    taken off. The SAEs are given, the noise is drawn: the interval is that of the noncentral F distribution, in
    Patnaik's approximation (1949).
    """
    whole = values[:, np.isfinite(values).all(axis=0)]
    draws, n = whole.shape
    if draws < 2 or n < FEWEST:
        return None
    by_sae = whole.mean(axis=0)
    left = whole - by_sae - (whole.mean(axis=1, keepdims=True) - whole.mean())
    between, freedom = draws * float(by_sae.var(ddof=1)), (draws - 1) * (n - 1)
    noise = float((left**2).sum()) / freedom
    if between <= 0:
        return Signal(0.0, 0.0, 0.0)
    if noise <= between / (draws * MOST**2):
        return Signal(MOST, MOST, MOST)
    f = between / noise
    low, high = (_bound(f, n - 1, freedom, draws, level) for level in (0.975, 0.025))
    value = math.sqrt(max(0.0, f - 1) / draws)
    return Signal(min(value, MOST), min(low, value, MOST), min(max(high, value), MOST))


def _bound(f: float, k: int, freedom: int, draws: int, level: float) -> float:
    """The signal at which a share ``level`` of samples has an F below ``f``; 0 where there is none."""
    from scipy.special import fdtr

    def below(one: float) -> float:
        shift = draws * one**2  # noncentrality over k
        same = k * (1 + shift) ** 2 / (1 + 2 * shift)
        return float(fdtr(same, freedom, f / (1 + shift)))

    if below(0.0) <= level:
        return 0.0
    least, most = 0.0, 2 * MOST
    for _ in range(60):
        middle = (least + most) / 2
        least, most = (middle, most) if below(middle) > level else (least, middle)
    return least
