"""Tasks, SAE formats, controls and back ends by name.

Built-in ones are listed in :mod:`sae_bench.builtin`; others come from entry points (groups ``sae_bench.tasks``,
``formats``, ``controls``, ``units``, ``streams`` and ``backends``) or, for tasks, from a folder given by the user. A
task is a folder with a ``task.toml`` whose ``code`` names one class.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import importlib
import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints
from importlib.metadata import entry_points as _read_entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_bench.builtin import BACKENDS, CONTROLS, DEFAULT_CONTROLS, FORMATS, STREAMS, TASKS, UNITS, Entry, Format
from sae_bench.errors import SaeBenchError, TaskError, UsageError, named
from sae_bench.files import read_bytes
from sae_bench.parsing import read_record

if TYPE_CHECKING:
    from sae_bench.schema import TaskSpec
    from sae_bench.standing import Lock, Standing

__all__ = ["BACKENDS", "CONTROLS", "DEFAULT_CONTROLS", "FORMATS", "STREAMS", "UNITS", "Entry", "Format"]  # built-in
_PACKAGE = Path(__file__).parent
MOST_NAMED, FEW_NAMED = 60, 12  # names in one sentence, and how many of more stand for all


def formats() -> dict[str, Entry]:
    """All formats by name, in the order in which they are tried."""
    return _with_entry_points(FORMATS, "sae_bench.formats")


def controls() -> dict[str, Entry]:
    """All controls by name."""
    return _with_entry_points(CONTROLS, "sae_bench.controls")


def units() -> dict[str, Entry]:
    """All kinds of units by name."""
    return _with_entry_points(UNITS, "sae_bench.units")


def streams() -> dict[str, Entry]:
    """All streams by name, in the order in which they run."""
    return _with_entry_points(STREAMS, "sae_bench.streams")


def backends() -> dict[str, Entry]:
    """All back ends by name."""
    return _with_entry_points(BACKENDS, "sae_bench.backends")


def entry_points(group: str) -> EntryPoints:
    """What the packages on ``sys.path`` register under a group."""
    return _registered(group, tuple(sys.path))


@cache
def _registered(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Read once for each ``sys.path``: it opens a file of every installed package."""
    return _read_entry_points(group=group)


def _with_entry_points(builtin: Iterable[Entry], group: str) -> dict[str, Entry]:
    found = {entry.name: entry for entry in builtin}
    for point in entry_points(group=group):
        if point.name in found:
            raise SaeBenchError(
                f"the name {point.name} is registered twice in {group}: by {found[point.name].code} and by "
                f"{point.value}; uninstall one of the packages"
            )
        what = f"from the package {point.dist.name if point.dist else '?'}"
        found[point.name] = Entry(point.name, point.value, what, origin=_origin(point, group))
    return found


def _origin(point: EntryPoint, group: str) -> str:
    package = f" of the package {point.dist.name}" if point.dist else ""
    return f"the entry point {point.name} = {point.value!r} in {group}{package}"


def load(what: str | Entry) -> Any:
    """Import ``module`` or ``module:attribute``, or what is registered. Raises SaeBenchError if there is none."""
    code, origin = (what.code, what.origin) if isinstance(what, Entry) else (what, "")
    module, _, attribute = code.partition(":")
    try:
        loaded = importlib.import_module(module)
        _check_place(module, loaded)
        return getattr(loaded, attribute) if attribute else loaded
    except SaeBenchError:
        raise
    except Exception as error:  # a module of somebody else may raise anything
        who = f"what registers it: {origin}" if origin else "what registers it"
        raise SaeBenchError(f"{code} cannot be imported ({named(error)}); install or correct {who}") from error


def choose(
    names: str, known: Mapping[str, Any], what: str, words: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Names from "all", a comma-separated list or globs, in registry order. Raises UsageError with a suggestion.

    ``words`` stand for several names each, as "core" does.
    """
    chosen: set[str] = set()
    for pattern in (part.strip() for part in names.split(",")):
        word = (words or {}).get(pattern)
        matched = list(known) if pattern == "all" else list(word) if word else fnmatch.filter(known, pattern)
        if not matched:
            raise UsageError(f"no {what} is named {pattern!r}; {suggest(pattern, [*known, *(words or ())])}")
        chosen.update(matched)
    return [name for name in known if name in chosen]


def suggest(name: str, known: Iterable[str]) -> str:
    """A question, "did you mean ...?", or the list of what there is, of which a long one is cut."""
    there = list(known)
    close = difflib.get_close_matches(name, there, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(there) <= MOST_NAMED:
        return f"there are: {', '.join(there)}"
    return f"there are {len(there)}, such as {', '.join(there[:FEW_NAMED])}"


def data_folder(name: str) -> Path:
    """A folder that is data beside the code (``tasks``, ``leaderboard``): in the wheel, else in the checkout."""
    shipped = _PACKAGE / "_shipped" / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def tasks(extra: str | Path | None = None) -> dict[str, TaskSpec]:
    """All task definitions by id: built-in, from entry points (a folder), and from the folder ``extra``.

    What a package registers and cannot be read is left out with a warning. Raises TaskError, UsageError for ``extra``.
    """
    return {name: known.spec for name, known in _tasks(extra if extra is None else str(extra)).items()}


def card(name: str, extra: str | Path | None = None) -> str | None:
    """The card of a task, the ``README.md`` beside its definition; None if it has none."""
    file = _tasks(extra if extra is None else str(extra))[name].file.parent / "README.md"
    return read_bytes(file, TaskError).decode("utf-8", errors="replace") if file.is_file() else None


def origin_of_task(name: str, extra: str | Path | None = None) -> str:
    """Which entry point of which package brings a task; empty for what ships and for the folder ``extra``."""
    return _tasks(extra if extra is None else str(extra))[name].origin


def folder_of_task(name: str, extra: str | Path | None = None) -> Path:
    """Where the definitions lie among which that of a task is, and the lock that speaks of them."""
    return _tasks(extra if extra is None else str(extra))[name].file.parent.parent


def standings(name: str, extra: str | Path | None = None) -> Mapping[str, Standing]:
    """What known truth says of the metrics of a task as it is defined now, by metric, from the lock beside it."""
    return _tasks(extra if extra is None else str(extra))[name].standings


class _Known(NamedTuple):
    spec: TaskSpec
    standings: Mapping[str, Standing]
    file: Path
    origin: str


@cache
def _tasks(extra: str | None) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    _add(found, data_folder("tasks"))
    for point in entry_points(group="sae_bench.tasks"):
        more, origin = dict(found), _origin(point, "sae_bench.tasks")
        try:
            _add(more, _folder(load(point.value)), origin)
        except SaeBenchError as error:  # a package that is only installed must not stop everything else
            left_out(origin, error)
            continue
        found = more
    if extra is not None:
        folder = Path(extra).expanduser()
        if not folder.is_dir():
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} is not a folder")
        if not any(folder.glob("*/task.toml")):
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} has none")
        _importable(folder.resolve())
        _add(found, folder)
    return dict(sorted(found.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))))


def _folder(named: Any) -> Path:
    if isinstance(named, str | Path) and Path(named).is_dir():
        return Path(named)
    raise TaskError(f"it must name a folder with <task>/task.toml files, and is {str(named)[:80]!r}")


def _add(found: dict[str, _Known], folder: Path, origin: str = "") -> None:
    """Add the definitions in a folder. Raises TaskError."""
    from sae_bench import standing

    lock = lock_of(folder)
    for file in sorted(folder.glob("*/task.toml")):
        spec = read_task(file)
        if spec.id in found:
            raise TaskError(f"{file}: the task id {spec.id} is taken already; choose another id")
        found[spec.id] = _Known(*standing.judged(spec, lock, definition_sha256(spec)), file, origin)


def lock_of(folder: Path) -> Lock:
    """What known truth says of the metrics of the tasks in a folder, and of no others. Raises TaskError."""
    from sae_bench import standing

    return standing.read(folder / standing.FILE)


def left_out(origin: str, why: object) -> None:
    """Warn that what a package registers is not used."""
    warnings.warn(f"{origin} is left out: {why}", stacklevel=3)


_NAMED: list[Path] = []  # folders of --task-dir, whose code may be imported


def _importable(folder: Path) -> None:
    """Let code in a folder that the user named be imported, behind everything that is installed."""
    if folder not in _NAMED:
        _NAMED.append(folder)
        sys.path.append(str(folder))


def _check_place(module: str, loaded: Any) -> None:
    """Raise SaeBenchError where code of ``--task-dir`` is hidden by a module of the same name elsewhere."""
    top = module.partition(".")[0]
    own = [f for f in _NAMED if (f / f"{top}.py").is_file() or (f / top / "__init__.py").is_file()]
    file = getattr(loaded, "__file__", None)
    if own and file is not None and not any(Path(file).resolve().is_relative_to(folder) for folder in own):
        raise SaeBenchError(
            f"the module {top} of {own[0]} is hidden by {file}; give the one in the folder another name"
        )


_ORDER = {name: i for i, name in enumerate(TASKS)}


def read_task(file: Path) -> TaskSpec:
    """One task definition. Raises TaskError naming the file and the field."""
    from sae_bench.schema import TaskSpec

    spec = read_record(file, TaskSpec, TaskError)
    if spec.id != file.parent.name:
        raise TaskError(f"{file}: the id is {spec.id!r}, and the folder {file.parent.name!r}; they must agree")
    known = units()
    for name, metric in spec.metrics.items():
        if metric.table not in known:
            raise TaskError(
                f"{file}: 'metrics.{name}.table': no kind of unit is named {metric.table!r}; "
                f"{suggest(metric.table, known)}"
            )
        if known[metric.table].origin:
            load(known[metric.table])  # here, so that one that cannot be imported takes its tasks out and no others
    record = getattr(load(spec.figures), "Parameters", None)
    if record is None:
        return spec
    if spec.parameters:
        raise TaskError(f"{file}: [parameters] stands beside the record Parameters of {spec.figures}; remove one")
    return spec.model_copy(update={"parameters": record.defaults()})


def with_parameters(spec: TaskSpec, values: Mapping[str, Any]) -> TaskSpec:
    """The definition with other values of some parameters. Raises TaskError: no such name, type or value."""
    record = getattr(load(spec.figures), "Parameters", None)
    changed = dict(spec.parameters)
    for name, value in values.items():
        if name not in spec.parameters:
            there = suggest(name, spec.parameters) if spec.parameters else "it has none"
            raise TaskError(f"task {spec.id} has no parameter {name!r}; {there}")
        default = spec.parameters[name]
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not type(default):
            kind = type(default).__name__
            raise TaskError(f"parameter {spec.id}.{name} must be of type {kind} (as {default!r} is), not {value!r}")
        changed[name] = value
    if record is not None:
        record.of(spec.id, changed)
    made = spec.model_copy(update={"parameters": changed})
    return made.measured_as(definition_sha256(made))


def code_sha256(spec: TaskSpec) -> str | None:
    """Digest of the files of a task's own code, which changes without a version; None for what ships with sae-bench.

    Only the two modules that the definition names count, not what they import.
    """
    names = dict.fromkeys(reference.partition(":")[0] for reference in (spec.code, spec.figures))
    own = [load(name) for name in names if name.partition(".")[0] != __package__]
    files = [Path(module.__file__) for module in own if getattr(module, "__file__", None)]
    return hashlib.sha256(b"\0".join(read_bytes(file, TaskError) for file in files)).hexdigest() if files else None


def definition_sha256(spec: TaskSpec) -> str:
    """Digest of all in a definition that changes a number or its meaning: not its prose, nor the order of its lines.

    Nor what a figure claims to measure: it is the same figure, and results of before that question stay comparable.
    """
    of_metrics = {"description", "name", "headline", "claims", "at_equal_l0", "lowest", "highest"}
    prose: dict[str, Any] = dict.fromkeys(("title", "question", "figures", "judge"), True)
    prose |= {"pairs": not spec.pairs, "metrics": {"__all__": of_metrics}}
    content = spec.model_dump(mode="json", exclude=prose)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
