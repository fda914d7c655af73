"""What is ablated: documents, positions and latents, each chosen by a generator of its own document.

What is chosen in a document depends on the seed, the document and the coder alone, so a run on fewer documents measures
the same rows as a longer one. Latents are chosen by rank of their contribution ``|f| |d|``, not by number: the order of
a dictionary and the scale of its latents change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_bench.engine.batch import Batch
from sae_bench.engine.workspace import CoderFailure, Entry, guarded
from sae_bench.kernels.ranks import top
from sae_bench.randomness import generator
from sae_bench.saes.decoding import decode
from sae_bench.saes.protocol import Codes, indptr_of


@dataclass(frozen=True)
class Sampled:
    """Positions of a batch, in order of sequence and position: int64 ``[positions]`` each but ``units``.

    ``sequence`` and ``position`` are where it is in the batch, ``token`` its place among the batch's real tokens,
    ``units`` the unit id of each.
    """

    sequence: Tensor
    position: Tensor
    token: Tensor
    units: tuple[str, ...]


@dataclass(frozen=True)
class Ablations:
    """What is taken away, one row an ablation: ``place`` int64 (index into :class:`Sampled`), ``latent`` int64,
    ``value`` its activation, ``contribution`` ``[ablations, d_out]`` what is subtracted.
    """

    place: Tensor
    latent: Tensor
    value: Tensor
    contribution: Tensor


def sampled_positions(batch: Batch, units: list[str], n: int, seed: int) -> Sampled:
    """Up to ``n`` positions inside the mask of every sequence; ``units`` names the sequences."""
    sequences, positions, names = [], [], []
    for row, (unit, keep) in enumerate(zip(units, batch.keep.cpu(), strict=True)):
        allowed = keep.nonzero().squeeze(1)
        order = torch.randperm(len(allowed), generator=generator(seed, f"ablated positions of {unit}"))
        chosen = allowed[order[:n]].sort().values.tolist()
        sequences += [row] * len(chosen)
        positions += chosen
        names += [unit] * len(chosen)
    device = batch.tokens.device
    sequence, position = (torch.tensor(x, dtype=torch.int64, device=device) for x in (sequences, positions))
    starts = batch.attention.sum(1).cumsum(0) - batch.attention.sum(1)
    return Sampled(sequence, position, starts[sequence] + position, tuple(names))


def sampled_latents(
    entry: Entry, x: Tensor, codes: Codes, sizes: Tensor, places: Sampled, n: int, seed: int
) -> Ablations:
    """Up to ``n`` active latents at each position, whose activations are ``x`` ``[positions, d_in]``, with ``codes``.

    They are drawn from the ranking by ``sizes`` ``[entries]``: magnitudes times norms of directions. Raises
    CoderFailure.
    """
    if bool(sizes.isnan().any()):  # it has no rank
        raise CoderFailure("what a latent adds to the reconstruction is NaN or infinite")
    rows, entries = [], []
    for i, unit in enumerate(places.units):
        start, stop = int(codes.indptr[i]), int(codes.indptr[i + 1])
        ranked = top(sizes[start:stop]) + start
        role = f"ablated latents of {unit} at {int(places.position[i])}"
        order = torch.randperm(len(ranked), generator=generator(seed, role))[:n]
        entries.append(ranked[order.to(ranked.device)])
        rows.append(torch.full((len(order),), i, dtype=torch.int64, device=x.device))
    place, chosen = (torch.cat(parts) if parts else codes.indices[:0] for parts in (rows, entries))
    latent, value = codes.indices[chosen], codes.values[chosen]
    removed = guarded(entry, lambda: contributions(entry, latent, value, x[place]))
    if not bool(removed.isfinite().all()):
        raise CoderFailure("what a latent adds to the reconstruction is NaN or infinite")
    return Ablations(place, latent, value, removed)


def contributions(entry: Entry, latent: Tensor, value: Tensor, x: Tensor) -> Tensor:
    """What each latent alone adds to the reconstruction of its token, ``[ablations, d_out]``."""
    coder = entry.coder
    if coder.info.decode_needs == "nothing":
        return coder.decoder_rows(latent) * value.unsqueeze(1)
    ones, n = torch.ones_like(latent), coder.info.n_latents
    alone = decode(coder, Codes(indptr_of(ones), latent, value, n), x)
    return alone - decode(coder, Codes(indptr_of(ones - 1), latent[:0], value[:0], n), x)


def random_directions(ablations: Ablations, places: Sampled, seed: int) -> Ablations:
    """The same ablations in random directions: every contribution keeps its norm."""
    width = ablations.contribution.shape[1]
    rows = torch.empty(len(ablations.place), width, dtype=torch.float64)
    of_place = ablations.place.cpu()
    for i, unit in enumerate(places.units):
        own = (of_place == i).nonzero().squeeze(1)
        role = f"random directions in {unit} at {int(places.position[i])}"
        rows[own] = torch.randn(len(own), width, generator=generator(seed, role), dtype=torch.float64)
    norm = ablations.contribution.double().norm(dim=1, keepdim=True)
    turned = torch.nn.functional.normalize(rows, dim=1).to(norm.device) * norm
    return Ablations(ablations.place, ablations.latent, ablations.value, turned.to(ablations.contribution))
