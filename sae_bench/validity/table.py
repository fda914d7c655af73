"""The table of validity: what each metric sees of the truth, from what draws of worlds say of it.

Correlations are means over draws, counts are added up over them, and of SAEs that are told apart or not the majority of
draws decides. Everything is rounded to what other machines give too, before any rule reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_bench import registry
from sae_bench.schema import TaskSpec
from sae_bench.standing import Claims, InWorld, Standing
from sae_bench.validity.orders import FEWEST, Array, Signal, signal, spearman
from sae_bench.validity.pairs import Said
from sae_bench.validity.seen import CONTROLS, FITTED, PERFECT, Counted, MetricSeen, Seen
from sae_bench.validity.verdict import TRUTHS, why_not

WORSE = 0.95  # of the truth of the perfect SAE: one with less should not look as good
STEPS = 3  # checkpoints at least, for what is said of training
THIS_WORLD = "this world"


@dataclass(frozen=True)
class Measured:
    """What draws of one world say of one metric, and which of its SAEs are one training, in order."""

    name: str
    draws: tuple[int, ...]
    rungs: tuple[str, ...]  # that all draws have, and that have a figure in one of them
    truths: Mapping[str, Array]  # [draws, rungs] each
    values: Array  # [draws, rungs]
    seen: tuple[MetricSeen, ...]
    checkpoints: tuple[str, ...]

    @staticmethod
    def of(metric: str, draws: Sequence[Seen], checkpoints: Sequence[str]) -> Measured | None:
        """Of those draws that measured the metric; None where none did."""
        own = [one for one in draws if metric in one.metrics]
        if not own:
            return None
        tables = [one.metrics[metric].values for one in own]
        rungs = tuple(
            name
            for name in own[0].truths
            if all(name in one.truths for one in own) and any(math.isfinite(t.get(name, math.nan)) for t in tables)
        )
        truths = {
            kind: np.array([[one.truths[name][kind] for name in rungs] for one in own]) for kind in TRUTHS.values()
        }
        values = np.array([[table.get(name, math.nan) for name in rungs] for table in tables])
        seeds = tuple(one.seed for one in own)
        found = tuple(one.metrics[metric] for one in own)
        return Measured(own[0].world, seeds, rungs, truths, values, found, tuple(checkpoints))

    def without(self, rung: str) -> Measured:
        """As if there were no such SAE."""
        keep = [i for i, name in enumerate(self.rungs) if name != rung]
        truths = {kind: truth[:, keep] for kind, truth in self.truths.items()}
        rungs = tuple(self.rungs[i] for i in keep)
        left = tuple(replace(one, values={n: v for n, v in one.values.items() if n != rung}) for one in self.seen)
        return Measured(self.name, self.draws, rungs, truths, self.values[:, keep], left, self.checkpoints)

    def without_draw(self, place: int) -> Measured:
        """As if there were no such draw."""
        keep = [i for i in range(len(self.draws)) if i != place]
        return Measured(
            self.name, tuple(self.draws[i] for i in keep), self.rungs, {k: t[keep] for k, t in self.truths.items()},
            self.values[keep], tuple(self.seen[i] for i in keep), self.checkpoints,
        )  # fmt: skip

    def known(self, kind: str | None) -> str:
        """A truth that the world knows of all its SAEs: the one that is asked for, or that of the encoder."""
        wanted = kind or "features"
        return wanted if np.isfinite(self.truths[wanted]).all() else "encoder"

    def rhos(self, kind: str) -> list[float]:
        """Correlations with a truth, of each draw that has one."""
        found = (spearman(v, t) for v, t in zip(self.values, self.truths[kind], strict=True))
        return [one for one in found if one is not None]

    def monotone(self) -> float | None:
        """The mean correlation with the order of training."""
        steps = [self.rungs.index(name) for name in self.checkpoints if name in self.rungs]
        along = np.arange(len(steps), dtype=np.float64)
        found = [spearman(values[steps], along, STEPS) for values in self.values]
        return _mean([one for one in found if one is not None])

    def worse(self, kind: str | None) -> tuple[str, ...]:
        """SAEs that are worse than the perfect one, and were held against it in some draw."""
        if PERFECT not in self.rungs:
            return ()
        truth = self.truths[self.known(kind)].mean(axis=0)
        best = truth[self.rungs.index(PERFECT)]
        there = {name for one in self.seen for name in one.beside_perfect}
        return tuple(n for n, value in zip(self.rungs, truth, strict=True) if value < WORSE * best and n in there)

    def blind(self, kind: str | None) -> tuple[str, ...]:
        """Those of them that do not look worse in most draws."""
        found = {name: [one.beside_perfect.get(name) for one in self.seen] for name in self.worse(kind)}
        return tuple(name for name, words in found.items() if not _mostly("worse", words))

    def beaten_by(self, kind: str | None) -> tuple[str, ...]:
        """Controls than which the trained SAE does not look better in most draws, though it is by ``kind``.

        Without a kind nobody knows that it is: what cannot be held against ``random_fit`` has not been shown to be
        better, and that is what fidelity has to show.
        """
        trained = [self.rungs.index(name) for name in self.checkpoints if name in self.rungs]
        found = []
        for name in CONTROLS:
            words = [one.beside_controls.get(name) for one in self.seen]
            if not any(words) and kind is None and name == FITTED and self._measured(name, *self.checkpoints):
                found.append(name)
            if name not in self.rungs or not trained or not any(words):
                continue
            truth = self.truths[self.known(kind)].mean(axis=0)
            if kind is not None and truth[self.rungs.index(name)] >= truth[trained].max():
                continue  # it is better
            if not _mostly("better", words):
                found.append(name)
        return tuple(found)

    def _measured(self, control: str, *trained: str) -> bool:
        """Whether the world has the control and a trained SAE, with a figure or without."""
        names = {name for one in self.seen for name in one.values}
        return control in names and not names.isdisjoint(trained)

    def said(self, claims: Claims | None) -> InWorld:
        """What stands in the lock, but for what is fragile."""
        kind = None if claims is None else TRUTHS.get(claims)
        strength, (hits, n) = signal(self.values), _added(one.held for one in self.seen)
        wrong, pairs = _added(one.told_apart for one in self.seen)
        spread = self.rhos(self.known(kind))
        two = None if strength is None else Signal(*(float(f"{one:.2g}") for one in strength))  # digits, as rounding
        return InWorld(
            features=rounded(_mean(self.rhos("features")), 2),
            encoder=rounded(_mean(self.rhos("encoder")), 2),
            decoder=rounded(_mean(self.rhos("decoder")), 2),
            spread=rounded(float(np.std(spread, ddof=1)), 2) if len(spread) > 1 else None,
            monotone=rounded(self.monotone(), 2),
            signal=two and two.value,
            signal_low=two and two.low,
            signal_high=two and two.high,
            coverage=rounded(hits / n, 3) if n else None,
            coverage_error=rounded(counting_error(0.95, n), 3) if n else None,
            false_positives=rounded(wrong / pairs, 3) if pairs else None,
            worse=len(self.worse(kind)),
            blind=self.blind(kind),
            beaten_by=self.beaten_by(kind),
            rungs=len(self.rungs),
            draws=len(self.draws),
        )


def standing(
    spec: TaskSpec, metric: str, claims: Claims | None, worlds: Mapping[str, Measured], *, fragile: bool = True
) -> Standing:
    """What all worlds say of a metric, and the verdict; ``fragile``: also without which part it would be another."""

    def verdict(said: Mapping[str, InWorld]) -> str | None:
        return why_not(spec, metric, claims, said)

    said = {name: one.said(claims) for name, one in worlds.items()}
    why = verdict(said)
    if fragile and claims is not None:
        said = {
            name: one.model_copy(update={"fragile": _fragile(name, worlds, said, claims, verdict)})
            for name, one in said.items()
        }
    return Standing(digest=registry.definition_sha256(spec), claims=claims, ranked=why is None, why=why, worlds=said)


def _fragile(
    name: str,
    worlds: Mapping[str, Measured],
    said: Mapping[str, InWorld],
    claims: Claims,
    verdict: Callable[[Mapping[str, InWorld]], str | None],
) -> tuple[str, ...]:
    """Without which SAE or draw of a world, or without it, a metric would be ranked and is not, or the reverse."""
    ranked = verdict(said) is None
    parts: list[tuple[str, Mapping[str, InWorld]]] = [
        (part, {**said, name: one.said(claims)}) for part, one in _parts(worlds[name])
    ]
    parts.append((THIS_WORLD, {other: one for other, one in said.items() if other != name}))
    return tuple(part for part, rest in parts if (verdict(rest) is None) != ranked)


def _parts(whole: Measured) -> Iterator[tuple[str, Measured]]:
    """A world without each SAE, and without each draw where two are left."""
    for rung in whole.rungs if len(whole.rungs) > FEWEST else ():
        yield rung, whole.without(rung)
    for place, seed in enumerate(whole.draws if len(whole.draws) > 2 else ()):
        yield f"draw {seed}", whole.without_draw(place)


def rounded(value: float | None, digits: int) -> float | None:
    """To so many decimals; never -0."""
    return None if value is None else round(value, digits) + 0.0


def counting_error(share: float, n: int) -> float:
    """The standard error of a share of ``n`` that are independent."""
    return math.sqrt(share * (1 - share) / n)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _mostly(word: Said, words: Sequence[Said | None]) -> bool:
    """Whether most of what is said is this, of what could be said; of nothing, it is not blind and not beaten."""
    there = [one for one in words if one is not None]
    return not there or 2 * there.count(word) > len(there)


def _added(counts: Iterator[Counted]) -> Counted:
    found = [0, 0]
    for hits, n in counts:
        found[0], found[1] = found[0] + hits, found[1] + n
    return found[0], found[1]
