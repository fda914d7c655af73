"""Which latents are explained, and on which documents: a sample that neither numbering nor order changes.

Of the latents a systematic sample of those that are active on calibration tokens, in order of how often and how
strongly, so that rare and frequent ones are there in their proportion. Of the documents a bounded number, by a hash of
their content, of as many groups as there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.plan import Cast
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace
from sae_bench.kernels.ranks import top
from sae_bench.randomness import generator, random_bytes
from sae_bench.units.groups import group_of
from sae_bench.units.sample import in_turns

LEAST_SEEN = 2  # calibration tokens on which a latent must be active


@dataclass(frozen=True)
class Chosen:
    """The watched latents of one coder, sorted, and the share of calibration tokens on which each is active.

    ``sampled`` is how large a part they are of the latents from which they were drawn.
    """

    latents: Tensor
    density: Tensor
    sampled: float


def encoder_of(entry: Entry, cast: Cast) -> str:
    """The key of the coder whose codes these are: a permuted decoder has those of its SAE."""
    return next(other.key for other in cast.entries if other.encoder is entry.encoder)


def choose_latents(entry: Entry, work: Workspace, n: int, most_density: float, seed: int) -> Chosen:
    """Up to ``n`` latents that are active on calibration tokens, but not on too many. Raises CoderFailure."""
    sample = work.moments[entry.hook_in].sample
    codes = work.encode(entry, sample)
    count = torch.bincount(codes.indices, minlength=codes.n_latents)
    strength = torch.bincount(codes.indices, weights=work.sizes(entry, codes), minlength=codes.n_latents)
    if bool(strength.isnan().any()):
        raise CoderFailure("the size of what a latent adds to the reconstruction is NaN")
    eligible = ((count >= LEAST_SEEN) & (count <= most_density * len(sample))).nonzero().squeeze(1)
    by_strength = eligible[top(-strength[eligible])]
    ranked = by_strength[count[by_strength].argsort(stable=True)]
    n = min(n, len(ranked))
    start = float(torch.rand(1, generator=generator(seed, "watched latents"), dtype=torch.float64))
    places = ((torch.arange(n, dtype=torch.float64) + start) * len(ranked) / max(n, 1)).long()
    latents = ranked[places.to(ranked.device)].sort().values
    return Chosen(latents, count[latents].double() / max(len(sample), 1), n / max(len(ranked), 1))


def tracked_units(tokens: TokenSet, n: int | None, seed: int) -> list[int]:
    """The documents that are tracked: ``n`` of them (None: all), of all groups alike, first by a hash."""
    return sorted(in_turns(tokens.unit_ids, lambda unit: random_bytes(seed, f"watched document {unit}"))[:n])


def is_fit(unit_id: str, seed: int) -> bool:
    """Whether explanations are made on this document (else scored on it); the same for all documents of a group."""
    return random_bytes(seed, f"explained on {group_of(unit_id)}")[0] < 128
