"""``sae-bench ls``: what there is."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_bench import registry
from sae_bench.cli.places import RUNS, RUNS_HELP, results_in


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "ls",
        help="list tasks, suites, formats, controls, back ends, models, results, ...",
        description="List what there is.",
    )
    p.set_defaults(function=run)
    p.add_argument("what", nargs="?", default="tasks", choices=list(_ROWS))
    p.add_argument("--out", default=RUNS, metavar="DIR", help=f"folder of results {RUNS_HELP}")
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    p.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from tabulate import tabulate

    from sae_bench.show.text import json_text

    rows = _ROWS[args.what](args)
    if args.json:
        print(json_text(rows))
    elif rows and args.markdown:
        print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    elif rows:
        widths = _fitting(rows, _WIDTHS.get(args.what, ()))
        print(tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True, maxcolwidths=widths))
    return 0


def _fitting(rows: Sequence[Mapping[str, Any]], most: Sequence[int | None]) -> list[int | None]:
    """How wide each column may be for the table to fit the output: the widest give way, down to their longest word.

    A path stays whole, so that it can be copied. ``most``: widths that columns have at the most anyhow.
    """
    from sae_bench.show.fitted import columns_of_output

    names = list(rows[0])
    cells = {name: [f"{row[name]}" for row in rows] for name in names}
    # tabulate gives a heading two columns more than its letters, and breaks cells at spaces and hyphens
    least = {name: max(len(name) + 2, *(len(w) for one in cells[name] for w in _WORDS.split(one))) for name in names}
    sizes = {name: max(len(name) + 2, *map(len, cells[name])) for name in names}
    sizes |= {
        name: max(least[name], min(sizes[name], limit)) for name, limit in zip(names, most, strict=False) if limit
    }
    columns = columns_of_output(None)
    while columns is not None and sum(sizes.values()) + 2 * (len(sizes) - 1) > columns:
        wide = [name for name in names if name != "file" and sizes[name] > least[name]]
        if not wide:
            break
        sizes[max(wide, key=lambda name: sizes[name])] -= 1
    return [None if name == "file" else sizes[name] for name in names]


def _tasks(args: argparse.Namespace) -> list[dict[str, Any]]:
    from sae_bench.builtin import cost
    from sae_bench.settings import CORE

    return [
        {
            "task": name,
            "version": spec.version,
            "core": "yes" if name in CORE else "",
            "cost (reconstruction = 1)": cost(name, judged=spec.judge),
            "metrics": len(spec.metrics),
            "ranked by": sum(metric.orders for metric in spec.metrics.values()),
            "question": spec.question,
        }
        for name, spec in registry.tasks(args.task_dir).items()
    ]


def _suites(args: argparse.Namespace) -> list[dict[str, Any]]:
    from sae_bench.suites.record import every

    return [
        {
            "suite": name,
            "": known.word,
            "model": known.suite.model.id,
            "text": known.suite.text.source,
            "docs": known.suite.seal.documents if known.suite.seal else known.suite.text.limit or "",
            "tasks": " ".join(known.suite.tasks),
            "digest": known.sha256[:8],
        }
        for name, known in every().items()
    ]


def _formats(args: argparse.Namespace) -> list[dict[str, Any]]:
    def shown(text: str) -> str:
        return text if args.markdown else text.replace("`", "")

    return [
        {
            "format": shown(f"`{e.name}`"),
            "what": shown(e.description),
            "recognised by": shown(getattr(e, "files", "")),
            "asks for": shown(getattr(e, "asks", "")),
        }
        for e in registry.formats().values()
    ]


def _controls(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {"control": e.name, "default": "yes" if e.name in registry.DEFAULT_CONTROLS else "", "what": e.description}
        for e in registry.controls().values()
    ]


def _backends(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [{"backend": e.name, "what": e.description} for e in registry.backends().values()]


def _streams(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [{"stream": e.name, "what": e.description} for e in registry.streams().values()]


def _units(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [{"unit": e.name, "what": e.description} for e in registry.units().values()]


def _models(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Architectures that were tried with tiny models, by name: what is measured in a block, and what is refused why."""
    from importlib.resources import files

    swept = json.loads(files("sae_bench").joinpath("models/swept.json").read_text(encoding="utf-8"))
    return [
        {
            "architecture": name,
            "measured": _sites(found["right"]),
            "refused": "; ".join(
                f"{sites}: {reason}" for reason, hooks in found["refused"].items() if (sites := _sites(hooks))
            ),
        }
        for name, found in swept["models"].items()
    ]


def _sites(hooks: list[str]) -> str:
    """TransformerLens names without their block, less the paths of modules."""
    named = [hook for hook in hooks if hook.startswith(("blocks.", "hook_embed", "every"))]
    return ", ".join(re.sub(r"^blocks\.\d+\.", "", hook) for hook in named)


def _results(args: argparse.Namespace) -> list[dict[str, Any]]:
    from sae_bench.results import store
    from sae_bench.show import marks
    from sae_bench.show.text import line, markdown

    safe = str if args.json else markdown if args.markdown else line

    def row(file: Path) -> dict[str, Any]:  # all that is kept of a result
        result = store.read(file)
        return {
            "sae": safe(result.sae.name),
            "task": safe(f"{result.task}@v{result.version}"),
            "status": result.status,
            "mark": mark.word if (mark := marks.of(result)) else "",
            "documents": result.provenance.protocol.n_documents,
            "protocol": result.protocol[:8],
            "file": safe(str(file)),
        }

    return list(store.read_below(results_in(args.out), row).values())


_ROWS = {
    **{
        "tasks": _tasks,
        "suites": _suites,
        "formats": _formats,
        "controls": _controls,
        "backends": _backends,
        "streams": _streams,
    },
    **{"units": _units, "models": _models, "results": _results},
}
_WORDS = re.compile(r"\s+|(?<=-)")
_WIDTHS = {
    "tasks": [None, None, None, 24, None, None, 38],
    "suites": [None, None, None, None, None, 40, None],
    "formats": [None, 50, 40, 40],
    "models": [None, 40, 70],
}
