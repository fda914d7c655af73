"""Bootstrap weights: small integers, of which a slab at a time is turned into floats for a matrix product.

Each unit gets one Poisson(1) count a replicate, from a generator keyed by (seed, unit id). A count fits in a byte, so
2,000 replicates of 4,096 units take 8 MiB. A product in slabs of replicates sums the same numbers in the same order as
one product, to the bit where the kernels of the BLAS do; slabs have fixed sizes, so a figure does not depend on what
else is computed.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.uint8]

SLAB = 8 << 20  # bytes of weights that are floats at a time
STEP = 64  # replicates by which slabs grow: a multiple of what kernels of a BLAS take at once
KEPT = 64 << 20  # bytes of weights that are kept
LAST = 2  # so many are kept however large they are: a task has a table of documents and one of latents
_BLOCK = 64  # units whose counts are turned round at once


def resample_weights(ids: tuple[str, ...], seed: int, resamples: int) -> Counts:
    """Bootstrap weights ``[resamples, rows]``, not to be written to; those last asked for are kept."""
    return _KEPT.get((ids, seed, resamples))


def weighted(weights: Counts, column: Array) -> Array:
    """Sums ``[resamples, ...]`` of the rows of a column ``[rows, ...]`` under weights, a slab of these at a time."""
    step = slab(weights.shape[1])
    if len(weights) <= step:
        return weights.astype(np.float64) @ column
    sums = np.empty((len(weights), *column.shape[1:]))
    floats = np.empty((step, weights.shape[1]))
    for start in range(0, len(weights), step):
        part = weights[start : start + step]
        np.copyto(floats[: len(part)], part)
        np.matmul(floats[: len(part)], column, out=sums[start : start + len(part)])
    return sums


def slab(rows: int) -> int:
    """How many replicates of so many rows are floats at a time."""
    return max(STEP, SLAB // (8 * max(1, rows)) // STEP * STEP)


class _Kept:
    """The weights that were asked for last, as far as ``most`` bytes hold them; the last two in any case."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._found: OrderedDict[tuple[tuple[str, ...], int, int], Counts] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[tuple[str, ...], int, int]) -> Counts:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = _counts(*key)
        with self._lock:
            self._found[key] = made
            size = sum(one.nbytes for one in self._found.values())
            while size > self.most and len(self._found) > LAST:
                size -= self._found.popitem(last=False)[1].nbytes
        return made

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._found.clear()


_KEPT = _Kept(KEPT)


def _counts(ids: tuple[str, ...], seed: int, resamples: int) -> Counts:
    counts = np.empty((resamples, len(ids)), dtype=np.uint8)
    for start in range(0, len(ids), _BLOCK):
        block = [
            _POISSON[np.frombuffer(random(seed, unit, 2 * resamples), "<u2")] for unit in ids[start : start + _BLOCK]
        ]
        counts[:, start : start + len(block)] = np.stack(block, axis=1)
    counts.flags.writeable = False
    return counts


def random(seed: int, unit: str, n_bytes: int) -> bytes:
    """Random bytes that depend on nothing but seed and unit, on any machine and with any version of any library."""
    return hashlib.shake_128(f"{seed}|bootstrap|{unit}".encode()).digest(n_bytes)


# Poisson(1) by inversion: the count for each of the 2^16 values of a uniform number
_POISSON = np.searchsorted(
    np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)]), (np.arange(1 << 16) + 0.5) / (1 << 16)
).astype(np.uint8)
