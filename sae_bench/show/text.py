"""Figures and text from files as they may be printed: one escaper each for the terminal and Markdown.

LaTeX has its own, :mod:`sae_bench.show.latex`. HTML needs none here: templates escape by themselves, and the page's
script sets text, never markup.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from sae_bench.schema import MetricValue
from sae_bench.show.trust import signed

LONGEST_NAME = 60  # characters of a name that a table shows; CSV and JSON hold all of them
ARROWS = {"higher": "↑", "lower": "↓", "none": " "}


def number(value: float | None) -> str:
    """Four significant digits, five for whole numbers that have them; a dash for what has no value."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 9999.5 <= abs(value) < 99999.5 else f"{value + 0.0:.4g}"  # + 0.0: no "-0"


def with_interval(metric: MetricValue, *, plain: bool = False) -> str:
    """A figure as "0.0934 [0.0921, 0.0947]", with a sign where the interval is too narrow; a dash without a value.

    ``plain``: without the sign, where all of a table have it.
    """
    shown = signed(span(metric.value, metric.low, metric.high), metric, plain=plain)
    return f"{shown} (no interval)" if metric.no_interval else shown


def span(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval, to two digits of the interval's width; a dash where there is no value."""
    if value is None:
        return "-"
    if low is None or high is None:
        return number(value)
    width = high - low
    if not 1e-6 * max(abs(value), 1.0) < width < 1e5:
        return f"{number(value)} [{number(low)}, {number(high)}]"
    decimals = max(0, 1 - math.floor(math.log10(width)))
    shown, first, last = (_rounded(one, decimals) for one in (value, low, high))
    return f"{shown} [{first}, {last}]"


def _rounded(value: float, decimals: int) -> str:
    """So many decimals; nothing at all is "0", what is next to nothing "0.00", and never "-0.00"."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if value else "0"


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that fits in a table."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def some(names: Sequence[str], most: int = 10) -> str:
    """Names in a sentence: the first of them, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(text: str) -> str:
    """Names come from files that we do not trust: no control characters reach a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def json_text(content: Any, *, indent: int | None = 1, **options: Any) -> str:
    """JSON that may be printed: what a terminal would act on (C1 codes, marks of direction) is escaped."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, **options)
    strange = "".join(c for c in set(text) if not (c.isprintable() or c == "\n"))
    return re.sub(f"[{re.escape(strange)}]", lambda found: _escape(found[0]), text) if strange else text


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def line(text: str) -> str:
    """Printable and on one line: a name cannot pretend to be a row of its own."""
    return printable(text).replace("\n", "?")


_MARKDOWN = {c: f"\\{c}" for c in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "$": "&#36;"}
_LINKS = re.compile(r"@|#(?=\d)|:(?=//)|www(?=\.)", re.IGNORECASE)
_BREAK = "\u200b"  # of no width: GitHub no longer takes what is around it for a mention, an issue or an address


def markdown(text: str) -> str:
    """Prose in which nothing is markup, a mention or a link."""
    whole = _LINKS.sub(lambda found: found[0] + _BREAK, line(text))
    return "".join(_MARKDOWN.get(c, c) for c in whole)


def code(text: str) -> str:
    """A name as code in Markdown: nothing in it is markup, a link, a mention or the end of a table's cell."""
    shown = line(text)
    if re.fullmatch(r"[\w./+:=,()@-]+( [\w./+:=,()@-]+)*", shown):
        return f"`{shown}`"
    return "<code>" + "".join(c if c.isalnum() or c in " .-" else f"&#{ord(c)};" for c in shown) + "</code>"
