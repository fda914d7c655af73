"""Decoding of sparse codes: only the decoder rows of active latents are read."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.kernels import topk


def sparse_decode(indptr: Tensor, indices: Tensor, values: Tensor, directions: Tensor, *, waits: bool = True) -> Tensor:
    """``codes @ directions``: ``[tokens, d_out]`` from CSR codes and ``directions`` ``[n_latents, d_out]``.

    Directions stored in a shorter type are gathered first and summed in the type of ``values``, for some tokens at a
    time, so that at most ``TILE_ELEMENTS`` numbers are converted at once. Where the host may not wait for the device
    (``waits``) some entries are taken at a time, wherever a token ends.
    """
    if len(indices) == 0:
        return values.new_zeros(len(indptr) - 1, directions.shape[1])
    if directions.dtype == values.dtype:
        return _sums(indptr, indices, values, directions)
    if not waits:
        return _in_slabs(indptr, indices, values, directions)
    at_once = max(1, topk.TILE_ELEMENTS // directions.shape[1])
    ends = indptr.cpu()
    out = []
    first, n_tokens = 0, len(ends) - 1
    while first < n_tokens:
        fitting = int(torch.searchsorted(ends, ends[first] + at_once, right=True)) - 1
        last = max(fitting, first + 1)
        part = slice(int(ends[first]), int(ends[last]))
        if last > fitting:  # one token with more entries than fit
            out.append(_long_row(indices[part], values[part], directions, at_once))
        else:
            used, local = torch.unique(indices[part], return_inverse=True)
            rows = directions[used].to(values.dtype)
            out.append(_sums(indptr[first : last + 1] - indptr[first], local, values[part], rows))
        first = last
    return torch.cat(out)


def _in_slabs(indptr: Tensor, indices: Tensor, values: Tensor, directions: Tensor) -> Tensor:
    """Sums of some entries at a time: the host knows how many entries there are, but not whose they are."""
    at_once = max(1, topk.tile_elements(indices.device) // directions.shape[1])
    out = values.new_zeros(len(indptr) - 1, directions.shape[1])
    for start in range(0, len(indices), at_once):
        slab = slice(start, min(start + at_once, len(indices)))
        rows = directions[indices[slab]].to(values.dtype)
        within = (indptr - start).clamp(0, len(rows))
        out += _sums(within, torch.arange(len(rows), device=rows.device), values[slab], rows)
    return out


def _sums(indptr: Tensor, indices: Tensor, values: Tensor, directions: Tensor) -> Tensor:
    if len(indices) == 0:
        return values.new_zeros(len(indptr) - 1, directions.shape[1])
    return torch.nn.functional.embedding_bag(indices, directions, indptr[:-1], mode="sum", per_sample_weights=values)


def _long_row(indices: Tensor, values: Tensor, directions: Tensor, at_once: int) -> Tensor:
    out = values.new_zeros(1, directions.shape[1])
    for latents, weights in zip(torch.split(indices, at_once), torch.split(values, at_once), strict=True):
        out += weights @ directions[latents].to(values.dtype)
    return out
