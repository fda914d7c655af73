"""The definition of a result's task: that of the task as it is installed here, or the one that the result holds.

Whoever computes figures again needs the installed task, whose module of figures is code. A result's own definition is
text from a file: it says how figures are called and which way is better, and none of the code that it names is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sae_bench import registry
from sae_bench.errors import ResultError, TaskError
from sae_bench.schema import Result, TaskSpec
from sae_bench.show.text import line, shortened

NOT_HERE = "it is not validated: its task is not installed here, nor what known truth says of it"
MOST_METRICS = 200  # of a definition that comes with a result


def installed(result: Result, task_dir: str | None = None) -> TaskSpec:
    """The installed definition of a result's task. Raises ResultError with one sentence where there is none."""
    known = registry.tasks(task_dir)
    if result.task not in known:
        raise ResultError(f"the result is of {not_installed(result.task, known)}")
    return known[result.task]


def not_installed(task: str, known: Mapping[str, TaskSpec]) -> str:
    """That a task is not here, and what to do, as the rest of a sentence."""
    return (
        f"the task {task!r}, which is not installed here; install its package, or give its folder with --task-dir; "
        f"{registry.suggest(task, known)}"
    )


def measured_with(spec: TaskSpec, result: Result) -> TaskSpec:
    """A definition with the parameters that the protocol of a result names. Raises ResultError."""
    changed = {k: v for k, v in result.provenance.protocol.parameters.items() if k in spec.parameters}
    try:
        return registry.with_parameters(spec, changed)
    except TaskError as error:
        raise ResultError(f"'provenance.protocol.parameters' of the result: {error}") from error


def own(file: Path, result: Result, known: Mapping[str, TaskSpec]) -> TaskSpec:
    """The definition that a result of a task not among ``known`` holds. Raises ResultError with one sentence."""
    spec = result.definition
    missing = f"{file}: 'task': {not_installed(result.task, known)}"
    if spec is None:
        raise ResultError(f"{missing}; the result holds no definition of it")
    if (spec.id, spec.version) != (result.task, result.version):
        raise ResultError(f"{missing}; the definition that the result holds is of {spec.id!r} version {spec.version}")
    if registry.definition_sha256(spec) != result.provenance.protocol.task_sha256:
        raise ResultError(
            f"{missing}; the definition that the result holds is not the one of 'provenance.protocol.task_sha256'"
        )
    bad = next((name for name in spec.metrics if not re.fullmatch(r"[A-Za-z][\w.-]{0,79}", name)), None)
    if bad is not None or len(spec.metrics) > MOST_METRICS:
        what = f"names a metric {bad!r}" if bad is not None else f"has more than {MOST_METRICS} metrics"
        raise ResultError(f"{missing}; the definition that the result holds {what}")
    return _unjudged(_printable(spec))


def _unjudged(spec: TaskSpec) -> TaskSpec:
    """The definition of a task that is not here, nor what known truth says of it: a file cannot earn its own ranks."""
    digest = registry.definition_sha256(spec)
    metrics = {name: one.judged(digest, NOT_HERE) for name, one in spec.metrics.items()}
    return spec.model_copy(update={"metrics": metrics})


def _printable(spec: TaskSpec) -> TaskSpec:
    """The definition with its prose as bounded lines. Digest and units, which are compared, stay as they are."""
    metrics = {
        name: one.model_copy(update={"name": shortened(line(one.name)), "description": line(one.description)[:300]})
        for name, one in spec.metrics.items()
    }
    prose = {"title": shortened(line(spec.title)), "question": line(spec.question)[:300]}
    return spec.model_copy(update={**prose, "metrics": metrics})


def all_known(results: Mapping[Path, Result], known: Mapping[str, TaskSpec]) -> tuple[dict[str, TaskSpec], list[str]]:
    """``known`` and, of tasks that are not among them, the newest definition that a result holds; and what is wrong.

    Of two results with the same version of a task the definition of the first is taken.
    """
    found, problems = dict(known), []
    for file, result in results.items():
        if result.task in known:
            continue
        try:
            spec = own(file, result, known)
        except ResultError as error:
            problems.append(str(error))
            continue
        if result.task not in found or spec.version > found[result.task].version:
            found[result.task] = spec
    return found, problems
