"""Where the few tokens begin that are unlike all others: attention sinks, position 0, delimiters with huge norms."""

from __future__ import annotations

import math

from torch import Tensor

SHARE = 0.01  # of the tokens
MOST = 0.1  # of the tokens: a group of outliers larger than this is a part of the text and not the exception
GAP = 4.0  # in squared distance: where two neighbours differ by more, a group of outliers ends
TIE = 1e-4  # relative: neighbours that differ by less are equal up to rounding, and stay on one side


def outlier_bound(squares: Tensor) -> float:
    """The squared distance beyond which the 1 % of tokens lie that are farthest from the mean.

    ``squares`` ``[tokens]`` are squared distances from it. A group of outliers is not cut in two: where the 1 % ends
    within one, a clear gap within the first 10 % is the bound instead. It lies between two tokens whose distances
    differ by more than rounding, so that no token is on another side in another batch. Infinite where there is none.
    """
    ordered = squares.double().sort(descending=True).values
    n = len(ordered)
    first = math.ceil(SHARE * n)
    last = min(max(first, int(MOST * n)), n - 1)
    for factor, until in ((GAP, last), (1 + TIE, n - 1)):
        above, below = ordered[first - 1 : until], ordered[first : until + 1]
        gaps = (above > factor * below).nonzero().flatten() if first else above[:0]
        if len(gaps):
            i = int(gaps[0])
            return math.sqrt(float(above[i]) * float(below[i]))
    return math.inf
