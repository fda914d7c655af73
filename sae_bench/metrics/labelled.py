"""What the figures of tasks on labelled texts have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from sae_bench.show.blocks import Block, Text
from sae_bench.show.details import shaped
from sae_bench.units.bootstrap import Metric, Sums

Refits = Annotated[int, Field(ge=20, le=99)]
Pooling = Literal["max", "mean", "last"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LEAST_ROOM = 0.001  # AUROC between floor and ceiling: over less, a share would be a quotient of noise
OVER_SETS = "over sets"  # in details: intervals of the suite's figures over other sets of its kind
FLOOR, CEILING = "floor_", "ceiling_"  # before the columns of the best residual channels and of the full residual
BEST_CHANNELS, FULL_RESIDUAL = "best_channels", "full_residual"  # as references beside an SAE


def auroc_of(s: Sums, name: str = "auroc") -> np.ndarray[Any, np.dtype[np.float64]]:
    """AUROC from the pseudo-values in a column; linearised replicates may pass the ends of its range by a little."""
    clipped: np.ndarray[Any, np.dtype[np.float64]] = np.clip(mean_of(s, name), 0, 1)
    return clipped


def share_of(name: str) -> Metric:
    """The share of the examples of a set for which a column is 1; replicates with refits are kept in its range."""
    return lambda s: np.clip(mean_of(s, name), 0, 1)


def mean_of(s: Sums, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum of a column over the number of examples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: np.ndarray[Any, np.dtype[np.float64]] = getattr(s, name) / s.examples
    return quotient


def blocks(details: Mapping[str, Any]) -> list[Block]:
    """A row a labelled set with all that was found there, its figures first, and why a figure has no value."""
    if "sets" not in details:
        return []
    sets = details["sets"]
    first = ("latent", "latents", "metrics")
    ordered = {
        name: {key: one[key] for key in (*(k for k in first if k in one), *(k for k in one if k not in first))}
        for name, one in sets.items()
    }
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, one in sets.items():
        for metric, found in one.get("metrics", {}).items():
            if found.get("reason"):
                reasons.setdefault((metric, str(found["reason"])), []).append(name)
    lines = tuple(f"no {metric} of {', '.join(names)}: {why}" for (metric, why), names in reasons.items())
    made: list[Block] = [shaped("Labelled sets", ordered, "set")]
    if wide := details.get(OVER_SETS):
        made.append(shaped("Were the sets drawn too: what other sets of this kind would give", wide, "metric"))
    return [*made, *([Text(title="Figures without a value", lines=lines)] if lines else [])]
