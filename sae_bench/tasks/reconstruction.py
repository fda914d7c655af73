"""Reconstruction: how much of the activation the SAE gives back, and how biased its length is.

All figures are ratios of sums over the tokens inside the mask, and again over position 0 alone. Beside FVU stands what
a wrong length makes of it (FVU of the reconstruction times the best single number), and what a few tokens or channels
do: the share of the variance that those hold which are farthest from the mean or vary most, and FVU without them. Which
these are is settled by the calibration text, so that the sums of a document do not depend on the others.

>>> x = [[1, 2], [3, 0], [0, 4], [2, 2]]; x_hat = [[1, 1], [2, 0], [0, 3], [2, 2]]

has FVU 3/13 = 0.2308, nMSE 3/38 = 0.0789, MSE 0.375, relative reconstruction bias 23/29 = 0.7931.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sae_bench.metrics import reconstruction as figures
from sae_bench.tasks.base import Fidelity, Site, Task, View
from sae_bench.units import Units
from sae_bench.units.bootstrap import quotient, total

TINY = 1e-6  # a vector shorter than this share of the usual norm has no direction
MOST_OF_IT = 0.5  # share of the variance in the top tokens or channels from which on FVU is a figure of these
UNLIKE = (
    5.0  # times what they would hold if all channels varied alike: below it a few channels are not unlike the others
)


Sum = Callable[[Tensor, Tensor], Tensor]  # values [tokens, ...], where [tokens] -> float64 sums, one row a unit


def target_sums(x: Tensor, where: Tensor, sum_: Sum) -> dict[str, Tensor]:
    """Columns from activations ``[tokens, d]`` alone, at the tokens ``where``."""
    rounding = (torch.finfo(x.dtype).eps / 2) ** 2
    x = x.double()
    energy = x.square().sum(1)
    return {
        "tokens": sum_(torch.ones_like(energy), where),
        "energy": sum_(energy, where),
        "x": sum_(x, where),
        "rounding": sum_(rounding * energy, where),
    }


def channel_sums(x: Tensor, where: Tensor, sum_: Sum) -> dict[str, Tensor]:
    """Columns from the top channels ``[tokens, 3]`` of the activations, at the tokens ``where``."""
    x = x.double()
    return {"channels_energy": sum_(x.square().sum(1), where), "channels_x": sum_(x, where)}


def error_sums(x: Tensor, x_hat: Tensor, squared: Tensor, where: Tensor, rms: float, sum_: Sum) -> dict[str, Tensor]:
    """Columns from activations and reconstructions ``[tokens, d]``, at the tokens ``where``.

    ``squared`` float64 ``[tokens]`` are the squared errors.
    """
    x, x_hat = x.double(), x_hat.double()
    inner = (x * x_hat).sum(1)
    norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
    long = where & (norm > TINY * rms)
    directed = long & (norm_hat > TINY * rms)
    one = torch.ones_like(inner)
    return {
        "error": sum_(squared, where),
        "energy_hat": sum_(x_hat.square().sum(1), where),
        "inner": sum_(inner, where),
        "norm_ratio": sum_(torch.where(long, norm_hat / norm, 0), long),
        "norm_ratio_tokens": sum_(one, long),
        "cosine": sum_(torch.where(directed, inner / (norm * norm_hat), 0), directed),
        "cosine_tokens": sum_(one, directed),
    }


class Reconstruction(Task):
    """Columns over the tokens inside the mask, and the same with prefix ``first_`` over position 0.

    With prefix ``top_``, sums over the tokens farthest from the mean; with ``channels_``, over all tokens inside the
    mask and the three channels of the largest variance alone.
    """

    fidelity = Fidelity("fvu", 1e-3)  # of the variance
    counts = "tokens"

    def shared(self, site: Site) -> dict[str, Tensor]:
        """Sums of the activations, the same for all coders."""
        columns = target_sums(site.target, site.kept, site.sum)
        for prefix, where in (("first", site.first), ("top", site.top)):
            columns |= {f"{prefix}_{name}": c for name, c in target_sums(site.target, where, site.sum).items()}
        return columns | channel_sums(site.target.index_select(1, site.top_channels), site.kept, site.sum)

    def measure(self, view: View) -> dict[str, Tensor]:
        """Sums of reconstructions and errors."""
        squared = (view.target.double() - view.x_hat.double()).square().sum(1)
        kept = error_sums(view.target, view.x_hat, squared, view.kept, view.rms, view.sum)
        at = view.first_tokens  # an index: a mask would make the host wait for the number of tokens

        def sum_first(values: Tensor, where: Tensor) -> Tensor:
            """Sums by sequence from values of the tokens at position 0 alone; a sequence may have no token."""
            full = values.new_zeros(len(view.target), dtype=torch.float64)
            return view.sum(full.index_copy_(0, at, torch.where(where, values.double(), 0)), view.first)

        x, x_hat, error = (values.index_select(0, at) for values in (view.target, view.x_hat, squared))
        first = error_sums(x, x_hat, error, torch.ones_like(at, dtype=torch.bool), view.rms, sum_first)
        x, x_hat = (values.index_select(1, view.top_channels).double() for values in (view.target, view.x_hat))
        of_few = {
            "top_error": view.sum(squared, view.top),
            "channels_error": view.sum((x - x_hat).square().sum(1), view.kept),
        }
        return kept | {f"first_{n}": column for n, column in first.items()} | of_few

    def cautions(self, tables: Mapping[str, Units], n_latents: int) -> list[str]:
        """That a few tokens or channels hold most of the variance: FVU then says how these are given back."""
        s = total(tables["document"])
        tokens, channels, d = int(s.tokens[0]), s.channels_x.shape[-1], s.x.shape[-1]
        said = []
        share = float(quotient(figures.top_tokens_variance(s))[0])
        if share > MOST_OF_IT:
            said.append((f"{int(s.top_tokens[0])} of {tokens} tokens hold {share:.1%}", "fvu_without_top_tokens"))
        share = float(quotient(figures.top_channels_variance(s))[0])
        if share > max(MOST_OF_IT, UNLIKE * channels / d):
            said.append((f"{channels} of {d} channels hold {share:.1%}", "fvu_without_top_channels"))
        return [
            f"{held} of the variance, so that fvu says how these few are given back; {metric} is that of all others"
            for held, metric in said
        ]

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """How many tokens stand behind the figures."""
        s = total(tables["document"])
        return {
            "tokens": int(s.tokens[0]),
            "tokens_at_position_0": int(s.first_tokens[0]),
            "top_tokens": int(s.top_tokens[0]),
            "tokens_without_direction": int(s.tokens[0] - s.cosine_tokens[0]),
        }
