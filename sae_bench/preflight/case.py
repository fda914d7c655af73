"""One SAE on one text: what it is measured on, and how a hypothesis about it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor

from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.errors import CoderError
from sae_bench.preflight.measure import MOST_FVU, Score, ordinary, score
from sae_bench.preflight.places import candidates
from sae_bench.preflight.text import Activations
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import CoderInfo, SparseCoder

K = TypeVar("K", int, float)
THIN = 64  # tokens on which the best factor of a grid is looked for


@dataclass(frozen=True)
class Trial:
    """What would be true, as a clause behind "if"; what settles it; and how it is measured.

    What is None is as the SAE says. ``undo`` is applied to the reconstruction. ``measured`` is a score that is known
    already.
    """

    claim: str
    settle: str
    coder: SparseCoder | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    undo: Callable[[Tensor], Tensor] | None = None
    measured: Score | None = None


@dataclass(frozen=True)
class Case:
    """An SAE, the activations that it says it reads and predicts ``[tokens, d]``, and the half of each token.

    ``places`` are other hook points that the model has and whose activations are captured. ``kept`` bool
    ``[compared]``: which of the compared tokens these are: all but the few that hold more than half of the variance.
    """

    entry: Entry
    activations: Activations
    x: Tensor
    y: Tensor
    half: Tensor
    places: tuple[str, ...] = ()
    kept: Tensor | None = None

    @staticmethod
    def of(entry: Entry, activations: Activations) -> Case:
        """The case of ``entry``; the language model runs once over the text. Raises ModelError."""
        own = [*dict.fromkeys((entry.hook_in, entry.hook_out))]
        others = [hook for name in own for hook in candidates(activations.subject, name)]
        activations.subject.width(entry.hook_in)  # its own places must exist: the error says which do
        activations.subject.width(entry.hook_out)
        there = activations.take([*own, *dict.fromkeys(others)])
        places = tuple(hook for hook in there if hook not in own)
        x, y = activations.at(entry.hook_in), activations.at(entry.hook_out)
        kept = ordinary(y)
        return Case(entry, activations, x[kept], y[kept], activations.half[kept], places, kept)

    def at(self, hook: str, *, bos: bool | None = None) -> Tensor:
        """Activations at another place, of the same tokens ``[tokens, d]``. Raises ModelError."""
        found = self.activations.at(hook, bos=bos)
        return found if self.kept is None else found[self.kept]

    @property
    def info(self) -> CoderInfo:
        """What the SAE says of itself."""
        return self.entry.coder.info

    @property
    def linear(self) -> LinearCoder | None:
        """The coder, where its weights and rule can be seen."""
        return self.entry.coder if isinstance(self.entry.coder, LinearCoder) else None

    @property
    def autoencodes(self) -> bool:
        """Whether the SAE predicts what it reads."""
        return self.entry.hook_in == self.entry.hook_out

    @property
    def fits(self) -> bool:
        """Whether the hook points are as wide as the SAE expects."""
        return (self.x.shape[1], self.y.shape[1]) == (self.info.d_in, self.info.d_out)

    @property
    def promised_l0(self) -> float | None:
        """The number of active latents that the files promise; None where they do not."""
        declared = self.info.provenance.get("declared_l0")
        return float(declared) if isinstance(declared, int | float) and declared > 0 else None

    @property
    def target_l0(self) -> float | None:
        """The promised L0, where L0 says something about this SAE: not where it keeps k latents by definition."""
        return None if self.linear and self.linear.rule.k else self.promised_l0

    @cached_property
    def base(self) -> Score:
        """The score as the SAE says. Raises CoderFailure."""
        return score(self.entry, self.entry.coder, self.x, self.y, self.half)

    @cached_property
    def thin(self) -> Case:
        """The same on every n-th token, so that a grid is cheap."""
        step = -(-len(self.x) // THIN)
        return dataclasses.replace(self, x=self.x[::step], y=self.y[::step], half=self.half[::step])

    def score(self, trial: Trial) -> Score | None:
        """The trial's score; None where the coder cannot be what is claimed."""
        if trial.measured is not None:
            return trial.measured
        x = self.x if trial.x is None else trial.x
        y = self.y if trial.y is None else trial.y
        if x.shape[1] != self.info.d_in or y.shape[1] != self.info.d_out:
            return None
        try:
            return score(self.entry, trial.coder or self.entry.coder, x, y, self.half, trial.undo)
        except CoderFailure:
            return None

    def gain(self, found: Score | None) -> float:
        """By how much a score is better than the base; minus infinity where it is none."""
        gain = float("-inf") if found is None else self.base.gain(found, self.target_l0)
        return gain if gain == gain else float("-inf")

    def variant(self, *, rule: Mapping[str, Any] | None = None, **weights: Any) -> LinearCoder | None:
        """The coder with other fields of its rule and other weights; None where these do not go together."""
        linear = self.linear
        if linear is None:
            return None
        try:
            changed = dataclasses.replace(linear.rule, **(rule or {}))
            made = dataclasses.replace(linear.weights, **weights)
            return LinearCoder(linear.info, made, changed, dtype=linear.dtype)
        except CoderError:
            return None


def best(case: Case, trials: Mapping[K, Trial]) -> K:
    """The key of the trial of the largest gain, of those that explain anything if there are such."""
    scores = {key: case.score(trial) for key, trial in trials.items()}

    def worth(key: K) -> tuple[bool, float]:
        score = scores[key]
        return score is not None and score.fvu < MOST_FVU, case.gain(score)

    return max(scores, key=worth)


def if_made(claim: str, settle: str, coder: SparseCoder | None) -> Iterator[Trial]:
    """A trial of ``coder``, where there is one."""
    if coder is not None:
        yield Trial(claim, settle, coder=coder)
