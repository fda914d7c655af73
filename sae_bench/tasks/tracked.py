"""Where some latents of an SAE fire, on tokens of some documents: what explanations are made of and scored on.

Documents are split in two by a hash of their content, so that the same text is never on both sides: explanations are
made on the *fit* documents and scored on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.kernels.token_counts import Firings
from sae_bench.tasks.base import Context, Task
from sae_bench.units import Units
from sae_bench.units.folds import FOLDS
from sae_bench.units.latents import GROUPS, LARGEST, TOKENS, by_fold

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """The tokens inside the mask of some documents: ``tokens``, ``previous`` (-1: none) and ``document``, ``[T]``.

    ``folds`` ``[n_documents]`` are those of :mod:`sae_bench.units.folds`, ``groups`` the numbers of their groups;
    without either each document is one.
    """

    tokens: Ints
    previous: Ints
    document: Ints
    n_documents: int
    folds: Ints | None = None
    groups: Ints | None = None

    @property
    def fold(self) -> Ints:
        """The fold of every token ``[T]``."""
        return self.document % FOLDS if self.folds is None else self.folds[self.document]

    def columns(self, text: str, n: int) -> dict[str, NDArray[np.float64]]:
        """What a table of ``n`` latents says of this text: tokens by fold ``[n, 32]``, how many groups."""
        group = self.document if self.groups is None else self.groups[self.document]
        sizes = np.unique(group, return_counts=True)[1]
        known = {GROUPS: float(len(sizes)), LARGEST: sizes.max(initial=0) / max(1, len(group))}
        tokens = np.bincount(self.fold, minlength=FOLDS).astype(np.float64)
        return {by_fold(TOKENS, text): np.tile(tokens, (n, 1))} | {
            by_fold(name, text): np.full(n, value) for name, value in known.items()
        }


@dataclass(frozen=True)
class Tracked:
    """The watched latents ``[n]`` of one coder, how often each is active, and where they fire on both halves.

    ``density`` ``[n]`` is the share of calibration tokens. Firings count the watched latents from 0. ``sampled`` is how
    large a part of those they are that could have been watched.
    """

    latents: Ints
    density: NDArray[np.float64]
    fit: Text
    fit_firings: Firings
    test: Text
    test_firings: Firings
    sampled: float = 0.0

    def only(self, slots: Ints) -> Tracked:
        """The watched latents in these places, ascending, alone."""
        halves = (self.fit, _of_latents(self.fit_firings, slots), self.test, _of_latents(self.test_firings, slots))
        return Tracked(self.latents[slots], self.density[slots], *halves, self.sampled)

    def without(self, text: str, block: int, blocks: int) -> Tracked:
        """The same without every fold of "fit" or "test" whose number leaves the rest ``block``."""
        fit, test = (self.fit, self.fit_firings), (self.test, self.test_firings)
        if text == "fit":
            fit = _of_tokens(*fit, self.fit.fold % blocks != block)
        else:
            test = _of_tokens(*test, self.test.fold % blocks != block)
        return Tracked(self.latents, self.density, *fit, *test, self.sampled)


def _of_latents(found: Firings, slots: Ints) -> Firings:
    place = np.searchsorted(slots, found.latent)
    own = slots[np.minimum(place, len(slots) - 1)] == found.latent
    return Firings(place[own], found.position[own], found.activation[own])


def _of_tokens(text: Text, found: Firings, kept: NDArray[np.bool_]) -> tuple[Text, Firings]:
    place, own = np.cumsum(kept) - 1, kept[found.position]
    rest = Text(text.tokens[kept], text.previous[kept], text.document[kept], text.n_documents, text.folds, text.groups)
    return rest, Firings(found.latent[own], place[found.position[own]], found.activation[own])


class TrackedTask(Task):
    """Base class of tasks that explain latents from where they fire; the pass over the documents collects that once.

    Parameters of every such task: ``latents``, how many to explain; ``most_density``, above which a latent is not
    eligible.
    """

    stream = "tracked"
    sees_decoder = False
    activation: Callable[[int, list[list[int]]], list[float]] | None = (
        None  # of a latent at the last token of sequences
    )
    padding = 0  # a token that stands for "nothing"
    most_density: float
    latents: int

    @property
    def rationed(self) -> bool:
        """Whether explaining costs something of which there may be too little for all coders."""
        return False

    def divide(self, into: int) -> None:
        """Cut what is left into so many portions; with 1 all of it may be spent."""

    def turn(self) -> None:
        """Let the next coder spend one portion."""

    def spent(self) -> int:
        """How much was spent until now, in any unit."""
        return 0

    def prepare(self, context: Context) -> None:
        """Take what a run knows."""
        super().prepare(context)
        self.padding = context.padding

    def explain(self, watched: Tracked, seed: int) -> tuple[dict[str, Units], dict[str, Any]]:
        """All tables of units, and what a result shows beside metrics, from what was collected of one coder."""
        raise NotImplementedError

    def cautions(self, tables: Mapping[str, Units], n_latents: int) -> list[str]:
        """That much fewer latents are behind the figures than were asked for."""
        found, asked = len(tables["latent"]), min(self.latents, n_latents)
        if 2 * found >= asked:
            return []
        return [f"{found} of {asked} latents that were asked for fire often enough to be explained"]

    def unusable(self, tables: Mapping[str, Units]) -> str | None:
        """Without an explained latent there is nothing to score."""
        if len(tables["latent"]):
            return None
        return (
            "no latent is active often enough on the text, and on few enough of its tokens, to be explained; "
            f"give more text (--tier, --limit), or let more latents be tried (--param {self.spec.id}.latents)"
        )
