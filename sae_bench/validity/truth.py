"""How good an SAE is, by what is true of the world: its latents against the features, each feature with one latent.

``firing[i, j]`` is the F1 with which latent j fires where feature i is, over the tokens of the language, and
``cosine[i, j]`` that of their directions, without its sign, 0 of a latent that never fires. Features are matched to
latents one to one so that the sum is largest (Kuhn 1955, the Hungarian method); a feature without a latent scores 0.
*encoder* matches by firing, *decoder* by cosine (the mean correlation coefficient of dictionary learning), *both* by
their product: the latent must fire where the feature is and write what the feature is. All are means over the features
that the language has, in [0, 1], higher is better.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sae_bench.saes.protocol import SparseCoder
from sae_bench.validity.numbers import Array
from sae_bench.validity.world import World

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """What an SAE has of the features of a world."""

    both: float
    encoder: float
    decoder: float

    def as_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def truth(coder: SparseCoder, world: World) -> Truth:
    """Of a coder on the language of a world."""
    x = torch.from_numpy(world.activations).float()
    fires = coder.encode(x).dense().numpy() != 0
    rows = coder.decoder_rows(torch.arange(coder.info.n_latents)).double().numpy()
    return of_parts(world.strengths > 0, world.directions, fires, rows, world.rates)


def of_parts(has: Flags, directions: Array, fires: Flags, rows: Array, rates: Array) -> Truth:
    """Of what there is (``has`` ``[tokens, features]``, ``directions`` ``[features, width]``) and an SAE says there is.

    ``fires`` ``[tokens, latents]``, ``rows`` ``[latents, width]``; ``rates`` ``[tokens]`` is how often each row comes.
    """
    there = rates @ has > 0
    firing = f1(has[:, there], fires, rates)
    cosine = np.abs(unit(directions[there]) @ unit(rows).T) * (rates @ fires > 0)
    return Truth(*(matched(one) for one in (firing * cosine, firing, cosine)))


def f1(has: Flags, fires: Flags, rates: Array) -> Array:
    """``[features, latents]`` from what tokens have ``[tokens, features]`` and where latents fire."""
    common = (has * rates[:, None]).T @ fires
    total = (rates @ has)[:, None] + (rates @ fires)[None]
    found: Array = 2 * common / np.maximum(total, 1e-300)
    return found


def unit(rows: Array) -> Array:
    """Rows of length 1; those of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Array = rows / np.where(lengths > 0, lengths, 1)
    return found


def matched(score: Array) -> float:
    """The mean over features (rows) of the best one-to-one match."""
    rows, columns = linear_sum_assignment(-score)
    return float(score[rows, columns].sum() / len(score))
