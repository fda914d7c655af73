"""Products of a fixed number of tokens at a time, so that a token's sums do not depend on how many others there are.

A library of matrix products chooses its kernel, and with it the order in which numbers are added, by the shapes of the
matrices. Sums of another order differ in their last bits, and near the edge of a selection these decide. On a GPU,
where a few hundred tokens fill the device, every product is made with ``ROWS`` tokens, of which the last are zeros
where there are fewer: tokens that are selected once more, apart from the others, get the sums they have among them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS = 512

Product = Callable[..., Tensor]  # as torch.mm: two matrices, and the memory ``out``


def padded(u: Tensor) -> Tensor:
    """``u`` ``[tokens, width]`` and rows of zeros, up to a multiple of ``ROWS``."""
    missing = -len(u) % ROWS
    return torch.cat([u, u.new_zeros(missing, u.shape[1])]) if missing else u


def in_blocks(u: Tensor, matrix: Tensor, out: Tensor, product: Product = torch.mm) -> Tensor:
    """``u @ matrix`` in ``out`` ``[tokens, columns]``, ``ROWS`` tokens at a time; their number is a multiple of it."""
    for start in range(0, len(u), ROWS):
        rows = slice(start, start + ROWS)
        product(u[rows], matrix, out=out[rows])
    return out
