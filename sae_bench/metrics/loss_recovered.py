"""Figures of the task loss_recovered, as functions of its sums. See tasks/loss_recovered/README.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sae_bench.parameters import TaskParameters
from sae_bench.show.blocks import Block, table
from sae_bench.units.bootstrap import Metric, Ratio, Sums


class Parameters(TaskParameters):
    """Parameters of the task."""

    smallest_denominator_nats: float = Field(
        0.05, ge=0, description="ablation must cost at least this, or what is recovered of it has no value"
    )


ABLATIONS = ("zero", "mean")
CONTEXT = "cross-entropy without the SAE"  # in the details: what its figures lie between, and none of them
ROUNDING = 1e-6  # nats: what float32 alone makes of the difference of two losses, whatever a user takes for the least


def cross_entropy(column: str) -> Metric:
    """Mean cross-entropy (or KL) of a prediction, nats; lower is better."""
    return lambda s: Ratio(getattr(s, column), s.predictions, "the number of predictions")


def delta_ce(s: Sums) -> Ratio:
    """CE(spliced) − CE(clean): what the reconstruction costs, nats a prediction; 0 is perfect."""
    return Ratio(s.ce_spliced - s.ce_clean, s.predictions, "the number of predictions")


def loss_recovered(ablation: str, floor: float) -> Callable[[Sums], Ratio]:
    """(CE(ablated) − CE(spliced)) / (CE(ablated) − CE(clean)): 1 is perfect, 0 is no better than ablation.

    Rajamanoharan et al. 2024 (arXiv 2404.16014 v2, eq. 5). Not clipped: it can leave [0, 1].
    """

    def figure(s: Sums) -> Ratio:
        ablated = getattr(s, f"ce_{ablation}")
        with np.errstate(divide="ignore", invalid="ignore"):
            gain, room = (ablated - s.ce_spliced) / s.predictions, (ablated - s.ce_clean) / s.predictions
        return Ratio(gain, room, f"the cost of {ablation} ablation in nats", floor)

    return figure


def kl_recovered(ablation: str, floor: float) -> Callable[[Sums], Ratio]:
    """1 − KL(clean‖spliced) / KL(clean‖ablated): 1 is perfect, 0 is no better than ablation."""

    def figure(s: Sums) -> Ratio:
        with np.errstate(divide="ignore", invalid="ignore"):
            spliced, ablated = s.kl / s.predictions, getattr(s, f"kl_{ablation}") / s.predictions
        return Ratio(-spliced, ablated, f"the KL of {ablation} ablation in nats", floor, offset=1.0)

    return figure


def perplexity_difference(s: Sums) -> np.ndarray[Any, np.dtype[np.float64]]:
    """exp(CE(spliced)) − exp(CE(clean)) of the mean losses; lower is better."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        difference: np.ndarray[Any, np.dtype[np.float64]] = np.exp(s.ce_spliced / s.predictions) - np.exp(
            s.ce_clean / s.predictions
        )
    return difference


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id; ``smallest_denominator_nats`` is the least cost of ablation that a ratio may divide by."""
    floor = max(float(parameters["smallest_denominator_nats"]), ROUNDING)
    return {
        **{f"ce_{name}": cross_entropy(f"ce_{name}") for name in ("clean", "spliced", *ABLATIONS)},
        "delta_ce": delta_ce,
        "kl": cross_entropy("kl"),
        "perplexity_difference": perplexity_difference,
        **{f"loss_recovered_{name}": loss_recovered(name, floor) for name in ABLATIONS},
        **{f"kl_recovered_{name}": kl_recovered(name, floor) for name in ABLATIONS},
    }


def blocks(details: Mapping[str, Any]) -> list[Block]:
    """What the model scores as it is, and with the activations ablated."""
    context = details.get(CONTEXT)
    if not isinstance(context, dict) or not context:
        return []
    what = {
        "clean": "the model as it is",
        "zero": "activations replaced by 0",
        "mean": "activations replaced by their mean",
    }
    return [
        table("Cross-entropy without the SAE, nats", ("where", "CE"), [(what.get(n, n), v) for n, v in context.items()])
    ]
