"""Pooled activations of the texts of a group, and one labelled set as one coder sees it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.data.labelled import LabelledSet, Part
from sae_bench.engine.batch import Batch
from sae_bench.engine.workspace import Entry, guarded
from sae_bench.kernels.pool import Entries, pool, pool_channels, pool_dense, strongest
from sae_bench.kernels.probes import Columns, columns
from sae_bench.saes.protocol import Codes, HasPreActivations
from sae_bench.units.weights import random

CHUNK_TOKENS = 1 << 14  # tokens whose pre-activations are in memory at once
MOST_BYTES = 1 << 30  # of the tokens that a ceiling reads, unless texts are so many that four tokens each are more
FEWEST_TOKENS = 4
COLUMNS_KEPT = 4  # parts of sets whose columns are kept sorted: train and test of sets that share their texts


@dataclass
class Pooled:
    """Pooled codes of one coder over the texts of a group: sparse, on the CPU.

    ``active`` int64 ``[n_latents]`` counts the tokens on which each latent is active, of ``tokens`` tokens.
    """

    n_latents: int
    n_texts: int
    poolings: set[str]
    device: torch.device
    parts: dict[str, list[Entries]] = field(default_factory=dict)
    channels: tuple[str, ...] = ()  # ways in which residual channels are pooled for a ceiling
    dense: dict[str, Tensor] = field(default_factory=dict)
    active: Tensor = None  # type: ignore[assignment]
    tokens: int = 0
    _columns: dict[tuple[str, bytes], Columns] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.active = torch.zeros(self.n_latents, dtype=torch.int64)

    def add_codes(self, codes: Codes, batch: Batch, numbers: Tensor) -> None:
        """Pool one batch; ``numbers`` int64 ``[sequences]`` are those of its texts within the group."""
        size = batch.keep.sum(1)
        codes = codes.select(batch.kept)
        text = torch.arange(len(size), device=size.device).repeat_interleave(size)
        for how in self.poolings:
            chosen, of_token = codes, text
            if how == "last":
                last = torch.zeros_like(text, dtype=torch.bool)
                last[(size.cumsum(0) - 1)[size > 0]] = True
                chosen, of_token = codes.select(last), text[last]
            entries = Entries(of_token[chosen.token_of_entry()], chosen.indices, chosen.values)
            self._keep(how, pool(entries, how, self.n_latents, size), numbers)
        self._count(codes.indices, size)

    def add_channels(self, deviations: Tensor, batch: Batch, numbers: Tensor) -> None:
        """The same for residual channels, which are all active everywhere: ``deviations`` ``[T, d]`` from the mean.

        Beside that ``dense`` holds what a ceiling reads, float32 but for means, ``[n_texts, d]``.
        """
        size = batch.keep.sum(1)
        x = deviations[batch.kept]
        for how in self.channels:
            of_texts = pool_channels(x, size, how).cpu()
            if how not in self.dense:
                self.dense[how] = of_texts.new_zeros(self.n_texts, self.n_latents)
            self.dense[how][numbers.cpu()] = of_texts
        for how in self.poolings:
            dense = pool_dense(x, size, how)
            text, channel = dense.nonzero(as_tuple=True)
            self._keep(how, Entries(text, channel, dense[text, channel]), numbers)
        self._count(x.nonzero()[:, 1], size)

    def _keep(self, how: str, entries: Entries, numbers: Tensor) -> None:
        parts = numbers[entries.texts].int(), entries.latents.int(), entries.values
        self.parts.setdefault(how, []).append(Entries(*(part.cpu() for part in parts)))

    def _count(self, latents: Tensor, size: Tensor) -> None:
        self.active += torch.bincount(latents, minlength=self.n_latents).cpu()
        self.tokens += int(size.sum())

    def columns(self, how: str, texts: NDArray[np.int64]) -> Columns:
        """The rows of ``texts`` (numbers within the group), by latent; made once for sets that share them."""
        key = (how, texts.tobytes())
        if key not in self._columns:
            if len(self._columns) >= COLUMNS_KEPT:
                self._columns.clear()
            found = Entries(*(torch.cat([part[i] for part in self.parts[how]]) for i in range(3)))
            row = torch.full((self.n_texts,), -1)
            row[torch.from_numpy(texts)] = torch.arange(len(texts))
            at = row[found.texts.long()]
            there = at >= 0
            entries = at[there], found.latents[there].long(), found.values[there].double()
            self._columns[key] = columns(*entries, len(texts))
        return self._columns[key]


class TrainWeights:
    """Weights of the texts of a group in refits, keyed by seed and text; those last asked for are kept."""

    def __init__(self, ids: tuple[str, ...], seed: int) -> None:
        self._ids, self._seed = ids, seed
        self._made: dict[int, NDArray[np.float64]] = {}

    def of(self, count: int) -> NDArray[np.float64]:
        """Exponential weights with mean 1, ``[count, texts]``."""
        if count not in self._made:
            # text by text, so that the last bit of a logarithm does not depend on what texts there are beside it
            drawn = (random(self._seed, f"train part: {text}", 4 * count) for text in self._ids)
            made = [-np.log((np.frombuffer(one, "<u4") + 0.5) / 2**32) for one in drawn]
            self._made = {count: np.stack(made, axis=1)}
        return self._made[count]


class TokenStore:
    """Activations of the tokens of a group, in a temporary file: memory does not grow with the tokens.

    Those of all tokens if it is to be ``whole``; else as many of each text, evenly spaced, as ``MOST_BYTES`` allow, but
    four at least. ``complete``: no text has had more.
    """

    def __init__(self, width: int, n_texts: int, dtype: torch.dtype, *, whole: bool = True) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - gone with this object
        self._width, self._dtype = width, np.dtype("f8" if dtype == torch.float64 else "f4")
        self._start, self._size = np.zeros(n_texts, dtype=np.int64), np.zeros(n_texts, dtype=np.int64)
        self._tokens = 0
        self.whole = whole
        self.complete = True
        each = MOST_BYTES // max(1, n_texts * width * self._dtype.itemsize)
        self._most = None if whole else max(FEWEST_TOKENS, each)

    def add(self, x: Tensor, batch: Batch, numbers: Tensor) -> None:
        """Append the kept tokens of a batch; ``x`` ``[T, width]``."""
        size = batch.keep.sum(1).cpu().numpy()
        rows = numbers.cpu().numpy()
        kept = x[batch.kept]
        if self._most is not None and size.max(initial=0) > self._most:
            some = [_spaced(int(n), self._most) + begin for n, begin in zip(size, np.cumsum(size) - size, strict=True)]
            kept = kept[torch.from_numpy(np.concatenate(some)).to(kept.device)]
            size = np.minimum(size, self._most)
            self.complete = False
        self._start[rows] = self._tokens + np.cumsum(size) - size
        self._size[rows] = size
        wide = kept.to(torch.float64 if self._dtype.itemsize == 8 else torch.float32)
        self._file.write(wide.cpu().numpy().tobytes())
        self._tokens += int(size.sum())

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def chunks(self, texts: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """Activations ``[tokens, width]`` and text sizes of some texts after the other, in their order."""
        self._file.flush()
        whole = np.memmap(self._file, dtype=self._dtype, mode="r", shape=(self._tokens, self._width))
        step = max(1, CHUNK_TOKENS // max(int(self._size.max(initial=1)), 1))
        for first in range(0, len(texts), step):
            some = texts[first : first + step]
            rows = [whole[self._start[t] : self._start[t] + self._size[t]] for t in some]
            yield torch.from_numpy(np.concatenate(rows)), torch.from_numpy(self._size[some])


def _spaced(n: int, most: int) -> NDArray[np.int64]:
    """``most`` of ``n`` places, evenly spaced, or all of them."""
    return np.arange(n) if n <= most else np.arange(most) * n // most


@dataclass
class SetView:
    """One labelled set as one coder sees it; see :mod:`sae_bench.tasks.labelled`.

    ``numbers`` maps a position in the suite to the text's number within the group; ``scores`` are those of test texts,
    by pooling and latent (:mod:`sae_bench.streams.written`).
    """

    one: LabelledSet
    numbers: NDArray[np.int64]
    pooled: Pooled
    seed: int
    entry: Entry
    weights: TrainWeights
    store: TokenStore | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
    scores: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    firing: Any = None  # a TokenSetView where a task reads single tokens

    @property
    def n_latents(self) -> int:
        """Width of the dictionary."""
        return self.pooled.n_latents

    @property
    def dense(self) -> bool:
        """Whether :meth:`pre_activations` are there."""
        return self.store is not None and self.store.whole and isinstance(self.entry.encoder, HasPreActivations)

    def pre_activations(self, part: str, pooling: str, start: int, stop: int) -> Tensor:
        """Pooled pre-activations of the latents ``start:stop``, float64 ``[examples, stop - start]``."""
        assert self.store is not None
        coder = self.entry.encoder
        assert isinstance(coder, HasPreActivations)
        found = []
        for x, size in self.store.chunks(self.numbers[self._part(part).texts]):
            device = self.pooled.device
            pre = guarded(self.entry, partial(coder.pre_activations, x.to(device), start, stop))
            found.append(pool_dense(pre, size.to(device), pooling).cpu())
        return torch.cat(found)

    @property
    def set_name(self) -> str:
        """Name of the set."""
        return self.one.name

    def labels(self, part: str) -> Tensor:
        """Bool ``[examples]``."""
        return torch.from_numpy(self._part(part).labels)

    def columns(self, part: str, pooling: str) -> Columns:
        """Pooled activations of the part's texts."""
        return self.pooled.columns(pooling, self.numbers[self._part(part).texts])

    def written(self, latents: Tensor, pooling: str) -> Tensor:
        """How far the test texts lie along the directions of some latents, pooled, ``[examples, len(latents)]``."""
        found = [self.scores[pooling, latent] for latent in latents.tolist()]
        return torch.stack(found, 1) if found else torch.zeros(len(self.one.test.texts), 0, dtype=torch.float64)

    def density(self, latents: Tensor) -> Tensor:
        """Share of the group's tokens on which each latent is active."""
        return self.pooled.active[latents].double() / max(self.pooled.tokens, 1)

    def train_weights(self, count: int) -> Tensor:
        """Weights ``[count, examples]`` of the train part in ``count`` refits."""
        return torch.from_numpy(self.weights.of(count)[:, self.numbers[self.one.train.texts]])

    def features(self, part: str, pooling: str) -> Tensor:
        """All channels, dense ``[examples, d_in]``: for the residual stream only."""
        texts = torch.from_numpy(self.numbers[self._part(part).texts])
        return self.pooled.dense[pooling][texts].double()

    def tokens(self, part: str, most: int) -> tuple[Tensor, Tensor] | None:
        """At most so many tokens of each text, evenly spaced, and how many of each."""
        if self.store is None:
            return None
        found, sizes = [], []
        for x, size in self.store.chunks(self.numbers[self._part(part).texts]):
            begins = (size.cumsum(0) - size).tolist()
            some = [_spaced(int(n), most) + begin for n, begin in zip(size.tolist(), begins, strict=True)]
            found.append(x[torch.from_numpy(np.concatenate(some))].double())
            sizes.append(size.clamp(max=most))
        return torch.cat(found), torch.cat(sizes)

    def strongest(self, part: str, directions: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The largest score of any token that is kept, and those tokens; a text without tokens has zeros."""
        assert self.store is not None
        found = [strongest(x, size, directions) for x, size in self.store.chunks(self.numbers[self._part(part).texts])]
        scores, tokens = zip(*found, strict=True)
        return torch.cat(scores), [torch.cat(own) for own in zip(*tokens, strict=True)]

    def _part(self, part: str) -> Part:
        return self.one.train if part == "train" else self.one.test
