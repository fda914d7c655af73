"""Progress of a run on standard error: a bar a phase where a person looks on, and how long each phase took.

Bars are for a terminal. In the log of a job they are a line for every step, so there nothing is drawn unless that is
asked for (``--progress``); what a user must know, such as warnings, costs and times, is said in any case.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Mapping
from time import perf_counter
from typing import Any

START = "start"  # the phase before the first that reports itself: libraries are imported
WIDTH = 100
# Bars that libraries draw themselves where they fetch or prepare files; read when the library is imported.
_OTHERS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def add_flags(group: Any) -> None:
    """``--progress`` and ``--quiet``, of every verb that takes its time."""
    shown = group.add_mutually_exclusive_group()
    shown.add_argument("--progress", action="store_true",
                       help="draw progress also where standard error is no terminal")  # fmt: skip
    shown.add_argument("--quiet", action="store_true", help="no progress, costs or times on standard error")


def bar_of(args: argparse.Namespace) -> Bar:
    """What shows progress as the flags and standard error have it."""
    shown = not args.quiet and (args.progress or sys.stderr.isatty())
    if not shown:
        for name in _OTHERS:
            os.environ.setdefault(name, "1")
    return Bar(shown)


class Bar:
    """What a run reports its progress to: one bar a phase with the time left if ``shown``, and the time of each.

    A phase lasts from its first report to that of another, so what reports nothing counts with the phase before it.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self._bar: Any = None
        self._what = START
        self._began = self._last = perf_counter()
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` steps of ``what`` are finished; a bar of one step is not kept."""
        if what != self._what:
            self._close()
            self._lap()
            self._what = what
        if not self.shown:
            return
        if self._bar is None:
            from tqdm import tqdm

            kept = {"leave": total > 1, "dynamic_ncols": True}
            self._bar = tqdm(total=total, initial=done, desc=what, file=sys.stderr, **kept)
        self._bar.update(done - self._bar.n)

    @property
    def seconds(self) -> Mapping[str, float]:
        """The time of each phase until now, in the order in which they began."""
        self._lap()
        return dict(self._seconds)

    def times(self) -> str:
        """The time of each phase and of all, in lines of at most :data:`WIDTH` columns."""
        phases = ", ".join(f"{what} {_short(seconds)}" for what, seconds in self.seconds.items())
        whole = f"time: {_short(self._last - self._began)} ({phases})"
        return textwrap.fill(whole, WIDTH, subsequent_indent="  ", break_on_hyphens=False)

    def _lap(self) -> None:
        now = perf_counter()
        self._seconds[self._what] = self._seconds.get(self._what, 0.0) + now - self._last
        self._last = now

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _short(seconds: float) -> str:
    """Seconds with a digit behind the point below ten, else in hours, minutes and seconds."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
