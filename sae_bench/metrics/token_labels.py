"""Figures of the task token_labels, as functions of its sums. See tasks/token_labels/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sae_bench.metrics.labelled import Refits, mean_of, share_of
from sae_bench.metrics.labelled import blocks as blocks
from sae_bench.parameters import TaskParameters
from sae_bench.units.bootstrap import Metric, Ratio, Sums

Array = np.ndarray[Any, np.dtype[np.float64]]


class Parameters(TaskParameters):
    """Parameters of the task."""

    refits: Refits = Field(20, description="choices under other weights of the train part, for the interval")
    random_sets: int = Field(16, ge=4, le=256, description="random sets of tokens that a gap is held against")


def _share(part: Array, whole: Array) -> Array:
    """A share within its range; none of nothing, nor of a replicate whose sums of refits pass 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, np.clip(part / whole, 0, 1), np.nan)


def label_precision(s: Sums) -> Array:
    """The share of the tokens on which the latent fires that have the label."""
    return _share(s.true_positive, s.fired)


def label_recall(s: Sums) -> Array:
    """The share of the tokens with the label on which the latent fires."""
    return _share(s.true_positive, s.positives)


def label_f1(s: Sums) -> Array:
    """F1 of "the latent fires"."""
    return _share(2 * s.true_positive, s.fired + s.positives)


def hierarchy_gap(s: Sums) -> Ratio:
    """The mean over sets that lie inside another one."""
    return Ratio(mean_of(s, "gap"), mean_of(s, "pair"), "the share of sets inside another one whose latent fires")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        "label_f1": label_f1,
        "label_precision": label_precision,
        "label_recall": label_recall,
        "label_auprc": share_of("auprc"),
        "label_recall_p90": share_of("recall_p90"),
        "hierarchy_gap": hierarchy_gap,
    }
