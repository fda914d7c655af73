"""Where names stand beside their points: none over another, over a point or out of the panel.

Places are tried in rings around each point, near ones first; what is further off has a line to its point. Several
orders of the names are tried, and the one in which most find a place is kept. Everything is in points on the paper,
with the origin at the upper left, and depends on nothing but its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_bench.plot.style import RADIUS, text_width

Boxes = NDArray[np.float64]  # [n, 4]: left, top, right, bottom
MOST = 80  # names for which places are sought; more cannot be read in any figure
_RINGS = (2.0, 7.0, 13.0, 20.0, 28.0, 38.0, 50.0, 64.0)
_NEAR = 6.0  # without a line
_ANGLES = tuple(math.radians(a) for a in (0, 180, 90, 270, 35, 145, 215, 325, 65, 115, 245, 295))


@dataclass(frozen=True)
class Label:
    """A name at ``x``, ``y`` (the middle of its left or right end, or its middle), and whether a line leads to it."""

    place: int  # of its point
    text: str
    x: float
    y: float
    align: str
    leads: bool


def place(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    size: tuple[float, float],
    font: float,
    *,
    taken: Sequence[tuple[float, float, float, float]] = (),
    crossed: Sequence[tuple[float, float, float, float]] = (),
) -> list[Label]:
    """Places of as many names as there is room for; one that is empty has none.

    ``taken`` are boxes that no name may touch, ``crossed`` such that a name had better not cover (bars, curves).
    """
    if sum(bool(text) for text in texts) > MOST:
        return []
    marks = np.array([[x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS] for x, y in points]).reshape(-1, 4)
    hard = np.concatenate([marks, np.array(taken).reshape(-1, 4)])
    soft = np.array(crossed).reshape(-1, 4)
    own = [i for i, text in enumerate(texts) if text]
    others = [np.array([p for p in points if p != points[i]]).reshape(-1, 2) for i in range(len(points))]
    offers = {i: _offers(points[i], texts[i], size, font, (hard, soft, others[i])) for i in own}
    crowd = {i: sum(math.dist(points[i], points[j]) < 30 for j in own) for i in own}
    orders = [
        sorted(own, key=lambda i: (len(offers[i]), i)),
        sorted(own, key=lambda i: (-crowd[i], i)),
        sorted(own, key=lambda i: (points[i], i)),
        sorted(own, key=lambda i: (points[i][1], i)),
        sorted(own, key=lambda i: (crowd[i], i)),
    ]
    tried = [_greedy(order, offers, points, texts, marks) for order in orders]
    best = min(tried, key=lambda one: (-len(one[1]), one[0]))
    return sorted(best[1], key=lambda label: label.place)


_Offer = tuple[float, tuple[float, float, float, float], float, float, str, bool]  # cost, box, x, y, align, leads


def _offers(
    point: tuple[float, float], text: str, size: tuple[float, float], font: float, around: tuple[Boxes, Boxes, Boxes]
) -> list[_Offer]:
    """All places of one name that are free before any other has one, the best first.

    ``around``: boxes that it may not touch, such that it had better not cover, and the other points: a name that is
    about as near to one of these as to its own has a line.
    """
    hard, soft, others = around
    wide, tall = text_width(text, font), font * 1.05
    made: list[_Offer] = []
    for ring in _RINGS:
        for turn, angle in enumerate(_ANGLES):
            dx, dy = math.cos(angle), math.sin(angle)
            align = "left" if dx > 0.1 else "right" if dx < -0.1 else "center"
            x = point[0] + dx * (RADIUS + ring)
            y = point[1] + dy * (RADIUS + ring + (tall / 2 if align == "center" else tall / 4))
            left = x if align == "left" else x - wide if align == "right" else x - wide / 2
            box = (left, y - tall / 2, left + wide, y + tall / 2)
            if box[0] < 0 or box[1] < 0 or box[2] > size[0] or box[3] > size[1] or _touches(box, hard).any():
                continue
            covered = float(_touches(box, soft).sum()) if len(soft) else 0.0
            leads = ring > _NEAR or bool((_apart(box, others) < _apart(box, np.array([point])) + RADIUS).any())
            straight = 4.0 if leads and turn < 4 else 0.0  # along a bar, it would seem to be one
            strange = 4.0 if leads and ring <= _NEAR else 0.0
            made.append((ring + 0.3 * turn + 2.5 * covered + straight + strange, box, x, y, align, leads))
    return sorted(made, key=lambda offer: offer[0])


def _apart(box: tuple[float, float, float, float], points: Boxes) -> NDArray[np.float64]:
    """How far points are from a box."""
    dx = np.maximum(0.0, np.maximum(box[0] - points[:, 0], points[:, 0] - box[2]))
    dy = np.maximum(0.0, np.maximum(box[1] - points[:, 1], points[:, 1] - box[3]))
    found: NDArray[np.float64] = np.hypot(dx, dy)
    return found


def _touches(box: tuple[float, float, float, float], others: Boxes) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (
        (others[:, 0] < box[2]) & (others[:, 2] > box[0]) & (others[:, 1] < box[3]) & (others[:, 3] > box[1])
    )
    return found


def _greedy(
    order: Sequence[int],
    offers: dict[int, list[_Offer]],
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    marks: Boxes,
) -> tuple[float, list[Label]]:
    """Each name at the best place that is left, and what that costs together.

    A line to a point crosses no name, and no other such line and no other point, of which it would seem to come,
    unless there is no other place.
    """
    taken, lines, total = np.empty((0, 4)), np.empty((0, 2)), 0.0
    made: list[Label] = []
    for i, crosses in (*((i, False) for i in order), *((i, True) for i in order)):
        if any(label.place == i for label in made):
            continue
        others = np.empty((0, 4)) if crosses else marks[[not _same(points[i], point) for point in points]]
        for cost, box, x, y, align, leads in offers[i]:
            way = _along(points[i], (x, y)) if leads else np.empty((0, 2))
            if _touches(box, taken).any() or _inside(lines, box):
                continue
            if leads and (any(_inside(way, b) for b in (*taken, *others)) or _meets(way, lines) > 3 * crosses):
                continue
            made.append(Label(i, texts[i], x, y, align, leads))
            taken, lines, total = np.vstack([taken, box]), np.vstack([lines, way]), total + cost + 100 * crosses
            break
    return total, made


def _same(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether two points are so close that no line could tell them apart."""
    return math.dist(a, b) < 1.5 * RADIUS


def _meets(way: NDArray[np.float64], lines: NDArray[np.float64]) -> int:
    """How many places along a line come within a point and a half of others: few where it crosses one."""
    if not len(lines):
        return 0
    return int((np.linalg.norm(way[:, None] - lines[None], axis=2) < 1.5).any(axis=1).sum())


def _along(a: tuple[float, float], b: tuple[float, float]) -> NDArray[np.float64]:
    """Places along a line, one every two points."""
    n = max(2, int(math.dist(a, b) / 2))
    return np.linspace(a, b, n)


def _inside(places: NDArray[np.float64], box: Sequence[float] | NDArray[np.float64]) -> bool:
    if not len(places):
        return False
    x, y = places[:, 0], places[:, 1]
    return bool(((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).any())
