"""Paired differences between results: how much better one SAE is than another, and how sure that is.

Both tables of units are resampled with one set of weights, so the difference of two replicates is a replicate of the
difference. What is shared has one weight in both: a document, a labelled set, an example; latents of two SAEs are not
the same latents and have independent weights, unless both results are of the same weights. A document that only one
table has is left out; with ``other_text=True`` it stays and the two are independent samples, but for shared documents.

*Verdict.* Better or worse when the interval leaves out 0 and the p-value, adjusted over all metrics that are shown
(Holm), is below 5 %. Otherwise the two cannot be told apart, which does not mean that they are equal: differences below
the minimum detectable one, about 2.8 standard errors, would often have been missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_bench.errors import UsageError
from sae_bench.registry import suggest
from sae_bench.results.compare_intervals import (
    FEW_TELLING,
    Proportion,
    detectable,
    holm,
    p_value,
    p_value_of_shares,
    square_and_add,
)
from sae_bench.results.compare_load import Figure, Loaded, indicators, load
from sae_bench.results.compare_protocol import NotComparable, comparable, refusal
from sae_bench.schema import Better
from sae_bench.show import marks
from sae_bench.units import Units
from sae_bench.units.bootstrap import (
    CONFIDENCE,
    FEWEST,
    MOSTLY_UNDEFINED,
    Array,
    percentile_interval,
    quotient,
    spread,
    too_few,
    undefined,
)
from sae_bench.units.kinds import kind
from sae_bench.units.trust import Influence, design_effect, optimistic

__all__ = ["Difference", "Loaded", "NotComparable", "adjusted", "comparable", "difference", "load", "refusal"]

ALPHA = 1 - CONFIDENCE
ROUNDING = 1e-6  # of the larger figure: what the order of latents alone changes in float32
VERDICTS = {
    ("higher", True): "better",
    ("higher", False): "worse",
    ("lower", True): "worse",
    ("lower", False): "better",
}


@dataclass(frozen=True)
class Difference:
    """``value`` = figure of B minus figure of A, on the units that count for both, in the metric's unit.

    ``a`` and ``b`` are those figures. ``low`` and ``high`` bound the difference at 95 %, for this metric alone;
    ``p_adjusted`` is :attr:`p` until :func:`adjusted` is told of the other metrics. ``detectable`` is the difference
    that would be found 80 times of 100. ``left_out`` counts documents, sets or latents of A and of B that the other
    lacks. ``method`` says how the interval was made, ``reason`` why there is none, ``marks`` that A's or B's figure is
    not whole. ``n_units`` counts groups; ``optimistic`` says why the interval is too narrow, and ``design_effect`` is
    its standard error over that of single rows. ``ranked``: whether SAEs may be put in order by the metric.
    """

    task: str
    metric: str
    unit: str
    better: Better
    a: float | None
    b: float | None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    n_units: int = 0
    left_out: tuple[int, int] = (0, 0)
    method: str | None = None
    reason: str | None = None
    marks: tuple[marks.Mark | None, marks.Mark | None] = (None, None)
    optimistic: str | None = None
    design_effect: float | None = None
    ranked: bool = True

    @property
    def tested(self) -> bool:
        """Whether there is a p-value; a figure that no SAE changes, and therefore no unit, is no test."""
        return self.p is not None and (self.value, self.low, self.high) != (0, 0, 0)

    @property
    def verdict(self) -> str:
        """B is "better", "worse" or "differs" (a metric without a direction or ranks), or "cannot be told apart".

        "not compared" where there is no difference.
        """
        if self.value is None:
            return "not compared"
        if self.low is None or self.high is None or self.p_adjusted is None or self.low <= 0 <= self.high:
            return "cannot be told apart"
        if self.p_adjusted >= ALPHA or abs(self.value) <= ROUNDING * max(abs(self.a or 0), abs(self.b or 0)):
            return "cannot be told apart"
        return VERDICTS.get((self.better, self.value > 0), "differs") if self.ranked else "differs"


def difference(a: Loaded, b: Loaded, metric: str, *, other_text: bool = False) -> Difference:
    """B minus A. Raises NotComparable unless both have the same protocol, UsageError for a metric that one lacks."""
    if not comparable(a, b, other_text=other_text):
        raise refusal(a, b)
    for loaded in (a, b):
        if metric not in loaded.result.metrics:
            raise UsageError(f"{loaded.file} has no metric {metric!r}; {suggest(metric, loaded.result.metrics)}")
    shown = [loaded.result.metrics[metric] for loaded in (a, b)]
    empty = Difference(
        a.result.task, metric, shown[0].unit, shown[0].better, shown[0].value, shown[1].value,
        marks=(marks.of(a.result), marks.of(b.result)),
        ranked=a.spec.metrics[metric].orders and b.spec.metrics[metric].orders,
    )  # fmt: skip
    for loaded, name in ((a, "first"), (b, "second")):
        if loaded.result.metrics[metric].reason is not None:
            return replace(empty, reason=f"the {name} has no value: {loaded.result.metrics[metric].reason}")
        if not loaded.tables:
            return replace(empty, reason=f"the {name} has no units, and only units can be compared")
    table = a.spec.metrics[metric].table
    if why := kind(table).apart(a.tables[table], b.tables[table]):
        return replace(empty, reason=why)
    pair = _Pair.of(a, b, metric, other_text)
    if pair.n == 0:
        return replace(empty, reason="they have no unit in common", left_out=pair.left_out)
    return pair.settled(empty)


@dataclass(frozen=True)
class _Pair:
    """A metric of two results on the units that count for both."""

    a: Loaded
    b: Loaded
    metric: str
    units: tuple[Units, Units]
    left_out: tuple[int, int]

    @staticmethod
    def of(a: Loaded, b: Loaded, metric: str, other_text: bool) -> _Pair:
        table = a.spec.metrics[metric].table
        whole, of = (a.tables[table], b.tables[table]), kind(table)
        if other_text and not of.nested:
            return _Pair(a, b, metric, whole, (0, 0))
        pair = _Pair(a, b, metric, *of.common(*whole))
        figures = pair.figures if of.nested and pair.n else ()
        missing = frozenset().union(*(one.undefined for one in figures))
        if any(one.undefined != missing for one in figures):  # a set in which one has no value says nothing of both
            keep = tuple(units.where(lambda unit: of.group(unit) not in missing) for units in pair.units)
            lost = (pair.left_out[0] + len(missing), pair.left_out[1] + len(missing))
            return _Pair(a, b, metric, (keep[0], keep[1]), lost)
        return pair

    @property
    def n(self) -> int:
        return min(len(units) for units in self.units)

    @property
    def figures(self) -> tuple[Figure, Figure]:
        return self.a.figure(self.metric, self.units[0]), self.b.figure(self.metric, self.units[1])

    @property
    def paired(self) -> bool:
        """Whether what is drawn of one is drawn of the other: rows, or the documents that rows are of."""
        a, b = self.units
        group = kind(self.a.spec.metrics[self.metric].table).group
        return a.ids == b.ids or [*dict.fromkeys(map(group, a.ids))] == [*dict.fromkeys(map(group, b.ids))]

    def settled(self, empty: Difference) -> Difference:
        """The difference with all that is known of it."""
        figures, n = self.figures, min(one.n for one in self.figures)
        values = [float(quotient(one.point)[0]) for one in figures]
        empty = replace(empty, n_units=n, left_out=self.left_out)
        for name, one, value in zip(("first", "second"), figures, values, strict=True):
            reason = undefined(one.point, one.replicates)
            if reason or not math.isfinite(value):
                return replace(empty, reason=f"the {name} has no value: {reason or 'it is not finite on these units'}")
        value = values[1] - values[0]
        found = replace(empty, a=values[0], b=values[1], value=value)
        if n < FEWEST:
            return replace(found, reason=too_few(n, "groups"))
        hangs = self._influence(figures)
        drawn = quotient(figures[1].replicates) - quotient(figures[0].replicates)
        if shares := self._shares(values, drawn, n):
            return _of_shares(found, shares, self.paired)
        low, high = percentile_interval(value, drawn, n, CONFIDENCE)
        if low is None:
            return replace(found, reason=MOSTLY_UNDEFINED)
        p = p_value(value, drawn, n)
        method = "paired bootstrap" if self.paired else "bootstrap"
        found = replace(found, low=low, high=high, p=p, p_adjusted=p, method=method)
        error = spread(drawn)
        if hangs is not None:
            size = max(map(abs, values))
            found = replace(found, optimistic=optimistic(hangs, size), design_effect=design_effect(hangs, error, size))
            found = replace(found, n_units=min(n, hangs.n))
        return replace(found, detectable=detectable(error, n))

    def _influence(self, figures: tuple[Figure, Figure]) -> Influence | None:
        """How the difference hangs on each group."""
        a, b = (one.influence for one in figures)
        return None if a is None or b is None else b.minus(a, paired=self.paired)

    def _shares(self, values: list[float], drawn: Array, n: int) -> tuple[Proportion, Proportion] | None:
        """Two shares to compare where resampling 0/1 units would say too little, else None."""
        spec = self.a.spec.metrics[self.metric]
        if spec.interval != "wilson":
            return None
        if not kind(spec.table).independent:  # as many units as there are documents or latents
            return (Proportion(values[0], n), Proportion(values[1], n)) if np.ptp(drawn) == 0 else None
        sides = (self.a, self.b)
        ones = [indicators(x.metrics[self.metric], units) for x, units in zip(sides, self.units, strict=True)]
        if self.paired:
            alone = [float((ones[i] > ones[1 - i]).sum()) for i in (0, 1)]
            return (Proportion(alone[0] / n, n), Proportion(alone[1] / n, n)) if sum(alone) < FEW_TELLING else None
        hits, rows = sum(float(one.sum()) for one in ones), sum(map(len, ones))
        if min(hits, rows - hits) >= FEW_TELLING and np.ptp(drawn) > 0:
            return None
        return Proportion(values[0], len(ones[0])), Proportion(values[1], len(ones[1]))


def _of_shares(found: Difference, shares: tuple[Proportion, Proportion], paired: bool) -> Difference:
    low, high = square_and_add(*shares, CONFIDENCE)
    value = found.value if found.value is not None else 0.0
    p = p_value_of_shares(*shares)
    method = f"{'paired ' if paired else ''}shares (Newcombe)"
    return replace(
        found, low=min(low, value), high=max(high, value), p=p, p_adjusted=p, method=method,
        detectable=detectable((high - low) / (2 * 1.96), min(one.n for one in shares)),
    )  # fmt: skip


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p-values adjusted for one another (Holm); exact equality is no test and is not counted."""
    p_values = iter(holm([d.p for d in differences if d.tested and d.p is not None]))
    return [replace(d, p_adjusted=next(p_values)) if d.tested else d for d in differences]
