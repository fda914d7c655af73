"""``sae-bench plot``: a figure for print from stored results; nothing is measured, no network is used."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from sae_bench.errors import UsageError
from sae_bench.files import at_home

if TYPE_CHECKING:
    from sae_bench.board.collect import Collection
    from sae_bench.board.columns import Column
    from sae_bench.plot.model import Names
    from sae_bench.plot.select import Only
    from sae_bench.plot.style import Paper

L0, FVU = "sparsity.l0", "reconstruction.fvu"
KINDS = {
    "pareto": f"a metric (--y, default {FVU}) against L0, with a curve an architecture",
    "scatter": "any two metrics (--x, --y)",
    "density": "histograms of how often latents are active",
    "depth": f"a metric (--y, default {FVU}) over layers",
}


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "plot",
        help="a figure for a paper: SVG, PDF or PNG",
        description="A figure for print from a folder of results, with a caption on standard output. Kinds: "
        + "; ".join(f"{name}: {what}" for name, what in KINDS.items())
        + ". SAEs that were measured in different ways (model, hook point, text, protocol, suite, judge) stand in "
        "panels of their own. Needs sae-bench-suite[board].",
    )
    p.set_defaults(function=run)
    p.add_argument("results", metavar="RESULTS", nargs="?", default="results",
                   help="folder of results, or one result file (results)")  # fmt: skip
    p.add_argument("--kind", choices=list(KINDS), default="pareto", help="what is drawn (pareto)")
    p.add_argument("--out", metavar="FILE",
                   help=".svg, .pdf, .png (300 dpi), or .json for the Vega-Lite specification (KIND.pdf)")  # fmt: skip
    p.add_argument("--x", metavar="METRIC", help="task.metric, or a metric's id that one task has")
    p.add_argument("--y", "--metric", metavar="METRIC", help="likewise; of depth the only one")
    p.add_argument("--width", metavar="LENGTH", default="column",
                   help="of the whole: 3.25in, 8.4cm, 84mm, 240pt; or column (3.25in), page (6.75in)")  # fmt: skip
    p.add_argument("--height", metavar="LENGTH", help="of the whole figure, likewise (default: by the width)")
    p.add_argument("--font-size", metavar="POINTS", type=float, default=8.0, help="of axis titles, 6 to 24 (8)")
    p.add_argument("--log", metavar="AXES", help="logarithmic axes: x, y, x,y or none (default: by the figures)")
    p.add_argument("--names", choices=["auto", "yes", "numbers", "no"], default="auto",
                   help="at points; auto: where names have no room, numbers with a key in the caption")  # fmt: skip
    p.add_argument("--intervals", choices=["bars", "bands", "none"], default="bars", help="95 %% intervals (bars)")
    p.add_argument("--controls", metavar="NAMES", default="best",
                   help="as lines: names, commas, globs, all, none, or best: the strongest to beat (best)")  # fmt: skip
    p.add_argument("--x-title", metavar="TEXT", help="instead of the metric's name")
    p.add_argument("--y-title", metavar="TEXT", help="likewise")
    p.add_argument("--model", metavar="NAMES", help="only results of these models: names, commas, globs")
    p.add_argument("--hook", metavar="NAMES", help="only of these hook points")
    p.add_argument("--sae", metavar="NAMES", help="only of these SAEs")
    p.add_argument("--suite", metavar="NAMES", help="only of these sealed suites; 'unofficial' is all else")
    p.add_argument("--protocol", metavar="DIGEST", help="only of the protocol whose digest begins so")
    p.add_argument("--suites", metavar="DIR", help="folder of suites that results are held against (those that ship)")
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")


def run(args: argparse.Namespace) -> int:
    """Write the figure, print its caption; what is not in it is said on standard error."""
    from sae_bench import registry
    from sae_bench.board import collect
    from sae_bench.board.figures import drawer
    from sae_bench.files import check_place, write_atomically
    from sae_bench.plot import draw, select
    from sae_bench.plot.style import Paper, length
    from sae_bench.show.text import line

    out = at_home(args.out or f"{args.kind}.pdf")
    kind = draw.ending(out)
    _check(args)
    drawer()
    paper = Paper(length(args.width), None if args.height is None else length(args.height), args.font_size)
    check_place(out)
    collection = collect.collect(at_home(args.results), registry.tasks(args.task_dir), args.suites)
    for problem in collection.problems:
        print(f"sae-bench: {line(problem)}", file=sys.stderr)
    only = select.Only(args.model, args.hook, args.sae, args.suite, args.protocol)
    make = _density if args.kind == "density" else _points
    spec, caption, notes = make(args, collection, only, paper)
    for note in notes:
        print(f"sae-bench: {line(note)}", file=sys.stderr)
    spec["description"] = line(" ".join(caption))
    write_atomically(out, draw.content(spec, paper, kind))
    print(line(f"{out}: {' '.join(caption)}"))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that do not fit the kind. Raises UsageError."""
    if args.kind == "scatter" and (args.x is None or args.y is None):
        raise UsageError("--kind scatter needs both metrics: give --x and --y")
    given = [f"--{name}" for name in ("x", "y", "log") if getattr(args, name) is not None]
    refused = {"density": ["--x", "--y", "--log"], "depth": ["--x"]}.get(args.kind, [])
    if wrong := [flag for flag in given if flag in refused]:
        raise UsageError(f"--kind {args.kind} takes no {', '.join(wrong)}; leave it out")
    if not 6 <= args.font_size <= 24:
        raise UsageError(f"--font-size must be from 6 to 24 points; got {args.font_size:g}")


Parts = tuple[dict[str, Any], list[str], tuple[str, ...]]  # specification, caption, what is not in the figure


def _points(args: argparse.Namespace, collection: Collection, only: Only, paper: Paper) -> Parts:
    from dataclasses import replace

    from sae_bench.plot import caption, depth, draw, kinds, select, xy

    entries = select.wanted(collection, only)
    y = select.metric(args.y or FVU, collection, entries)
    names: Names = "no" if args.kind == "depth" and args.names == "auto" else args.names
    look = kinds.Look(args.log, args.controls, args.intervals, names)
    columns: list[Column] = [y]
    if args.kind == "depth":
        made = depth.depth(entries, y, only, look)
    else:
        columns.insert(0, select.metric(args.x or L0, collection, entries))
        made = kinds.against(entries, (columns[0], y), only, look, curves=args.kind == "pareto")
    figure = replace(made.figure, x=args.x_title or made.figure.x, y=args.y_title or made.figure.y)
    grid = _grid(len(figure.panels), paper)
    drawn = draw.fitted(lambda size: xy.draw(figure, paper, size), paper, grid)
    notes = list(made.notes)
    if drawn.left_out:
        of = len({(p.sae.name, p.sae.weights_sha256) for p in figure.points})
        what = "number" if drawn.numbers else "name"
        notes.append(
            f"{len(drawn.left_out)} of {of} SAEs have no {what} in the figure, where there is no room; give a larger "
            "--width, or fewer by --sae"
        )
    return drawn.spec, caption.of_points(made, columns, args.kind, drawn.numbers, entries), tuple(notes)


def _density(args: argparse.Namespace, collection: Collection, only: Only, paper: Paper) -> Parts:
    from sae_bench.plot import caption, density, draw, select

    entries = select.wanted(collection, only)
    made, panels, notes = density.densities(select.metric(L0, collection, entries), entries, only)
    titles = (args.x_title or density.X, args.y_title or density.Y)
    drawn = draw.fitted(lambda size: density.draw(made, titles, paper, size), paper, _grid(len(made.panels), paper))
    return drawn.spec, caption.of_densities(made, panels), notes


def _grid(n_panels: int, paper: Paper) -> tuple[int, int]:
    """How many panels stand beside and below each other."""
    from sae_bench.plot.xy import columns

    beside = columns(n_panels, paper)
    return beside, -(-n_panels // beside)
