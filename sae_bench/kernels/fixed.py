"""Selection with shapes that are known beforehand, so that the host never waits for the device.

The same latents as :mod:`sae_bench.kernels.topk`, to the bit, by other means. That module looks where something was
found, which on a GPU means that the host reads how much it was: every such question stops the queue. Here as much is
looked into as there can be, and ties are settled by arithmetic on all rows. Of entries above a threshold there is no
bound but all of them: :class:`Room` expects as many as there were, and says afterwards whether that was enough. Nothing
of this module reads from the device; who calls it reads :attr:`Padded.met` once, when all is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels import topk

TileFunction = Callable[[int, int], Tensor]
_INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_NOWHERE = torch.iinfo(torch.int64).max  # a place behind all others
_LOW = (1 << 32) - 1  # the lower half of 64 bits


class Padded(NamedTuple):
    """Entries of some tokens in row order, latents ascending, and what is beyond them.

    ``counts`` int64 ``[tokens]``; ``indices`` and ``values`` ``[capacity]``, of which the first ``met[0]`` count;
    ``met`` int64 ``[2]``: how many entries there are, and groups with an entry in the tile that has most of them. If
    ``met`` is more than ``held``, entries are missing, and the rest means nothing.
    """

    counts: Tensor
    indices: Tensor
    values: Tensor
    met: Tensor
    held: tuple[int, int]


@dataclass
class Room:
    """How many entries, and groups with one in a tile, are expected for every token."""

    entries: float = 64
    groups: float = 32

    def of(self, n_tokens: int, n_latents: int) -> tuple[int, int]:
        """Entries and groups to provide for."""
        groups = n_tokens * (min(n_latents, topk.TILE_LATENTS) // topk.GROUP)
        wanted = int(self.entries * n_tokens) + topk.GROUP, int(self.groups * n_tokens) + topk.GROUP
        return min(wanted[0], n_tokens * n_latents), min(wanted[1], max(groups, 1))

    def met(self, n_tokens: int, entries: int, groups: int) -> None:
        """Expect a quarter more than there was."""
        self.entries = max(self.entries, 1.25 * entries / n_tokens)
        self.groups = max(self.groups, 1.25 * groups / n_tokens)


def top_k(tile: TileFunction, n_latents: int, k: int, *, by_magnitude: bool = False) -> tuple[Tensor, Tensor]:
    """As :func:`sae_bench.kernels.topk.top_k`."""
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, max(n_latents, 1), topk.TILE_LATENTS):
        pre = tile(start, min(start + topk.TILE_LATENTS, n_latents))
        columns = _largest(pre.abs() if by_magnitude else pre, min(k, pre.shape[1]))
        found = pre.gather(1, columns), columns + start
        best = found if best is None else _merged(best, found, k, by_magnitude)
    assert best is not None
    return best


def kept(values: Tensor, indices: Tensor) -> Padded:
    """The entries ``[tokens, k]`` that are not zero."""
    fires = values != 0
    place = fires.flatten().cumsum(0) - 1
    total = place[-1] + 1
    place = torch.where(fires.flatten(), place, place.numel())
    held = place.numel()
    return Padded(
        fires.sum(1),
        _scattered(place, indices.flatten(), held),
        _scattered(place, values.flatten(), held),
        torch.stack([total, torch.zeros_like(total)]),
        (held, 0),
    )


def active(tile: TileFunction, n_latents: int, floor: Tensor | None, n_tokens: int, room: Room) -> Padded:
    """As :func:`sae_bench.kernels.topk.active`, of at least one token and one latent, as far as ``room`` goes."""
    held = room.of(n_tokens, n_latents)
    key: Tensor | None = None
    for start in range(0, n_latents, topk.TILE_LATENTS):
        stop = min(start + topk.TILE_LATENTS, n_latents)
        pre = tile(start, stop)
        if key is None:
            key = torch.full((held[0] + 1,), _NOWHERE, dtype=torch.int64, device=pre.device)
            value = pre.new_zeros(held[0] + 1)
            entries = groups = torch.zeros((), dtype=torch.int64, device=pre.device)
        limit = floor[start:stop] if floor is not None and floor.ndim else floor
        found, where, inside, hit = _above(pre, limit, held[1])
        place = entries + inside.cumsum(0) - 1
        place = torch.where(inside, place.clamp(max=held[0]), held[0])
        row, column = where // pre.shape[1], where % pre.shape[1]
        key.scatter_(0, place, row * n_latents + column + start)
        value.scatter_(0, place, found)
        entries, groups = entries + inside.sum(), torch.maximum(groups, hit)
    assert key is not None
    key[held[0]] = _NOWHERE
    key, order = key.sort()
    ends = torch.searchsorted(key, torch.arange(n_tokens + 1, device=key.device) * n_latents)
    return Padded(
        ends.diff(), key[: held[0]] % n_latents, value[order[: held[0]]], torch.stack([entries, groups]), held
    )


def _scattered(place: Tensor, what: Tensor, n: int) -> Tensor:
    return what.new_zeros(n + 1).scatter_(0, place, what)[:n]


def _above(pre: Tensor, floor: Tensor | None, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers of a tile with all above ``floor`` among them: numbers, places in the tile, which are, how many groups.

    Of groups with a number above it, ``most`` are looked into.
    """
    n_rows, n = pre.shape
    if n < 4 * topk.GROUP or not pre.is_contiguous():
        inside = _is_above(pre, floor).flatten()
        return (
            pre.flatten(),
            torch.arange(pre.numel(), device=pre.device),
            inside,
            inside.new_zeros((), dtype=torch.int64),
        )
    groups = n // topk.GROUP
    end = groups * topk.GROUP
    keys = pre.abs() if floor is None else pre - floor if floor.ndim else pre
    maxima = keys[:, :end].view(n_rows, topk.GROUP, groups).amax(1)
    hit = _is_above(maxima, pre.new_zeros(()) if floor is None or floor.ndim else floor).flatten()
    place = hit.cumsum(0)
    n_hit = place[-1]
    place = torch.where(hit, (place - 1).clamp(max=most), most)
    at = _scattered(place, torch.arange(hit.numel(), device=pre.device), most)
    real = torch.arange(most, device=pre.device) < n_hit
    columns = (at % groups).unsqueeze(1) + torch.arange(topk.GROUP, device=pre.device) * groups
    where = (at // groups).unsqueeze(1) * n + columns
    found = pre.view(-1)[where]
    inside = _is_above(found, floor[columns] if floor is not None and floor.ndim else floor) & real.unsqueeze(1)
    rest = torch.arange(end, n, device=pre.device) + torch.arange(n_rows, device=pre.device).unsqueeze(1) * n
    beyond = _is_above(pre[:, end:], floor[end:] if floor is not None and floor.ndim else floor)
    return (
        torch.cat([found.flatten(), pre[:, end:].flatten()]),
        torch.cat([where.flatten(), rest.flatten()]),
        torch.cat([inside.flatten(), beyond.flatten()]),
        n_hit,
    )


def _is_above(keys: Tensor, floor: Tensor | None) -> Tensor:
    """Not at most the floor, so that NaN is found; without a floor, not zero."""
    return keys != 0 if floor is None else (keys <= floor).logical_not_()


def _largest(keys: Tensor, k: int) -> Tensor:
    """Columns ``[rows, k]`` of the k largest keys, ascending; among equal keys the lowest columns.

    A group stands for its largest key, and of equal ones for the first. The k groups that stand for most, and of equal
    ones those that stand for the lowest column, hold all that is chosen: whatever lies in another has k before it.
    """
    n = keys.shape[1]
    if k == n:
        return torch.arange(k, device=keys.device).expand(len(keys), k)
    if n < 4 * topk.GROUP * k or not keys.is_contiguous():
        return _first_largest(order(keys), torch.arange(n, device=keys.device), k)
    groups = n // topk.GROUP
    maxima, which = keys[:, : groups * topk.GROUP].view(len(keys), topk.GROUP, groups).max(1)
    first = which * groups + torch.arange(groups, device=keys.device)
    chosen = _first_largest(order(maxima), first, k) % groups
    members = (chosen.unsqueeze(2) + torch.arange(topk.GROUP, device=keys.device) * groups).flatten(1)
    tail = torch.arange(groups * topk.GROUP, n, device=keys.device).expand(len(keys), -1)
    members = torch.cat([members, tail], 1)
    return _first_largest(order(keys.gather(1, members)), members, k)


def _first_largest(keys: Tensor, columns: Tensor, k: int) -> Tensor:
    """Of integers ``[rows, n]`` the k largest, and of equal ones those of the lowest columns: columns, ascending.

    ``columns`` ``[n]`` or ``[rows, n]`` are different from one another in a row, and below 2^32. Keys of at most 32
    bits make one number with them, of which no two are equal.
    """
    if keys.dtype != torch.int64:
        both = (keys.long() << 32) | (_LOW - columns)
        return (_LOW - (both.topk(k, dim=1, sorted=False).values & _LOW)).sort(dim=1).values
    columns = columns.expand_as(keys)
    top, at = keys.topk(k, dim=1, sorted=False)
    last = top.amin(1, keepdim=True)
    room = k - (top > last).sum(1, keepdim=True)
    equal = torch.where(keys == last, columns, _NOWHERE).topk(k, dim=1, largest=False, sorted=True).values
    equal = equal.masked_fill(torch.arange(k, device=keys.device) >= room, _NOWHERE)
    larger = columns.gather(1, at).masked_fill(top == last, _NOWHERE)
    return torch.cat([larger, equal], 1).sort(dim=1).values[:, :k]


def order(x: Tensor) -> Tensor:
    """Integers in the order of ``x``: equal where numbers are equal (0 and -0), and NaN above all."""
    kind = _INTEGERS[x.dtype]
    bits, most = (x + 0.0).view(kind), torch.iinfo(kind).max
    return (bits ^ ((bits >> (torch.iinfo(kind).bits - 1)) & most)).masked_fill_(x.isnan(), most)


def _merged(
    best: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], k: int, by_magnitude: bool
) -> tuple[Tensor, Tensor]:
    """The k largest of two lists, of which the second has the higher indices."""
    values, indices = torch.cat([best[0], found[0]], 1), torch.cat([best[1], found[1]], 1)
    k = min(k, values.shape[1])
    keys = order(values.abs() if by_magnitude else values)
    places = _first_largest(keys, torch.arange(values.shape[1], device=values.device), k)
    return values.gather(1, places), indices.gather(1, places)
