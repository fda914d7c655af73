"""Figures of the task label_l0, as functions of its sums over the examples of a set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from sae_bench.metrics.labelled import Pooling, auroc_of
from sae_bench.parameters import TaskParameters
from sae_bench.units.bootstrap import Metric, Ratio, Sums


class Parameters(TaskParameters):
    """Parameters of the task."""

    pooling: Pooling = Field("max", description="how the tokens of a text become one number a latent")


def l0_positive(s: Sums) -> Ratio:
    """Mean number of latents that are active in a text with the label."""
    return Ratio(s.active_positive, s.positive, "the number of positive texts")


def l0_negative(s: Sums) -> Ratio:
    """Mean number of latents that are active in a text without the label."""
    return Ratio(s.active - s.active_positive, s.examples - s.positive, "the number of negative texts")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {"l0_positive": l0_positive, "l0_negative": l0_negative, "l0_auroc": auroc_of}
