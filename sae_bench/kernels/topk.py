"""Selection over latents in tiles: no array of ``[tokens, n_latents]`` beyond a tile ever exists.

A *tile function* ``tile(start, stop)`` returns pre-activations ``[tokens, stop - start]`` of the latents
``start:stop``. Results do not depend on the tile size: ties go to the lowest latent index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE_LATENTS = 8192
TILE_ELEMENTS = 1 << 22  # 16 MiB of float32

TileFunction = Callable[[int, int], Tensor]


def row_chunks(n_tokens: int, n_latents: int, k: int = 0) -> Iterator[slice]:
    """Slices of tokens such that a tile, or ``k`` entries of every token, hold at most ``TILE_ELEMENTS`` numbers."""
    step = max(1, TILE_ELEMENTS // max(1, k, min(n_latents, TILE_LATENTS)))
    for start in range(0, n_tokens, step):
        yield slice(start, min(start + step, n_tokens))


def top_k(tile: TileFunction, n_latents: int, k: int, *, by_magnitude: bool = False) -> tuple[Tensor, Tensor]:
    """The ``k`` largest pre-activations of every token.

    Returns ``values`` and ``indices`` ``[tokens, min(k, n_latents)]``, sorted by latent index. With ``by_magnitude``
    the largest absolute values are taken and keep their sign.
    """
    best: tuple[Tensor, Tensor] | None = None
    for start in _tiles(n_latents):
        pre = tile(start, min(start + TILE_LATENTS, n_latents))
        keys = pre.abs() if by_magnitude else pre
        columns = _largest(keys, min(k, keys.shape[1]))
        values, indices = pre.gather(1, columns), columns + start
        if best is not None:
            values, indices = torch.cat([best[0], values], 1), torch.cat([best[1], indices], 1)
            keep = _largest(values.abs() if by_magnitude else values, min(k, values.shape[1]))
            values, indices = values.gather(1, keep), indices.gather(1, keep)
        best = (values, indices)
    assert best is not None
    return best


def _tiles(n_latents: int) -> range:
    return range(0, max(n_latents, 1), TILE_LATENTS)  # without latents one empty tile, which says how many tokens


def _largest(keys: Tensor, k: int) -> Tensor:
    """Columns ``[rows, k]`` of the k largest keys, ascending; among equal keys the lowest columns."""
    if k == keys.shape[1]:
        return torch.arange(k, device=keys.device).expand(len(keys), k)
    top, columns = keys.topk(k, dim=1, sorted=False)
    tied = ((keys >= top.amin(1, keepdim=True)).sum(1) > k).nonzero().squeeze(1)
    if len(tied):
        columns[tied] = keys[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return columns.sort(dim=1).values


def active(tile: TileFunction, n_latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """All non-zero entries: ``counts`` ``[tokens]``, ``indices`` and ``values`` ``[nonzeros]`` in row order."""
    rows, columns, values = [], [], []
    n_tokens = 0
    for start in _tiles(n_latents):
        latents = tile(start, min(start + TILE_LATENTS, n_latents))
        n_tokens = len(latents)
        row, column = latents.nonzero(as_tuple=True)
        rows.append(row)
        columns.append(column + start)
        values.append(latents[row, column])
    row = torch.cat(rows)
    counts = torch.bincount(row, minlength=n_tokens)
    if len(rows) == 1:
        return counts, columns[0], values[0]
    order = row.sort(stable=True).indices  # tiles come in ascending order, so latents stay sorted within a row
    return counts, torch.cat(columns)[order], torch.cat(values)[order]
