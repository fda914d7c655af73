"""Decoding of sparse codes: only the decoder rows of active latents are read."""

from __future__ import annotations

import torch
from torch import Tensor


def sparse_decode(indptr: Tensor, indices: Tensor, values: Tensor, directions: Tensor) -> Tensor:
    """``codes @ directions``: ``[tokens, d_out]`` from CSR codes and ``directions`` ``[n_latents, d_out]``.

    Directions stored in a shorter type are gathered first and summed in the type of ``values``.
    """
    n_tokens = len(indptr) - 1
    if len(indices) == 0:
        return values.new_zeros(n_tokens, directions.shape[1])
    if directions.dtype != values.dtype:
        used, indices = indices.unique(return_inverse=True)
        directions = directions[used].to(values.dtype)
    return torch.nn.functional.embedding_bag(
        indices, directions, indptr[:-1], mode="sum", per_sample_weights=values, include_last_offset=False
    )
