"""A task that keeps what shares of latents are made of, by document: a wide table, for a study of intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_bench.tasks.base import Site, Task, View
from sae_bench.units.bootstrap import Metric, Ratio


class Firings(Task):
    """Document table: tokens ``[rows]``, and on how many of them each latent is active ``[rows, n_latents]``."""

    def shared(self, site: Site) -> dict[str, Tensor]:
        """Number of tokens."""
        return {"tokens": site.sum(torch.ones(len(site.kept), device=site.kept.device), site.kept)}

    def measure(self, view: View) -> dict[str, Tensor]:
        """The dense codes' zeros and ones, summed by sequence."""
        return {"firings": view.sum((view.codes.dense() != 0).double(), view.kept)}


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """L0, so that the task has a figure."""
    return {"active": lambda s: Ratio(s.firings.sum(1), s.tokens, "the number of tokens")}
