"""Results of autointerp made by hand, with units, as their judges and their gaps may leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.builders.comparisons import frame, save

TASK = "autointerp"
METRICS = ("detection", "failed_fraction")
WAITS = {"incomplete": "31 requests wait for an answer; the same command goes on"}
BUDGET = {"budget": "--max-requests 4 of this run is used up"}
FEW = {"unanswered": 2}
LOST = {"degraded": "17 % of the latents have no score; see the statuses"}
JUDGE = {"judge": "gpt-4o", "temperature": 0.0}
NEW = JUDGE | {"judge_endpoint": "api.openai.com/v1", "judge_model": "gpt-4o-2024-08-06"}


def latents(seed: int, n: int = 60, level: float = 0.5) -> dict[str, Any]:
    """The table of ``n`` latents that all have a score."""
    rng = np.random.default_rng(seed)
    ones = np.ones(n)
    detection = level + 0.1 * rng.standard_normal(n)
    table = frame(
        [str(i) for i in range(n)], latents=ones, ok=ones, worst=detection, detection=detection, detection_n=ones
    )
    return {"latent": table}


def judged(
    folder: Path,
    name: str = "a",
    seed: int = 1,
    *,
    level: float = 0.5,
    parameters: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a result of autointerp; returns its file."""
    found: Path = save(
        folder, TASK, latents(seed, level=level), METRICS, name,
        parameters=JUDGE if parameters is None else parameters, details=details, n_documents=64, **changes,
    )  # fmt: skip
    return found


def old(*models: str) -> dict[str, Any]:
    """Details of an older result, which name the models that answered."""
    return {"judge": {"replies": 9, "models": list(models), "fingerprints": []}}
