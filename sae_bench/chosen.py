"""What a user chose: tasks and controls by name, as far as they can be used.

What another package registers and cannot be used is left out with one warning, so that it never stops the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from sae_bench import registry
from sae_bench.errors import SaeBenchError, TaskError, UsageError, named
from sae_bench.judge import JudgeOptions
from sae_bench.schema import TaskSpec
from sae_bench.settings import CORE, Settings
from sae_bench.streams import Inputs, stream
from sae_bench.tasks.base import Context, Task
from sae_bench.units.kinds import kind

T = TypeVar("T")
NO_JUDGE = (
    "no judge (give --judge-model NAME, and --judge-base-url URL where it is not OpenAI's; the key is read from "
    "OPENAI_API_KEY)"
)


def asked_for(settings: Settings) -> str:
    """The names of tasks that were asked for."""
    return "core" if settings.tasks is None else settings.tasks


def task_specs(settings: Settings) -> dict[str, TaskSpec]:
    """The chosen tasks, in the order in which they are shown. Raises UsageError, TaskError."""
    known = registry.tasks(settings.task_dir)
    chosen = {name: known[name] for name in registry.choose(asked_for(settings), known, "task", {"core": CORE})}
    for path, value in settings.parameters.items():
        name, _, parameter = path.partition(".")
        if name not in chosen:
            raise UsageError(f"parameter {path!r}: no task {name!r} is measured; {registry.suggest(name, chosen)}")
        chosen[name] = registry.with_parameters(chosen[name], {parameter: value})
    return chosen


def task(spec: TaskSpec, origin: str = "") -> Task:
    """The task of a definition, which ``origin`` registers. Raises SaeBenchError for code that cannot be used.

    Its code must make the metrics that the definition lists, and its stream and kinds of units must be there.
    """
    make = registry.load(registry.Entry(spec.id, spec.code, "", origin=origin))
    made = asked(spec.id, spec.code, lambda: make(spec))
    if not isinstance(made, Task):
        raise TaskError(f"task {spec.id}: {spec.code} must make a Task, not {type(made).__name__}")
    if not isinstance(n := asked(spec.id, "passes", made.passes), int) or n < 0:
        raise TaskError(f"task {spec.id}: passes must return a whole number of replacements, not {n!r}")
    stream(made.stream)
    for metric in spec.metrics.values():
        kind(metric.table)
    if set(made.metrics) != set(spec.metrics):
        differ = ", ".join(sorted(set(made.metrics) ^ set(spec.metrics)))
        raise TaskError(f"task {spec.id}: {spec.code} and the definition do not list the same metrics; see {differ}")
    return made


def asked(task_id: str, what: str, call: Callable[[], T]) -> T:
    """What the code of a task says before anything is measured. Raises TaskError for whatever it raises."""
    try:
        return call()
    except SaeBenchError:
        raise
    except Exception as error:
        raise TaskError(f"task {task_id}: {what} fails: {named(error)}") from error


def tasks(settings: Settings) -> dict[str, Task]:
    """The chosen tasks, in the order in which they are shown. Raises SaeBenchError; see :func:`_usable`."""
    specs = task_specs(settings)
    origins = {name: registry.origin_of_task(name, settings.task_dir) for name in specs}
    found = _usable(asked_for(settings), origins, lambda name: task(specs[name], origins[name]))
    if not found:
        raise UsageError(f"no task is left of --tasks {asked_for(settings)}; see the warnings above")
    return found


def skipped(tasks: Mapping[str, Task], context: Context, inputs: Inputs, judge: JudgeOptions | None) -> dict[str, str]:
    """Tell the tasks of the run; which of them cannot be measured in it, and why. Raises TaskError."""
    found = {}
    for name, made in tasks.items():
        asked(name, "prepare", partial(made.prepare, context))
        why = stream(made.stream).why_not(inputs)
        if why is None and made.spec.judge and judge is None:
            why = NO_JUDGE
        if why is not None:
            found[name] = why
    return found


def by_stream(tasks: Mapping[str, Task]) -> dict[str, dict[str, Task]]:
    """Tasks by the name of their stream."""
    found: dict[str, dict[str, Task]] = {}
    for name, made in tasks.items():
        found.setdefault(made.stream, {})[name] = made
    return found


def control_names(names: str) -> tuple[str, ...]:
    """The chosen controls. Raises SaeBenchError; see :func:`_usable`."""
    if names == "none":
        return ()
    known = registry.controls()
    chosen = [registry.DEFAULT_CONTROLS if part.strip() == "default" else (part,) for part in names.split(",")]
    origins = {
        name: known[name].origin
        for name in registry.choose(",".join(name for part in chosen for name in part), known, "control")
    }
    return tuple(_usable(names, origins, lambda name: registry.load(known[name])))


def _usable(names: str, origins: Mapping[str, str], use: Callable[[str], T]) -> dict[str, T]:
    """What ``use`` makes of all that was chosen, by name.

    What another package registers and cannot be used is left out with a warning; one that ``names`` asks for by its
    name is refused instead, as is what ships. Raises SaeBenchError.
    """
    wanted = {part.strip() for part in names.split(",")}
    found = {}
    for name, origin in origins.items():
        try:
            found[name] = use(name)
        except SaeBenchError as error:
            if not origin or name in wanted:
                raise
            registry.left_out(f"{name}, from {origin},", error)
    return found
