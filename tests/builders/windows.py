"""Texts on which latents fire by rules, for explanation windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sae_bench.kernels.token_counts import Firings, firings
from sae_bench.tasks.autointerp.windows import Sizes
from sae_bench.tasks.tracked import Text, Tracked

Ints = NDArray[np.int64]


Rule = Callable[[Ints, Ints, np.random.Generator], NDArray[np.bool_]]  # tokens, the ones before -> fires


LENGTH = 16


SIZES = Sizes(length=LENGTH, shown=20, contrast=4, positives=10, random=5, matched=5)


def after(first: tuple[int, ...], token: int) -> Rule:
    return lambda tokens, before, draw: np.isin(before, first) & (tokens == token)


def sometimes(token: int, share: float) -> Rule:
    return lambda tokens, before, draw: (tokens == token) & (draw.random(len(tokens)) < share)


RULES: dict[int, Rule] = {  # by the number of the latent in its dictionary
    3: lambda tokens, before, draw: tokens == 7,
    10: after((1, 2, 3), 9),
    11: sometimes(5, 0.3),
    40: lambda tokens, before, draw: draw.random(len(tokens)) < 0.01,
    41: lambda tokens, before, draw: np.isin(tokens, [11, 12]) & (before > 10),
}


def text_of_documents(documents: list[Ints]) -> Text:
    tokens = np.concatenate(documents)
    previous = np.concatenate([np.concatenate([[-1], own[:-1]]) for own in documents])
    owner = np.repeat(np.arange(len(documents)), [len(own) for own in documents])
    return Text(tokens, previous, owner, len(documents))


def documents(draw: np.random.Generator, n: int, shortest: int, longest: int, vocabulary: int) -> list[Ints]:
    return [draw.integers(1, vocabulary + 1, draw.integers(shortest, longest + 1)) for _ in range(n)]


def fired(text: Text, rules: dict[int, Rule], draw: np.random.Generator) -> Firings:
    places = [np.flatnonzero(rule(text.tokens, text.previous, draw)) for rule in rules.values()]
    slots = np.repeat(np.arange(len(rules)), [len(own) for own in places])
    strength = 0.1 + draw.exponential(size=len(slots))
    return firings(slots, np.concatenate(places), strength, len(rules), len(text.tokens))


def planted(
    rules: dict[int, Rule] = RULES,
    *,
    n: int = 150,
    shortest: int = 40,
    longest: int = 80,
    vocabulary: int = 20,
    seed: int = 0,
    shared: tuple[Ints, ...] = (),
) -> Tracked:
    """Latents that fire by rules on random text; ``shared`` documents are in both halves."""
    draw = np.random.default_rng(seed)
    halves = [text_of_documents([*documents(draw, n, shortest, longest, vocabulary), *shared]) for _ in range(2)]
    fit, test = halves
    density = np.full(len(rules), 0.01)
    return Tracked(np.array(list(rules)), density, fit, fired(fit, rules, draw), test, fired(test, rules, draw))
