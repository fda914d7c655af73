"""Figures of the task probe_recovery, as functions of its sums. See tasks/probe_recovery/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from sae_bench.metrics.labelled import CEILING, FLOOR, LEAST_ROOM, Pooling, Positive, Refits, auroc_of, mean_of
from sae_bench.metrics.labelled import blocks as blocks
from sae_bench.parameters import TaskParameters
from sae_bench.units.bootstrap import Metric, Ratio, Sums


class Parameters(TaskParameters):
    """Parameters of the task."""

    pooling: Pooling = Field("max", description="how the tokens of a text become one number a latent")
    source: Literal["codes", "pre_activations"] = Field("codes", description="what the probes read")
    ridge: Positive = Field(0.001, description="penalty of every probe, beside the mean cross-entropy")
    folds: int = Field(4, ge=2, description="folds of the cross-validation of the full residual stream's penalty")
    ceiling_strengths: list[Positive] = Field(
        [0.001, 0.01, 0.1, 1.0], min_length=1, description="penalties that are tried for the full residual stream"
    )
    refits: Refits = Field(20, description="fits under other weights of the train part, for the interval")


Array = np.ndarray[Any, np.dtype[np.float64]]
OF_CODES = frozenset({"probe_loss", "probe_r", "probe_auroc", "probe_f1", "probe_share", "probe_r_shuffled"})


def probe_loss(s: Sums) -> Array:
    """Mean cross-entropy on the test examples, nats; lower is better."""
    loss: Array = np.maximum(mean_of(s, "loss"), 0)  # a replicate adds deviations of refits, which may pass 0
    return loss


def base_entropy(s: Sums) -> Array:
    """H(π), nats: the entropy of the test part's base rate π, which a probe that knows nothing scores."""
    rate = mean_of(s, "positive")
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(p > 0, p * np.log(p), 0.0) for p in (rate, 1 - rate)]
    return -(parts[0] + parts[1])


def _r(loss: str) -> Metric:
    def metric(s: Sums) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            r: Array = 1 - np.maximum(mean_of(s, loss), 0) / base_entropy(s)
        return np.where(np.isfinite(r), r, np.nan)

    return metric


def probe_f1(s: Sums) -> Array:
    """F1 of the predictions "positive where the probe says more than 1/2", on the test examples."""
    whole = 2 * s.true_positive + s.false_positive + s.false_negative
    with np.errstate(divide="ignore", invalid="ignore"):
        score: Array = np.where(whole > 0, np.clip(2 * s.true_positive / whole, 0, 1), np.nan)
    return score


def probe_share(s: Sums) -> Ratio:
    """How much of the way from the best residual channel to the full residual stream, in AUROC."""
    own, floor, ceiling = (auroc_of(s, f"{prefix}auroc") for prefix in ("", FLOOR, CEILING))
    return Ratio(
        own - floor, ceiling - floor, "the AUROC of the full residual stream above that of its best channel", LEAST_ROOM
    )


def probe_write(s: Sums) -> Array:
    """AUROC, on the test examples, of how far a text lies along what the chosen latent writes."""
    return auroc_of(s, "write")


def probe_features(s: Sums) -> Array:
    """How far a latent both reads and writes the property: 4 (AUROC - 1/2)(AUROC of what it writes - 1/2).

    Negative if either is below 1/2, also if both are: what is worse than chance twice is nothing good.
    """
    read, write = auroc_of(s) - 0.5, auroc_of(s, "write") - 0.5
    return np.where((read > 0) & (write > 0), 4.0, -4.0) * np.abs(read * write)


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        "probe_loss": probe_loss,
        "probe_r": _r("loss"),
        "probe_auroc": auroc_of,
        "probe_f1": probe_f1,
        "probe_write": probe_write,
        "probe_features": probe_features,
        "probe_share": probe_share,
        "probe_r_shuffled": _r("shuffled_loss"),
        "probe_write_shuffled": lambda s: auroc_of(s, "shuffled_write"),
    }
