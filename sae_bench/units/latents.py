"""Figures that are means over latents, each of which was measured on text: latents and documents are resampled.

A row is a latent. Beside a figure of it, ``f1``, stands by how much that hangs on each of 32 folds of the documents of
a text, ``f1@test`` ``[latents, 32]``: its derivative by the weight of the fold. A replicate draws a weight for every
latent and one for every fold, and adds to the figure what the weights of the folds move it by, to first order; so all
latents move together where text moves them together, and the noise of the text in each is counted once (variance
components; the pigeonhole bootstrap of Owen 2007 counts it three times). Weights of folds are keyed by their tokens,
``tokens@test``: two SAEs on the same text are compared in pairs of folds, although their latents are two samples.

``sampled`` is how large a part of the latents that could have been taken the rows are. The larger it is, the less would
another draw differ, by nothing where all were taken: a dictionary is a census (the correction for a finite population;
Cochran 1977, "Sampling techniques", section 2.6). A table without such columns is one of independent rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sae_bench.units import bootstrap
from sae_bench.units.bootstrap import FEWEST, Array, Draws, Sums, resample_weights, t_width, total
from sae_bench.units.table import Units
from sae_bench.units.trust import Influence, of_groups
from sae_bench.units.weights import weighted

BY = "@"
TOKENS = "tokens"  # its columns by fold name the text
GROUPS, LARGEST = "groups", "largest"  # of a text: how many groups it is of, and which share of its tokens one holds


def by_fold(figure: str, text: str) -> str:
    """The column that says by how much a figure hangs on each fold of a text."""
    return f"{figure}{BY}{text}"


def of_quotient(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float32]:
    """By how much a quotient of sums over folds, ``[latents, 32]`` each, hangs on each of them; 0 where it is none."""
    above, below = numerator.sum(axis=1, keepdims=True), denominator.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        hangs = (numerator - above / below * denominator) / below
    return np.where(below > 0, hangs, 0.0).astype(np.float32)


def draw(units: Units, *, seed: int, resamples: int) -> Draws:
    """All that figures of this table are made of, as of so many units as there are latents; of a census, folds.

    What folds do is widened by what t gives up for there being few of them; of fewer than 5 there is no interval.
    """
    columns = units.columns
    texts = {name.partition(BY)[2]: column for name, column in columns.items() if name.startswith(TOKENS + BY)}
    if not texts:
        return bootstrap.draw(units, seed=seed, resamples=resamples)
    spread = math.sqrt(max(0.0, 1 - float(columns["sampled"].max()))) if "sampled" in columns else 1.0
    weights = resample_weights(units.ids, seed, resamples) if spread else None
    there = min(int((column[0] > 0).sum()) for column in texts.values())
    n = there if weights is None or there < FEWEST else len(units)
    wider = t_width(there) / t_width(n) if min(n, there) > 1 else 1.0
    folds = {text: wider * _of_folds(text, column[0], seed, resamples) for text, column in texts.items()}
    sums: dict[str, Array] = {}
    for name, column in columns.items():
        if column.ndim > 1:
            continue
        hangs = {text: columns[by_fold(name, text)] for text in folds if by_fold(name, text) in columns}
        there = (column != 0) | np.any([(one != 0).any(axis=1) for one in hangs.values()], axis=0)
        moves = {text: _together(one, int(there.sum())) for text, one in hangs.items()}
        sums[name] = np.full(resamples, column.sum(dtype=np.float64))
        if weights is not None:
            own = _alone(column, there, sum(noise for _, noise in moves.values()))
            sums[name] += spread * (weighted(weights, own) - own.sum())
        for text, (all_latents, _) in moves.items():
            sums[name] += folds[text] @ all_latents
    return Draws(total(units), Sums(sums), n, _of_texts(columns))


def _together(hangs: Array, there: int) -> tuple[Array, float]:
    """By how much a sum over latents hangs on each fold ``[32]``, and the variance that is the noise of single latents.

    Where some latents stand for all ``there`` are (:func:`sae_bench.tasks.rule_noise.of_some`), their noise counts as
    often as they stand for others; the sum is brought down to what it would be if all had been measured.
    """
    added = hangs.sum(axis=0, dtype=np.float64)
    counted, whole = float((hangs.astype(np.float64) ** 2).sum()), float((added**2).sum())
    noise = counted * int((hangs != 0).any(axis=1).sum()) / max(1, there)
    kept = min(1.0, max(whole - (counted - noise), noise) / whole) if whole > 0 else 1.0
    return math.sqrt(kept) * added, noise


def _alone(column: Array, there: NDArray[np.bool_], noise: float) -> Array:
    """A figure of latents without the ``noise`` of the text in it, which folds count already: nearer to its mean.

    Latents that are not ``there``, which lack the figure, stay as they are.
    """
    if not noise or not there.any():
        return column
    mean = float(column[there].mean())
    differ = float(((column[there] - mean) ** 2).sum())
    kept = math.sqrt(max(0.0, 1 - noise / differ)) if differ > 0 else 0.0
    return np.where(there, mean + kept * (column - mean), column)


def _of_texts(columns: Mapping[str, Array]) -> Influence | None:
    """What the text with fewest groups says, and the one with the largest; None of a table that does not say it."""
    groups, largest = (
        [float(column.max()) for name, column in columns.items() if name.startswith(by_fold(what, ""))]
        for what in (GROUPS, LARGEST)
    )
    return of_groups(int(min(groups)), max(largest)) if groups and largest else None


def _of_folds(text: str, tokens: Array, seed: int, resamples: int) -> Array:
    """By how much every fold counts more than once, or less, ``[resamples, 32]``; an empty one has nothing to count."""
    names = tuple(f"fold {i} of {text}, {int(n)} tokens" for i, n in enumerate(tokens.tolist()))
    return resample_weights(names, seed, resamples).astype(np.float64) - 1
