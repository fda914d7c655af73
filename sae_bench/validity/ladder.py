"""All SAEs of a draw, with how good each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.weights import Weights
from sae_bench.validity.known import known
from sae_bench.validity.trained import CHECKPOINTS, trained
from sae_bench.validity.truth import Truth, truth
from sae_bench.validity.world import TYPES, World

UNTRAINED = "frozen_random"
STEPS = (UNTRAINED, *(f"trained_{step:04d}" for step in CHECKPOINTS))  # one training, in order


@dataclass(frozen=True)
class Rung:
    """An SAE of known quality: its name, which is the same in every draw of a world, and how good it is."""

    name: str
    coder: SparseCoder
    truth: Truth


def ladder(world: World) -> dict[str, Rung]:
    """The SAEs of a world by name."""
    learned = trained(world.seed)
    fit = fitted(learned[UNTRAINED], world)
    made: dict[str, SparseCoder] = {**known(world), **learned, fit.info.name: fit}
    return {name: Rung(name, coder, truth(coder, world)) for name, coder in made.items()}


def fitted(coder: LinearCoder, world: World) -> LinearCoder:
    """The codes of an untrained encoder with the decoder that reconstructs the language best."""
    x = torch.from_numpy(world.activations).float()
    codes = np.hstack([coder.encode(x).dense().double().numpy(), np.ones((TYPES, 1))])
    weight = np.sqrt(world.rates)[:, None]
    found = np.linalg.lstsq(weight * codes, weight * world.activations, rcond=1e-6)[0]
    rows, bias = torch.from_numpy(found[:-1]).float(), torch.from_numpy(found[-1]).float()
    own: Mapping[str, torch.Tensor] = dict(coder.weights.items())
    shift = own["b_enc"] - own["b_dec"] @ own["W_enc"]  # the encoder still reads what it was made for
    rule = replace(coder.rule, apply_b_dec_to_input=False)
    info = replace(coder.info, name="random_fit")
    return LinearCoder(info, Weights(W_enc=own["W_enc"], b_enc=shift, W_dec=rows, b_dec=bias), rule)
