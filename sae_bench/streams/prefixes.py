"""One computation for all texts that begin alike.

A causal model carries the same behind equal tokens, but batches of another shape round it otherwise, and so do
products with the weights of an SAE. What ranks texts would then order equal ones by chance, and a latent that nearly
fires would fire in some of them. So of every stretch of tokens with which several texts begin, the activations, and the
codes of every coder, are those of the first text that was measured. Only what is shared is kept: a temporary file holds
the activations, memory the codes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.saes.protocol import Codes, indptr_of

Ints = NDArray[np.int64]


def shared_prefixes(texts: Sequence[NDArray[np.integer]]) -> tuple[list[Ints], int]:
    """For each text the numbers of those of its prefixes that another text has too, shortest first; and how many.

    The list of a text is as long as the longest prefix that it shares. Prefixes are equal where numbers are.
    """
    found: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(texts)
    if not texts:
        return found, 0
    words = [np.asarray(text).astype(">i4").tobytes() for text in texts]  # in this form bytes are in order of tokens
    order = sorted(range(len(texts)), key=words.__getitem__)
    common = [_common(texts[a], texts[b]) for a, b in pairwise(order)]
    n, before = 0, found[0]
    for text, as_before, as_behind in zip(order, [0, *common], [*common, 0], strict=True):
        more = max(as_before, as_behind) - as_before
        before = found[text] = np.concatenate([before[:as_before], np.arange(n, n + more)])
        n += more
    return found, n


def _common(a: NDArray[np.integer], b: NDArray[np.integer]) -> int:
    """With how many equal tokens two texts begin."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


class Prefixes:
    """The prefixes that some texts share, with what was first computed behind each; a context that frees its file."""

    def __init__(self, texts: Sequence[NDArray[np.integer]]) -> None:
        self._texts = [len(text) for text in texts]
        self._shared, self._n = shared_prefixes(texts)
        self._activations: dict[str, SharedActivations] = {}
        self._codes: dict[str, SharedCodes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for kept in self._activations.values():
            kept.close()

    def of(self, texts: Sequence[int], device: torch.device) -> Tensor:
        """The number of the prefix that ends at each token of some texts, one after the other, int64 ``[T]``.

        -1 where no other text begins so.
        """
        found = [np.full(self._texts[i], -1, dtype=np.int64) for i in texts]
        for numbers, i in zip(found, texts, strict=True):
            numbers[: len(self._shared[i])] = self._shared[i]
        return torch.from_numpy(np.concatenate(found)).to(device)

    def activations(self, hook: str, x: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SharedActivations.first`."""
        if hook not in self._activations:
            self._activations[hook] = SharedActivations(self._n, x.shape[1], x.dtype)
        return self._activations[hook].first(x, prefix)

    def codes(self, coder: str, codes: Codes, prefix: Tensor) -> Codes:
        """See :meth:`SharedCodes.first`."""
        return self._codes.setdefault(coder, SharedCodes(self._n)).first(codes, prefix)


class SharedActivations:
    """Activations of ``n`` shared prefixes, ``width`` numbers each, in a temporary file until :meth:`close`.

    Where those of an equal prefix differ by more than the rounding of ``dtype`` (a mixture of experts that chose
    another expert), nothing is shared.
    """

    def __init__(self, n: int, width: int, dtype: torch.dtype) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - gone with this object
        self._kept = np.memmap(
            self._file, dtype="f8" if dtype == torch.float64 else "f4", mode="w+", shape=(max(n, 1), width)
        )
        self._seen = np.zeros(n, dtype=bool)
        self._near = torch.finfo(dtype).eps ** 0.5

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def first(self, x: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``[T, width]`` with the rows that came first, and ``prefix`` with -1 where a row is its own.

        ``prefix`` int64 ``[T]`` is the number of the prefix that ends at each token, -1 where no other text has it.
        """
        shared = (prefix >= 0).nonzero().squeeze(1)
        if not len(shared):
            return x, prefix
        own = x[shared].cpu().to(torch.float64 if self._kept.itemsize == 8 else torch.float32)
        at = prefix[shared].cpu().numpy()
        new = _new(at, self._seen)
        self._kept[at[new]], self._seen[at[new]] = own[torch.from_numpy(new)].numpy(), True
        kept = torch.from_numpy(self._kept[at])
        equal = ((own - kept).norm(dim=1) <= self._near * kept.norm(dim=1)).to(x.device)
        out, left = x.clone(), prefix.clone()
        out[shared[equal]] = kept.to(x)[equal]
        left[shared[~equal]] = -1
        return out, left


class SharedCodes:
    """Codes of one coder at ``n`` shared prefixes."""

    def __init__(self, n: int) -> None:
        self._row = np.full(n, -1, dtype=np.int64)
        self._kept: Codes | None = None

    def first(self, codes: Codes, prefix: Tensor) -> Codes:
        """``codes`` of T tokens with the rows that came first; ``prefix`` is what is left by the activations."""
        shared = (prefix >= 0).nonzero().squeeze(1)
        if not len(shared):
            return codes
        at = prefix[shared].cpu().numpy()
        new = _new(at, self._row >= 0)
        if len(new):
            fresh = rows_of(codes, shared[torch.from_numpy(new).to(shared.device)])
            n_kept = 0 if self._kept is None else self._kept.n_tokens
            self._row[at[new]] = np.arange(n_kept, n_kept + len(new))
            self._kept = fresh if self._kept is None else joined(self._kept, fresh)
        assert self._kept is not None, "a prefix has a row from its first token on"
        rows = torch.arange(codes.n_tokens, device=shared.device)
        rows[shared] = codes.n_tokens + torch.from_numpy(self._row[at]).to(rows)
        return rows_of(joined(codes, self._kept), rows)


def _new(prefix: Ints, seen: NDArray[np.bool_]) -> Ints:
    """Where in ``prefix`` those that were not ``seen`` come first."""
    numbers, place = np.unique(prefix, return_index=True)
    return place[~seen[numbers]]


def joined(a: Codes, b: Codes) -> Codes:
    """The tokens of ``a``, then those of ``b``."""
    indptr = torch.cat([a.indptr, b.indptr[1:] + a.indptr[-1]])
    return Codes(indptr, torch.cat([a.indices, b.indices]), torch.cat([a.values, b.values]), a.n_latents)


def rows_of(codes: Codes, rows: Tensor) -> Codes:
    """The tokens ``rows``, int64, in this order; one may come several times."""
    counts = codes.counts()[rows]
    indptr = indptr_of(counts)
    entries = torch.arange(int(indptr[-1]), device=rows.device) + (codes.indptr[rows] - indptr[:-1]).repeat_interleave(
        counts
    )
    return Codes(indptr, codes.indices[entries], codes.values[entries], codes.n_latents)
