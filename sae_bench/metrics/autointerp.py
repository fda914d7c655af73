"""Figures of the task autointerp, as functions of its sums. See tasks/autointerp/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_bench.units.bootstrap import Metric, Ratio, Sums

_FIGURES = {
    "detection": "an answered window of both kinds",
    "auroc": "an answered window of both kinds",
    "brier": "an answered window",
    "detection_random": "an answered random silent window",
    "detection_matched": "an answered matched silent window",
    "precision_natural": "a window that the judge takes for a positive",
    "f1_natural": "answered windows in all strata of the text",
    "rule_lift": "an answered window of both kinds",
    "null_shuffled": "answers to another latent's explanation",
    "null_empty": "answers to an empty explanation",
    "fuzz": "a fuzz score (--param autointerp.scorers)",
    "intruder": "an intruder score (--param autointerp.scorers)",
}


def _mean(name: str) -> Metric:
    """The mean over the latents that have the figure."""
    return lambda s: Ratio(getattr(s, name), getattr(s, f"{name}_n"), f"the number of latents with {_FIGURES[name]}")


def worst(s: Sums) -> Ratio:
    """Detection with every failed latent at chance, 0, and unanswered windows of the others wrong."""
    return Ratio(s.worst, s.latents, "the number of latents")


def failed(s: Sums) -> Ratio:
    """Share of latents without a score."""
    return Ratio(s.latents - s.ok, s.latents, "the number of latents")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        "detection": _mean("detection"),
        "detection_worst": worst,
        "rule_lift": _mean("rule_lift"),
        "detection_auroc": _mean("auroc"),
        "detection_brier": _mean("brier"),
        "detection_random": _mean("detection_random"),
        "detection_matched": _mean("detection_matched"),
        "detection_precision_natural": _mean("precision_natural"),
        "detection_f1_natural": _mean("f1_natural"),
        "null_shuffled": _mean("null_shuffled"),
        "null_empty": _mean("null_empty"),
        "fuzz": _mean("fuzz"),
        "intruder": _mean("intruder"),
        "failed_fraction": failed,
    }
