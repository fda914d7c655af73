"""Whether an SAE's figures owe anything to its latents: what stands beside them where they do not, or not alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_bench.engine.plan import Cast
from sae_bench.engine.workspace import Entry
from sae_bench.streams.beside import PERMUTED, loss_beside, tied
from sae_bench.tasks.base import Task
from sae_bench.units.kinds import Draws


def said(cast: Cast, task: Task, entry: Entry) -> tuple[list[str], dict[str, Any]]:
    """Cautions and details from what was seen of an SAE on calibration text; of tasks that measure fidelity alone."""
    checked = cast.checked.get(entry.key)
    return ([], {}) if checked is None or task.fidelity is None else (list(checked.cautions), dict(checked.details))


def tie(task: Task, own: Mapping[str, Draws], permuted: Mapping[str, Draws] | None) -> str | None:
    """That an SAE is no more faithful than with its directions in another order; None where it is, or none can tell.

    Both are of the same documents, and the difference is paired over them. It is no loss where its interval holds 0, or
    where it is too small to mean anything.
    """
    loss = None if permuted is None else loss_beside(task, own, permuted)
    if task.fidelity is None or loss is None or not tied(task, loss):
        return None
    name, value, other = task.fidelity.metric, loss.value, loss.other
    return (
        f"{name} says nothing about the latents: it is {value:.4g}, and {other:.4g} with their directions in another "
        f"order (control {PERMUTED}), which is no worse"
    )
