"""The search for token rules: sets of tokens with exceptions that have a high F1 score of "fires" on a text.

``F1 / 2 = true positives / (predicted + firing)`` is a quotient of sums over the parts of a rule. So the best choice
of parts takes those with ``gain = true positives - F1 / 2 * predicted > 0``, and of these the largest if there are too
many (Dinkelbach 1967, "On nonlinear fractional programming"). Of tokens without a bound that is a prefix of their
order by precision. The search takes the best tokens, then the best exceptions to these; then it gives up the tokens of
which some pairs alone do better, as long as that raises the F1, or keeps it with a shorter rule. All latents go
together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sae_bench.kernels.token_counts import Firings, Ints, Mask, Text, count, expand, find

Entries = tuple[Ints, Ints]  # latents in order, and the place of a token or pair in the text's lists


class Bounds(NamedTuple):
    """Most tokens and most pairs of a rule, and how often a pair must occur."""

    max_tokens: int
    max_pairs: int
    least_pair: int


class Parts(NamedTuple):
    """What parts of rules add to the true positives and to the predicted tokens of their latents."""

    latent: Ints
    true_positive: Ints
    predicted: Ints

    def of(self, which: Mask) -> Parts:
        """Some of the parts."""
        return Parts(*(column[which] for column in self))

    def gain(self, quotient: Quotient) -> Ints:
        """The gain of each part at a quotient of its latent, in units of 1 / denominator: a whole number."""
        top, bottom = (column[self.latent] for column in quotient)
        return self.true_positive * bottom - self.predicted * top


class Quotient(NamedTuple):
    """Half the F1 of each latent, ``true_positive / denominator`` ``[latents]``."""

    true_positive: Ints
    denominator: Ints

    def plus(self, parts: Parts) -> Quotient:
        """The quotient with these parts in the rules."""
        n = len(self.denominator)  # float64 holds whole numbers up to 2^53, so the sums are exact
        top, bottom = (np.bincount(parts.latent, column, minlength=n).astype(np.int64) for column in parts[1:])
        return Quotient(self.true_positive + top, self.denominator + bottom)

    def lead(self, other: Quotient) -> Ints:
        """Above 0 where this quotient is higher than the other one, 0 where they are equal."""
        return self.true_positive * other.denominator - other.true_positive * self.denominator


class _Draft(NamedTuple):
    """Rules on the way: the tokens that they have, the exceptions to these, and which of them they take.

    The first ``n_added`` exceptions are pairs that can be added, the others pairs that can be removed.
    """

    own: Parts
    token: Ints
    exceptions: Parts
    pair: Ints
    n_added: int
    kept: Mask
    quotient: Quotient
    size: Ints  # [latents]

    @property
    def sides(self) -> tuple[Mask, Mask]:
        """The exceptions that are added, and those that are removed."""
        added = np.arange(len(self.kept)) < self.n_added
        return self.kept & added, self.kept & ~added


class _Search(NamedTuple):
    text: Text
    pairs: tuple[Ints, Ints, Ints]  # the (latent, pair) that fire, in order, and how often
    firing: Ints
    bounds: Bounds


def search(text: Text, found: Firings, n_latents: int, bounds: Bounds) -> tuple[Entries, Entries, Entries]:
    """The tokens, the added pairs and the removed pairs of the rules of all latents."""
    firing = np.bincount(found.latent, minlength=n_latents)
    pairs = count(found.latent, text.pair[found.position], max(1, len(text.pairs)))
    this = _Search(text, pairs, firing, bounds)
    latent, token, fired = count(found.latent, text.token[found.position], max(1, len(text.vocabulary)))
    parts = Parts(latent, fired, text.token_count[token])
    kept = best(parts, Quotient(np.zeros_like(firing), firing), bounds.max_tokens)
    draft = _draft(this, parts.of(kept), token[kept])
    while True:
        dropped = _better_as_pairs(this, draft)
        other = _draft(this, draft.own.of(~dropped), draft.token[~dropped])
        lead = other.quotient.lead(draft.quotient)
        dropped &= ((lead > 0) | ((lead == 0) & (other.size < draft.size)))[draft.own.latent]
        if not bool(dropped.any()):
            break
        draft = _draft(this, draft.own.of(~dropped), draft.token[~dropped])
    added, removed = ((draft.exceptions.latent[side], draft.pair[side]) for side in draft.sides)
    return (draft.own.latent, draft.token), added, removed


def _draft(this: _Search, own: Parts, token: Ints) -> _Draft:
    """The rules of these tokens with the best exceptions."""
    text, (fires, pair, fired) = this.text, this.pairs
    n_tokens, n_pairs = len(text.vocabulary), max(1, len(text.pairs))
    _, covered = find(own.latent * n_tokens + token, fires * n_tokens + text.token_of_pair[pair])
    add = ~covered & (text.pair_count[pair] >= this.bounds.least_pair)
    owner, inside = expand(text.token_of_pair, token)
    often = text.pair_count[inside] >= this.bounds.least_pair
    owner, inside = own.latent[owner[often]], inside[often]
    place, there = find(fires * n_pairs + pair, owner * n_pairs + inside)
    lost = np.zeros_like(owner)
    lost[there] = fired[place[there]]
    parts = Parts(
        np.concatenate([fires[add], owner]),
        np.concatenate([fired[add], -lost]),
        np.concatenate([text.pair_count[pair[add]], -text.pair_count[inside]]),
    )
    quotient = Quotient(np.zeros_like(this.firing), this.firing).plus(own)
    kept = best(parts, quotient, this.bounds.max_pairs)
    size = np.bincount(np.concatenate([own.latent, parts.latent[kept]]), minlength=len(this.firing))
    which = np.concatenate([pair[add], inside])
    return _Draft(own, token, parts, which, int(add.sum()), kept, quotient.plus(parts.of(kept)), size)


def _better_as_pairs(this: _Search, draft: _Draft) -> Mask:
    """Which tokens of the rules gain less, with the pairs removed from them, than some pairs of them alone would.

    A token on which the latent fires after one other token is in the best set of tokens, but its rule is one pair, and
    not the token without all its other pairs.
    """
    text, (fires, pair, fired) = this.text, this.pairs
    width, n = max(1, len(text.vocabulary)), len(draft.token)
    keys = draft.own.latent * width + draft.token
    _, removed = draft.sides
    parts = draft.exceptions.of(removed)
    owner, _ = find(keys, parts.latent * width + text.token_of_pair[draft.pair[removed]])
    with_token = draft.own.gain(draft.quotient) + np.bincount(owner, parts.gain(draft.quotient), minlength=n)
    size_with = 1 + np.bincount(owner, minlength=n)

    owner, there = find(keys, fires * width + text.token_of_pair[pair])
    there &= text.pair_count[pair] >= this.bounds.least_pair
    gain = Parts(fires, fired, text.pair_count[pair]).of(there).gain(draft.quotient)
    owner, gain = owner[there][gain > 0], gain[gain > 0]
    alone, size_alone = np.bincount(owner, gain, minlength=n), np.bincount(owner, minlength=n)
    shorter: Mask = (alone == with_token) & (size_alone < size_with)
    return shorter | (alone > with_token)


def best(parts: Parts, start: Quotient, at_most: int) -> Mask:
    """The parts that raise the quotient ``start`` of each latent to the highest value, ``at_most`` a latent.

    Dinkelbach's iteration: take what gains at the quotient so far, until that raises no quotient. A part that only
    keeps the quotient as it is stays out; of parts that gain the same the first come first. There is no tolerance, for
    all numbers are whole.
    """
    quotient = start
    while True:
        gain = parts.gain(quotient)
        kept = gain > 0
        if len(kept) and np.bincount(parts.latent[kept], minlength=1).max() > at_most:
            kept[kept] = _rank(parts.latent[kept], -gain[kept]) < at_most
        higher = start.plus(parts.of(kept))
        if not bool((higher.lead(quotient) > 0).any()):
            return kept
        quotient = higher


def _rank(group: Ints, key: Ints) -> Ints:
    """The place of each entry in its group by ``key``, from 0; among equals the first comes first."""
    order = np.lexsort((key, group))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return rank
