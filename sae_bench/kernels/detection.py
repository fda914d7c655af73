"""Scores of a judge that says of each window how likely a latent fires in it, as functions of sums over windows.

Windows come in strata: the positives by decile of their activation, silent windows, and silent windows that hold a
token the latent likes ("matched"). A window has an answer p from 0 to 1, read as "fires" from 0.5 on, or none. Sums of
one latent give its figure, sums over latents that of all together (each window then weighs the same).

The same functions score whatever else answers, such as a token rule with p = 0 or 1: the difference of two figures on
the same windows is the lift of one over the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]
Missing = Literal["out", "chance", "wrong"]

DECILES = 10
RANDOM = 10  # the stratum of silent windows that are not matched; positives have their decile, 0 to 9, from low to high
MATCHED = 11
STRATA = 12
FIRES = 0.5

_NEGATIVE = (RANDOM, MATCHED)
_CREDIT: dict[Missing, float] = {"chance": 0.5, "wrong": 0.0}


def columns(
    latent: ArrayLike, stratum: ArrayLike, probability: Iterable[float | None], n_latents: int
) -> dict[str, Floats]:
    """Sums over windows, float64, one row a latent; all arguments ``[windows]``.

    ``answered``, ``right``, ``missing`` and ``squared_error`` ``[latents, STRATA]`` count windows with an answer, with
    a right one and without one, and sum ``(p - fires)^2``. ``pairs`` and ``pairs_right`` ``[latents, 2]`` count the
    pairs of an answered positive with a silent window, random and matched apart, and how many p orders rightly, ties
    counted half. None and NaN are missing answers. Raises ValueError for a stratum or a p that is out of range.
    """
    owner, where = np.asarray(latent, dtype=np.int64), np.asarray(stratum, dtype=np.int64)
    p = np.array(list(probability), dtype=np.float64)
    if not owner.shape == where.shape == p.shape:
        raise ValueError(
            f"every window needs a latent, a stratum and an answer, not {len(owner)}, {len(where)}, {len(p)}"
        )
    for name, values, end in (("latent", owner, n_latents), ("stratum", where, STRATA)):
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise ValueError(f"the {name} of a window must be 0 to {end - 1}, not {values.min()} to {values.max()}")
    there = ~np.isnan(p)
    if not bool(((p[there] >= 0) & (p[there] <= 1)).all()):
        raise ValueError("an answer must be a probability from 0 to 1, or None")

    def add_up(values: NDArray[np.generic]) -> Floats:
        sums = np.bincount(owner * STRATA + where, values, minlength=n_latents * STRATA)
        return sums.astype(np.float64).reshape(n_latents, STRATA)

    fires = where < DECILES
    right = there & ((p >= FIRES) == fires)
    error = np.where(there, p - fires, 0.0)
    pairs, pairs_right = _pairs(owner[there], where[there], p[there], n_latents)
    return {
        "answered": add_up(there),
        "right": add_up(right),
        "missing": add_up(~there),
        "squared_error": add_up(error**2),
        "pairs": pairs,
        "pairs_right": pairs_right,
    }


def _pairs(latent: NDArray[np.int64], stratum: NDArray[np.int64], p: Floats, n_latents: int) -> tuple[Floats, Floats]:
    """Pairs of each latent's positives with its random and its matched windows, and how many are in the right order."""
    n, right = np.zeros((n_latents, 2)), np.zeros((n_latents, 2))
    order = np.argsort(latent, kind="stable")
    bounds = np.searchsorted(latent[order], np.arange(n_latents + 1))
    for i in range(n_latents):
        own = order[bounds[i] : bounds[i + 1]]
        positive = p[own[stratum[own] < DECILES]]
        for kind, negative in enumerate(_NEGATIVE):
            sign = np.sign(positive[:, None] - p[own[stratum[own] == negative]])
            n[i, kind], right[i, kind] = sign.size, (sign.sum() + sign.size) / 2
    return n, right


def accuracy(sums: Columns, missing: Missing = "out") -> Floats:
    """Share of right answers. Not corrected: a judge that always says "no" gets the share of silent windows."""
    return _share(sums, range(STRATA), missing)


def recall(sums: Columns, missing: Missing = "out") -> Floats:
    """Share of positives that are answered with "fires"."""
    return _share(sums, range(DECILES), missing)


def specificity(sums: Columns, missing: Missing = "out", negatives: Iterable[int] = _NEGATIVE) -> Floats:
    """Share of silent windows, of the strata ``negatives``, that are answered with "does not fire"."""
    return _share(sums, negatives, missing)


def balanced_accuracy(sums: Columns, missing: Missing = "out", negatives: Iterable[int] = _NEGATIVE) -> Floats:
    """Mean of recall and specificity, 0 to 1, 0.5 for answers that do not depend on the window.

    ``missing`` says what a missing answer is: left out, so that the figure is about the answers; worth a coin toss
    ("chance"); or "wrong", which is the lowest that the figure can be. NaN if a class has no window that counts.
    """
    return (recall(sums, missing) + specificity(sums, missing, negatives)) / 2


def detection(sums: Columns, missing: Missing = "out", negatives: Iterable[int] = _NEGATIVE) -> Floats:
    """Chance-corrected balanced accuracy, ``2 * balanced_accuracy - 1``: 1 is perfect, 0 is chance, -1 all wrong."""
    return above_chance(balanced_accuracy(sums, missing, negatives), 2)


def above_chance(accuracy: ArrayLike, options: int) -> Floats:
    """``(accuracy - 1 / options) / (1 - 1 / options)``: 0 for guesses among ``options`` answers, 1 if all are right."""
    chance = 1 / options
    return np.asarray((np.asarray(accuracy, dtype=np.float64) - chance) / (1 - chance))


def by_stratum(sums: Columns, missing: Missing = "out") -> Floats:
    """Share of right answers in each stratum ``[..., STRATA]``: the recall of each decile, then the specificities."""
    return np.stack([_share(sums, [stratum], missing) for stratum in range(STRATA)], axis=-1)


def auroc(sums: Columns, negatives: Iterable[int] = _NEGATIVE) -> Floats:
    """Share of (positive, silent) pairs of one latent that p orders rightly, ties counted half; missing answers out."""
    kinds = [_NEGATIVE.index(negative) for negative in negatives]
    return _ratio(sums["pairs_right"][..., kinds].sum(-1), sums["pairs"][..., kinds].sum(-1))


def brier(sums: Columns) -> Floats:
    """Mean of ``(p - fires)^2`` over answered windows, 0 is best; 0.25 for always answering 0.5."""
    return _ratio(sums["squared_error"].sum(-1), sums["answered"].sum(-1))


def missing_share(sums: Columns) -> Floats:
    """Share of windows without an answer."""
    return _ratio(sums["missing"].sum(-1), (sums["answered"] + sums["missing"]).sum(-1))


def natural(sums: Columns, sizes: ArrayLike) -> dict[str, Floats]:
    """Expected counts of windows if all of the text had been judged ``[latents]``, from rates per stratum.

    ``sizes`` ``[latents, STRATA]`` is how many windows of the text each stratum was drawn from; the strata must not
    overlap, so ``RANDOM`` is silent windows without those of ``MATCHED``. Columns ``natural_true_positive``,
    ``natural_predicted`` and ``natural_positive``: NaN where a stratum of the text has no answered window, since
    nothing is known about it. Missing answers are left out.
    """
    size = np.asarray(sizes, dtype=np.float64)
    rate = by_stratum(sums)
    positive, silent = slice(0, DECILES), slice(DECILES, STRATA)
    with np.errstate(invalid="ignore"):
        fires = size * np.concatenate([rate[..., positive], 1 - rate[..., silent]], axis=-1)
    fires = np.where(size > 0, fires, 0.0)
    true_positive = fires[..., positive].sum(-1)
    return {
        "natural_true_positive": true_positive,
        "natural_predicted": true_positive + fires[..., silent].sum(-1),
        "natural_positive": size[..., positive].sum(-1),
    }


def natural_precision(sums: Columns) -> Floats:
    """Share of windows called "fires" that do, at natural rates; NaN where none is called so."""
    return _ratio(sums["natural_true_positive"], sums["natural_predicted"])


def natural_f1(sums: Columns) -> Floats:
    """F1 of "fires" at natural rates: 0 for a judge who never says so."""
    return _ratio(2 * sums["natural_true_positive"], sums["natural_predicted"] + sums["natural_positive"])


def intruder_accuracy(correct: Iterable[bool | float | None], missing: Missing = "wrong", options: int = 5) -> float:
    """Share of trials in which the one odd window of ``options`` was named; chance is ``1 / options``.

    None is a trial without an answer: wrong, left out, or worth ``1 / options`` ("chance"). NaN without a trial.
    """
    trials = np.array(list(correct), dtype=np.float64)
    worth = {"out": np.nan, "chance": 1 / options, "wrong": 0.0}[missing]
    scores = np.where(np.isnan(trials), worth, trials)
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if len(scores) else np.nan


def frequency_weighted(values: ArrayLike, firing: ArrayLike) -> float:
    """Mean of a figure over latents, weighted by how often each fires: it is about tokens, and dense latents rule it.

    NaN if a latent that fires has no figure: leaving it out would say nothing about the same tokens.
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(firing, dtype=np.float64)
    if value.shape != weight.shape or bool((weight < 0).any()):
        raise ValueError("every latent needs a figure and a weight of 0 or more")
    fires = weight > 0
    return float(_ratio((value[fires] * weight[fires]).sum(), weight.sum()))


def _share(sums: Columns, strata: Iterable[int], missing: Missing) -> Floats:
    which = list(strata)
    right, n = sums["right"][..., which].sum(-1), sums["answered"][..., which].sum(-1)
    if missing != "out":
        without = sums["missing"][..., which].sum(-1)
        right, n = right + _CREDIT[missing] * without, n + without
    return _ratio(right, n)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)
