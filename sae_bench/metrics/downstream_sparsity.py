"""Figures of the task downstream_sparsity, as functions of its sums. See tasks/downstream_sparsity/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sae_bench.parameters import TaskParameters
from sae_bench.units.bootstrap import Metric, Ratio, Sums


class Parameters(TaskParameters):
    """Parameters of the task."""

    horizon: int = Field(16, ge=1, description="tokens on which an effect is measured, the changed one included")
    positions: int = Field(4, ge=1, description="positions of a document at which latents are ablated")
    latents: int = Field(4, ge=1, description="active latents that are ablated at a position")
    base: Literal["activation", "reconstruction"] = Field(
        "activation", description="what the model carries while a latent is taken away"
    )
    centre: Literal["median", "none"] = Field(
        "median", description="what is subtracted from each token's change of the logits"
    )
    noise_factor: float = Field(
        100.0, ge=0, allow_inf_nan=False, description="an effect below this many times rounding is not scored"
    )


MOST_BELOW = 0.1  # share of effects below noise from which on the figure of the rest is none of the SAE


def effect_share(s: Sums) -> Ratio:
    """Mean effective fraction of (token, logit) pairs that an ablation moves; lower is sparser."""
    return Ratio(s.sparsity, s.scored, *_scored(s))


def token_share(s: Sums) -> Ratio:
    """The same fraction within each token, averaged over tokens and ablations: another quantity than the joint one."""
    return Ratio(s.token_sparsity, s.scored, *_scored(s))


def _scored(s: Sums) -> tuple[str, NDArray[np.float64]]:
    """The denominator's name and floor: the few effects that stand out of strong noise are not like the others."""
    what = "the number of ablations whose effect is above rounding noise (--dtype float32 has little of it)"
    return what, (1 - MOST_BELOW) * s.ablations


def effect_kl(s: Sums) -> Ratio:
    """Mean KL(clean || ablated) of the tokens that an ablation can reach, nats a token; 0 is no effect."""
    return Ratio(s.kl, s.tokens, "the number of tokens behind ablations")


def below_noise(s: Sums) -> Ratio:
    """Share of ablations whose effect cannot be told from rounding, and which are therefore not scored."""
    return Ratio(s.ablations - s.scored, s.ablations, "the number of ablations")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        "effect_sparsity": effect_share,
        "effect_sparsity_token": token_share,
        "effect_kl": effect_kl,
        "noise_fraction": below_noise,
    }
