"""How sure a difference is: p-values, adjustment for many metrics, and intervals that resampling cannot give.

*p-value.* The expanded percentile interval of :func:`sae_bench.units.bootstrap.percentile_interval`, turned round: the
level at which it would just touch 0. Where fewer than ``TAIL`` replicates lie on the other side of 0, their share says
little and its resolution would be one replicate, too coarse for any adjustment; the tail is then that of the normal
distribution with the replicates' median and their ``TAIL``-th value from that end.

*Shares.* Where few units tell two SAEs apart, resampling knows too little about a share of 0/1 units: with none the
interval is empty, and in simulation with 5 to 10 it calls equal SAEs different up to 7 % of the time. The interval
there is made of Wilson's limits of both shares ("square and add"; Newcombe 1998, "Interval estimation for the
difference between independent proportions", method 10), and the p-value is the level at which it touches 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from sae_bench.units.bootstrap import Array, wilson

TAIL = 10  # replicates beyond 0 from which on their share is used as it is
FEW_TELLING = 20  # units that tell two shares apart: from here on resampling them holds its level
EQUAL = 1e-9  # spread of replicates, as a share of the difference, that is rounding
POWER = 0.8
_NORMAL = NormalDist()


class Proportion(NamedTuple):
    """A share of ``n`` independent 0/1 units."""

    share: float
    n: int


def p_value(value: float, replicates: Array, n_units: int) -> float | None:
    """Two-sided p-value of "the difference is 0", from ``replicates`` of a difference ``value`` over ``n_units``.

    In [0, 1]; None where half of the replicates or more are not finite. Replicates that do not vary have no spread to
    hold the difference against: the p-value is then that of the sign test in which all units agree.
    """
    finite = replicates[np.isfinite(replicates)]
    if len(finite) <= len(replicates) / 2:
        return None
    if value == 0:
        return 1.0
    ahead = np.sort(finite if value > 0 else -finite)
    if ahead[-1] - ahead[0] <= EQUAL * abs(value):
        return float(min(1.0, 2.0 ** (1 - n_units)))
    beyond = int(np.searchsorted(ahead, EQUAL * abs(value), side="right"))  # rounding can put 0 on either side
    if beyond >= TAIL or len(ahead) <= 2 * TAIL:
        z = _quantile(beyond + 1, len(ahead))
    else:
        middle, end = float(np.median(ahead)), float(ahead[TAIL - 1])
        z = _quantile(TAIL + 1, len(ahead)) * (middle / (middle - end) if middle > end else 1.0)
    return min(1.0, 2 * _t_tail(max(z, 0.0) * math.sqrt((n_units - 1) / n_units), n_units - 1))


def detectable(error: float, n_units: int) -> float:
    """The least difference that is found in ``POWER`` of all cases at the 5 % level, from its standard error.

    2.8 standard errors where there are many units (1.96 for the level, 0.84 for the power), more where t has few
    degrees of freedom: 2.9 for 40 units, 4.2 for 5.
    """
    from scipy.special import stdtrit

    level, power = (float(stdtrit(n_units - 1, q)) for q in (0.975, POWER))
    return error * math.sqrt(n_units / (n_units - 1)) * (level + power)


def _quantile(rank: int, n: int) -> float:
    return -_NORMAL.inv_cdf(min(rank, n) / (n + 1))


def _t_tail(t: float, degrees: int) -> float:
    from scipy.special import stdtr  # here, because importing scipy costs more than all of --help

    return float(stdtr(degrees, -t))


def square_and_add(first: Proportion, second: Proportion, confidence: float) -> tuple[float, float]:
    """Interval of ``second - first`` from the Wilson intervals of both shares; in [-1, 1], never empty.

    For pairs the two are the shares of all units that are 1 in one alone; their difference is that of the two shares.
    """
    (p, (p_low, p_high)), (q, (q_low, q_high)) = (
        (one.share, wilson(one.share, one.n, confidence)) for one in (first, second)
    )
    below = math.hypot(q - q_low, p_high - p)
    above = math.hypot(q_high - q, p - p_low)
    return max(-1.0, q - p - below), min(1.0, q - p + above)


def p_value_of_shares(first: Proportion, second: Proportion) -> float:
    """The level at which :func:`square_and_add` just touches 0; 1 for equal shares."""
    if first.share == second.share:
        return 1.0
    none, certain = 0.0, 8.0  # z
    for _ in range(50):
        z = (none + certain) / 2
        low, high = square_and_add(first, second, 1 - 2 * _NORMAL.cdf(-z))
        none, certain = (none, z) if low <= 0 <= high else (z, certain)
    return 2 * _NORMAL.cdf(-certain)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false one among them stays at its level, in their order.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(sorted((p, i) for i, p in enumerate(p_values))):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted
