"""All draws of all worlds that are asked, measured side by side in processes of one thread, and what they say."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sae_bench import registry
from sae_bench.schema import TaskSpec
from sae_bench.standing import Claims, Standing
from sae_bench.validity import seen, side_by_side
from sae_bench.validity.table import Measured, standing
from sae_bench.validity.verdict import bar
from sae_bench.validity.worlds import KnownWorld

QUICK_DRAWS = 2  # the fewest that say what noise is
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Question:
    """Which metrics are asked about, as ``task.metric``, and how thoroughly; ``task_dir``: a folder of other tasks."""

    metrics: tuple[str, ...]
    quick: bool = False
    task_dir: str | None = None

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks of the metrics, in the order of the registry."""
        tasks = {name.partition(".")[0] for name in self.metrics}
        return {name: spec for name, spec in registry.tasks(self.task_dir).items() if name in tasks}

    @property
    def own(self) -> frozenset[str]:
        """The tasks of the folder and of packages, of which no world can know."""
        of, ours = self.task_dir, registry.data_folder("tasks")
        return frozenset(name for name in registry.tasks(of) if registry.folder_of_task(name, of) != ours)

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics that have to be measured: where it is to be quick, those that could be ranked."""
        specs = self.specs
        return tuple(m for m in self.metrics if not self.quick or could_be_ranked(specs, m))

    def tasks_in(self, world: KnownWorld) -> list[str]:
        """The tasks that a world is to measure; a judge is there for those alone that it knows."""
        spoken = {metric.partition(".")[0] for metric in self.measured if world.speaks_of(metric)}
        own = {name for name, spec in self.specs.items() if name in self.own and not spec.judge}
        return [task for task in self.specs if task in spoken and task in {*world.tasks, *own}]

    def wanted(self, world: KnownWorld) -> Callable[[str], bool]:
        """Whether a world is to say something of a metric."""
        asked = frozenset(self.measured)
        return lambda metric: metric in asked and world.speaks_of(metric)


def claims_of(specs: Mapping[str, TaskSpec], metric: str) -> Claims | None:
    """What a metric, ``task.metric``, says that it measures."""
    task, _, name = metric.partition(".")
    return specs[task].metrics[name].claims


def could_be_ranked(specs: Mapping[str, TaskSpec], metric: str) -> bool:
    """Whether a metric, ``task.metric``, is ranked if every world speaks for it."""
    task, _, name = metric.partition(".")
    return bar(specs[task], name, claims_of(specs, metric)) is None


def standings(
    question: Question, worlds: Sequence[KnownWorld], progress: Progress, workers: int | None = None
) -> dict[str, Standing]:
    """What the worlds say of the metrics, by ``task.metric`` in the order of the registry. Raises SaeBenchError."""
    draws, specs = measured(question, worlds, progress, workers), question.specs
    steps, found = {world.name: world.checkpoints for world in worlds}, {}
    for name in question.metrics:
        by_world = {world: Measured.of(name, own, steps[world]) for world, own in draws.items()}
        there = {world: one for world, one in by_world.items() if one is not None}
        task, _, metric = name.partition(".")
        claims = claims_of(specs, name)
        found[name] = standing(specs[task], metric, claims, there, fragile=not question.quick)
    return found


def measured(
    question: Question, worlds: Sequence[KnownWorld], progress: Progress, workers: int | None = None
) -> dict[str, list[seen.Seen]]:
    """What every draw says, by world and in the order of draws. Raises SaeBenchError for a draw that cannot be had."""
    jobs = [
        (world, seed)
        for world in worlds
        if question.tasks_in(world)
        for seed in range(min(world.draws, QUICK_DRAWS) if question.quick else world.draws)
    ]
    found: dict[str, list[seen.Seen]] = {world.name: [] for world, _ in jobs}
    for done, one in enumerate(_all(question, jobs, workers or _cores()), 1):
        progress("draws of worlds", done, len(jobs))
        found[one.world].append(one)
    for world, task, why in dict.fromkeys(
        (w, *item) for w, own in found.items() for o in own for item in o.lacks.items()
    ):
        warnings.warn(f"the world {world} does not speak of {task}: {why}", stacklevel=2)
    return {name: sorted(own, key=lambda one: one.seed) for name, own in found.items()}


def _all(question: Question, jobs: Sequence[tuple[KnownWorld, int]], workers: int) -> Iterator[seen.Seen]:
    if min(workers, len(jobs)) < 2:
        yield from (draw(question, world, seed) for world, seed in jobs)
        return
    yield from side_by_side.results(draw, [(question, world, seed) for world, seed in jobs], min(workers, len(jobs)))


def draw(question: Question, world: KnownWorld, seed: int) -> seen.Seen:
    """Measure one draw of a world. Raises SaeBenchError."""
    specs, tasks = question.specs, question.tasks_in(world)  # this also lets code of the folder be imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SAEs that are bad on purpose
        made = world.measured(seed, quick=question.quick, tasks=",".join(tasks), task_dir=question.task_dir)
        effort = seen.QUICK if question.quick else seen.WHOLE
        return seen.seen(made, specs, world.checkpoints, effort, question.wanted(world))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
