"""Figures of the task reconstruction, as functions of its sums. See tasks/reconstruction/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.bootstrap import Metric, Ratio, Sums

Array = NDArray[np.float64]

CONSTANT = 1e-9  # activations whose variance is below this share of their energy do not vary
# The same at position 0, where all documents carry nearly the same vector: less than rounding to bfloat16 would make
# of it is nothing that an SAE was trained to give back, and a quotient of it would be a number in the thousands.
CONSTANT_AT_FIRST = 2.0**-16
CANCELLED = 1e-13  # of all energy: what is left of a difference of float64 sums below it is their rounding


def fvu(s: Sums, constant: float = CONSTANT) -> Ratio:
    """Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean over all tokens: 0 perfect, 1 no better than the mean; lower is better.

    Gao et al. 2024 (arXiv 2406.04093), normalised MSE. The denominator is Σ‖x‖² − ‖Σx‖²/N in float64. It has to lie
    above ``constant`` times the energy, and above what rounding to the dtype of the activations makes.
    """
    return Ratio(s.error, variance(s, constant), "the variance of the activations beyond rounding")


def fvu_rescaled(s: Sums) -> Ratio:
    """FVU of α·x̂ for the one number α that makes it least: (Σ‖x‖² − (Σ x·x̂)² / Σ‖x̂‖²) / Σ‖x − x̄‖²; lower is better.

    α = Σ x·x̂ / Σ‖x̂‖², about 0 as the reconstruction is, and so 1/γ of the relative reconstruction bias. It is as if a
    wrong length cost nothing: never above FVU, and the same for x̂ times any number but 0.
    """
    left = s.once(_rescaled, "error", "energy", "energy_hat", "inner")
    return Ratio(left, variance(s), "the variance of the activations beyond rounding")


def _rescaled(error: Array, energy: Array, energy_hat: Array, inner: Array) -> Array:
    """Σ‖x − αx̂‖², between 0 and the error, from whichever of two equal sums has the smaller terms.

    Less rounding is left of these: where x̂ is nearly x the error less what α takes off it, so that the identity has 0
    to the bit; where it is much longer the energy less what α·x̂ explains of it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        near = error - (energy_hat - inner) ** 2 / energy_hat
        far = energy - inner**2 / energy_hat
    left = np.where(energy_hat > 0, np.where(error < energy, near, far), error)
    found: Array = np.clip(left, 0.0, error)
    return found


def variance(s: Sums, constant: float = CONSTANT) -> Array:
    """Σ‖x − x̄‖², or 0 where it is rounding."""
    rounding = getattr(s, "rounding", 0.0)  # results of the first schema have no such column
    return _varying(s.once(_spread, "energy", "x", "tokens"), np.maximum(constant * s.energy, rounding))


def _varying(spread: Array, floor: Array) -> Array:
    return np.where(np.isnan(spread) | (spread > floor), spread, 0.0)


def _spread(energy: Array, x: Array, tokens: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        spread: Array = energy - (x**2).sum(-1) / tokens
    return spread


def top_tokens_variance(s: Sums) -> Ratio:
    """Share of Σ‖x − x̄‖² that the tokens hold which are farthest from the mean, about 1 % of all.

    They are those whose squared distance from the mean of the calibration text is larger than that of 99 % of its
    tokens; a group of outliers that reaches beyond the 1 % counts whole.
    """
    held = s.once(_held, "x", "tokens", "top_energy", "top_x", "top_tokens")
    return Ratio(held, variance(s), "the variance of the activations beyond rounding")


def _held(x: Array, tokens: Array, top_energy: Array, top_x: Array, top_tokens: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = x / tokens[:, None]
    held: Array = top_energy - 2 * (top_x * mean).sum(-1) + top_tokens * (mean**2).sum(-1)
    return held


def fvu_without_top_tokens(s: Sums) -> Ratio:
    """FVU of all other tokens, centred on their own mean."""
    energy = s.energy - s.top_energy
    floor = np.maximum(CONSTANT * energy, s.rounding - s.top_rounding)
    spread = s.once(_spread_of_others, "energy", "top_energy", "x", "top_x", "tokens", "top_tokens")
    return Ratio(
        s.error - s.top_error, _varying(spread, floor), "the variance of the other activations beyond rounding"
    )


def _spread_of_others(
    energy: Array, top_energy: Array, x: Array, top_x: Array, tokens: Array, top_tokens: Array
) -> Array:
    return _spread(energy - top_energy, x - top_x, tokens - top_tokens)


def top_channels_variance(s: Sums) -> Ratio:
    """Share of Σ‖x − x̄‖² that the three channels hold which vary most in the calibration text."""
    return Ratio(s.once(_of_channels, *OF_CHANNELS), variance(s), "the variance of the activations beyond rounding")


def top_channels_energy(s: Sums) -> Ratio:
    """Share of Σ‖x‖² that the same three channels hold: not centred, so a large mean of theirs counts."""
    return Ratio(s.channels_energy, s.energy, "the energy of the activations")


OF_CHANNELS = ("channels_energy", "channels_x", "tokens")


def _of_channels(channels_energy: Array, channels_x: Array, tokens: Array) -> Array:
    return _spread(channels_energy, channels_x, tokens)


def fvu_without_top_channels(s: Sums) -> Ratio:
    """FVU of all other channels."""
    energy = s.energy - s.channels_energy
    with np.errstate(divide="ignore", invalid="ignore"):
        rounding = np.where(s.energy > 0, s.rounding * energy / s.energy, 0.0)
    spread = s.once(_spread, "energy", "x", "tokens") - s.once(_of_channels, *OF_CHANNELS)
    # the difference of two spreads is known to no more than rounding of the larger leaves
    floor = np.maximum(np.maximum(CONSTANT * energy, rounding), CANCELLED * s.energy)
    return Ratio(
        s.error - s.channels_error, _varying(spread, floor), "the variance of the other channels beyond rounding"
    )


def nmse(s: Sums) -> Ratio:
    """Σ‖x − x̂‖² / Σ‖x‖²: like FVU without centring, so it looks better where the mean is large; lower is better."""
    return Ratio(s.error, s.energy, "the energy of the activations")


def mse(s: Sums) -> Ratio:
    """Mean of (x − x̂)² over tokens and dimensions, in squared units of the activations; lower is better."""
    return Ratio(s.error, s.once(_numbers, "tokens", "x"), "the number of tokens")


def _numbers(tokens: Array, x: Array) -> Array:
    numbers: Array = tokens * x.shape[-1]
    return numbers


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
OF_FEW: dict[str, Metric] = {
    f.__name__: f
    for f in (
        *(top_tokens_variance, fvu_without_top_tokens),
        *(top_channels_variance, top_channels_energy, fvu_without_top_channels),
    )
}
AT_FIRST: dict[str, Metric] = FIGURES | {"fvu": partial(fvu, constant=CONSTANT_AT_FIRST)}


def _at_first(figure: Metric) -> Metric:
    """The same figure on the columns of position 0."""
    return lambda s: figure(s.under("first_"))


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id: over the tokens inside the mask, what few of them hold, and over position 0 (``first_``)."""
    return (
        FIGURES
        | {"fvu_rescaled": fvu_rescaled}
        | OF_FEW
        | {f"first_{name}": _at_first(figure) for name, figure in AT_FIRST.items()}
    )
