"""What one draw of a world says of metrics: a few numbers a metric, from which the table of all draws is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from sae_bench.schema import TaskSpec
from sae_bench.units.kinds import kind
from sae_bench.validity.orders import EQUAL
from sae_bench.validity.pairs import InMemory, Said, loaded, told
from sae_bench.validity.sampling import Population, held, told_apart

if TYPE_CHECKING:
    from sae_bench.validity.measure import Draw

GROUPS = 400  # of documents in a sample for coverage
SOME = 6  # SAEs for samples
PERFECT = "perfect"
FITTED = "random_fit"
CONTROLS = (FITTED, "frozen_random", "permuted")  # SAEs that a trained one has to beat
Counted = tuple[int, int]  # how many of how many


@dataclass(frozen=True)
class Effort:
    """How many samples for coverage of each chosen SAE, of how many resamples; null pairs of one with the next."""

    trials: int
    resamples: int
    nulls: int


WHOLE, QUICK = Effort(trials=60, resamples=1000, nulls=25), Effort(trials=40, resamples=500, nulls=0)


@dataclass(frozen=True)
class MetricSeen:
    """What a draw says of a metric.

    ``values`` by SAE, nan where it has none, with the sign that makes higher better. ``beside_perfect`` says what each
    SAE is beside the perfect one, ``beside_controls`` what the best trained one is beside each control; both lack what
    could not be compared. ``held``: intervals that hold the truth, ``told_apart``: null pairs that are told apart.
    """

    values: Mapping[str, float]
    beside_perfect: Mapping[str, Said] = field(default_factory=dict)
    beside_controls: Mapping[str, Said] = field(default_factory=dict)
    held: Counted = (0, 0)
    told_apart: Counted = (0, 0)


@dataclass(frozen=True)
class Seen:
    """A draw without its units: how good each SAE is, by the name of the truth, and by ``task.metric`` what is seen.

    A truth that the world does not know is nan. ``lacks`` says by task why it was not measured.
    """

    world: str
    seed: int
    truths: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, MetricSeen]
    lacks: Mapping[str, str] = field(default_factory=dict)


def seen(
    draw: Draw, specs: Mapping[str, TaskSpec], checkpoints: Sequence[str], effort: Effort, wanted: Callable[[str], bool]
) -> Seen:
    """What a draw says of the metrics that are ``wanted``, by ``task.metric``."""
    truths = {
        name: {"features": rung.truth.both, "encoder": rung.truth.encoder, "decoder": rung.truth.decoder}
        for name, rung in draw.rungs.items()
    }
    trained = [name for name in checkpoints if name in draw.rungs]
    known = "features" if all(math.isfinite(truths[name]["features"]) for name in trained) else "encoder"
    best = max(trained, key=lambda name: truths[name][known]) if trained else None
    found: dict[str, MetricSeen] = {}
    for task in sorted({task for own in draw.results.values() for task in own}):
        metrics = [name for name in specs[task].metrics if wanted(f"{task}.{name}")]
        if metrics:
            seeds = (draw.seed, *task.encode())
            one = _Task(draw, specs[task], metrics, trained, best, effort, seeds)
            found |= {f"{task}.{name}": value for name, value in one.seen().items()}
    return Seen(draw.world, draw.seed, truths, found, draw.lacks)


@dataclass(frozen=True)
class _Task:
    draw: Draw
    spec: TaskSpec
    metrics: Sequence[str]
    trained: Sequence[str]
    best: str | None
    effort: Effort
    seeds: tuple[int, ...]

    def seen(self) -> dict[str, MetricSeen]:
        task = self.spec.id
        sides = {
            sae: loaded(sae, self.draw.results[sae][task], self.draw.units[sae][task], self.spec)
            for sae in self.draw.rungs
            if task in self.draw.results[sae]
        }
        perfect, best = sides.get(PERFECT), sides.get(self.best or "")
        controls = [(name, sides[name], best) for name in CONTROLS if name in sides]
        against = [(name, perfect, side) for name, side in sides.items() if name != PERFECT]
        covered, null = self._covered(sides), self._null(sides)
        return {
            name: MetricSeen(
                values,
                _each(against, name, values),
                _each(controls, name, values),
                covered.get(name, (0, 0)),
                null.get(name, (0, 0)),
            )
            for name in self.metrics
            for values in ({sae: signed(side, name) for sae, side in sides.items()},)
        }

    def _chosen(self, sides: Mapping[str, InMemory]) -> list[str]:
        """SAEs for samples: those of the training, or where there is none, some of the ladder, spread over it."""
        there = [name for name in self.trained if name in sides]
        return there or [*sides][:: max(1, -(-len(sides) // SOME))]

    def _by_table(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.metrics:
            found.setdefault(self.spec.metrics[name].table, []).append(name)
        return found

    def _covered(self, sides: Mapping[str, InMemory]) -> dict[str, Counted]:
        """Of figures of documents alone: of what else there is no sample to be had without measuring again."""
        found: dict[str, Counted] = {}
        for table, names in self._by_table().items():
            if not kind(table).text:
                continue
            for i, sae in enumerate(self._chosen(sides)):
                side = sides[sae]
                metrics = {
                    name: side.metrics[name]
                    for name in names
                    if self.spec.metrics[name].interval == "bootstrap" and _value(side, name) is not None
                }
                if metrics and len(side.tables[table]):
                    population = Population(table, side.tables[table])
                    effort = (self.effort.trials, self.effort.resamples)
                    found = added(found, held(population, metrics, GROUPS, *effort, seed=(*self.seeds, i)))
        return found

    def _null(self, sides: Mapping[str, InMemory]) -> dict[str, Counted]:
        """Of each chosen SAE and the next."""
        found: dict[str, Counted] = {}
        for i, (first, second) in enumerate(pairwise(self._chosen(sides))):
            for table, names in self._by_table().items():
                a, b = sides[first], sides[second]
                if kind(table).own:  # intervals there are of text: latents that change places are another noise
                    continue
                both = [name for name in names if _value(a, name) is not None and _value(b, name) is not None]
                if both and self.effort.nulls:
                    new = told_apart(a, b, table, both, self.effort.nulls, seed=(*self.seeds, i))
                    found = added(found, new)
        return found


def signed(side: InMemory, metric: str) -> float:
    """A figure with the sign that makes higher better, nan where there is none."""
    value = _value(side, metric)
    if value is None:
        return math.nan
    return -value if side.spec.metrics[metric].better == "lower" else value


def _value(side: InMemory, metric: str) -> float | None:
    found = side.result.metrics.get(metric)
    return None if found is None else found.value


def _each(
    pairs: Iterable[tuple[str, InMemory | None, InMemory | None]], metric: str, values: Mapping[str, float]
) -> dict[str, Said]:
    """By name what the second of each pair is beside the first, of those that can be compared.

    Figures that differ by rounding beside those of the other SAEs, ``values``, are equal, however sure that is.
    """
    least = EQUAL * max((abs(one) for one in values.values() if math.isfinite(one)), default=0.0)
    found: dict[str, Said] = {}
    for name, a, b in pairs:
        if a is None or b is None or not math.isfinite(apart := signed(a, metric) - signed(b, metric)):
            continue
        if abs(apart) <= least:
            found[name] = "equal"
        elif (word := told(a, b, metric)) is not None:
            found[name] = word
    return found


def added(one: Mapping[str, Counted], other: Mapping[str, Counted]) -> dict[str, Counted]:
    """Counts by name, added up."""
    names = [*one, *(name for name in other if name not in one)]
    none = (0, 0)
    return {
        n: (one.get(n, none)[0] + other.get(n, none)[0], one.get(n, none)[1] + other.get(n, none)[1]) for n in names
    }
