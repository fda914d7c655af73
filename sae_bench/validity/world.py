"""A language whose model has a residual stream that is a sum of known sparse features.

Every token type has some of 128 features, each with a strength; the activation of a token is the sum of strength times
direction over its features, plus a mean, in 64 dimensions, so that directions share room. Both blocks of the model (a
Llama of Hugging Face) add nothing, so that this holds at every hook point of the residual stream, and what a token has
depends on it alone. The next token is drawn from what the model itself predicts: its loss on this text is the least
that any model can have.

Features: 16 *parents* with two *children* each, which a token has only with their parent; 16 *leaders* with a
*follower* each, which four of five tokens with the leader have too, and few others; 48 *free* ones. Rates fall with the
rank within each kind as in Zipf's law, and features are correlated, as tokens are about something.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sae_bench.validity.numbers import Array, Numbers

WIDTH, TYPES = 64, 2048  # of the residual stream; token types, of which type 0 begins every text and has no feature
PARENTS, CHILDREN, LEADERS, FREE = 16, 2, 16, 48
FEATURES = PARENTS * (1 + CHILDREN) + 2 * LEADERS + FREE
LENGTH, PHRASE = 96, 8  # tokens of a document, and of a labelled text
HOOK = "blocks.0.hook_resid_post"
SHARPNESS = 4.0  # of the next token's distribution
MOST = 10  # features of a token


@dataclass(frozen=True)
class World:
    """One language and all that is true of it.

    ``directions`` ``[features, width]`` are unit vectors, ``strengths`` ``[types, features]`` what each token type has
    (0: it has not), ``mean`` ``[width]`` what all tokens share, ``follows`` ``[types, width]`` the output head.
    """

    seed: int
    directions: Array
    strengths: Array
    mean: Array
    follows: Array

    @cached_property
    def activations(self) -> Array:
        """Of every token type ``[types, width]``."""
        found: Array = self.strengths @ self.directions + self.mean
        return found

    @cached_property
    def chances(self) -> Array:
        """Of every token type behind every other ``[types, types]``; type 0 comes never."""
        x = self.activations / np.sqrt((self.activations**2).mean(1, keepdims=True) + EPSILON)
        logits = x @ self.follows.T
        logits[:, 0] = -np.inf
        odds = np.exp(logits - logits.max(1, keepdims=True))
        found: Array = odds / odds.sum(1, keepdims=True)
        return found

    @cached_property
    def rates(self) -> Array:
        """How often every token type comes ``[types]``: the share of places of documents where it is expected."""
        row = np.eye(TYPES)[0]
        total = np.zeros(TYPES)
        for _ in range(LENGTH):
            row = row @ self.chances
            total += row
        found: Array = total / total.sum()
        return found

    @cached_property
    def _ends(self) -> Array:
        """The distributions behind all types as one rising row of numbers: those behind type i end at i + 1."""
        ends = self.chances.cumsum(1)
        found: Array = (ends / ends[:, -1:] + np.arange(TYPES)[:, None]).ravel()
        return found

    def ids(self, n: int, length: int, what: str) -> NDArray[np.int64]:
        """``n`` sequences of token types ``[n, length]``, without the type 0 before them; ``what`` they are for."""
        numbers = Numbers(self.seed, what)
        found = np.zeros((n, length + 1), dtype=np.int64)
        for place in range(1, length + 1):
            before = found[:, place - 1]
            drawn = self._ends.searchsorted(before + numbers.uniform(n), side="right") - before * TYPES
            found[:, place] = np.clip(drawn, 1, TYPES - 1)  # what rounding moved to another row
        return found[:, 1:]


EPSILON = 1e-6
NEVER = 40.0  # how much less likely type 0 is than others, in nats


def world(seed: int) -> World:
    """The language of a seed."""
    numbers = Numbers(seed, "world")
    directions = numbers.directions(FEATURES, WIDTH)
    has = features(numbers)
    strengths = has * (0.6 + 0.8 * numbers.uniform(TYPES, FEATURES))
    mean = 1.5 * numbers.directions(1, WIDTH)[0]
    wanted = numbers.uniform(TYPES, FEATURES).argsort(1)[:, :3]
    follows = SHARPNESS * directions[wanted].sum(1) / np.sqrt(3)
    common = np.log(1 / (np.arange(TYPES) + 10.0))[numbers.order(TYPES)]
    follows += (common - common.mean())[:, None] * mean / (mean @ mean)
    follows[0] = -NEVER * mean / (mean @ mean)  # type 0 follows nothing, and the model knows it
    follows *= np.sqrt(((strengths @ directions + mean) ** 2).mean())  # the model divides by about as much
    return World(seed, directions, strengths, mean, follows)


def features(numbers: Numbers) -> NDArray[np.bool_]:
    """Which features every token type has ``[types, features]``: at least one, at most ten, none of type 0."""
    about = numbers.normal(TYPES, 8)  # what tokens are about makes features occur together
    loads = numbers.normal(8, FEATURES) / np.sqrt(8)
    lean = 0.6 * about @ loads + 0.8 * numbers.normal(TYPES, FEATURES)

    def drawn(columns: slice, rates: Array) -> NDArray[np.bool_]:
        edges = np.quantile(lean[:, columns], 1 - rates, axis=0)
        return np.asarray(lean[:, columns] > np.diagonal(edges), dtype=np.bool_)

    def zipf(n: int, highest: float) -> Array:
        return highest / np.arange(1.0, n + 1) ** 0.6

    has = np.zeros((TYPES, FEATURES), dtype=np.bool_)
    first = PARENTS * (1 + CHILDREN)
    has[:, :PARENTS] = drawn(slice(0, PARENTS), zipf(PARENTS, 0.2))
    child = numbers.uniform(TYPES, PARENTS)
    for i in range(CHILDREN):  # a parent without a child, or with one of them
        at = PARENTS * (1 + i)
        has[:, at : at + PARENTS] = has[:, :PARENTS] & (child >= 0.35 * i) & (child < 0.35 * (i + 1))
    has[:, first : first + LEADERS] = drawn(slice(first, first + LEADERS), zipf(LEADERS, 0.12))
    leads, luck = has[:, first : first + LEADERS], numbers.uniform(TYPES, LEADERS)
    has[:, first + LEADERS : first + 2 * LEADERS] = np.where(leads, luck < 0.8, luck < 0.01)
    has[:, -FREE:] = drawn(slice(FEATURES - FREE, FEATURES), zipf(FREE, 0.15))
    _at_most(has, numbers)
    lonely = ~has.any(1)
    has[lonely, FEATURES - 1 - numbers.order(TYPES)[lonely] % FREE] = True
    has[0] = False
    return has


def _at_most(has: NDArray[np.bool_], numbers: Numbers) -> None:
    """Take features from tokens with more than ten: free ones and pairs first, then children, then parents."""
    luck = numbers.uniform(TYPES, FEATURES)
    last = 1.0 * (np.arange(FEATURES) < PARENTS * (1 + CHILDREN)) + (np.arange(FEATURES) < PARENTS)
    for v in np.flatnonzero(has.sum(1) > MOST):
        order = np.argsort(last + luck[v])
        own = order[has[v, order]]
        has[v, own[: len(own) - MOST]] = False


def text(ids: NDArray[np.int64]) -> list[str]:
    """Sequences of token types as text, a word a token."""
    return [" ".join(f"w{i}" for i in row) for row in ids.tolist()]
