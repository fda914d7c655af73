"""Figures of the task opening_error, as functions of its sums over windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_bench.units.bootstrap import Metric, Ratio, Sums


def opening_nmse(s: Sums) -> Ratio:
    """Squared error over squared length of the activations."""
    return Ratio(s.error, s.energy, "the energy of the activations")


def first_nmse(s: Sums) -> Ratio:
    """The same in the window at the very beginning."""
    return Ratio(s.first_error, s.first_energy, "the energy of the activations")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id; the task has no parameters."""
    return {"opening_nmse": opening_nmse, "first_nmse": first_nmse}
