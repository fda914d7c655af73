"""From latent activations of tokens to one activation of each text: pooling of sparse codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels.ranks import exceeds

POOLINGS = ("max", "mean", "last")
SCRATCH = 1 << 22  # elements of the scratch array, or one text if that is more


class Entries(NamedTuple):
    """Entries of a sparse matrix ``[texts, latents]``, in order of text and latent, each at most once."""

    texts: Tensor
    latents: Tensor
    values: Tensor


def pool(entries: Entries, how: str, n_latents: int, size: Tensor) -> Entries:
    """Pool the entries of tokens over the tokens of each text.

    ``entries.texts`` is the text of each token's entry, ascending; ``size`` ``[texts]`` how many tokens a text has.
    ``how`` is "max" (the value of largest magnitude, with its sign, the positive one of near-ties; for codes that are
    never negative the maximum), "mean" (tokens without the latent count as 0) or "last" (``entries`` hold one token a
    text, taken as it is).
    """
    if how not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {how!r}")
    if how == "last":
        return entries
    step = max(1, SCRATCH // max(n_latents, 1))
    found = [_pool_some(entries, how, n_latents, size, first, step) for first in range(0, len(size), step)]
    return Entries(*(torch.cat([part[i] for part in found]) for i in range(3)))


def _pool_some(entries: Entries, how: str, n_latents: int, size: Tensor, first: int, step: int) -> Entries:
    """The texts ``first:first + step``, in a dense scratch array: scattering into it is faster than a sort."""
    size = size[first : first + step]
    here = torch.tensor([first, first + len(size)], device=size.device)
    start, stop = torch.searchsorted(entries.texts, here).tolist()
    at = (entries.texts[start:stop] - first) * n_latents + entries.latents[start:stop]
    values = entries.values[start:stop]
    if how == "mean":
        scratch = values.new_zeros(len(size) * n_latents, dtype=torch.float64)
        scratch = scratch.scatter_add_(0, at, values.double()).view(len(size), -1) / size.clamp(min=1).unsqueeze(1)
    else:
        high = values.new_zeros(len(size) * n_latents).scatter_reduce_(0, at, values, "amax")
        low = torch.zeros_like(high).scatter_reduce_(0, at, values, "amin")
        scratch = torch.where(exceeds(-low, high), low, high).view(len(size), -1)
    text, latent = scratch.nonzero(as_tuple=True)
    return Entries(text + first, latent, scratch[text, latent])


def pool_dense(x: Tensor, size: Tensor, how: str) -> Tensor:
    """The same for dense rows: ``x`` ``[tokens, n]`` of texts of ``size`` ``[texts]`` tokens, to ``[texts, n]``.

    A text without tokens gives zeros.
    """
    there = size > 0
    out = x.new_zeros(len(size), x.shape[1], dtype=torch.float64)
    if how == "last":
        out[there] = x[(size.cumsum(0) - 1)[there]].double()
        return out
    if how == "mean":
        sums = torch.segment_reduce(x.double(), "sum", lengths=size, unsafe=True)
        return sums / size.clamp(min=1).unsqueeze(1)
    counts = size[there]
    high = torch.segment_reduce(x, "max", lengths=counts, unsafe=True)
    low = torch.segment_reduce(x, "min", lengths=counts, unsafe=True)
    out[there] = torch.where(exceeds(-low, high), low, high).double()
    return out


def pool_channels(x: Tensor, size: Tensor, how: str) -> Tensor:
    """Every channel over the tokens of each text: its "mean", its largest value ("high"), smallest ("low") or "last".

    ``[texts, n]``, in float64 the mean, else as ``x``; a text without tokens gives zeros.
    """
    if how in ("mean", "last"):
        pooled = pool_dense(x, size, how)
        return pooled if how == "mean" else pooled.to(x.dtype)
    there = size > 0
    out = x.new_zeros(len(size), x.shape[1])
    out[there] = torch.segment_reduce(x, "max" if how == "high" else "min", lengths=size[there], unsafe=True)
    return out


def pool_scores(scores: Tensor, size: Tensor, how: str, *, signed: bool) -> Tensor:
    """Scores of tokens ``[tokens, m]``, float64, pooled to ``[texts, m]`` as a coder's codes are.

    "max" is the largest, as of codes that are never negative; that of largest magnitude if they are ``signed``.
    """
    return pool_dense(scores, size, how) if signed or how != "max" else pool_channels(scores, size, "high")


def strongest(x: Tensor, size: Tensor, directions: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The largest of the scores of a text's tokens on each of ``directions`` ``[n, m]``, and the tokens that have it.

    ``x`` ``[tokens, n]`` are those of texts of ``size`` ``[texts]``. Scores are ``[texts, m]`` float64, the tokens
    ``[texts, n]`` for each direction; of equal ones the first. A text without tokens gives zeros.
    """
    scores = x.double() @ directions
    there = size > 0
    found = scores.new_zeros(len(size), scores.shape[1])
    found[there] = torch.segment_reduce(scores, "max", lengths=size[there], unsafe=True)
    text = torch.arange(len(size), device=size.device).repeat_interleave(size)
    tokens = []
    for column, highest in zip(scores.T, found.T, strict=True):
        at = torch.full_like(size, len(x))
        where = (column == highest[text]).nonzero().squeeze(1)
        at.scatter_reduce_(0, text[where], where, "amin")
        own = x.new_zeros(len(size), x.shape[1], dtype=torch.float64)
        own[there] = x[at[there]].double()
        tokens.append(own)
    return found, tokens
