"""Figures of the task half_code, as functions of its sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from sae_bench.parameters import Share, TaskParameters
from sae_bench.units.bootstrap import Metric, Ratio, Sums


class Parameters(TaskParameters):
    """Parameters of the task."""

    share: Share = Field(0.5, description="share of the active latents of every token that is kept, rounded up")
    least_kl_nats: float = Field(
        0.001, ge=0, description="a random part must cost at least this, or what choosing saves of it has no value"
    )


def delta_ce(s: Sums) -> Ratio:
    """CE on the strongest part less CE of the model as it is, nats a prediction."""
    return Ratio(s.ce_half - s.ce_clean, s.predictions, "the number of predictions")


def kl(column: str) -> Metric:
    """Mean KL divergence of a prediction from the clean model's, nats."""
    return lambda s: Ratio(getattr(s, column), s.predictions, "the number of predictions")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    least = float(parameters["least_kl_nats"])

    def kl_saved(s: Sums) -> Ratio:
        """1 - KL(strongest part) / KL(random part): 0 where it does not matter which latents are kept."""
        what = "the KL of a random part in nats"
        return Ratio(-s.kl_half / s.predictions, s.kl_random / s.predictions, what, least, offset=1.0)

    return {"half_delta_ce": delta_ce, "half_kl": kl("kl_half"), "random_kl": kl("kl_random"), "kl_saved": kl_saved}


def blocks(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What terminal and page draw of the details: plain JSON, or records of ``sae_bench.show.blocks``."""
    n = details["entries"]
    rows = [[name, n[name], n[name] / max(n["tokens"], 1)] for name in ("active", "kept")]
    return [{"block": "table", "title": "Latents of a token", "head": ["latents", "number", "a token"], "rows": rows}]
