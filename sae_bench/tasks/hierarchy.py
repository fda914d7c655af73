"""The hierarchy gap: does the latent of a parent stay silent where a child of it has a latent of its own?

A *parent* is a label whose tokens hold all of those of another, its *child* (numbers, and even numbers). Its latent is
chosen on train tokens that the child does not have. The gap is how much more of the parent it finds outside the child
than inside. Recall differs between kinds of tokens for other reasons too, so the same is done with random sets of
tokens in place of the child, whose mean gap is taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sae_bench.kernels.firing import Array, Ints
from sae_bench.kernels.refits import BEST
from sae_bench.randomness import generator
from sae_bench.tasks.firing import Bools, Choice, Codes, PartTokens, TokenView, choose


@dataclass(frozen=True, eq=False)
class Gap:
    """The gap of one pair: ``value`` ``[1 + n_groups]``, of all test texts and without each group of them.

    ``refits`` ``[R]`` are those of latents chosen under other train weights. ``outside`` and ``within`` are the recalls
    of the ``latent`` (-1: none), ``null`` the mean gap of random sets.
    """

    value: Array
    refits: Array
    latent: int
    outside: float
    within: float
    null: float


def gap(view: TokenView, groups: Ints, n_groups: int, weights: Array, n_sets: int, seed: int, name: str) -> Gap | None:
    """The gap of a set that lies inside another. ``groups`` ``[test texts]``, ``weights`` ``[R, train texts]``.

    None where no random set has tokens in the test part and leaves some of the parent.
    """
    train, test, codes = view.train, view.test, view.codes
    assert train.shared is not None
    assert train.inside is not None
    assert test.inside is not None
    choice = _main(codes, train)
    inner = _Inner(codes, choice, train, test, groups, n_groups)
    child = test.labels[test.inside]
    drawn = list(_random_sets(train, test, n_sets, seed, name))
    of_null = [inner.gap(inner.best_without(own), there) for own, there in drawn if 0 < there.sum() < len(there)]
    if not of_null:
        return None
    null = np.mean(of_null, axis=0)
    own = inner.gap(0, child)
    again = choice.under(weights)
    each = {place: float(inner.gap(place, child)[0]) for place in set(again.tolist())}
    refits = np.array([each[place] for place in again.tolist()] if len(again) else [own[0]] * len(weights)) - null[0]
    outside, within = (float(inner.recall(0, which)[0]) for which in (~child, child))
    return Gap(own - null, refits, choice.latent, outside, within, float(null[0]))


def _main(codes: Codes, train: PartTokens) -> Choice:
    """The latents of the parent, by the train tokens that the child does not have."""
    assert train.shared is not None
    assert train.inside is not None
    child = train.labels & train.shared
    fired = codes.counts(train.numbers[train.shared]) - codes.counts(train.numbers[child])
    wanted = train.inside & ~child
    return choose(codes, train, train.shared & ~child, wanted, codes.counts(train.numbers[wanted]), fired)


class _Inner:
    """Where the best latents of a parent fire on its tokens, in both parts."""

    def __init__(
        self, codes: Codes, choice: Choice, train: PartTokens, test: PartTokens, groups: Ints, n_groups: int
    ) -> None:
        assert train.shared is not None
        assert train.inside is not None
        assert test.inside is not None
        latents = choice.latents[:BEST]
        self._train = self._fires(codes, train.numbers[train.inside], latents)
        self._test = self._fires(codes, test.numbers[test.inside], latents)
        outside = train.numbers[train.shared & ~train.inside]
        found = codes.firings(outside, latents)
        self._outside = np.bincount(found.latents, minlength=len(latents))
        self._groups, self._n_groups = groups[test.rows[test.inside]], n_groups

    @staticmethod
    def _fires(codes: Codes, numbers: Ints, latents: Ints) -> Bools:
        found = codes.firings(numbers, latents)
        fires = np.zeros((len(numbers), max(len(latents), 1)), dtype=bool)
        fires[found.tokens, found.latents] = True
        return fires

    def best_without(self, left_out: Bools) -> int:
        """Which of the latents has the best F1 on the train tokens but those of the parent that are ``left_out``."""
        hits = self._train[~left_out].sum(0)
        if not len(self._outside):
            return 0
        return int(np.argmax(2 * hits / np.maximum(self._outside + hits + (~left_out).sum(), 1)))

    def recall(self, place: int, which: Bools) -> Array:
        """The share of the parent's test tokens ``which`` on which a latent fires: of all, then without each group."""
        fired, there = (self._without(found) for found in (self._test[:, place] & which, which))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(fired / there)

    def gap(self, place: int, inner: Bools) -> Array:
        """How much more of the parent's other tokens than of the ``inner`` ones a latent finds ``[1 + n_groups]``."""
        found = self.recall(place, ~inner) - self.recall(place, inner)
        return np.where(np.isfinite(found), found, found[0])

    def _without(self, which: Bools) -> Array:
        counts = np.bincount(self._groups[which], minlength=self._n_groups).astype(np.float64)
        return np.concatenate([[counts.sum()], counts.sum() - counts])


def _random_sets(train: PartTokens, test: PartTokens, n_sets: int, seed: int, name: str) -> list[tuple[Bools, Bools]]:
    """Random sets of the parent's tokens, in the train part and in the test part; as large as the child in the former.

    Whole kinds of tokens (equal ids) are drawn, since a latent finds or misses these as such; of the last one as large
    a share as is needed for the size.
    """
    assert train.inside is not None
    assert test.inside is not None
    ids, there = train.ids[train.inside], test.ids[test.inside]
    wanted = int(train.labels[train.inside].sum())
    kinds, sizes = np.unique(ids, return_counts=True)
    found = []
    for number in range(n_sets):
        draw = generator(seed, f"random set {number} in the parent of {name}")
        order = torch.randperm(len(kinds), generator=draw).numpy()
        behind = sizes[order].cumsum()
        last = int(np.searchsorted(behind, wanted))
        whole = kinds[order[:last]]
        part, left = kinds[order[last]], wanted - int(behind[last] - sizes[order[last]])
        share = left / sizes[order[last]]
        chosen = []
        for own in (ids, there):
            at = np.flatnonzero(own == part)
            some = at[torch.randperm(len(at), generator=draw).numpy()[: round(share * len(at))]]
            drawn = np.isin(own, whole)
            drawn[some] = True
            chosen.append(drawn)
        found.append((chosen[0], chosen[1]))
    return found
