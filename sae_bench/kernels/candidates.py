"""Selection by bfloat16 products, certified row by row and rescored: the latents that float32 selects.

Where a machine multiplies bfloat16 faster than float32 (tensor cores, AMX), the product with all latents is made in
bfloat16 and only says which latents can be selected. With ``u = u' + e`` and ``w = w' + f`` (primes rounded), Cauchy
and Schwarz give ``|u w - u' w'| <= |e| |w| + |u'| |f|`` for every latent, and rounding of sum and result adds a known
share. So every latent of the true top k lies within twice that bound of the k-th largest rounded product: these
candidates are computed again, in float64, with a bound on what a sum in the coder's own precision can differ from it,
whatever its order (Higham 2002, 3.5). A row is certified if no such sum could select another latent. One whose edge
lies closer, or that has too many candidates, is not; it is left to the exact path.

That path must then be the one that would have been taken without certificates: products of another number of rows are
summed in another order, and near the edge that selects other latents. Where shapes are fixed
(:data:`sae_bench.kernels.product.ROWS`) it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.kernels.topk import above
from sae_bench.precision import in_full

MOST_CANDIDATES = 32  # times k, of a row
_ROUNDED = 2.0**-8  # unit roundoff of bfloat16
_SMALLEST = 2.0**-126  # what is smaller may become 0 on the way into a product
# By how many times d 2^-24 |u| |w| two sums of d products in float32 may be off together: that of rounded numbers,
# which matrix units align and cut off, four products and the sum so far at a time (2.5), and the exact path's (1)
_SUMMED = 4
# latents whose directions are gathered at once, and numbers of directions that are multiplied at once: on a CPU they
# stay in the cache, a GPU wants large pieces
_GATHERED = {"cpu": (512, 1 << 17), "cuda": (8192, 1 << 26)}


class Encoder(NamedTuple):
    """``tile(start, stop)``: columns ``[d_in, stop - start]``; ``directions(latents, start, stop)``: some, as rows.

    Both in the coder's precision; latents ascend, and lie in ``start:stop``. ``bias`` ``[n_latents]``.
    """

    tile: Callable[[int, int], Tensor]
    directions: Callable[[Tensor, int, int], Tensor]
    bias: Tensor | None
    n_latents: int


class Selected(NamedTuple):
    """``certified`` bool ``[tokens]``; ``values`` and ``indices`` ``[tokens, k]``, right in certified rows only."""

    certified: Tensor
    values: Tensor
    indices: Tensor


@dataclass
class Rounding:
    """For every tile of an encoder the largest norm of a column, and of what bfloat16 leaves out of one."""

    tiles: dict[int, tuple[float, float]] = field(default_factory=dict)

    def of(self, start: int, tile: Tensor, rounded: Tensor) -> tuple[float, float]:
        """Both norms of the tile that begins at ``start``, computed once."""
        if start not in self.tiles:
            left_out = _norms(tile - rounded.to(tile.dtype), 0).max()
            self.tiles[start] = (float(_norms(tile, 0).max()), float(left_out))
        return self.tiles[start]


@in_full()
def top_k(u: Tensor, encoder: Encoder, k: int, rounding: Rounding) -> Selected:
    """The ``k`` largest of ``u W + bias`` of every token, ``u`` ``[tokens, d_in]``.

    Every tile of the encoder is rounded once for all tokens, which are multiplied with it some at a time.
    """
    short = u.bfloat16()
    bounds = _Bounds(_norms(short, 1), _norms(u - short.to(u.dtype), 1), u.shape[1])
    kth = u.new_full((len(u), k), float("-inf"))
    held = _Held(u, MOST_CANDIDATES * k)
    slack = torch.zeros_like(bounds.norm)
    product = _Product(u, encoder.n_latents)
    for start in range(0, encoder.n_latents, topk.TILE_LATENTS):
        stop = min(start + topk.TILE_LATENTS, encoder.n_latents)
        tile = encoder.tile(start, stop)
        rounded = product.rounded(tile)
        norm, left_out = rounding.of(start, tile, rounded)
        within, bias = bounds.of(norm, left_out), None
        if encoder.bias is not None:  # it is rounded, and so may the product be before it comes
            bias = encoder.bias[start:stop].bfloat16()
            within = within + 2.1 * _ROUNDED * bias.abs().max().double()
        slack = torch.maximum(slack, within)
        for rows in product.chunks:
            near = product.of(short[rows], rounded, bias)
            maxima = topk.maxima(near)
            kth[rows] = torch.cat([kth[rows], maxima.to(u.dtype)], 1).topk(k, dim=1, sorted=False).values
            limit = _limit(kth[rows], slack[rows]).masked_fill(held.given_up[rows], torch.inf)
            row, column = above(near, limit.float().unsqueeze(1), maxima)
            held.add(row + rows.start, column + start, near[row, column])
        held.tighten(_limit(kth, slack))
        if bool(held.given_up.all()):
            break
    return _rescored(u, encoder, held, k)


class _Held:
    """Candidates so far, at most ``most`` of a row: a row with more of them is given up, and none of its are held."""

    def __init__(self, u: Tensor, most: int) -> None:
        self.most = most
        self.given_up = torch.zeros(len(u), dtype=torch.bool, device=u.device)
        none = torch.zeros(0, dtype=torch.int64, device=u.device)
        self.row, self.column, self.value = none, none, u.new_zeros(0, dtype=torch.bfloat16)
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, row: Tensor, column: Tensor, value: Tensor) -> None:
        """Candidates of one product; each row comes once between two calls of :meth:`tighten`."""
        self.given_up |= torch.bincount(row, minlength=len(self.given_up)) > self.most
        kept = ~self.given_up[row]
        self._new.append((row[kept], column[kept], value[kept]))

    def tighten(self, limit: Tensor) -> None:
        """Leave out what does not reach ``limit`` ``[tokens]`` any more, and rows that hold too many."""
        parts = zip((self.row, self.column, self.value), *self._new, strict=True)
        self.row, self.column, self.value = (torch.cat(part) for part in parts)
        self._new = []
        self._keep(self.value >= limit[self.row])
        self.given_up |= torch.bincount(self.row, minlength=len(self.given_up)) > self.most
        self._keep(~self.given_up[self.row])

    def _keep(self, kept: Tensor) -> None:
        self.row, self.column, self.value = self.row[kept], self.column[kept], self.value[kept]


def _norms(x: Tensor, dim: int) -> Tensor:
    """In float64: squares of small numbers would be 0 in float32."""
    found: Tensor = torch.linalg.vector_norm(x, dim=dim, dtype=torch.float64)
    return found


class _Product:
    """Products in bfloat16, each in the memory of the last: large pieces that come and go would split the heap."""

    def __init__(self, u: Tensor, n_latents: int) -> None:
        width = min(topk.TILE_LATENTS, n_latents)
        self.chunks = list(topk.row_chunks(len(u), n_latents, elements=topk.tile_elements(u.device)))
        most = max(rows.stop - rows.start for rows in self.chunks) * width
        self._tile = torch.empty(u.shape[1] * width, dtype=torch.bfloat16, device=u.device)
        self._product = torch.empty(most, dtype=torch.bfloat16, device=u.device)

    def rounded(self, tile: Tensor) -> Tensor:
        """The tile ``[d_in, latents]`` in bfloat16."""
        return self._tile[: tile.numel()].view(tile.shape).copy_(tile)

    def of(self, short: Tensor, rounded: Tensor, bias: Tensor | None) -> Tensor:
        """``short @ rounded + bias`` ``[tokens, latents]``, summed in float32, rounded where it is written."""
        out = self._product[: len(short) * rounded.shape[1]].view(len(short), -1)
        return torch.mm(short, rounded, out=out) if bias is None else torch.addmm(bias, short, rounded, out=out)


def _limit(kth: Tensor, slack: Tensor) -> Tensor:
    """What a rounded product must reach for its latent to be a candidate, ``[tokens]``.

    The k-th largest true value lies at most ``slack`` and two roundings below the k-th largest rounded one, and what
    lies above it may be rounded as far down again.
    """
    least = kth.amin(1).double()
    return least - 2.1 * slack - 5 * _ROUNDED * least.abs()


@dataclass(frozen=True)
class _Bounds:
    norm: Tensor  # [tokens], of the rounded activations, float64
    left_out: Tensor  # [tokens], what rounding took from them
    width: int

    def of(self, norm: float, left_out: float) -> Tensor:
        """How far a product in bfloat16 can lie from the exact path's, before its result is rounded ``[tokens]``."""
        summed = _SUMMED * self.width * 2.0**-24 * (self.norm + self.left_out) * (norm + left_out)
        vanished = _SMALLEST * (self.width + math.sqrt(self.width) * (self.norm + norm) + 1)
        return self.left_out * norm + self.norm * left_out + summed + vanished


def _rescored(u: Tensor, encoder: Encoder, held: _Held, k: int) -> Selected:
    row, column = held.row, held.column
    if len(row) == 0:
        nothing = u.new_zeros(len(u), k)
        return Selected(torch.zeros_like(held.given_up), nothing, torch.zeros_like(nothing, dtype=torch.int64))
    order = (row * (int(column.max()) + 1) + column).argsort()
    row, column = row[order], column[order]
    counts = torch.bincount(row, minlength=len(u))
    most = max(int(counts.max()), k + 1)
    place = torch.arange(len(row), device=u.device) - (counts.cumsum(0) - counts)[row]
    found, within = _products(u, encoder, row, column)
    values = found.new_full((len(u), most), float("-inf"))
    errors = torch.zeros_like(values)
    columns = torch.zeros(len(u), most, dtype=torch.int64, device=u.device)
    values[row, place], errors[row, place], columns[row, place] = found, within, column
    best, which = values.topk(k + 1, dim=1)
    chosen = which[:, :k].sort(dim=1).values  # candidates are in the order of their latents
    values, columns, own = values.gather(1, chosen), columns.gather(1, chosen), errors.gather(1, chosen)
    return Selected(~held.given_up & _sure(best, errors, values, own), values.to(u.dtype), columns)


def _sure(best: Tensor, errors: Tensor, values: Tensor, own: Tensor) -> Tensor:
    """Rows in which no sum of the coder's precision could select other latents, or give one another sign.

    ``best`` ``[tokens, k + 1]`` are the largest of all candidates, whose ``errors`` ``[tokens, candidates]`` are; of
    the chosen ones ``values`` and ``own`` errors ``[tokens, k]``. All that was not chosen is at most the last of best.
    """
    least = (values - own).amin(1)
    apart = least > best[:, -1] + errors.amax(1)
    return apart & (values.abs() > own).all(1)


def _products(u: Tensor, encoder: Encoder, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """``u[row] . W[:, column] + bias[column]`` of every candidate, and how far a sum in ``u.dtype`` may be off.

    Some latents and some candidates at a time. A sum of d products, in any order, differs from the true one by at most
    ``d r / (1 - d r)`` times the sum of their magnitudes, ``r`` being the unit roundoff; the bias is one number more.
    """
    sums = torch.empty(len(row), dtype=torch.float64, device=u.device)
    sizes = torch.empty_like(sums)
    by_latent = column.argsort()
    sorted_columns = column[by_latent]
    block, most = _GATHERED["cpu" if u.device.type == "cpu" else "cuda"]
    step = max(1, most // u.shape[1])
    edges = range(0, encoder.n_latents + block, block)
    ends = torch.searchsorted(sorted_columns, torch.tensor(edges, device=u.device)).tolist()
    for left, (first, last) in zip(edges, pairwise(ends), strict=False):
        if first == last:
            continue
        used, local = torch.unique(sorted_columns[first:last], return_inverse=True)
        directions = encoder.directions(used, left, min(left + block, encoder.n_latents)).double()
        for start in range(0, last - first, step):
            stop = min(start + step, last - first)
            part = by_latent[first + start : first + stop]
            products = directions[local[start:stop]].mul_(u[row[part]])
            sums[part] = products.sum(1)
            sizes[part] = products.abs_().sum(1)
    if encoder.bias is not None:
        bias = encoder.bias[column].double()
        sums, sizes = sums + bias, sizes + bias.abs()
    return sums, error_of_sums(u.shape[1] + 1, u.dtype) * sizes + 2 * u.shape[1] * _SMALLEST


def error_of_sums(terms: int, dtype: torch.dtype) -> float:
    """By what share of their magnitudes' sum a sum of ``terms`` products in ``dtype`` and one in float64 may differ."""
    roundoffs = torch.finfo(dtype).eps / 2, torch.finfo(torch.float64).eps / 2
    return sum(terms * roundoff / (1 - terms * roundoff) for roundoff in roundoffs)


def columns(matrix: Tensor, which: Tensor) -> Tensor:
    """Columns of ``matrix`` as rows ``[which, rows]``, read in the order in which it lies in memory."""
    return matrix.T[which] if matrix.stride(0) == 1 else matrix.index_select(1, which).T.contiguous()
