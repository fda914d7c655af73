"""How figures look on paper: sizes in points (one unit of a drawing is 1/72 inch), colours, marks, dashes.

Colours are those of Okabe and Ito without the yellow, which is too light on white: they are told apart with the common
kinds of colour blindness. Marks and dashes differ as well, so that a figure can be read where it is printed in grey.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sae_bench.errors import UsageError

POINTS = {"in": 72.0, "cm": 72 / 2.54, "mm": 72 / 25.4, "pt": 72 / 72.27}  # a pt is that of TeX
NAMED = {"column": 3.25 * 72, "page": 6.75 * 72}  # of a paper in two columns
NARROWEST, WIDEST = 1.5 * 72, 24 * 72
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ((1, 0), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (3, 1), (8, 2, 1.5, 2, 1.5, 2))
GREY, DARK, GRID = "#6b7280", "#1f2937", "#e5e7eb"
FONT = "Helvetica, Arial, sans-serif"
RADIUS = 2.6  # of a mark
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[]/\\ -"), frozenset("mwMWGOQ@%—")


@dataclass(frozen=True)
class Paper:
    """The width of a figure in points, the height of a panel's inner part (None: from its width), the text's size."""

    width: float = NAMED["column"]
    height: float | None = None
    font: float = 8.0

    @property
    def small(self) -> float:
        """The size of names at points, ticks and the legend: never below 6 points."""
        return max(6.0, self.font - 1.0)


def length(text: str) -> float:
    """A length such as "3.25in", "8.4cm", "84mm", "240pt", "column" or "page" in points. Raises UsageError."""
    if text in NAMED:
        return NAMED[text]
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{0,6})?|\.\d{1,6}) ?(in|cm|mm|pt)", text)
    if found is None:
        raise UsageError(
            f"a width must be a number with its unit, such as 3.25in, 8.4cm, 84mm or 240pt, or one of "
            f"{', '.join(NAMED)}; got {text[:40]!r}"
        )
    points = float(found[1]) * POINTS[found[2]]
    if not NARROWEST <= points <= WIDEST:
        raise UsageError(f"a figure must be {NARROWEST / 72:g} to {WIDEST / 72:g} inches wide; got {text[:40]!r}")
    return points


def text_width(text: str, size: float) -> float:
    """About how wide a line of text is, rather too much than too little."""
    return size * sum(0.34 if c in _NARROW else 0.9 if c in _WIDE or ord(c) > 0x2000 else 0.6 for c in text)


def wrapped(text: str, width: float, size: float) -> list[str]:
    """The text in lines that are not wider; a word that is too long by itself is shortened."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(fitted(word, width, size))
    return lines


def fitted(text: str, width: float, size: float) -> str:
    """The text, or its begin and its end with an ellipsis between them where it is too wide."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 2, -1):
        shorter = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if text_width(shorter, size) <= width:
            return shorter
    return f"{text[:1]}…"


def config(paper: Paper) -> dict[str, object]:
    """The part of a specification that is the same in every figure."""
    return {
        "font": FONT,
        "padding": 2,
        "view": {"stroke": None},
        "axis": {
            "labelFontSize": paper.small,
            "titleFontSize": paper.font,
            "titleFontWeight": "normal",
            "titlePadding": 4,
            "labelPadding": 2,
            "tickSize": 3,
            "gridColor": GRID,
            "gridWidth": 0.5,
            "domainColor": GREY,
            "domainWidth": 0.7,
            "tickColor": GREY,
            "tickWidth": 0.7,
            "labelColor": DARK,
            "titleColor": DARK,
            "labelFlush": False,
        },
        "legend": {
            "labelFontSize": paper.small,
            "titleFontSize": paper.small,
            "titleFontWeight": "normal",
            "labelColor": DARK,
            "titleColor": DARK,
            "labelLimit": 0,
            "symbolLimit": 0,
            "columnPadding": 8,
            "rowPadding": 1,
            "offset": 4,
        },
        "title": {
            "fontSize": paper.small,
            "fontWeight": "normal",
            "color": DARK,
            "anchor": "start",
            "frame": "group",
            "offset": 3,
        },
    }
