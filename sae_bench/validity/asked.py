"""All draws of all worlds that are asked, measured side by side in processes of one thread, and what they say."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from sae_bench import registry
from sae_bench.schema import TaskSpec
from sae_bench.standing import Claims, Standing
from sae_bench.validity import seen
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
        """The tasks of the folder, of which no world can know."""
        return frozenset(registry.tasks(self.task_dir)) - frozenset(registry.tasks())

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics that have to be measured: where it is to be quick, those that could be ranked."""
        specs = self.specs
        return tuple(m for m in self.metrics if not self.quick or could_be_ranked(specs, m))

    def tasks_in(self, world: KnownWorld) -> list[str]:
        """The tasks that a world is to measure."""
        spoken = {metric.partition(".")[0] for metric in self.measured if world.speaks_of(metric)}
        return [task for task in self.specs if task in spoken and task in {*world.tasks, *self.own}]

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
    return {name: sorted(own, key=lambda one: one.seed) for name, own in found.items()}


def _all(question: Question, jobs: Sequence[tuple[KnownWorld, int]], workers: int) -> Iterator[seen.Seen]:
    if min(workers, len(jobs)) < 2:
        yield from (draw(question, world, seed) for world, seed in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_alone) as pool:
        made: list[Future[seen.Seen]] = [pool.submit(draw, question, world, seed) for world, seed in jobs]
        try:
            for one in as_completed(made):
                yield one.result()
        finally:
            pool.shutdown(cancel_futures=True)


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


def _alone() -> None:
    """One thread a process: as many processes as there are cores, and the same sums however many there are."""
    import torch

    torch.set_num_threads(1)
