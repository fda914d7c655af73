"""One-dimensional logistic probes of every latent, on sparse or dense columns of ``[n_rows, n_latents]``.

All columns are fitted together. The entries of columns of similar length lie side by side in a block ``[length,
columns]``, filled up with zeros; the rows that are zero in all columns of the block are one more row that counts many
times. The labels enter only through a sum per column. Sums over such a block cost a tenth of sums over segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels.logistic import class_counts, newton, softplus_sigmoid

TILE_ENTRIES = 1 << 18  # of a block: 2 MiB of float64
FARTHEST = 8.0  # logits between the class means at the start: from too far apart Newton's method first has to come back
FLATTEST = 1e-12  # curvature added where all scores are saturated; it changes steps, not where they lead
PADDING = 1 << 13  # zeros that a block may have beyond its share: less than the cost of a further block


class Columns(NamedTuple):
    """The columns of a matrix ``[n_rows, n_latents]`` that are not all zero, by ascending latent.

    The entries of column i are ``rows`` and ``values`` (float64, none is zero) from ``indptr[i]`` to ``indptr[i + 1]``,
    and ``latents[i]`` is the latent that it is.
    """

    indptr: Tensor
    rows: Tensor
    values: Tensor
    latents: Tensor
    n_rows: int


class Probes(NamedTuple):
    """Logistic probes ``sigmoid(weight * z + bias)``: all float64 ``[n_columns]``; ``loss`` in nats, no penalty."""

    weight: Tensor
    bias: Tensor
    loss: Tensor


def columns(rows: Tensor, latents: Tensor, values: Tensor, n_rows: int) -> Columns:
    """Columns from entries in any order, each (row, latent) at most once; memory does not grow with the latents."""
    there = values != 0
    rows, latents, values = rows[there], latents[there], values[there]
    order = (latents.long() * n_rows + rows).argsort()
    present, counts = torch.unique_consecutive(latents[order], return_counts=True)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Columns(indptr, rows[order].long(), values[order].double(), present.long(), n_rows)


def dense(columns: Columns, which: Tensor) -> Tensor:
    """The columns at positions ``which``, dense: ``[n_rows, len(which)]`` float64."""
    counts = columns.indptr.diff()[which]
    column = torch.arange(len(which), device=which.device).repeat_interleave(counts)
    before = (columns.indptr[which] - counts.cumsum(0) + counts).repeat_interleave(counts)
    entries = before + torch.arange(len(column), device=which.device)
    out = columns.values.new_zeros(columns.n_rows, len(which))
    out[columns.rows[entries], column] = columns.values[entries]
    return out


def take(columns: Columns, latents: Tensor) -> Tensor:
    """The columns of ``latents``, dense: ``[n_rows, len(latents)]`` float64, zeros for a latent that is not there."""
    out = columns.values.new_zeros(columns.n_rows, len(latents))
    there = torch.isin(latents, columns.latents)
    out[:, there] = dense(columns, torch.searchsorted(columns.latents, latents[there]))
    return out


def mean_difference(columns: Columns, labels: Tensor, *, normalised: bool = True) -> Tensor:
    """Absolute difference ``[n_columns]`` of the means over positive and negative rows.

    With ``normalised`` each column is first divided by the mean absolute value of its entries, so that latents of
    different scale compare (Kantamneni et al. 2025, "Are sparse autoencoders useful? A case study in sparse probing").
    """
    n_negative, n_positive = class_counts(labels)
    share = 1 / torch.where(labels, n_positive, -n_negative).double()
    counts = columns.indptr.diff()
    column = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    difference = columns.values.new_zeros(len(counts)).index_add_(0, column, columns.values * share[columns.rows])
    if not normalised:
        return difference.abs()
    total = columns.values.new_zeros(len(counts)).index_add_(0, column, columns.values.abs())
    return difference.abs() * counts / total


def fit_probes(columns: Columns, labels: Tensor, *, ridge: float, standardised: bool = True) -> Probes:
    """The logistic regression of bool ``labels`` ``[n_rows]`` on each column alone.

    Minimises the mean cross-entropy plus ``ridge / 2 * (weight * s)^2``. ``s`` is the standard deviation of the column
    over all rows, so that a fit does not depend on the column's scale, or 1 without ``standardised``. Without a ridge a
    column that separates the classes has no finite fit: its loss is then near 0 and its weight where the iteration
    stopped. A constant column has weight 0. This is the probe loss of Gao et al. 2024, "Scaling and evaluating sparse
    autoencoders", by their method, Newton's. Raises ValueError if a class is absent or a value is not finite.
    """
    _, n_positive = class_counts(labels)
    counts, order = columns.indptr.diff().sort(descending=True)
    first = columns.indptr[:-1][order]
    # one entry more, a zero of a negative row: the padding. index_select is several times as fast as indexing
    values = torch.cat([columns.values, columns.values.new_zeros(1)])
    positive = torch.cat([labels.index_select(0, columns.rows), labels.new_zeros(1)])
    out = values.new_empty(3, len(counts))
    for part in _tiles(counts):
        length = int(counts[part.start])
        n_rest = columns.n_rows - length
        at = torch.arange(-1 if n_rest else 0, length, device=counts.device)[:, None]  # -1 is the row of the rest
        entries = torch.where((at >= 0) & (at < counts[part]), first[part] + at, len(values) - 1)
        z = values.index_select(0, entries.view(-1)).view_as(entries)
        of_positives = positive.index_select(0, entries.view(-1)).view_as(entries)
        rows = _Rows(columns.n_rows, n_positive, n_rest)
        out[:, order[part]] = _fit(z, of_positives, rows, ridge, standardised)
    return Probes(*out)


def fit_probes_dense(z: Tensor, labels: Tensor, *, ridge: float, standardised: bool = True) -> Probes:
    """As :func:`fit_probes` for the columns of a dense ``z`` ``[n_rows, n_columns]``."""
    n_rows, (_, n_positive) = len(z), class_counts(labels)
    out = torch.empty(3, z.shape[1], dtype=torch.float64, device=z.device)
    step = max(1, TILE_ENTRIES // n_rows)
    for start in range(0, z.shape[1], step):
        tile = z[:, start : start + step].double()
        out[:, start : start + step] = _fit(tile, labels[:, None], _Rows(n_rows, n_positive, 0), ridge, standardised)
    return Probes(*out)


def _tiles(counts: Tensor) -> Iterator[slice]:
    """Parts of columns with descending ``counts``: few entries in all, and most of them no padding."""
    counts = counts.cpu()
    start = 0
    while start < len(counts):
        length = int(counts[start])
        some = counts[start : start + max(1, TILE_ENTRIES // (length + 1))]
        padded, filled = (length - some).cumsum(0), some.cumsum(0)
        stop = start + int((padded <= filled // 2 + PADDING).count_nonzero())
        yield slice(start, stop)
        start = stop


class _Rows(NamedTuple):
    n: int
    n_positive: int
    n_rest: int  # rows that are zero in all columns of the block; row 0 of the block stands for them, if there are any


class _Block(NamedTuple):
    """Problems for :func:`newton`: ``u`` ``[length, m]`` is standardised, theta is ``[bias, weight]``."""

    u: Tensor
    of_negatives: Tensor  # [m], sum of u over negative rows
    of_positives: Tensor
    ridge: Tensor  # [m]
    rows: _Rows

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        (bias, weight), n, n_rest = theta, self.rows.n, self.rows.n_rest
        softplus, p = softplus_sigmoid(torch.addcmul(-bias, -weight, self.u))
        curvature = torch.addcmul(p, p, p, value=-1)
        if n_rest:
            for of_rest in (softplus[0], p[0], curvature[0]):
                of_rest *= n_rest
        loss = softplus.sum(0) + (n - self.rows.n_positive) * bias + weight * self.of_negatives
        to_bias = p.sum(0) - self.rows.n_positive
        to_weight = p.mul_(self.u).sum(0) - self.of_positives + n * self.ridge * weight
        bias_bias = curvature.sum(0) + n * FLATTEST
        slope = curvature.mul_(self.u).sum(0) / bias_bias
        weight_weight = curvature.mul_(self.u).sum(0) - slope**2 * bias_bias + n * (self.ridge + FLATTEST)
        weight_step = (slope * to_bias - to_weight) / weight_weight
        step = torch.stack([-to_bias / bias_bias - slope * weight_step, weight_step])
        return loss / n + self.ridge / 2 * weight**2, step

    def keep(self, which: Tensor) -> _Block:
        columns = (self.of_negatives[which], self.of_positives[which], self.ridge[which])
        return _Block(self.u.index_select(1, which), *columns, self.rows)


def _fit(z: Tensor, positive: Tensor, rows: _Rows, ridge: float, standardised: bool) -> Tensor:
    """Weight, bias and loss ``[3, m]`` of the columns of a block ``z``; ``positive`` are its entries in that class."""
    n, n_positive, n_rest = rows
    highest, lowest = z.amax(0), z.amin(0)
    constant = highest == lowest
    largest = torch.where(constant, 1.0, torch.maximum(highest, -lowest))
    largest = largest / torch.frexp(largest).mantissa  # a power of 2, so that the division is exact
    if not bool((highest - lowest).isfinite().all()):
        raise ValueError("a probe needs finite values, and some latent has a value that is not")
    u = z / largest
    mean = u.sum(0) / n
    u -= mean
    deviation = ((u.square().sum(0) + max(0, n_rest - 1) * mean**2) / n).sqrt()
    deviation = torch.where(constant, math.inf, deviation)  # which makes the column zero
    u /= deviation
    of_zero = -mean / deviation
    of_positives = (u * positive).sum(0) + (n_positive - positive.sum(0)) * of_zero  # also a padded entry is a zero
    of_negatives = u.sum(0) + max(0, n_rest - 1) * of_zero - of_positives
    scale = largest * deviation
    strength = torch.full_like(scale, ridge) if standardised else ridge / scale**2
    block = _Block(u, of_negatives, of_positives, strength, rows)
    start, step = _start(block)
    rate = n_positive / n
    entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    (bias, weight), objective = newton(block, start, torch.full_like(scale, entropy), step)
    loss = (objective - strength / 2 * weight**2).clamp(min=0)  # rounding of the sums can leave -1e-16
    return torch.stack([weight / scale, bias + weight * of_zero, loss])


def _start(block: _Block) -> tuple[Tensor, Tensor]:
    """The fit without the column, and the step from there to linear discriminant analysis."""
    n, n_positive, _ = block.rows
    rate = n_positive / n
    n_negative = n - n_positive
    gap = block.of_positives * n / (n_positive * n_negative)
    variance = rate * (1 - rate)
    within = variance * (1 - variance * gap**2) + block.ridge
    weight = variance * gap / within.maximum(variance * gap**2 / FARTHEST)
    middle = block.of_positives * (1 / n_positive - 1 / n_negative) / 2
    start = torch.stack([torch.full_like(weight, math.log(n_positive / n_negative)), torch.zeros_like(weight)])
    return start, torch.stack([-weight * middle, weight])
