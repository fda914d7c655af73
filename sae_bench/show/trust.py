"""How tables show what a sample says against its intervals, why figures have none: a sign, and once why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

SIGN = "*"
MOST = 4  # figures that are named in a sentence
_DETAIL = re.compile(r"(?P<what>.*?)(?: \((?P<detail>[^()]*)\))?")


class Figure(Protocol):
    """What has an interval: a measured figure, or a difference of two."""

    @property
    def low(self) -> float | None:
        """Lower end of its interval."""

    @property
    def optimistic(self) -> str | None:
        """Why its interval is too narrow."""


Named = tuple[str, Figure]  # a figure with the name by which a sentence speaks of it


def all_marked(figures: Iterable[Figure]) -> bool:
    """Whether every interval is marked: a table then says so once, and needs no sign."""
    having = [one for one in figures if one.low is not None]
    return bool(having) and all(one.optimistic for one in having)


def signed(shown: str, figure: Figure, *, plain: bool = False) -> str:
    """A figure as it is shown, with the sign behind an interval that is too narrow; ``plain``: without it."""
    return f"{shown}{SIGN}" if figure.optimistic and not plain else shown


def legend(figures: Sequence[Named], *, signs: bool = False) -> list[str]:
    """A sentence about the marked intervals of a table, none where there are none; a name may stand for several.

    ``signs``: marked intervals have the sign even where all are marked.
    """
    having = [(name, one) for name, one in figures if one.low is not None]
    why: dict[str, list[tuple[str, str]]] = {}
    for name, one in having:
        for part in (one.optimistic or "").split("; "):
            found = _DETAIL.fullmatch(part)
            if part and found:
                why.setdefault(found["what"], []).append((name, found["detail"] or ""))
    if not why:
        return []
    of_all = {what for what, own in why.items() if len(own) == len(having) and not any(detail for _, detail in own)}
    said = "; ".join(what if what in of_all else f"{what}: {_named(own)}" for what, own in why.items())
    every = not signs and all_marked(one for _, one in having)
    subject = "Every interval is" if every else f"{SIGN} marks an interval that is"
    return [f"{subject} too narrow, as the sample itself says: {said}."]


def _named(own: Sequence[tuple[str, str]]) -> str:
    details: dict[str, set[str]] = {}
    for name, detail in own:
        details.setdefault(name, set()).add(detail)
    shown = [f"{name} ({detail})" if len(of) == 1 and (detail := min(of)) else name for name, of in details.items()]
    return ", ".join(shown[:MOST]) + (f" and {len(shown) - MOST} more" if len(shown) > MOST else "")


def without_interval(figures: Sequence[tuple[str, str | None]]) -> list[str]:
    """Why figures have no interval, each reason once; ``figures`` are names with their reasons."""
    found: dict[str, list[str]] = {}
    for name, why in figures:
        if why:
            found.setdefault(why, []).append(name)
    return [f"{', '.join(dict.fromkeys(names))}: no interval, because {why}" for why, names in found.items()]


def counted(figures: Sequence[tuple[str, int, float | None]]) -> list[str]:
    """How many groups intervals are over, and design effects, for tables that have no column of them.

    ``figures`` are the task of each, its number of groups and its design effect.
    """
    tasks: dict[int, list[str]] = {}
    for task, n, _ in figures:
        if n:
            tasks.setdefault(n, []).append(task)
    if not tasks:
        return []
    groups = "; ".join(f"{n} groups of {', '.join(dict.fromkeys(own))}" for n, own in tasks.items())
    effects = [design for *_, design in figures if design is not None]
    ends = dict.fromkeys(map(effect, (min(effects), max(effects)))) if effects else {}
    said = f"; {DESIGN}: {' to '.join(ends)}" if ends else ""
    return [f"Intervals are over {groups}{said}."]


def effect(design_effect: float | None) -> str:
    """A design effect in a table; empty where groups are single rows."""
    return "" if design_effect is None else f"{design_effect:.2g}"


DESIGN = "design effect: how many times wider grouping makes a standard error (over groups / over single rows)"
