"""``sae-bench show``: a task's card, or a result in full."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_bench import registry
from sae_bench.errors import UsageError
from sae_bench.files import at_home

if TYPE_CHECKING:
    from sae_bench.schema import Result, TaskSpec


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "show", help="show a task or a result", description="Show a task's definition and card, or a result in full."
    )
    p.set_defaults(function=run)
    p.add_argument("name", metavar="TASK|RESULT", help="task id, result file, or folder of results")
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the task or the result."""
    known = registry.tasks(args.task_dir)
    path = at_home(args.name)
    if args.name in known:
        print(_task(args.name, known, args))
    elif path.exists():
        print(_results(path, known, args.json))
    else:
        raise UsageError(f"{args.name} is neither a task nor a result file; {registry.suggest(args.name, known)}")
    return 0


def _task(name: str, known: Any, args: argparse.Namespace) -> str:
    from tabulate import tabulate

    from sae_bench.show.text import json_text, printable

    spec = known[name]
    parameters = _parameters(spec)
    if args.json:
        return json_text(spec.model_dump(mode="json") | {"about_parameters": parameters})
    rows = [(m, s.unit, s.better, s.target if s.target is not None else "", s.table, s.description)
            for m, s in spec.metrics.items()]  # fmt: skip
    headers = ["metric", "unit", "better", "target", "unit of table", "what"]
    parts = [printable(registry.card(name, args.task_dir) or f"{spec.title}: {spec.question}")]
    parts.append(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    if parameters:
        shown = [{**one, "default": json.dumps(one["default"], ensure_ascii=False)} for one in parameters]
        parts.append(tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True))
        parts.append(f"--param {name}.NAME=VALUE changes a parameter, and with it the protocol.")
    return "\n\n".join(part.rstrip() for part in parts)


def _parameters(spec: TaskSpec) -> list[dict[str, Any]]:
    """Name, default, what is allowed and what it does, from the record of the task where it has one."""
    record = getattr(registry.load(spec.figures), "Parameters", None) if spec.parameters else None
    return [
        {
            "parameter": name,
            "default": default,
            "allowed": record.must(name).partition(" must be ")[2] if record else "",
            "what": record.about(name) if record else "",
        }
        for name, default in spec.parameters.items()
    ]


def _results(path: Path, known: Mapping[str, TaskSpec], as_json: bool) -> str:
    from sae_bench.results import store
    from sae_bench.results.definitions import all_known
    from sae_bench.show import marks
    from sae_bench.show.details import found
    from sae_bench.show.results import result_tables
    from sae_bench.show.terminal import drawn
    from sae_bench.show.text import json_text, line

    results = store.read_below(path, store.read)
    for file, result in results.items():
        if why := store.units_problem(file, result):
            warnings.warn(f"{why}; its figures cannot be checked", stacklevel=2)
    made = {file: found(result, known) for file, result in results.items()}
    if as_json:
        whole = [
            one.model_dump(mode="json", exclude={"details"}) | {"details": one.details} for one in results.values()
        ]
        blocks = [[block.to_json() for block in one.blocks] for one in made.values()]
        return json_text(
            {"results": whole, "blocks": blocks, "marks": [marks.to_json(one) for one in results.values()]}
        )
    held = {file: result for file, result in results.items() if result.definition is not None}
    specs, problems = all_known(held, known)
    parts = [result_tables(list(results.values()), specs, everything=True), *map(line, problems)]
    for file, result in results.items():
        parts.append("\n" + line(f"{result.task}, what else it holds:"))
        parts += [one for block in made[file].blocks for one in drawn(block)]
        parts += [line(f"  {problem}") for problem in made[file].problems]
        parts += [line(f"  skipped: {name}: {why}") for name, why in skipped(result).items()]
    return "\n".join(parts)


def skipped(result: Result) -> dict[str, Any]:
    """Labelled sets that were passed over, with the reasons."""
    content = result.provenance.data.get("skipped", {})
    return content if isinstance(content, dict) else {"?": content}
