"""Is a result fit for the board? The same checks here, in the test of ``results/``, and on the way there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sae_bench import registry
from sae_bench.errors import ResultError, UsageError
from sae_bench.files import read_bytes, regular, write_atomically, writing
from sae_bench.results import store, unit_files
from sae_bench.results.definitions import not_installed
from sae_bench.results.heads import Heads
from sae_bench.results.recompute import differences
from sae_bench.schema import MetricValue, Result, TaskSpec
from sae_bench.show import marks
from sae_bench.suites.claims import Claims
from sae_bench.units.groups import group_of
from sae_bench.units.kinds import kind

MOST_JSON, MOST_UNITS = 2 << 20, 32 << 20  # bytes
NAME = 200  # characters
LEAST_DOCUMENTS = 64
ROUNDING = 1e-6


@dataclass(frozen=True)
class Checked:
    """A result file with its head and what is wrong with it."""

    file: Path
    result: Result | None
    problems: tuple[str, ...]


def check(file: Path, task_dir: str | None = None, claims: Claims | None = None) -> Checked:
    """Everything that can be checked of a result without the SAE, the model or a network.

    ``claims`` holds the suite that it names against the suites there are, by default those that ship.
    """
    try:
        regular(file)
        if file.stat().st_size > MOST_JSON:
            return Checked(file, None, (f"{file} is larger than {MOST_JSON >> 20} MiB",))
        result = store.read(file)
        problems = tuple(_problems(file, result, task_dir, claims or Claims()))
        return Checked(file, Heads(registry.tasks(task_dir)).of(result), problems)
    except (ResultError, OSError) as error:
        return Checked(file, None, (str(error),))


def _problems(file: Path, result: Result, task_dir: str | None, claims: Claims) -> Iterator[str]:
    if result.status != "ok":
        yield f"the status is {result.status} ({result.reason}); only results with the status ok are taken"
        return
    if (mark := marks.of(result)) is not None and not mark.ranked:
        yield f"it is {mark.word} ({mark.why}); only whole results are taken"
    known = registry.tasks(task_dir)
    if result.task not in known:
        yield f"it is of {not_installed(result.task, known)}"
        return
    spec, protocol = known[result.task], result.provenance.protocol
    why = claims.problem(result)
    own = [*_definition(result, spec), *(_chosen(result, spec) if why is not None else ())]
    yield from own
    if why is not None and not own:
        yield f"it is unofficial, and the board takes results of sealed suites: {why}"
    if protocol.n_documents < LEAST_DOCUMENTS:
        yield f"it was measured on {protocol.n_documents} documents; the board takes {LEAST_DOCUMENTS} or more"
    if result.provenance.controls and not result.controls:
        yield "its controls are named, but have no figures"
    for text in (result.sae.name, result.sae.architecture, protocol.model, protocol.data):
        if len(text) > NAME or not text.isprintable():
            yield f"a name is longer than {NAME} characters or holds what cannot be printed: {text[:60]!r}"
    yield from _units(file, result, task_dir)


def _chosen(result: Result, spec: TaskSpec) -> Iterator[str]:
    """What people choose who run without a suite, of what suites fix."""
    protocol = result.provenance.protocol
    if protocol.parameters.keys() & spec.parameters.keys():
        changed = ", ".join(sorted(protocol.parameters.keys() & spec.parameters.keys()))
        yield f"the board takes tasks as they are defined, but {changed} was changed with --param"
    if protocol.seed != 0:
        yield f"the seed is {protocol.seed}; the board takes seed 0, since a seed can be chosen"
    lacking = [name for name in registry.DEFAULT_CONTROLS if name not in result.provenance.controls]
    if lacking and not spec.judge:
        yield f"it was measured without the controls {', '.join(lacking)}; run with --controls default"


def _definition(result: Result, spec: TaskSpec) -> Iterator[str]:
    if (result.version, result.provenance.protocol.version) != (spec.version, spec.version):
        yield f"it is of version {result.version} of {result.task}, the current one is {spec.version}; measure again"
    digest = registry.definition_sha256(spec)
    changed = result.provenance.protocol.parameters.keys() & spec.parameters.keys()
    if not changed and result.provenance.protocol.task_sha256 != digest:
        yield f"task_sha256 is not that of {result.task} version {spec.version}; measure with the released definition"
    if set(result.metrics) != set(spec.metrics):
        differ = ", ".join(sorted(set(result.metrics) ^ set(spec.metrics)))
        yield f"its metrics are not those of {result.task}: see {differ}"
    for label, values in [("", result.metrics), *result.controls.items()]:
        for name, value in values.items():
            yield from _value(f"{label} {name}".strip(), value, spec, name)


def _value(label: str, value: MetricValue, spec: TaskSpec, name: str) -> Iterator[str]:
    if name not in spec.metrics:
        yield f"{label} is no metric of {spec.id}"
        return
    defined = spec.metrics[name]
    if (value.unit, value.better) != (defined.unit, defined.better):
        yield f"{label} is in {value.unit!r}, better {value.better!r}, not {defined.unit!r}, {defined.better!r}"
    low = -math.inf if defined.lowest is None else defined.lowest
    high = math.inf if defined.highest is None else defined.highest
    for what, number in (("value", value.value), ("low", value.low), ("high", value.high)):
        if number is not None and not low - ROUNDING <= number <= high + ROUNDING:
            yield f"{label}: {what} is {number}, and must lie between {low:g} and {high:g}"


def _units(file: Path, result: Result, task_dir: str | None) -> Iterator[str]:
    units = store.units_of(file)
    if not units.exists():
        yield f"{units.name} is not beside it; without units nobody can check or compare it"
        return
    regular(units)
    if large := _too_large([units]) or _too_large(unit_files.shared_beside(file).values()):
        yield f"{large.name} is larger than {MOST_UNITS >> 20} MiB"
        return
    tables = store.read_units(file)
    _, wrong = differences(result, tables, task_dir)
    yield from wrong[:5]
    for name in sorted(
        {metric.table for metric in registry.tasks(task_dir)[result.task].metrics.values()} & set(tables)
    ):
        n = len(set(map(group_of, tables[name].ids)))
        if kind(name).population and n < LEAST_DOCUMENTS <= len(tables[name]):
            yield f"its {len(tables[name])} documents are of {n} groups; the board takes {LEAST_DOCUMENTS} or more"
    if why := store.units_problem(file, result):
        yield why


def _too_large(files: Iterable[Path]) -> Path | None:
    return next((one for one in files if one.stat().st_size > MOST_UNITS), None)


def result_files(paths: list[Path]) -> list[Path]:
    """The result files among these files and folders, each once. Raises UsageError for none."""
    if not paths:
        raise UsageError("there is nothing to submit; give result files, or folders of results")
    return list(dict.fromkeys(file for path in paths for file in store.results_below(path)))


def place(checked: Checked, to: Path) -> Path:
    """Copy a result with its units to where it belongs below ``to``, what it shares first. Raises ResultError."""
    assert checked.result is not None
    result = checked.result
    target = store.path_of(to, result.sae, result.task, result.version, result.protocol)
    units = store.units_of(checked.file)
    with writing(target):
        shared = unit_files.shared_beside(checked.file)
        content = {unit_files.place_of(to, d): read_bytes(one, most=MOST_UNITS) for d, one in shared.items()}
        content |= {
            store.units_of(target): read_bytes(units, most=MOST_UNITS),
            target: read_bytes(checked.file, most=MOST_JSON),
        }
    content[target.parent / "sae.json"] = store.to_json(result.sae.model_dump(mode="json"))
    for path, data in content.items():
        write_atomically(path, data)
    return target
