"""Which tokens, after which tokens, latents fire on: the counts that token rules are made of.

Positions are places in a list of tokens. ``previous`` is the token before each, -1 where there is none: at the start of
a text. Nothing here depends on the order of the texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_BITS = 32


class Firings(NamedTuple):
    """Where latents fire: each (latent, position) at most once, in any order, all ``[n]``.

    ``latent`` counts the sampled latents from 0; ``activation`` is above 0, a magnitude for signed codes.
    """

    latent: Ints
    position: Ints
    activation: Floats


class Text(NamedTuple):
    """The tokens and the pairs of a text, as places in sorted lists of those that occur, and how often each does."""

    vocabulary: Ints
    token: Ints  # [T]
    token_count: Ints
    pairs: Ints  # packed, so that the pairs of one token lie side by side
    pair: Ints  # [T]
    pair_count: Ints

    @property
    def token_of_pair(self) -> Ints:
        """The second token of each of ``pairs``, as a place in ``vocabulary``."""
        return np.searchsorted(self.vocabulary, token_of(self.pairs))


def firings(latent: ArrayLike, position: ArrayLike, activation: ArrayLike, n_latents: int, n_tokens: int) -> Firings:
    """Firings from arrays ``[n]``, checked. Raises ValueError for what is out of range, repeated or not above 0."""
    found = Firings(_ints(latent, "latent"), _ints(position, "position"), np.asarray(activation, dtype=np.float64))
    if not found.latent.shape == found.position.shape == found.activation.shape:
        raise ValueError(
            f"firings must be three lists of one length, not of lengths {[len(column) for column in found]}"
        )
    for name, values, end in (("latent", found.latent, n_latents), ("position", found.position, n_tokens)):
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise ValueError(f"the {name} of a firing must be 0 to {end - 1}, not {values.min()} to {values.max()}")
    if not bool(((found.activation > 0) & np.isfinite(found.activation)).all()):
        raise ValueError("the activation of a firing must be finite and above 0; give magnitudes for signed codes")
    if len(np.unique(found.latent * n_tokens + found.position)) < len(found.latent):
        raise ValueError("a latent fires once at a position, but some (latent, position) comes twice")
    return found


def checked(tokens: ArrayLike, previous: ArrayLike) -> tuple[Ints, Ints]:
    """Tokens ``[T]`` and packed pairs ``[T]``. Raises ValueError for lengths that differ and ids out of range."""
    tokens, previous = _ints(tokens, "tokens"), _ints(previous, "previous")
    if tokens.shape != previous.shape:
        raise ValueError(f"every token needs its previous one, but there are {len(tokens)} and {len(previous)}")
    if len(tokens) and (tokens.min() < 0 or previous.min() < -1 or max(tokens.max(), previous.max()) >= 1 << _BITS - 2):
        raise ValueError("token ids must be 0 or more, previous ones -1 or more, and all below 2^30")
    return tokens, tokens << _BITS | previous + 1


def read(tokens: ArrayLike, previous: ArrayLike) -> Text:
    """The tokens and pairs of a text, counted. Raises ValueError as `checked` does."""
    some = (np.unique(column, return_inverse=True, return_counts=True) for column in checked(tokens, previous))
    return Text(*next(some), *next(some))


def pack(pairs: Ints) -> Ints:
    """Pairs (previous, token) ``[n, 2]`` as one number each, in order of token."""
    return pairs[:, 1] << _BITS | pairs[:, 0] + 1


def token_of(packed: Ints) -> Ints:
    """The token of each packed pair."""
    return packed >> _BITS


def unpack(packed: Ints) -> Ints:
    """The pairs (previous, token) ``[n, 2]``, sorted."""
    pairs = np.stack([(packed & (1 << _BITS) - 1) - 1, packed >> _BITS], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def count(latent: Ints, item: Ints, n_items: int) -> tuple[Ints, Ints, Ints]:
    """Each (latent, item) that occurs, in order, and how often."""
    cell, n = np.unique(latent * n_items + item, return_counts=True)
    return *np.divmod(cell, n_items), n


def find(keys: Ints, wanted: Ints) -> tuple[Ints, Mask]:
    """The place of each of ``wanted`` in the sorted ``keys``, and whether it is there."""
    place = np.searchsorted(keys, wanted)
    there = place < len(keys)
    there[there] = keys[place[there]] == wanted[there]
    return place, there


def expand(keys: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """All places of each of ``wanted`` in the sorted ``keys``: (which of ``wanted``, place)."""
    first, last = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
    n = last - first
    owner = np.arange(len(wanted)).repeat(n)
    return owner, np.arange(len(owner)) + (first - n.cumsum() + n).repeat(n)


def token_entropy(tokens: ArrayLike, found: Firings, n_latents: int) -> tuple[Floats, Ints]:
    """Entropy in nats of the tokens that each latent fires on, and its number of firings, both ``[latents]``.

    The entropy of the observed shares (plug-in): 0 for one token, at most the log of the number of firings, and too low
    by about (distinct tokens - 1) / (2 * firings), so compare latents only at similar numbers of firings. NaN for a
    latent that never fires. Heap et al. 2025, "Sparse autoencoders can interpret randomly initialized transformers",
    take it as a proxy of how abstract a latent is.
    """
    items = _ints(tokens, "tokens")
    vocabulary, token = np.unique(items, return_inverse=True)
    latent, _, n = count(found.latent, token[found.position], max(1, len(vocabulary)))
    firing = np.bincount(found.latent, minlength=n_latents)
    share = n / firing[latent]
    entropy = np.bincount(latent, -share * np.log(share), minlength=n_latents)
    return np.where(firing > 0, entropy + 0.0, np.nan), firing


def _ints(values: ArrayLike, name: str) -> Ints:
    """As a list of int64. Other kinds of numbers are refused, lest they be cut to whole ones, unless there are none."""
    array = np.asarray(values)
    if array.ndim != 1 or (len(array) and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be a list of whole numbers, not {array.dtype} {list(array.shape)}")
    return array.astype(np.int64)
