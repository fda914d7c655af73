"""By how much scores of token rules hang on documents: those that rules are scored on, and those they are made of.

Counts on the scored documents add up over folds, so that their quotients have derivatives. What is no quotient of such
counts, and all that hangs on the documents that rules are fitted on, is found by leaving out one eighth of the
documents at a time (the delete-a-group jackknife): rules are fitted anew without them. That every figure is worse with
fewer documents to fit is no noise, so what leaving out changes is taken around its mean, and without what it owes to
one eighth holding more tokens than another. It costs as much as eight fits, and is done for up to ``REFITTED`` latents,
which stand for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from sae_bench.kernels.rules import Scores
from sae_bench.tasks.tracked import Ints, Tracked
from sae_bench.units.folds import FOLDS
from sae_bench.units.latents import by_fold, of_quotient

BLOCKS = 8  # of folds, each of which is left out in turn
REFITTED = 100
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Figures = Callable[[Tracked], Mapping[str, Floats]]


def of_counts(own: Scores, null: Scores) -> dict[str, NDArray[np.float32]]:
    """How scores on the test documents hang on each fold of these, from counts by fold ``[latents, 32]``."""
    found = {
        "f1": of_quotient(2 * own.true_positive, own.predicted + own.firing),
        "precision": of_quotient(own.true_positive, own.predicted),
        "recall": of_quotient(own.true_positive, own.firing),
        "mass_recalled": of_quotient(own.activation_mass_recalled, own.activation_mass),
        "f1_null": of_quotient(2 * null.true_positive, null.predicted + null.firing),
        "base_rate": of_quotient(own.firing, own.tokens),
    }
    return {by_fold(name, "test"): column for name, column in found.items()}


def of_matches(fires: Bools, matches: Bools, fold: Ints) -> dict[str, NDArray[np.float32]]:
    """How F1, precision and recall of one explanation hang on each fold, from where it matches: ``[tokens]`` each."""

    def count(which: Bools) -> Floats:
        return np.bincount(fold[which], minlength=FOLDS).astype(np.float64)[None]

    hit, predicted, firing = count(fires & matches), count(matches), count(fires)
    found = {
        "f1": of_quotient(2 * hit, predicted + firing),
        "precision": of_quotient(hit, predicted),
        "recall": of_quotient(hit, firing),
    }
    return {name: column[0] for name, column in found.items()}


def left_out(watched: Tracked, text: str, figures: Figures) -> dict[str, NDArray[np.float32]]:
    """How figures ``[latents]`` hang on each fold of "fit" or "test", by leaving out an eighth of the folds in turn.

    A block's influence is shared by its folds so that their weights together give the variance of the jackknife, which
    is 7/8 of the sum of the squares over 8 blocks.
    """
    each = [figures(watched.without(text, block, BLOCKS)) for block in range(BLOCKS)]
    own = watched.fit if text == "fit" else watched.test
    apart = _without_size(np.bincount(own.fold % BLOCKS, minlength=BLOCKS).astype(np.float64))
    found = {}
    for name in each[0]:
        values = np.nan_to_num(np.stack([one[name] for one in each], axis=1))  # [latents, blocks]
        hangs = (values.mean(axis=1, keepdims=True) - values) @ apart * math.sqrt((BLOCKS - 1) / FOLDS)
        found[by_fold(name, text)] = hangs[:, np.arange(FOLDS) % BLOCKS].astype(np.float32)
    return found


def _without_size(tokens: Floats) -> Floats:
    """What takes off, of eight numbers, what goes with the tokens of the blocks: ``[8, 8]``, to be multiplied with."""
    more = tokens - tokens.mean()
    if not more.any():
        return np.eye(BLOCKS)
    freedom = math.sqrt((BLOCKS - 1) / (BLOCKS - 2))
    found: Floats = (np.eye(BLOCKS) - np.outer(more, more) / (more @ more)) * freedom
    return found


def of_some(watched: Tracked, chosen: Ints, text: str, figures: Figures) -> dict[str, NDArray[np.float32]]:
    """How figures of all latents hang on "fit" or "test": :func:`left_out` of up to 100 of ``chosen``, evenly.

    The others have zeros, and those count for more, so that means over all of ``chosen`` hang as much as theirs.
    """
    some = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), REFITTED)).round().astype(np.int64)]
    part = left_out(watched.only(some), text, figures)
    found = {}
    for name, column in part.items():
        found[name] = np.zeros((len(watched.latents), FOLDS), dtype=np.float32)
        found[name][some] = column * (len(chosen) / len(some))
    return found


def texts(watched: Tracked) -> dict[str, Floats]:
    """What is known of both texts: tokens by fold, by which weights are drawn, and groups."""
    n = len(watched.latents)
    return watched.test.columns("test", n) | watched.fit.columns("fit", n)
