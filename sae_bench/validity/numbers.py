"""Random numbers, uniform ones and made of those, the same on every machine and with every version of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]


class Numbers:
    """A stream of numbers, by a seed and what they are for; numpy keeps the bits of its uniform doubles alone."""

    def __init__(self, *key: int | str) -> None:
        entropy = [int.from_bytes(str(one).encode(), "little") for one in key]
        self._bits = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def uniform(self, *shape: int) -> Array:
        """In [0, 1)."""
        return self._bits.random(shape)

    def normal(self, *shape: int) -> Array:
        """Standard normal."""
        return np.asarray(ndtri(np.maximum(self._bits.random(shape), 2.0**-54)), dtype=np.float64)

    def order(self, n: int) -> NDArray[np.int64]:
        """The numbers below ``n`` in random order."""
        return np.argsort(self._bits.random(n), kind="stable")

    def directions(self, n: int, width: int) -> Array:
        """``n`` random unit vectors ``[n, width]``."""
        found = self.normal(n, width)
        unit: Array = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    def noisy(self, directions: Array, cosine: float) -> Array:
        """Unit vectors at this cosine to ``directions`` ``[n, width]``, which are unit vectors."""
        away = self.normal(*directions.shape)
        away -= (away * directions).sum(1, keepdims=True) * directions
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        found: Array = cosine * directions + np.sqrt(1 - cosine**2) * away
        return found

    def turned(self, n: int) -> NDArray[np.int64]:
        """A permutation of the numbers below ``n`` that leaves nothing in its place."""
        order = self.order(n)
        found = np.empty(n, dtype=np.int64)
        found[order] = np.roll(order, 1)
        return found
