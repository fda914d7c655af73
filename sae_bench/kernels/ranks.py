"""Area under the ROC curve from ranks, with what each example contributes to it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def auroc(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The share of (positive, negative) pairs that ``scores`` ``[n]`` order rightly, ties counted half.

    Also pseudo-values ``[n]``: the AUROC plus the influence of every example on it. With V the share of the other
    class that an example is on the right side of, the influence is ``n / n_class * (V - AUROC)``, from the structural
    components of DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver
    operating characteristic curves". The mean of the pseudo-values is the AUROC; their mean under bootstrap weights is
    the linearised bootstrap of it, and their standard deviation over sqrt(n) its standard error. All NaN if ``labels``
    (bool ``[n]``) are of one class. Raises ValueError for scores that are NaN.
    """
    if labels.dtype != torch.bool or bool(scores.isnan().any()):
        raise ValueError("the AUROC needs labels of type bool and scores of which none is NaN")
    n, n_positive = len(labels), int(labels.count_nonzero())
    n_negative = n - n_positive
    if n_positive == 0 or n_negative == 0:
        return math.nan, torch.full((n,), math.nan, dtype=torch.float64, device=scores.device)
    distinct, place = torch.unique(scores, return_inverse=True)
    positives = torch.bincount(place[labels], minlength=len(distinct)).double()
    negatives = torch.bincount(place[~labels], minlength=len(distinct)).double()
    below = (negatives.cumsum(0) - negatives / 2) / n_negative
    above = (n_positive - positives.cumsum(0) + positives / 2) / n_positive
    value = float(positives @ below) / n_positive
    right = torch.where(labels, below[place], above[place])
    return value, value + (right - value) * n / torch.where(labels, n_positive, n_negative)
