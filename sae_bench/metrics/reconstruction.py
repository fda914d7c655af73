"""Figures of the task reconstruction, as functions of its sums. See tasks/reconstruction/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sae_bench.units.bootstrap import Metric, Ratio, Sums

CONSTANT = 1e-9  # activations whose variance is below this share of their energy do not vary


def fvu(s: Sums) -> Ratio:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean over all tokens: 0 perfect, 1 no better than the mean; lower is better.

    Gao et al. 2024 (arXiv 2406.04093), normalised MSE. The denominator is Σ‖x‖² − ‖Σx‖²/N in float64.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = s.energy - (s.x**2).sum(-1) / s.tokens
    variance = np.where(variance > CONSTANT * s.energy, variance, 0.0)  # what is left of equal numbers is rounding
    return Ratio(s.error, variance, "the variance of the activations")


def nmse(s: Sums) -> Ratio:
    """Σ‖x − x̂‖² / Σ‖x‖²: like FVU without centring, so it looks better where the mean is large; lower is better."""
    return Ratio(s.error, s.energy, "the energy of the activations")


def mse(s: Sums) -> Ratio:
    """Mean of (x − x̂)² over tokens and dimensions, in squared units of the activations; lower is better."""
    return Ratio(s.error, s.tokens * s.x.shape[-1], "the number of tokens")


def cosine(s: Sums) -> Ratio:
    """Mean over tokens of cos(x, x̂), in [−1, 1]; tokens where either has no length are left out; higher is better."""
    return Ratio(s.cosine, s.cosine_tokens, "the number of tokens with a direction")


def norm_ratio(s: Sums) -> Ratio:
    """Mean over tokens of ‖x̂‖/‖x‖; tokens with no length are left out; 1 where lengths are kept."""
    return Ratio(s.norm_ratio, s.norm_ratio_tokens, "the number of tokens with a length")


def relative_reconstruction_bias(s: Sums) -> Ratio:
    """γ = E‖x̂‖² / E[x̂·x]: below 1 the SAE shrinks, 1 is unbiased.

    Rajamanoharan et al. 2024 (arXiv 2404.16014 v2, eq. 10). Undefined where x̂ does not point along x on the whole.
    """
    return Ratio(s.energy_hat, s.inner, "E[x̂·x]", floor=CONSTANT * np.sqrt(s.energy * s.energy_hat))


FIGURES: dict[str, Metric] = {f.__name__: f for f in (fvu, nmse, mse, cosine, norm_ratio, relative_reconstruction_bias)}


def _at_first(figure: Metric) -> Metric:
    """The same figure on the columns of position 0."""
    return lambda s: figure(s.under("first_"))


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id: over the tokens inside the mask, and over position 0 (``first_``)."""
    return FIGURES | {f"first_{name}": _at_first(figure) for name, figure in FIGURES.items()}
