"""Where a figure's axes begin and end, where their ticks are, and from a value to a place on the paper and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_PADDED = 0.07  # of the axis, at either end
_STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high`` in the units of its figure, logarithmic or linear."""

    low: float
    high: float
    log: bool
    whole: bool = False  # ticks are whole numbers, as those of layers

    @staticmethod
    def around(values: Sequence[float], *, log: bool, whole: bool = False) -> Scale:
        """The axis that holds all ``values``, which are above 0 where it is logarithmic."""
        low, high = (min(values), max(values)) if values else (1.0, 2.0)
        ends = [_on(low, log), _on(high, log)]
        least = 0.04 if log else 1e-9 + 0.02 * max(abs(low), abs(high))
        least = max(least, 1.0) if whole else least  # else the only layer would have no tick
        if ends[1] - ends[0] < least:
            middle = sum(ends) / 2
            ends = [middle - least / 2, middle + least / 2]
        room = _PADDED * (ends[1] - ends[0])
        return Scale(_off(ends[0] - room, log), _off(ends[1] + room, log), log, whole)

    def share(self, value: float) -> float:
        """How far along the axis a value is, 0 to 1."""
        low, high = _on(self.low, self.log), _on(self.high, self.log)
        return (_on(max(value, self.low) if self.log else value, self.log) - low) / (high - low)

    def value(self, share: float) -> float:
        """The value so far along the axis."""
        low, high = _on(self.low, self.log), _on(self.high, self.log)
        return _off(low + share * (high - low), self.log)

    def ticks(self, most: int) -> list[float]:
        """At most ``most`` round values, at least two where there are any."""
        if self.log and self.high > 4 * self.low:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for steps in (_STEPS, (1.0, 3.0), (1.0,)):
                found = [s * 10.0**e for e in range(first, last + 1) for s in steps]
                if 2 <= len(inside := [t for t in found if self.low <= t <= self.high]) <= most:
                    return [_clean(t) for t in inside]
            every = [10.0**e for e in range(first, last + 1) if self.low <= 10.0**e <= self.high]
            if len(every) > most:
                return [_clean(t) for t in every[:: math.ceil(len(every) / most)]]
        return self._even(most)

    def _even(self, most: int) -> list[float]:
        span = self.high - self.low
        exponent = math.floor(math.log10(span / most))
        for step in (s * 10.0**e for e in (exponent, exponent + 1) for s in _STEPS):
            if self.whole and step < 1:
                continue
            first = math.ceil(self.low / step)
            made = [_clean(i * step) for i in range(first, math.floor(self.high / step) + 1)]
            if len(made) <= most:
                return made
        return []

    def to_json(self) -> dict[str, object]:
        """As Vega-Lite takes it."""
        made: dict[str, object] = {"type": "log"} if self.log else {"type": "linear", "zero": False}
        return made | {"domain": [round_(self.low), round_(self.high)], "nice": False}


def _on(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _off(value: float, log: bool) -> float:
    return 10.0**value if log else value


def _clean(value: float) -> float:
    return float(f"{value:.10g}")


def round_(value: float) -> float:
    """As many digits as a picture can show: rounding of the last bits never changes a file."""
    return float(f"{value:.7g}") + 0.0
