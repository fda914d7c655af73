"""Figures of the task sparse_probing, as functions of its sums. See tasks/sparse_probing/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field

from sae_bench.metrics.labelled import CEILING, FLOOR, LEAST_ROOM, Pooling, Positive, Refits, auroc_of, share_of
from sae_bench.metrics.labelled import blocks as blocks
from sae_bench.parameters import TaskParameters
from sae_bench.units.bootstrap import Metric, Ratio, Sums


class Parameters(TaskParameters):
    """Parameters of the task."""

    pooling: Pooling = Field("max", description="how the tokens of a text become one number a latent")
    penalty: Literal["l1", "l2"] = Field("l2", description="penalty of the probes on k latents")
    folds: int = Field(4, ge=2, description="folds of the cross-validation of every penalty")
    strengths: list[Positive] = Field(
        [0.001, 0.01, 0.1, 1.0], min_length=1, description="penalties that are tried for the probes"
    )
    ceiling_strengths: list[Positive] = Field(
        [0.001, 0.01, 0.1, 1.0], min_length=1, description="penalties that are tried for the full residual stream"
    )
    refits: Refits = Field(20, description="fits under other weights of the train part, for the interval")


KS = (1, 2, 5, 16)


def _share(k: int) -> Metric:
    def metric(s: Sums) -> Ratio:
        own, floor = auroc_of(s, f"auroc_k{k}"), auroc_of(s, f"{FLOOR}auroc_k{k}")
        what = f"the AUROC of the full residual stream above that of its best {k} channels"
        return Ratio(own - floor, auroc_of(s, f"{CEILING}auroc_k{k}") - floor, what, LEAST_ROOM)

    return metric


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        **{f"auroc_k{k}": partial(auroc_of, name=f"auroc_k{k}") for k in KS},
        **{f"accuracy_k{k}": share_of(f"correct_k{k}") for k in KS},
        **{f"share_k{k}": _share(k) for k in KS},
    }
