"""What a sample says against its own interval: that it is of few groups, or that a few of them decide the figure.

A bootstrap knows of no text that it has not seen. Where a figure hangs on groups of which a sample holds none or one,
its interval is too narrow, and no cleverer bootstrap mends that; but the sample shows it: few groups, one that holds
much of the text, or influences of groups (by how much the figure moves where one is left out) with a long tail. Such an
interval is *marked* optimistic, with a phrase that says why. ``python benchmarks/coverage.py`` measures how often
intervals hold the truth with and without the mark.

*Design effect.* The standard error over groups divided by that over rows, not squared: by how much the interval would
have been too narrow if rows of one group were taken for independent ones. None where every group is one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.sums import Sums

Array = NDArray[np.float64]

FEW = 100  # groups below which an interval over text is marked
LARGE = 0.10  # of the tokens in one group
SKEWED = 3.0  # skewness of the influences of groups
MOST_ROWS = 4096  # rows that are left out in turn for the design effect; of more, as many spread evenly
ROUNDING = 1e-8  # of a figure: a standard error below it is that of float32, not of text
TEXT = ("tokens", "predictions")  # columns that say how much text a row holds, the first that there is


@dataclass(frozen=True)
class Influence:
    """A figure without each group in turn, ``groups`` ``[groups]``, and without each of some rows, ``rows``.

    ``rows`` is None where every group is one row; ``of`` is how many rows there are, and ``n`` how many groups.
    ``largest`` is the share of the tokens in the largest group. ``text``: groups are of text, of which few do not stand
    for the rest.
    """

    groups: Array
    n: int
    rows: Array | None = None
    of: int = 0
    largest: float = 0.0
    text: bool = True

    def minus(self, other: Influence, *, paired: bool) -> Influence:
        """That of the difference of two figures: on the same groups, or on two samples."""
        return Influence(
            _joined(self.groups, other.groups, paired),
            min(self.n, other.n),
            None if self.rows is None or other.rows is None else _joined(self.rows, other.rows, paired),
            self.of if paired else self.of + other.of,
            max(self.largest, other.largest),
            self.text,
        )


def of_groups(n: int, largest: float) -> Influence:
    """Of figures that nobody leaves groups out of: that they are of ``n`` groups, and how large one is."""
    return Influence(np.zeros(1), n, largest=largest)


def _joined(a: Array, b: Array, paired: bool) -> Array:
    """What leaving out one group does to a - b; groups of two samples are left out one at a time."""
    return a - b if paired and a.shape == b.shape else np.concatenate([a - a.mean(), b.mean() - b])


@dataclass(frozen=True)
class Sample:
    """Sums of a table without each of ``n`` groups in turn, without each of some of ``n_rows`` rows, and of all."""

    groups: Sums
    n: int
    rows: Sums | None
    n_rows: int
    total: Sums
    columns: Mapping[str, Array]  # of the groups
    text: bool

    def influence(self, figure: Callable[[Sums], Array], weight: Callable[[Sums], Array | None]) -> Influence:
        """How ``figure`` moves; ``weight`` is its denominator, by which a group is large if no column says how much."""
        with np.errstate(all="ignore"):
            return Influence(
                figure(self.groups),
                self.n,
                None if self.rows is None else figure(self.rows),
                self.n_rows,
                self._largest(weight),
                self.text,
            )

    def _largest(self, weight: Callable[[Sums], Array | None]) -> float:
        held = next((self.columns[name] for name in TEXT if name in self.columns), None)
        if held is None:
            without, whole = weight(self.groups), weight(self.total)
            held = None if without is None or whole is None else whole - without
        if held is None or not math.isfinite(total := float(held.sum())) or total <= 0:
            return 0.0
        return float(held.max()) / total


def optimistic(influence: Influence, size: float) -> str | None:
    """Why the interval of a figure of some ``size`` is too narrow, as a phrase; None where the sample does not say so.

    A figure that no group moves beyond rounding is decided by none.
    """
    said = []
    if influence.text and influence.n < FEW:
        said.append(f"{influence.n} groups")
    if influence.text and influence.largest > LARGE:
        said.append(f"one group holds {100 * influence.largest:.0f} % of the tokens")
    if not np.isfinite(influence.groups).all():
        said.append("without one of the groups there is no figure")
    elif (tail := _tail(influence, size)) > SKEWED:
        said.append(f"a few groups decide it (skewness {tail:.1f})")
    return "; ".join(said) or None


def _tail(influence: Influence, size: float) -> float:
    return abs(skewness(influence.groups)) if jackknife(influence.groups) > ROUNDING * abs(size) else 0.0


def skewness(values: Array) -> float:
    """Third central moment over the cube of the standard deviation; 0 where nothing varies."""
    from_mean = values - values.mean()
    size = float(np.abs(from_mean).max(initial=0.0))
    if not 0 < size < math.inf:
        return 0.0
    from_mean = from_mean / size  # so that no power overflows
    return float((from_mean**3).mean()) / math.pow(float((from_mean**2).mean()), 1.5)


def jackknife(without: Array, of: int | None = None) -> float:
    """The standard error of a figure from its values without each of ``of`` rows in turn, or without some of them."""
    from_mean = without - without.mean()
    size = float(np.abs(from_mean).max(initial=0.0))
    if not 0 < size < math.inf:
        return size
    return size * math.sqrt(float(((from_mean / size) ** 2).mean()) * (len(without) if of is None else of))


def design_effect(influence: Influence, error: float, size: float) -> float | None:
    """``error``, the standard error over groups, divided by that over rows; None where rows are groups.

    None too where it is rounding beside the figure's ``size``.
    """
    rows = influence.rows
    if rows is None or len(rows) < 2 or not np.isfinite(rows).all() or not math.isfinite(error):
        return None
    by_row = jackknife(rows, influence.of)
    effect = error / by_row if min(by_row, error) > ROUNDING * abs(size) and by_row > 0 else math.inf
    return effect if math.isfinite(effect) else None


def some_rows(n: int) -> NDArray[np.int64]:
    """The places of the rows that are left out in turn: all, or ``MOST_ROWS`` spread evenly over them."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_ROWS)).astype(np.int64))
