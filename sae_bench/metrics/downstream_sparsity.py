"""Figures of the task downstream_sparsity, as functions of its sums. See tasks/downstream_sparsity/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sae_bench.parameters import TaskParameters
from sae_bench.show.blocks import Block, interval, quoted, table
from sae_bench.show.text import number
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


def token_share(s: Sums) -> Ratio:
    """Mean effective fraction of the ablated token's own logits that an ablation moves; lower is sparser."""
    return Ratio(s.token_share, s.token_scored, *_scored(s))


def token_gain(s: Sums) -> Ratio:
    """How much lower that is than of a random direction of the same norm at the same position; above 0 is sparser."""
    what = (
        "the number of ablations with a random direction beside them (SAEs have one, controls none), both above noise"
    )
    return Ratio(s.gain, s.paired, what, _scored(s)[1])


def effect_share(s: Sums) -> Ratio:
    """The paper's joint figure: mean effective fraction of (token, logit) pairs over all tokens that are followed."""
    return Ratio(s.sparsity, s.scored, *_scored(s))


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
        "effect_sparsity_token": token_share,
        "effect_sparsity_token_gain": token_gain,
        "effect_sparsity": effect_share,
        "effect_kl": effect_kl,
        "noise_fraction": below_noise,
    }


JOINT = "effect_sparsity"  # of which details hold parts that do not say which figure they are parts of
CALLED = {JOINT: "effect sparsity, jointly"}
OUTPUTS = 5  # tokens that are shown of what a latent promotes or suppresses


def blocks(details: Mapping[str, Any]) -> list[Block]:
    """The figure by decile of activation and of density, and what latents do to the next token."""
    made: list[Block] = []
    figure = str(details.get("figure", JOINT))
    called = CALLED.get(figure, "effect sparsity")
    for name, what in (
        ("by_activation", "norm of what was taken away"),
        ("by_density", "share of tokens on which the latent is active"),
    ):
        if name in details:
            rows = [
                (f"{number(float(one['from']))} to {number(float(one['to']))}", one["ablations"], interval(one))
                for one in details[name]
            ]
            made.append(table(f"{called.capitalize()} by {what}", [what, "ablations", called], rows))
    if "outputs" in details:
        head = ["latent", "positions", "density", called, "KL, nats a token", "promotes", "suppresses"]
        head += ["direction alone promotes", "direction alone suppresses"]
        title = "Outputs: next tokens that latents make likelier or less likely, in logits"
        made.append(table(title, head, (_output(one, figure) for one in details["outputs"])))
    return made


def _output(one: Mapping[str, Any], figure: str) -> list[Any]:
    """A latent: what it promotes and suppresses, by ablation and by its direction alone."""
    figures = [one["latent"], one.get("positions"), one["density"], one[figure], one["kl"]]
    sides = ("promoted", "suppressed", "direct_promoted", "direct_suppressed")
    return figures + [
        " ".join(f"{quoted(t['token'])} {float(t['logit']):+.2g}" for t in one.get(side, ())[:OUTPUTS])
        for side in sides
    ]
