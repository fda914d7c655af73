"""Which latents fire where a label is: the tokens of a labelled set, and the choice of a latent on its train part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.kernels.firing import Array, Ints, Tokens, curve
from sae_bench.kernels.ranks import top
from sae_bench.kernels.refits import BEST

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PartTokens:
    """The tokens of a part of a set that count, text after text: each array ``[tokens]``.

    ``numbers`` name them in the group of sets, ``rows`` the example that each is of (of ``n_texts``), ``labels`` says
    whether it has the label, ``ids`` what stands there. Of a set that lies inside another, ``shared`` says whether the
    other has labels in its text, and ``inside`` whether the token has that label.
    """

    numbers: Ints
    rows: Ints
    labels: Bools
    ids: Ints
    n_texts: int
    shared: Bools | None = None
    inside: Bools | None = None

    def of_texts(self, which: Bools) -> Array:
        """How many of the tokens ``which`` each text has, ``[n_texts]``."""
        return np.bincount(self.rows[which], minlength=self.n_texts).astype(np.float64)


class Firings(Protocol):
    """Positive activations: on which of the tokens asked for, of which of the latents asked for, and how large."""

    tokens: Ints
    latents: Ints
    values: Array


class Codes(Protocol):
    """The positive activations of a coder on the tokens of a group of sets, by the numbers of these."""

    n_latents: int

    def counts(self, tokens: Ints) -> Ints:
        """On how many of these tokens each latent fires, ``[n_latents]``, which nobody may write into."""
        ...

    def firings(self, tokens: Ints, latents: Ints) -> Firings:
        """Where some latents, each named once, fire on these tokens, both as places in what was asked for."""
        ...


class TokenView(Protocol):
    """One labelled set as one coder sees it.

    ``number`` is its own among the sets with labels of tokens, ``parent`` that of the set that it lies inside, if any.
    """

    number: int
    parent: int | None
    codes: Codes

    @property
    def train(self) -> PartTokens:
        """The train part."""
        ...

    @property
    def test(self) -> PartTokens:
        """The test part."""
        ...


@dataclass(frozen=True, eq=False)
class Choice:
    """The latents of best F1 on some tokens of a train part, the best first; none where no latent fires on the label.

    ``hits`` and ``fired`` ``[texts, latents]`` count on how many tokens of each text each fires, of those with the
    label and of all; ``positives`` ``[texts]`` those with the label.
    """

    latents: Ints
    hits: Array
    fired: Array
    positives: Array

    @property
    def latent(self) -> int:
        """The chosen latent, -1 for none."""
        return int(self.latents[0]) if len(self.latents) else -1

    @property
    def f1(self) -> float:
        """Its F1 on those tokens."""
        if not len(self.latents):
            return 0.0
        return float(2 * self.hits[:, 0].sum() / (self.fired[:, 0].sum() + self.positives.sum()))

    def under(self, weights: Array) -> Ints:
        """The place of the best latent under each row of ``weights`` ``[R, texts]``; where none is there, nothing."""
        if not len(self.latents):
            return np.zeros(0, dtype=np.int64)
        f1 = 2 * (weights @ self.hits) / (weights @ self.fired + (weights @ self.positives)[:, None])
        return np.array([int(top(torch.from_numpy(row), 1)[0]) for row in f1], dtype=np.int64)


def choose(codes: Codes, part: PartTokens, which: Bools, labels: Bools, hits: Ints, fired: Ints) -> Choice:
    """The choice by the tokens ``which`` of a part, of which ``labels`` say what is to be found.

    ``hits`` and ``fired`` ``[n_latents]`` count on how many of these each latent fires, of those with the label and of
    all. Of latents with equal counts the one with the better average precision there comes first, and of those that
    are still alike the lowest.
    """
    positives = part.of_texts(which & labels)
    f1 = 2 * hits / np.maximum(fired + positives.sum(), 1)
    found = top(torch.from_numpy(f1), BEST).numpy()
    found = found[f1[found] > 0]
    tokens = np.flatnonzero(which)
    firings = codes.firings(part.numbers[tokens], found)
    order = _settled(found, hits, fired, labels[tokens], firings)
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found))
    cell = part.rows[tokens][firings.tokens] * len(found) + rank[firings.latents]
    shape = part.n_texts, len(found)
    hit = labels[tokens][firings.tokens].astype(np.float64)
    counts = [np.bincount(cell, weights=w, minlength=shape[0] * shape[1]).reshape(shape) for w in (hit, None)]
    return Choice(found[order], counts[0].astype(np.float64), counts[1].astype(np.float64), positives)


def _settled(found: Ints, hits: Ints, fired: Ints, labels: Bools, firings: Firings) -> Ints:
    """The order of latents that come by F1, where equal ones come by their average precision."""
    alone = Tokens(labels, np.zeros(len(labels), dtype=np.int64), 1)
    alike: dict[tuple[int, int], list[int]] = {}  # where their first one stands, since others may have their F1 too
    for i, latent in enumerate(found.tolist()):
        alike.setdefault((int(hits[latent]), int(fired[latent])), []).append(i)
    order: list[int] = []
    for same in alike.values():
        if len(same) > 1:
            precision = {}
            for i in same:
                own = firings.latents == i
                precision[i] = float(curve(alone, firings.tokens[own], firings.values[own])[0][0])
            same.sort(key=lambda i: (-round(precision[i], 9), found[i]))
        order += same
    return np.array(order, dtype=np.int64)
