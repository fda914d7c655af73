"""From a specification to a file: exactly as wide as asked, as SVG, PDF or PNG by the ending of its name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_bench.board.figures import VEGA_LITE, drawer
from sae_bench.errors import UsageError
from sae_bench.plot.model import Drawn
from sae_bench.plot.style import Paper
from sae_bench.show.text import line

ENDINGS = (".svg", ".pdf", ".png", ".json")
DOTS = 300  # to the inch, of a PNG
_TRIES = 8  # until the figure has its width
_OFF = 0.02  # of the paper, by which a drawing may be scaled to its width
_NAMED = re.compile(r'<(?:clipPath|linearGradient|radialGradient)\b[^>]*? id="([^"]+)"')
_USED = re.compile(r'(\bid="|url\(#|href="#)([^")]+)(["\)])')
_SIZE = re.compile(r'(<svg\b[^>]*?) width="([\d.]+)" height="([\d.]+)"')


def ending(out: Path) -> str:
    """The kind of file that a name asks for. Raises UsageError."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"--out must end in {', '.join(ENDINGS[:-1])}, or {ENDINGS[-1]} for the Vega-Lite specification; got "
            f"{line(out.name)[:80]!r}"
        )
    return out.suffix.lower()


def fitted(make: Callable[[tuple[float, float]], Drawn], paper: Paper, grid: tuple[int, int]) -> Drawn:
    """The drawing in which the whole figure is as wide as the paper, to a point.

    ``make`` gives it for an inner size of each panel, of which there are ``grid`` beside and below each other. Raises
    UsageError where what surrounds the panels leaves no room for them.
    """
    draw = drawer()
    wide = paper.width / grid[0] - 45
    tall = 0.72 * wide
    best: tuple[float, Drawn] | None = None
    for turn in range(_TRIES):
        made = make((wide, tall))
        width, height = _measured(draw.vegalite_to_svg(json.dumps(made.spec), vl_version=VEGA_LITE))
        off = paper.width - width
        below = 0.0 if paper.height is None else paper.height - height
        worst = max(abs(off) / paper.width, abs(below) / (paper.height or paper.width))
        best = (worst, made) if best is None or worst < best[0] else best
        if abs(off) < 0.75 and abs(below) < 0.75:
            break
        share = 1.0 if turn < 2 else 0.5  # a size at which ticks come or go is passed over again and again
        wide = max(30.0, wide + share * off / grid[0])
        tall = 0.72 * wide if paper.height is None else max(30.0, tall + share * below / grid[1])
    if best is None or best[0] > _OFF:
        raise UsageError(
            f"what stands around the panels leaves them no room in {paper.width / 72:.3g} inches"
            f"{'' if paper.height is None else f' by {paper.height / 72:.3g}'}; give a larger --width or --height, or "
            "fewer SAEs"
        )
    return best[1]


def _measured(svg: str) -> tuple[float, float]:
    found = _SIZE.search(svg)
    if found is None:
        raise UsageError("the drawing library made an SVG without a size; is another version of it installed?")
    return float(found[2]), float(found[3])


def content(spec: dict[str, Any], paper: Paper, kind: str) -> bytes:
    """The file's bytes. An SVG has its size in inches, a PDF in points, a PNG at 300 dots to the inch."""
    if kind == ".json":
        return (json.dumps(spec, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    draw = drawer()
    svg = _numbered_anew(draw.vegalite_to_svg(json.dumps(spec), vl_version=VEGA_LITE))
    width, height = _measured(svg)
    tall = paper.width * height / width
    if kind == ".svg":
        inches = f'width="{paper.width / 72:.5g}in" height="{tall / 72:.5g}in"'
        return (_SIZE.sub(rf"\1 {inches}", svg, count=1) + "\n").encode()
    points = _SIZE.sub(rf'\1 width="{paper.width:.6g}" height="{tall:.6g}"', svg, count=1)
    made: bytes = draw.svg_to_pdf(points) if kind == ".pdf" else draw.svg_to_png(points, ppi=DOTS)
    return made


def _numbered_anew(svg: str) -> str:
    """The drawing with the names of its clips and gradients counted from 0, which Vega counts over all it has drawn."""
    found = {name: f"part{i}" for i, name in enumerate(dict.fromkeys(_NAMED.findall(svg)))}
    return _USED.sub(lambda use: f"{use[1]}{found.get(use[2], use[2])}{use[3]}", svg)
