"""``sae-bench board``: tables and a page made from result files; nothing is measured, no network is used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sae_bench.cli import latex_flags
from sae_bench.cli.exits import Exit
from sae_bench.files import at_home

if TYPE_CHECKING:
    from sae_bench.board.layout import Board

FORMATS = ("text", "github", "latex", "csv", "json", "html")


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "board",
        help="tables and a page of all results",
        description="Tables and a page made from a folder of results: scores with intervals, ranks, controls.",
    )
    p.set_defaults(function=run)
    p.add_argument(
        "results",
        metavar="RESULTS",
        nargs="?",
        default="results",
        help="folder of results, or one result file (results)",
    )
    p.add_argument("--format", choices=FORMATS, default="text", help="html and plots need sae-bench-suite[board]")
    p.add_argument("--out", metavar="FILE", help="write to a file instead of to standard output")
    p.add_argument("--metrics", metavar="NAMES", help="only these metrics: ids or task.metric, commas, globs")
    p.add_argument("--all-metrics", action="store_true", help="also the metrics that columns.toml leaves out")
    p.add_argument("--model", metavar="NAMES", help="only results of these models: names, commas, globs")
    p.add_argument("--columns", metavar="FILE", help="another file instead of leaderboard/columns.toml")
    p.add_argument("--plots", metavar="DIR", help="also write the plots as SVG and PNG into this folder")
    p.add_argument("--suites", metavar="DIR", help="folder of suites that results are held against (default: those "
                   "that ship)")  # fmt: skip
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    latex_flags.add(p)


def run(args: argparse.Namespace) -> int:
    """Print or write the board; what cannot be shown is said on standard error."""
    from sae_bench import registry
    from sae_bench.board import collect, columns, layout
    from sae_bench.board.latex import as_latex
    from sae_bench.files import write_atomically
    from sae_bench.show.text import line

    writing = latex_flags.options(args)
    collection = collect.collect(at_home(args.results), registry.tasks(args.task_dir), args.suites)
    file = at_home(args.columns) if args.columns else registry.data_folder("leaderboard") / "columns.toml"
    wanted = columns.read_columns(file, collection.specs, everything=args.all_metrics or bool(args.metrics))
    if args.metrics:
        wanted = columns.chosen(wanted, args.metrics)
    board = layout.make(collection, wanted, models=args.model, task_dir=args.task_dir)
    for problem in board.problems:
        print(f"sae-bench: {line(problem)}", file=sys.stderr)
    if not board.tables:
        print(line(f"sae-bench: nothing in {args.results} can be shown"), file=sys.stderr)
        return Exit.BAD_INPUT
    if args.format == "html":
        from sae_bench.board.page import as_html

        content, problems = as_html(board, collection, wanted)
        for problem in problems:
            print(f"sae-bench: {line(problem)}", file=sys.stderr)
    else:
        content = as_latex(board, writing) if args.format == "latex" else _writer(args.format)(board)
    if args.plots:
        from sae_bench.board.figures import write_plots

        write_plots(board, collection, wanted, at_home(args.plots))
    if args.out:
        write_atomically(at_home(args.out), content.encode())
    else:
        _print(content, declares_utf8=args.format == "html")
    return 0


def _print(content: str, *, declares_utf8: bool) -> None:
    """Print the board; a page says that it is UTF-8, so it is, whatever standard output is."""
    if declares_utf8 and hasattr(sys.stdout, "buffer"):
        sys.stdout.flush()
        sys.stdout.buffer.write(content.encode())
    else:
        sys.stdout.write(content)


def _writer(name: str) -> Callable[[Board], str]:
    from sae_bench.board import data, text

    writers = {
        "text": text.as_text,
        "github": text.as_github,
        "csv": data.as_csv,
        "json": data.as_json,
    }
    return writers[name]
