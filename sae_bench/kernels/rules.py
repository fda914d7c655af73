"""Token rules: on which tokens, and after which tokens, a latent fires. Explanations that need no language model.

A rule is a set of tokens with exceptions, pairs of a token and the one before it. It predicts that its latent fires
exactly where it matches. It is fitted by the F1 score of "fires" (see `rule_fit`) and scored on other text.

What a rule may take is bounded so that it stays an explanation, and so that noise is not memorised. Measured on 200
latents each of TopK and JumpReLU SAEs of a two-layer model (68,000 fit tokens) and a TopK SAE of the demo (41,000):

    pairs seen at least           1 time   2 times   3 times   5 times   no pairs
    F1 on held-out text, TopK      0.641     0.642     0.644     0.637      0.615
    the same, JumpReLU             0.619     0.619     0.617     0.610      0.584
    the same, demo                 0.596     0.599     0.596     0.585      0.478
    F1 on the fit text, TopK       0.797     0.741     0.717     0.697      0.665
    tokens and pairs, TopK            93        69        53        45         35
    firings at random, fit text    0.342     0.285     0.247     0.198      0.156

So 3 times: as good on new text as any, with the shorter rules. Firings at random (1.4 % of tokens) have an F1 of 0.015
on held-out text, their base rate, whatever they have on the fit text, which is why only held-out figures say anything.
256 tokens in place of 64 gain 0.003 to 0.010 there, 16 tokens lose 0.020 to 0.052.

The module `token_counts` has the firings that come in here, `graded_rules` the precision at every threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from sae_bench.kernels.rule_fit import Bounds, search
from sae_bench.kernels.token_counts import Firings, Floats, Ints, checked, expand, find, pack, read, unpack
from sae_bench.randomness import generator

MAX_TOKENS = 64
MAX_PAIRS = 64
LEAST_PAIR = 3


class TokenRule(NamedTuple):
    """Fires on ``tokens`` and ``added_pairs``, but not on ``removed_pairs``.

    ``tokens`` ``[k]`` and the pairs (previous token, token) ``[m, 2]`` are sorted; no token of an added pair is in
    ``tokens``, and every token of a removed one is. The previous token -1 stands for the start of a text.
    """

    tokens: Ints
    added_pairs: Ints
    removed_pairs: Ints

    @property
    def size(self) -> int:
        """Number of tokens and pairs: the length of the explanation."""
        return len(self.tokens) + len(self.added_pairs) + len(self.removed_pairs)


class Matches(NamedTuple):
    """Where rules match, in order of rule and position: both ``[n]``."""

    rule: Ints
    position: Ints


class Scores(NamedTuple):
    """What rules get right: counts and sums of activations, float64 ``[rules, documents]``, or sums of these.

    ``true_positive`` is where the rule matches and its latent fires, ``predicted`` where it matches, ``firing`` where
    the latent fires; ``activation_mass`` is the sum of the latent's activations, ``activation_mass_recalled`` the part
    of it where the rule matches. ``tokens`` is the same for all rules.
    """

    true_positive: Floats
    predicted: Floats
    firing: Floats
    tokens: Floats
    activation_mass: Floats
    activation_mass_recalled: Floats

    def total(self) -> Scores:
        """Summed over documents, ``[rules]``: the ratios below are ratios of sums."""
        return Scores(*(column.sum(axis=1) for column in self))

    @property
    def precision(self) -> Floats:
        """Share of the matches where the latent fires; NaN without a match."""
        return _ratio(self.true_positive, self.predicted)

    @property
    def recall(self) -> Floats:
        """Share of the firings that are matched; NaN without a firing."""
        return _ratio(self.true_positive, self.firing)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall: 0 for a rule that misses all firings; NaN if neither ever happens."""
        return _ratio(2 * self.true_positive, self.predicted + self.firing)

    @property
    def mass_recalled(self) -> Floats:
        """Share of the activation that is matched; NaN without a firing."""
        return _ratio(self.activation_mass_recalled, self.activation_mass)


def fit(
    tokens: ArrayLike,
    previous: ArrayLike,
    found: Firings,
    n_latents: int,
    *,
    max_tokens: int = MAX_TOKENS,
    max_pairs: int = MAX_PAIRS,
    least_pair: int = LEAST_PAIR,
) -> list[TokenRule]:
    """A rule of every latent with a high F1 on ``tokens`` ``[T]``, at least that of the best set of tokens.

    At most ``max_tokens`` tokens, at most ``max_pairs`` pairs (added and removed together), and no pair that occurs
    fewer than ``least_pair`` times; without pairs the F1 is the best that there is. A latent that never fires has an
    empty rule.
    """
    text = read(tokens, previous)
    found_rules = search(text, found, n_latents, Bounds(max_tokens, max_pairs, least_pair))
    each = (_split(latent, item, n_latents) for latent, item in found_rules)
    return [
        TokenRule(text.vocabulary[own], unpack(text.pairs[added]), unpack(text.pairs[removed]))
        for own, added, removed in zip(*each, strict=True)
    ]


def _split(latent: Ints, values: Ints, n_latents: int) -> list[Ints]:
    """The values of each latent; ``latent`` is ascending."""
    bounds = np.searchsorted(latent, np.arange(n_latents + 1))
    return [values[start:stop] for start, stop in pairwise(bounds)]


def matches(rules: Sequence[TokenRule], tokens: ArrayLike, previous: ArrayLike) -> Matches:
    """Where each rule fires on ``tokens`` ``[T]``: its tokens but for the removed pairs, and the added pairs."""
    items, pairs = checked(tokens, previous)
    own = _occurrences(items, [rule.tokens for rule in rules])
    removed = _occurrences(pairs, [pack(rule.removed_pairs) for rule in rules])
    added = _occurrences(pairs, [pack(rule.added_pairs) for rule in rules])
    places = np.union1d(np.setdiff1d(own, removed), added)
    return Matches(*np.divmod(places, max(1, len(items))))


def _occurrences(items: Ints, wanted: list[Ints]) -> Ints:
    """``rule * T + position`` of each place where ``items`` ``[T]`` has one of the items that a rule wants."""
    order = np.argsort(items, kind="stable")
    owner, place = expand(items[order], np.concatenate([np.zeros(0, dtype=np.int64), *wanted]))
    rule = np.arange(len(wanted)).repeat([len(some) for some in wanted])
    return rule[owner] * len(items) + order[place]


def score(
    rules: Sequence[TokenRule],
    tokens: ArrayLike,
    previous: ArrayLike,
    found: Firings,
    document: ArrayLike,
    n_documents: int,
) -> Scores:
    """Score rule i against the firings of latent i. ``document`` ``[T]`` is the document that a token is of.

    The null of another latent's rule is the score of ``[rules[i] for i in derangement(len(rules), seed)]``. Raises
    ValueError for a firing of a latent that has no rule.
    """
    if len(found.latent) and found.latent.max() >= len(rules):
        raise ValueError(f"every latent that fires needs a rule, but there are {len(rules)} rules")
    document = np.asarray(document, dtype=np.int64)
    shape = (len(rules), n_documents)
    where = matches(rules, tokens, previous)

    def add_up(rule: Ints, position: Ints, values: Floats | None = None) -> Floats:
        cell = rule * n_documents + document[position]
        return np.bincount(cell, values, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)

    _, hit = find(where.rule * len(document) + where.position, found.latent * len(document) + found.position)
    return Scores(
        true_positive=add_up(found.latent[hit], found.position[hit]),
        predicted=add_up(*where),
        firing=add_up(found.latent, found.position),
        tokens=np.broadcast_to(np.bincount(document, minlength=n_documents).astype(np.float64), shape),
        activation_mass=add_up(*found),
        activation_mass_recalled=add_up(found.latent[hit], found.position[hit], found.activation[hit]),
    )


def derangement(n: int, seed: int) -> Ints:
    """A permutation of ``n`` things without one that stays in its place, all of these equally likely.

    Raises ValueError below 2, where there is none.
    """
    if n < 2:
        raise ValueError(f"another latent's rule needs at least 2 latents, got {n}")
    draws = generator(seed, "the rule of another latent")
    while True:  # 1 in e draws will do
        order: Ints = torch.randperm(n, generator=draws).numpy()
        if not bool((order == np.arange(n)).any()):
            return order


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
