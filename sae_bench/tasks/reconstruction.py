"""Reconstruction: how much of the activation the SAE gives back, and how biased its length is.

All figures are ratios of sums over the tokens inside the mask, and again over position 0 alone.

>>> x = [[1, 2], [3, 0], [0, 4], [2, 2]]; x_hat = [[1, 1], [2, 0], [0, 3], [2, 2]]

has FVU 3/13 = 0.2308, nMSE 3/38 = 0.0789, MSE 0.375, relative reconstruction bias 23/29 = 0.7931.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sae_bench.tasks.base import Site, Task, View
from sae_bench.units import Units
from sae_bench.units.bootstrap import total

TINY = 1e-6  # a vector shorter than this share of the usual norm has no direction


Sum = Callable[[Tensor, Tensor], Tensor]  # values [tokens, ...], where [tokens] -> float64 sums, one row a unit


def target_sums(x: Tensor, where: Tensor, sum_: Sum) -> dict[str, Tensor]:
    """Columns from activations ``[tokens, d]`` alone, at the tokens ``where``."""
    x = x.double()
    return {
        "tokens": sum_(torch.ones_like(x[:, 0]), where),
        "energy": sum_(x.square().sum(1), where),
        "x": sum_(x, where),
    }


def error_sums(x: Tensor, x_hat: Tensor, where: Tensor, rms: float, sum_: Sum) -> dict[str, Tensor]:
    """Columns from activations and reconstructions ``[tokens, d]``, at the tokens ``where``."""
    x, x_hat = x.double(), x_hat.double()
    inner = (x * x_hat).sum(1)
    norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
    long = where & (norm > TINY * rms)
    directed = long & (norm_hat > TINY * rms)
    one = torch.ones_like(inner)
    return {
        "error": sum_((x - x_hat).square().sum(1), where),
        "energy_hat": sum_(x_hat.square().sum(1), where),
        "inner": sum_(inner, where),
        "norm_ratio": sum_(torch.where(long, norm_hat / norm, 0), long),
        "norm_ratio_tokens": sum_(one, long),
        "cosine": sum_(torch.where(directed, inner / (norm * norm_hat), 0), directed),
        "cosine_tokens": sum_(one, directed),
    }


class Reconstruction(Task):
    """Columns over the tokens inside the mask, and the same with prefix ``first_`` over position 0."""

    def shared(self, site: Site) -> dict[str, Tensor]:
        """Sums of the activations, the same for all coders."""
        first = target_sums(site.target, site.first, site.sum)
        return target_sums(site.target, site.kept, site.sum) | {f"first_{name}": c for name, c in first.items()}

    def measure(self, view: View) -> dict[str, Tensor]:
        """Sums of reconstructions and errors."""
        kept = error_sums(view.target, view.x_hat, view.kept, view.rms, view.sum)
        at = view.first

        def sum_first(values: Tensor, where: Tensor) -> Tensor:
            """Sums by sequence from values of the tokens at position 0 alone; a sequence may have no token."""
            full = values.new_zeros(len(at), dtype=torch.float64)
            full[at] = torch.where(where, values.double(), 0)
            return view.sum(full, at)

        first = error_sums(view.target[at], view.x_hat[at], at[at], view.rms, sum_first)
        return kept | {f"first_{name}": column for name, column in first.items()}

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """How many tokens stand behind the figures."""
        s = total(tables["document"])
        return {
            "tokens": int(s.tokens[0]),
            "tokens_at_position_0": int(s.first_tokens[0]),
            "tokens_without_direction": int(s.tokens[0] - s.cosine_tokens[0]),
        }
