"""Order, choice and the area under the ROC curve where rounding has no say.

Equal activations come out of batches of another shape with differences of about 1e-7 of their size, and whatever ranks
them would break such ties by chance. So values whose gap is below ``TOLERANCE`` of the larger one are one cluster
(single linkage on the sorted values), and a cluster has one rank. Of a choice among near-ties the lowest index wins.
Zero is a cluster of its own: no relative gap reaches across it.

A chain of gaps that spans more than ``SPAN`` is no tie but a dense column, in which neighbours lie that near because
there are many of them: it is ranked as it is. Of ties inside one only equal numbers are left, which is why labelled
texts are measured once for all that begin alike (:mod:`sae_bench.streams.prefixes`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-6  # of the larger of two values
SPAN = 10 * TOLERANCE  # of a cluster; the rounding of float32 was seen to spread equal values over as much
_CANDIDATES = 256  # looked at first for a few of the largest


def exceeds(larger: Any, smaller: Any) -> Any:
    """Whether ``larger`` is above ``smaller`` by more than rounding: numbers, arrays or tensors of 0 or more."""
    return larger * (1 - TOLERANCE) > smaller


def positive(logits: Tensor) -> Tensor:
    """Where a probe says "yes": logits above 0 by more than rounding. Where it knows nothing it says no."""
    return logits > TOLERANCE


def clusters(values: Tensor) -> Tensor:
    """The cluster of each of ``values`` ``[n]``, int64 from 0, from the lowest up. Raises ValueError for NaN."""
    ascending, order = values.double().sort()
    return torch.empty_like(order).scatter_(0, order, _numbers(ascending))


def _numbers(ascending: Tensor) -> Tensor:
    """:func:`clusters` of values in ascending order."""
    if not len(ascending):
        return ascending.long()
    ends = ascending[[0, -1]].tolist()
    if math.isnan(ends[1]):  # a sort puts NaN last
        raise ValueError("values of which some is NaN have no order")
    low, high = ascending[:-1], ascending[1:]
    gap = high - low
    begins = gap > TOLERANCE * torch.maximum(-low, high)  # which is the larger magnitude, since low <= high
    if math.inf in (-ends[0], ends[1]):
        begins |= gap == math.inf  # beside infinity every gap would be small
    near = (gap > 0).logical_and_(~begins)
    if bool(near.any()):
        begins |= near & _dense(ascending, begins)
    return torch.cat([begins.new_zeros(1), begins]).cumsum(0)


def _dense(ascending: Tensor, begins: Tensor) -> Tensor:
    """Bool ``[n - 1]``: which of the values but the first lie in a cluster that spans too much to be a tie."""
    start = torch.cat([begins.new_ones(1), begins]).nonzero().squeeze(1)
    lengths = torch.cat([start, start.new_tensor([len(ascending)])]).diff()
    first, last = ascending[start], ascending[start + lengths - 1]
    return (last - first > SPAN * torch.maximum(-first, last)).repeat_interleave(lengths)[1:]


def settled(values: Tensor) -> Tensor:
    """``values`` ``[n]`` with the lowest value of its cluster in place of each, so that near-ties are equal."""
    place = clusters(values)
    lowest = values.new_full((len(values),), math.inf).scatter_reduce_(0, place, values, "amin")
    return lowest[place]


def top(values: Tensor, k: int | None = None) -> Tensor:
    """Places of the ``k`` largest of ``values`` ``[n]`` (None: of all), from the largest; near-ties by place.

    Raises ValueError for NaN.
    """
    n = len(values)
    k = n if k is None else min(k, n)
    looked = n if n <= _CANDIDATES or 4 * k > n else max(_CANDIDATES, 4 * k)
    while True:
        at = torch.arange(n, device=values.device) if looked == n else values.topk(looked).indices.sort().values
        place = clusters(values[at])
        best = at[place.argsort(descending=True, stable=True)[:k]]
        # a cluster that holds the last one chosen and the last one looked at may go on behind it
        if looked == n or not k or int(place.sort(descending=True).values[k - 1]) > 0:
            return best
        looked = min(n, 8 * looked)


def lowest(values: Tensor) -> int:
    """The place of the smallest of ``values`` ``[n]``, the first of near-ties."""
    return int(top(-values, 1)[0])


def auroc(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The share of (positive, negative) pairs that ``scores`` ``[n]`` order rightly, ties counted half.

    Scores in one of the :func:`clusters` are ties. Also pseudo-values ``[n]``: the AUROC plus the influence of every
    example on it. With V the share of the other class that an example is on the right side of, the influence is
    ``n / n_class * (V - AUROC)``, from the structural components of DeLong, DeLong and Clarke-Pearson 1988, "Comparing
    the areas under two or more correlated receiver operating characteristic curves". The mean of the pseudo-values is
    the AUROC; their mean under bootstrap weights is the linearised bootstrap of it, and their standard deviation over
    sqrt(n) its standard error. All NaN if ``labels`` (bool ``[n]``) are of one class. Raises ValueError for scores that
    are NaN.
    """
    if labels.dtype != torch.bool:
        raise ValueError(f"the AUROC needs labels of type bool, and these are {labels.dtype}")
    place = clusters(scores)
    n, n_positive = len(labels), int(labels.count_nonzero())
    n_negative = n - n_positive
    if n_positive == 0 or n_negative == 0:
        return math.nan, torch.full((n,), math.nan, dtype=torch.float64, device=scores.device)
    everyone = torch.bincount(place)
    positives = torch.bincount(place[labels], minlength=len(everyone))
    negatives = everyone - positives
    # twice the number of examples of the other class, so that sums are whole and their order changes nothing
    below, above = 2 * negatives.cumsum(0) - negatives, 2 * n_positive - 2 * positives.cumsum(0) + positives
    value = int(positives @ below) / (2 * n_positive * n_negative)
    of_positive = value + (below.double() / (2 * n_negative) - value) * n / n_positive
    of_negative = value + (above.double() / (2 * n_positive) - value) * n / n_negative
    return value, torch.where(labels, of_positive[place], of_negative[place])


def aurocs(scores: Tensor, labels: Tensor) -> Tensor:
    """The AUROC ``[R]`` of each row of finite ``scores`` ``[R, n]``, as of :func:`auroc`; both classes are there."""
    ascending, order = scores.double().sort(1)
    gap = ascending.diff(dim=1)
    begins = gap > TOLERANCE * torch.maximum(-ascending[:, :-1], ascending[:, 1:])
    if bool(((gap > 0) & ~begins).any()):
        first, last = _ends(begins)
        low, high = ascending.gather(1, first), ascending.gather(1, last)
        dense = high - low > SPAN * torch.maximum(-low, high)
        begins |= (gap > 0) & dense[:, 1:] & dense[:, :-1]
    first, last = _ends(begins)
    positives = labels[order].double()
    negatives = (1 - positives).cumsum(1)
    before = torch.where(first > 0, negatives.gather(1, (first - 1).clamp(min=0)), 0.0)
    pairs = (positives * (before + negatives.gather(1, last))).sum(1) / 2
    return pairs / (positives.sum(1) * negatives[:, -1])


def _ends(begins: Tensor) -> tuple[Tensor, Tensor]:
    """The places ``[R, n]`` of the first and the last member of everybody's cluster, from where clusters begin."""
    edge = begins.new_ones(len(begins), 1)
    place = torch.arange(begins.shape[1] + 1, device=begins.device).expand(len(begins), -1)
    first = torch.where(torch.cat([edge, begins], 1), place, 0).cummax(1).values
    last = torch.where(torch.cat([begins, edge], 1), place, begins.shape[1]).flip(1).cummin(1).values.flip(1)
    return first, last
