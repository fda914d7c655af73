"""SAEs of about the same L0: only among them does a figure count that more active latents alone make better.

A metric says so by ``at_equal_l0`` in its definition. Two SAEs have about the same L0 where neither is more than 10 %
above the other. That is no partition (20 is close to 22, and 22 to 24, but 20 is not to 24): whoever ranks holds each
SAE against those close to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sae_bench.schema import Result
from sae_bench.show.text import number

TASK, METRIC = "sparsity", "l0"
CLOSE = 0.1  # of the lower L0
_MOST = (1 + CLOSE) * (1 + 1e-9)  # 20 and 22 are close, however 1.1 is rounded


def close(a: float, b: float) -> bool:
    """Whether two L0 are within 10 % of each other."""
    return max(a, b) <= min(a, b) * _MOST


def windows(l0s: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The places of all SAEs in the order of L0, and of each SAE where in it those begin and end that are close to it.

    An SAE is close to itself, and if it is to another, then so is that to it.
    """
    own = np.asarray(l0s, dtype=np.float64)
    order = np.argsort(own, kind="stable")
    ordered = own[order]
    begin = np.searchsorted(ordered * _MOST, own, side="left")
    end = np.searchsorted(ordered, own * _MOST, side="right")
    return order, begin, end


def on_front(l0s: Sequence[float], costs: Sequence[float], rounding: float) -> list[bool]:
    """Of each SAE whether no other has as few active latents or fewer and costs as little or less, and one of it less.

    Of equal ones both are. What differs by less than ``rounding`` of its size is equal.
    """
    l0, cost = np.asarray(l0s, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    order = np.argsort(l0, kind="stable")
    ordered, least = l0[order], np.concatenate([[np.inf], np.minimum.accumulate(cost[order])])
    slack = rounding * np.abs(cost)
    as_few = least[np.searchsorted(ordered, l0 * (1 + rounding), side="right")]
    fewer = least[np.searchsorted(ordered, l0 * (1 - rounding), side="left")]
    beaten: NDArray[np.bool_] = (as_few < cost - slack) | (fewer <= cost + slack)
    return [not one for one in beaten.tolist()]


def l0_of(results: Iterable[Result]) -> float | None:
    """The L0 of the SAE whose results these are, that on the most documents; None where it was not measured."""
    found = [
        (r.provenance.protocol.n_documents, r.metrics[METRIC].value)
        for r in results
        if r.task == TASK and METRIC in r.metrics and r.metrics[METRIC].value is not None
    ]
    return max(found)[1] if found else None


def said(names: tuple[str, str], l0s: tuple[float | None, float | None], metrics: Sequence[str]) -> str | None:
    """A sentence about two SAEs that must not be compared in ``metrics`` without it; None where they have about one L0.

    ``names`` and ``l0s`` are those of the reference and of the other; ``metrics`` are at equal L0 by definition.
    """
    if not metrics:
        return None
    which = ", ".join(metrics)
    unknown = [name for name, l0 in zip(names, l0s, strict=True) if l0 is None]
    a, b = l0s
    if a is None or b is None:
        return (
            f"the L0 of {' and '.join(unknown)} is not among these results (task {TASK}): more active latents alone "
            f"make {which} better, so these tell SAEs of the same L0 apart, and no others"
        )
    if close(a, b):
        return None
    return (
        f"{names[0]} and {names[1]} have L0 {number(a)} and {number(b)}, more than 10 % apart: more active "
        f"latents alone make {which} better, so better there at a higher L0 is no improvement, and worse at a lower L0 "
        "no loss"
    )
