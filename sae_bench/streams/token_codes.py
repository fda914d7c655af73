"""Where latents fire on the tokens of a group of labelled texts: one coder's positive activations, in a file.

Memory does not grow with the tokens: what is asked for is gathered in chunks. Tokens are numbered through the group,
text after text as they come in it; those outside the mask have numbers and no activations.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.kernels.transfer import Fetch
from sae_bench.saes.protocol import Codes

Ints = NDArray[np.int64]
COUNTS_KEPT = 4
SCANNED = 4  # more than one in so many tokens are looked up by reading all activations, which is faster than gathering
CHUNK = 1 << 22  # activations in memory at once, unless a single token has more


class Firings(NamedTuple):
    """Positive activations: on which of the tokens that were asked for, of which of the latents, and how large."""

    tokens: Ints
    latents: Ints
    values: NDArray[np.float64]


class TokenCodes:
    """The positive activations of one coder on ``n_tokens`` tokens.

    ``waits``: whether the host may wait for the device when a batch is added; where it may not, a batch is read when
    the next one comes.
    """

    def __init__(self, n_latents: int, n_tokens: int, dtype: torch.dtype, *, waits: bool) -> None:
        self.n_latents = n_latents
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - gone with this object
        self._entry = np.dtype([("latent", "<i4"), ("value", "<f8" if dtype == torch.float64 else "<f4")])
        self._start, self._size = np.zeros(n_tokens, dtype=np.int64), np.zeros(n_tokens, dtype=np.int64)
        self._entries = 0
        self._waits = waits
        self._coming: deque[tuple[Fetch, Ints]] = deque()
        self._counted: dict[bytes, Ints] = {}  # what was counted on many tokens, which sets share

    def add(self, codes: Codes, numbers: Ints) -> None:
        """Keep the codes of some tokens; ``numbers`` ``[tokens]`` are theirs, -1 where a token does not count."""
        fetch = Fetch(self._waits)
        for part in (codes.indptr, codes.indices, codes.values):
            fetch.add(_plain(part))
        fetch.start()
        self._coming.append((fetch, numbers))
        if len(self._coming) > 1 or self._waits:
            self._write(*self._coming.popleft())

    def _write(self, fetch: Fetch, numbers: Ints) -> None:
        indptr, latents, values = (fetch.read(i) for i in range(3))
        of_entry = np.repeat(np.arange(len(numbers)), np.diff(indptr))
        kept = (values > 0) & (numbers[of_entry] >= 0)
        counts = np.bincount(of_entry[kept], minlength=len(numbers))
        there = numbers >= 0
        self._start[numbers[there]] = self._entries + (counts.cumsum() - counts)[there]
        self._size[numbers[there]] = counts[there]
        found = np.empty(int(counts.sum()), dtype=self._entry)
        found["latent"], found["value"] = latents[kept], values[kept]
        self._file.write(found.tobytes())
        self._entries += len(found)

    def close(self) -> None:
        """Give the space back."""
        self._coming.clear()
        self._file.close()

    def counts(self, tokens: Ints) -> Ints:
        """On how many of these tokens each latent fires, ``[n_latents]``, which nobody may write into."""
        key = hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
        if key not in self._counted:
            if len(self._counted) >= COUNTS_KEPT:
                self._counted.pop(next(iter(self._counted)))
            self._counted[key] = self._count(tokens)
        return self._counted[key]

    def _count(self, tokens: Ints) -> Ints:
        found = np.zeros(self.n_latents, dtype=np.int64)
        for _, entries in self._gathered(tokens):
            found += np.bincount(entries["latent"], minlength=self.n_latents)
        return found

    def firings(self, tokens: Ints, latents: Ints) -> Firings:
        """Where some latents, each named once, fire on these tokens, both as places in what was asked for."""
        place = np.full(self.n_latents, -1, dtype=np.int32)
        place[latents] = np.arange(len(latents))
        whole = SCANNED * len(tokens) > len(self._start)
        found: list[Firings] = []
        for rows, entries in self._scanned(tokens, place) if whole else self._gathered(tokens):
            column = place[entries["latent"]]
            own = column >= 0
            found.append(Firings(rows[own], column[own].astype(np.int64), entries["value"][own].astype(np.float64)))
        if not found:
            return Firings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        return Firings(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _scanned(self, tokens: Ints, place: NDArray[np.int32]) -> Iterator[tuple[Ints, NDArray[Any]]]:
        """As :meth:`_gathered`, of the latents alone that have a ``place``: all entries as they lie in the file."""
        whole = self._whole()
        if whole is None:
            return
        there = np.flatnonzero(self._size)
        there = there[self._start[there].argsort()]
        asked = np.full(len(self._start), -1, dtype=np.int64)
        asked[tokens] = np.arange(len(tokens))
        for first in range(0, len(whole), CHUNK):
            entries = whole[first : first + CHUNK]
            own = np.flatnonzero(place[entries["latent"]] >= 0)
            rows = asked[there[np.searchsorted(self._start[there], own + first, side="right") - 1]]
            yield rows[rows >= 0], entries[own[rows >= 0]]

    def _whole(self) -> NDArray[Any] | None:
        """All entries as they lie in the file, None if there is none."""
        while self._coming:
            self._write(*self._coming.popleft())
        self._file.flush()
        return np.memmap(self._file, dtype=self._entry, mode="r", shape=(self._entries,)) if self._entries else None

    def _gathered(self, tokens: Ints) -> Iterator[tuple[Ints, NDArray[Any]]]:
        """Chunks of the entries of these tokens, each with the place of its token among them."""
        whole, sizes = self._whole(), self._size[tokens]
        if whole is None or not sizes.sum():
            return
        behind = sizes.cumsum()
        first = 0
        while first < len(tokens):
            before = behind[first] - sizes[first]
            stop = max(first + 1, int(np.searchsorted(behind, before + CHUNK, side="right")))
            own = sizes[first:stop]
            rows = np.repeat(np.arange(first, stop), own)
            within = np.arange(len(rows)) - np.repeat(own.cumsum() - own, own)
            yield rows, whole[self._start[tokens[first:stop]].repeat(own) + within]
            first = stop


def _plain(tensor: Tensor) -> Tensor:
    """In a dtype that NumPy has."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
