"""Selection over latents in tiles: no array of ``[tokens, n_latents]`` beyond a tile ever exists.

A *tile function* ``tile(start, stop)`` returns pre-activations ``[tokens, stop - start]`` of the latents
``start:stop``; it may use the same memory again for the next tile. Results do not depend on the tile size: ties go to
the lowest latent index.

Most of a tile is read once: the maximum of every group of ``GROUP`` latents (strided, so that it is a maximum of whole
vectors) says which groups can hold a winner, and only those are looked into. Each of the k largest lies in one of the k
groups with the largest maxima, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE_LATENTS = 8192
TILE_ELEMENTS = 1 << 21  # 8 MiB of float32: stays in the cache of a CPU
GPU_TILE_ELEMENTS = 1 << 27  # 512 MiB: many tokens behind every tile of weights
GROUP = 32  # latents of a group

TileFunction = Callable[[int, int], Tensor]


def tile_elements(device: torch.device) -> int:
    """How many numbers a tile may hold on ``device``."""
    return GPU_TILE_ELEMENTS if device.type == "cuda" else TILE_ELEMENTS


def row_chunks(n_tokens: int, n_latents: int, k: int = 0, elements: int | None = None) -> Iterator[slice]:
    """Slices of tokens such that a tile, or ``k`` entries of every token, hold at most ``elements`` numbers."""
    step = max(1, (elements or TILE_ELEMENTS) // max(1, k, min(n_latents, TILE_LATENTS)))
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
        if best is None or best[0].shape[1] < k:
            columns = _largest(keys, min(k, keys.shape[1]))
            found = pre.gather(1, columns), columns + start
            best = found if best is None else _merged(best, found, k, by_magnitude)
        else:
            best = _improved(best, pre, keys, start, by_magnitude)
    assert best is not None
    return best


def active(tile: TileFunction, n_latents: int, floor: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """All entries above ``floor`` ``[n_latents]`` or ``[]``; without a floor, all non-zero entries.

    Returns ``counts`` ``[tokens]``, ``indices`` and ``values`` ``[nonzeros]`` in row order, latents ascending.
    """
    rows, columns, values = [], [], []
    n_tokens = 0
    for start in _tiles(n_latents):
        stop = min(start + TILE_LATENTS, n_latents)
        pre = tile(start, stop)
        n_tokens = len(pre)
        row, column = above(pre, floor[start:stop] if floor is not None and floor.ndim else floor)
        rows.append(row)
        columns.append(column + start)
        values.append(pre[row, column])
    row, column, value = torch.cat(rows), torch.cat(columns), torch.cat(values)
    order = (row * max(n_latents, 1) + column).argsort()
    return torch.bincount(row, minlength=n_tokens), column[order], value[order]


def group_max(tile: TileFunction, n_latents: int, groups: int) -> tuple[Tensor, Tensor]:
    """The largest pre-activation of each of ``groups`` contiguous, equal groups of latents.

    Returns ``values`` and ``indices`` ``[tokens, groups]``; among equals the lowest index. A tile is some whole groups,
    or one group.
    """
    size = n_latents // groups
    at_once = max(1, TILE_LATENTS // size)
    values, indices = [], []
    for first in range(0, groups, at_once):
        count = min(at_once, groups - first)
        pre = tile(first * size, (first + count) * size)
        pre = pre.reshape(len(pre), count, size)
        column = pre.argmax(2, keepdim=True)  # the first of equals
        values.append(pre.gather(2, column).squeeze(2))
        indices.append(column.squeeze(2) + torch.arange(first, first + count, device=pre.device) * size)
    return torch.cat(values, 1), torch.cat(indices, 1)


def _tiles(n_latents: int) -> range:
    return range(0, max(n_latents, 1), TILE_LATENTS)  # without latents one empty tile, which says how many tokens


def maxima(keys: Tensor) -> Tensor:
    """Some maxima of disjoint sets of columns, ``[tokens, sets]``: the k-th largest of them is at most that of all."""
    if keys.shape[1] < 4 * GROUP:
        return keys
    return _maxima(keys)[0]


def _maxima(keys: Tensor) -> tuple[Tensor, int]:
    """Maxima ``[tokens, groups]``, and the number of groups: group ``g`` is the columns ``g, g + groups, ...``."""
    groups = keys.shape[1] // GROUP
    return keys[:, : groups * GROUP].view(len(keys), GROUP, groups).amax(1), groups


def _members(group: Tensor, groups: int) -> Tensor:
    """Columns ``[tokens, chosen * GROUP]`` of the chosen groups ``[tokens, chosen]``."""
    steps = torch.arange(GROUP, device=group.device) * groups
    return (group.unsqueeze(2) + steps).flatten(1)


def _largest(keys: Tensor, k: int) -> Tensor:
    """Columns ``[rows, k]`` of the k largest keys, ascending; among equal keys the lowest columns."""
    n = keys.shape[1]
    if k == n:
        return torch.arange(k, device=keys.device).expand(len(keys), k)
    if n < 4 * GROUP * k or not keys.is_contiguous():
        return _largest_of_all(keys, k)
    maxima, groups = _maxima(keys)
    tail = torch.arange(groups * GROUP, n, device=keys.device).expand(len(keys), -1)
    members = torch.cat([_members(maxima.topk(k, dim=1, sorted=False).indices, groups), tail], 1)
    candidates = keys.gather(1, members)
    top, chosen = candidates.topk(k, dim=1, sorted=False)
    columns = members.gather(1, chosen)
    # a tie at the edge: among the candidates, or with a group that was not looked into
    last = top.amin(1, keepdim=True)
    tied = _more_reach(candidates, last, k) | _more_reach(maxima, last, k)
    return _settled(keys, columns, tied)


def _largest_of_all(keys: Tensor, k: int) -> Tensor:
    top, columns = keys.topk(k, dim=1, sorted=False)
    return _settled(keys, columns, _more_reach(keys, top.amin(1, keepdim=True), k))


def _more_reach(keys: Tensor, last: Tensor, k: int) -> Tensor:
    """Rows in which more than k keys are not below the last of them; NaN is the largest, and equal to itself."""
    return (keys < last).sum(1) < keys.shape[1] - k


def _settled(keys: Tensor, columns: Tensor, tied: Tensor) -> Tensor:
    """The columns, ascending; those of ``tied`` rows by a stable sort."""
    rows = tied.nonzero().squeeze(1)
    if len(rows):
        columns[rows] = keys[rows].sort(dim=1, descending=True, stable=True).indices[:, : columns.shape[1]]
    return columns.sort(dim=1).values


def _merged(
    best: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], k: int, by_magnitude: bool
) -> tuple[Tensor, Tensor]:
    """The k largest of two lists, of which the second has the higher indices."""
    values, indices = torch.cat([best[0], found[0]], 1), torch.cat([best[1], found[1]], 1)
    keep = _largest_of_all(values.abs() if by_magnitude else values, min(k, values.shape[1]))
    return values.gather(1, keep), indices.gather(1, keep)


def _improved(
    best: tuple[Tensor, Tensor], pre: Tensor, keys: Tensor, start: int, by_magnitude: bool
) -> tuple[Tensor, Tensor]:
    """``best`` with what a further tile has above it; equal values stay out, since their indices are higher."""
    k = best[0].shape[1]
    floor = (best[0].abs() if by_magnitude else best[0]).amin(1)
    row, column = above(keys, floor.unsqueeze(1))
    if len(row) == 0:
        return best
    counts = torch.bincount(row, minlength=len(keys))
    changed = counts.nonzero().squeeze(1)
    most = int(counts.max())
    # entries of a row side by side, padded with what never wins
    order = (row * keys.shape[1] + column).argsort()
    row, column = row[order], column[order]
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    values = pre.new_full((len(keys), most), float("-inf"))
    columns = torch.zeros(len(keys), most, dtype=torch.int64, device=row.device)
    values[row, place], columns[row, place] = pre[row, column], column + start
    found = values[changed], columns[changed]
    old = best[0][changed], best[1][changed]
    if by_magnitude:
        padding = torch.arange(most, device=row.device) >= counts[changed].unsqueeze(1)
        found = found[0].masked_fill(padding, 0), found[1]  # the earlier of equals stay
    new = _merged(old, found, k, by_magnitude)
    values, indices = best[0].clone(), best[1].clone()
    values[changed], indices[changed] = new
    return values, indices


def above(keys: Tensor, floor: Tensor | None, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows and columns of the keys above ``floor`` (``[columns]``, ``[]`` or ``[rows, 1]``), or not zero without one.

    "Not at most the floor", so that NaN is found and can be reported rather than lost. ``known``: what :func:`maxima`
    found, unless the floor is one of columns.
    """
    if floor is None:
        row, column = keys.nonzero(as_tuple=True)
        return row, column
    if keys.shape[1] < 4 * GROUP or not keys.is_contiguous():
        row, column = (keys <= floor).logical_not_().nonzero(as_tuple=True)
        return row, column
    per_column = floor.ndim == 1
    maxima, groups = (known, known.shape[1]) if known is not None else _maxima(keys - floor if per_column else keys)
    hit = (maxima <= (0 if per_column else floor)).logical_not_()
    row, group = hit.nonzero(as_tuple=True)
    if len(row) * 8 > hit.numel():
        row, column = (keys <= floor).logical_not_().nonzero(as_tuple=True)
        return row, column
    members = _members(group.unsqueeze(1), groups)
    limit = floor[members] if per_column else floor if floor.ndim == 0 else floor[row]
    inside = (keys[row.unsqueeze(1), members] <= limit).logical_not_().nonzero(as_tuple=True)
    end = groups * GROUP
    rest = (keys[:, end:] <= (floor[end:] if per_column else floor)).logical_not_().nonzero(as_tuple=True)
    return torch.cat([row[inside[0]], rest[0]]), torch.cat([members[inside], rest[1] + end])
