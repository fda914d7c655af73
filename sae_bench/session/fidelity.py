"""Whether an SAE's figures owe anything to its latents: what stands beside them where they do not, or not alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sae_bench.engine.plan import Cast
from sae_bench.engine.workspace import Entry
from sae_bench.tasks.base import Task
from sae_bench.units import bootstrap
from sae_bench.units.kinds import Draws

PERMUTED = "permuted"


def said(cast: Cast, task: Task, entry: Entry) -> tuple[list[str], dict[str, Any]]:
    """Cautions and details from what was seen of an SAE on calibration text; of tasks that measure fidelity alone."""
    checked = cast.checked.get(entry.key)
    return ([], {}) if checked is None or task.fidelity is None else (list(checked.cautions), dict(checked.details))


def tie(task: Task, own: Mapping[str, Draws], permuted: Mapping[str, Draws] | None) -> str | None:
    """That an SAE is no more faithful than with its directions in another order; None where it is, or none can tell.

    The difference is paired, over the same resampled units. It is no loss where its interval holds 0, or where it is
    too small to mean anything.
    """
    if task.fidelity is None or permuted is None:
        return None
    name, least = task.fidelity
    spec, figure = task.spec.metrics[name], task.metrics[name]
    a, b = own.get(spec.table), permuted.get(spec.table)
    if not isinstance(a, bootstrap.Draws) or not isinstance(b, bootstrap.Draws):
        return None
    points = [figure(draws.points) for draws in (a, b)]
    if any(bootstrap.undefined(point, None) for point in points):
        return None
    value, other = (float(bootstrap.quotient(point)[0]) for point in points)
    sign = 1 if spec.better == "lower" else -1
    loss = sign * (other - value)
    if not math.isfinite(loss):
        return None
    low = None
    if a.n >= bootstrap.FEWEST:
        replicates = [bootstrap.quotient(figure(draws.replicates)) for draws in (a, b)]
        low, _ = bootstrap.percentile_interval(loss, sign * (replicates[1] - replicates[0]), a.n, bootstrap.CONFIDENCE)
    if loss > least and (low is None or low > 0):
        return None
    return (
        f"{name} says nothing about the latents: it is {value:.4g}, and {other:.4g} with their directions in another "
        f"order (control {PERMUTED}), which is no worse"
    )
