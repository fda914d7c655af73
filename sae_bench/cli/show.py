"""``sae-bench show``: a task's card, or a result in full."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_bench import registry
from sae_bench.cli.places import RUNS, RUNS_HELP, results_in
from sae_bench.errors import UsageError

if TYPE_CHECKING:
    from sae_bench.schema import MetricSpec, Result, TaskSpec

_BETTER = {"lower": "less is better", "higher": "more is better", "none": "neither more nor less is better"}


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "show",
        help="show a task, a metric or a result",
        description="Show a task's definition and card, what known truth says of a metric, or a result in full.",
    )
    p.set_defaults(function=run)
    p.add_argument("name", metavar="TASK|METRIC|RESULT", nargs="?", default=RUNS,
                   help=f"task id, metric (or TASK.METRIC), result file, or folder of results {RUNS_HELP}")  # fmt: skip
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the task or the result."""
    known = registry.tasks(args.task_dir)
    if args.name in known:
        print(_task(args.name, known, args))
    elif (path := results_in(args.name)).exists():
        for part in _results(path, known, args.json):
            print(part)
    else:
        print(_metric(*_found(args.name, known), known, args))
    return 0


def _found(name: str, known: Mapping[str, TaskSpec]) -> tuple[str, str]:
    """Task and metric that a name means. Raises UsageError."""
    ids = {f"{task}.{metric}": (task, metric) for task, spec in known.items() for metric in spec.metrics}
    found = [id_ for id_, (_, metric) in ids.items() if name in (id_, metric)]
    if len(found) == 1:
        return ids[found[0]]
    if found:
        raise UsageError(f"several tasks have a metric {name!r}; name one of {', '.join(found)}")
    names = [*known, *ids, *(metric for _, metric in ids.values())]
    close = registry.suggest(name, names)
    near = close if close.startswith("did you mean") else registry.suggest(name, known)
    raise UsageError(f"{name} is neither a task nor a metric nor a result file; {near}")


def _metric(task: str, name: str, known: Mapping[str, TaskSpec], args: argparse.Namespace) -> str:
    """What a metric is and what known truth says of it."""
    from sae_bench.show import truth
    from sae_bench.show.fitted import WIDE, columns_of_output, for_output, wrapped
    from sae_bench.show.text import json_text, line

    spec, said = known[task].metrics[name], registry.standings(task, args.task_dir).get(name)
    if args.json:
        own = {"task": task, "metric": name, **_judged(spec)}
        return json_text(own | {"standing": None if said is None else said.model_dump(mode="json")})
    about = f"{task}.{name}: {spec.name}, in {spec.unit}, {_BETTER[spec.better]}; resampled over {spec.table}s."
    parts = [about, f"{spec.description}.", "", "What known truth says of it:"]
    columns = columns_of_output(WIDE) or WIDE
    shown = [piece for part in parts for piece in (wrapped(line(part), columns, then="  ") if part else [""])]
    shown += [p for one in truth.sentences(spec, said) for p in wrapped(line(one), columns, first="  ", then="    ")]
    return for_output("\n".join(shown))


def _judged(spec: MetricSpec) -> dict[str, Any]:
    """A definition of a metric with what was made of its claim here."""
    return spec.model_dump(mode="json") | {"ranked": spec.orders, "ranking": spec.ranking, "unranked": spec.unranked}


def _task(name: str, known: Any, args: argparse.Namespace) -> str:
    from sae_bench.show.text import json_text, printable

    spec = known[name]
    parameters = _parameters(spec)
    if args.json:
        metrics = {"metrics": {m: _judged(s) for m, s in spec.metrics.items()}}
        said = {m: one.model_dump(mode="json") for m, one in registry.standings(name, args.task_dir).items()}
        more = metrics | {"standings": said, "about_parameters": parameters}
        return json_text(spec.model_dump(mode="json") | more)
    rows = [
        (m, s.unit, s.better, s.claims or "", s.ranking, "" if s.target is None else s.target, s.table, s.description)
        for m, s in spec.metrics.items()
    ]
    headers = ["metric", "unit", "better", "claims", "ranked", "target", "unit of table", "what"]
    parts = [printable(registry.card(name, args.task_dir) or f"{spec.title}: {spec.question}")]
    parts.append(_fitted(headers, rows))
    parts.append(_truth(spec, args))
    if parameters:
        shown = [{**one, "default": json.dumps(one["default"], ensure_ascii=False)} for one in parameters]
        parts.append(_fitted(list(shown[0]), [list(one.values()) for one in shown]))
        parts.append(f"--param {name}.NAME=VALUE changes a parameter, and with it the protocol.")
    return "\n\n".join(part.rstrip() for part in parts)


def _truth(spec: TaskSpec, args: argparse.Namespace) -> str:
    """What known truth says of each metric that claims something, in words."""
    from sae_bench.show import truth
    from sae_bench.show.fitted import WIDE, columns_of_output, for_output, wrapped
    from sae_bench.show.text import line

    said, columns = registry.standings(spec.id, args.task_dir), columns_of_output(WIDE) or WIDE
    shown = []
    for name, metric in spec.metrics.items():
        if metric.claims is not None:
            own = f"{name}: {' '.join(truth.sentences(metric, said.get(name)))}"
            shown += wrapped(line(own), columns, first="  ", then="    ")
    what = "What known truth says:" if shown else "No metric claims to measure how good an SAE is, and none ranks SAEs."
    return for_output("\n".join([what, *shown]))


def _fitted(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table that keeps to the terminal."""
    from sae_bench.show.fitted import columns_of_output, for_output, table

    heads, left = [[one] for one in headers], frozenset(range(len(headers)))
    cells = [[str(cell) for cell in row] for row in rows]
    return for_output("\n".join(table(heads, cells, columns=columns_of_output(None), left=left)))


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


def _results(path: Path, known: Mapping[str, TaskSpec], as_json: bool) -> Iterator[str]:
    """The parts of what is printed. Heads are in memory, and one table or one result at a time in full."""
    from sae_bench.results import store
    from sae_bench.results.heads import Heads

    heads = store.read_below(path, Heads(known).read)
    for file, head in heads.items():
        if why := store.units_problem(file, head):
            warnings.warn(f"{why}; its figures cannot be checked", stacklevel=2)
    yield from _as_json(heads, known) if as_json else _as_text(heads, known)


def _as_text(heads: Mapping[Path, Result], known: Mapping[str, TaskSpec]) -> Iterator[str]:
    from sae_bench.board.summary import summaries
    from sae_bench.results.definitions import all_known
    from sae_bench.results.heads import whole
    from sae_bench.show.details import found
    from sae_bench.show.fitted import WIDE, columns_of_output, for_output, wrapped
    from sae_bench.show.results import table_of, tables_of
    from sae_bench.show.summary import shown
    from sae_bench.show.terminal import drawn
    from sae_bench.show.text import line

    columns = columns_of_output(None)
    specs, problems = all_known({file: head for file, head in heads.items() if head.definition is not None}, known)
    files = {id(head): file for file, head in heads.items()}
    if len(heads) > 1:
        yield for_output(shown(summaries(heads, specs), min(WIDE, columns or WIDE)))
    for own in tables_of(list(heads.values())).values():
        results = [whole(files[id(head)], head) for head in own]
        yield from map(for_output, table_of(results, specs, everything=True, columns=columns))
    yield from map(line, problems)
    several = len({(one.sae.name, one.sae.weights_sha256) for one in heads.values()}) > 1
    for file, head in heads.items():
        made = found(result := whole(file, head), known)
        rest = [one for block in made.blocks for one in drawn(block, columns=columns)]
        told = [*made.problems, *(f"skipped: {name}: {why}" for name, why in skipped(result).items())]
        rest += [piece for one in told for piece in wrapped(one, columns, first="  ", then="    ")]
        if rest:
            of = f"{head.sae.name}, " if several else ""
            yield "\n" + "\n".join(wrapped(f"{of}{result.task}, what else it holds:", columns, then="  "))
            yield from map(for_output, rest)


def _as_json(heads: Mapping[Path, Result], known: Mapping[str, TaskSpec]) -> Iterator[str]:
    """The lines of one JSON document."""
    from sae_bench.results.heads import whole
    from sae_bench.show import marks
    from sae_bench.show.against import as_ranked
    from sae_bench.show.details import found

    def content(result: Result) -> dict[str, Any]:
        result = as_ranked(result, known)
        return result.model_dump(mode="json", exclude={"details"}) | {"details": result.details}

    def blocks(result: Result) -> list[Any]:
        return [block.to_json() for block in found(result, known).blocks]

    yield "{"
    for name, make in (("results", content), ("blocks", blocks)):
        yield from _list(name, (make(whole(file, head)) for file, head in heads.items()), last=False)
    yield from _list("marks", map(marks.to_json, heads.values()), last=True)
    yield "}"


def _list(name: str, items: Iterable[Any], *, last: bool) -> Iterator[str]:
    """A list in a JSON document, written an item at a time as it would be written at once."""
    from sae_bench.show.text import json_text

    yield f' "{name}": ['
    before = None
    for item in items:
        if before is not None:
            yield f"{before},"
        before = "  " + json_text(item).replace("\n", "\n  ")
    yield f"{before}"
    yield " ]" if last else " ],"


def skipped(result: Result) -> dict[str, Any]:
    """Labelled sets that were passed over, with the reasons."""
    content = result.provenance.data.get("skipped", {})
    return content if isinstance(content, dict) else {"?": content}
