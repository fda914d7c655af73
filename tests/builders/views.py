"""A small real view made of arrays, which can be cut into any batches, and the accumulation that a run does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sae_bench.engine.loss import clean_scores, score
from sae_bench.engine.rest import Logits
from sae_bench.kernels.outliers import top_channels
from sae_bench.registry import load, tasks
from sae_bench.saes.protocol import CoderInfo, Codes, indptr_of
from sae_bench.tasks.base import Task
from sae_bench.units import Units, merge
from sae_bench.units.bootstrap import Estimate
from sae_bench.units.folds import fold_of
from sae_bench.units.kinds import drawn
from sae_bench.units.kinds import estimate as estimated


def task(name: str) -> Task:
    """A shipped task, from its definition."""
    spec = tasks()[name]
    made: Task = load(spec.code)(spec)
    return made


@dataclass
class ArrayView:
    """Sequences of `lengths` tokens (0 is allowed); the arrays are flat, one row a token.

    `ids` names the unit of every sequence. `logits` maps "clean", "zero", "mean" and "spliced" to `[T, vocab]`, and
    `tokens` are what is predicted. See `sae_bench.tasks.base.View`.
    """

    x: Tensor
    x_hat: Tensor
    lengths: list[int]
    kept: Tensor = None  # type: ignore[assignment]
    codes: Codes = None  # type: ignore[assignment]
    decoder_norms: Tensor = None  # type: ignore[assignment]
    rms: float = 1.0
    centre: Tensor | float = 0.0
    far: float = math.inf
    top_channels: Tensor = None  # type: ignore[assignment]
    ids: list[str] = field(default_factory=list)
    tokens: Tensor = None  # type: ignore[assignment]
    logits: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert sum(self.lengths) == len(self.x) == len(self.x_hat)
        if self.kept is None:
            self.kept = torch.ones(len(self.x), dtype=torch.bool)
        if self.decoder_norms is None and self.codes is not None:
            self.decoder_norms = torch.ones(self.codes.n_latents, dtype=torch.float64)
        if self.top_channels is None:  # those of all sequences, also in a part of them
            spread = self.x.double().var(0) if len(self.x) > 1 else torch.ones(self.x.shape[1])
            self.top_channels = top_channels(torch.diag(spread))
        self.ids = self.ids or [f"document {i:03d}" for i in range(len(self.lengths))]

    @property
    def info(self) -> CoderInfo:
        n = self.codes.n_latents if self.codes is not None else 0
        return CoderInfo("arrays", n, self.x.shape[1], self.x.shape[1], ("hook",), ("hook",))

    @property
    def target(self) -> Tensor:
        return self.x

    @property
    def sequence(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))

    @property
    def first(self) -> Tensor:
        return torch.cat([torch.arange(n) == 0 for n in self.lengths])

    @property
    def first_tokens(self) -> Tensor:
        return self.first.nonzero().squeeze(1)

    @property
    def predicts(self) -> Tensor:
        return self.kept & torch.cat([torch.arange(n) < n - 1 for n in self.lengths])

    @property
    def folds(self) -> Tensor:
        return torch.tensor([fold_of(name) for name in self.ids])[self.sequence]

    @property
    def sizes(self) -> Tensor:
        return self.codes.values.double().abs() * self.decoder_norms[self.codes.indices]

    @property
    def top(self) -> Tensor:
        """As a run finds them whose calibration has this mean and bound."""
        return self.kept & ((self.x.double() - self.centre).square().sum(1) > self.far)

    def sum(self, values: Tensor, where: Tensor) -> Tensor:
        out = torch.zeros(len(self.lengths), *values.shape[1:], dtype=torch.float64)
        return out.index_add_(0, self.sequence[where], values[where].double())

    def predictions(self) -> Tensor:
        return self.sum(torch.ones(len(self.x)), self.predicts)

    def _score(self, replacement: str) -> tuple[Tensor, Tensor]:
        at = self.predicts.unsqueeze(0)
        targets = self.tokens.roll(-1)[self.predicts]
        clean = clean_scores(Logits.of(self.logits["clean"].unsqueeze(0)), at, targets)
        scores = score(Logits.of(self.logits[replacement].unsqueeze(0)), at, targets, clean)
        none = torch.zeros(len(self.lengths), dtype=torch.float64)
        ce, kl = (none.clone().index_add_(0, self.sequence[self.predicts], s) for s in scores[:2])
        return ce, kl

    def loss(self, replacement: str) -> Tensor:
        return self._score(replacement)[0]

    def kl(self, replacement: str) -> Tensor:
        return self._score(replacement)[1]

    def batch(self, sequences: Sequence[int]) -> ArrayView:
        """The sequences with these positions, in this order."""
        starts = np.cumsum([0, *self.lengths])
        rows = torch.tensor([t for s in sequences for t in range(starts[s], starts[s + 1])], dtype=torch.int64)
        return replace(
            self,
            x=self.x[rows],
            x_hat=self.x_hat[rows],
            lengths=[self.lengths[s] for s in sequences],
            kept=self.kept[rows],
            codes=None if self.codes is None else codes_rows(self.codes, rows),
            ids=[self.ids[s] for s in sequences],
            tokens=None if self.tokens is None else self.tokens[rows],
            logits={name: array[rows] for name, array in self.logits.items()},
        )


def codes_rows(codes: Codes, rows: Tensor) -> Codes:
    """Any rows of codes, in any order."""
    parts = [slice(int(codes.indptr[r]), int(codes.indptr[r + 1])) for r in rows]
    empty = codes.indices[:0], codes.values[:0]
    return Codes(
        indptr_of(codes.counts()[rows]),
        torch.cat([empty[0], *(codes.indices[p] for p in parts)]),
        torch.cat([empty[1], *(codes.values[p] for p in parts)]),
        codes.n_latents,
    )


def measure_all(made: Task, view: ArrayView, splits: Iterable[Sequence[int]] | None = None) -> dict[str, Units]:
    """Tables of `view` measured in the batches `splits` (sequence positions); in one batch by default."""
    splits = [range(len(view.lengths))] if splits is None else splits
    ids: list[str] = []
    rows: dict[str, list[np.ndarray]] = {}
    totals: dict[str, np.ndarray] = {}
    for group in splits:
        batch = view.batch(group)
        columns = made.shared(batch) | made.measure(batch)
        for name, column in columns.items():
            assert column.dtype == torch.float64, f"{name} is not float64"
            assert len(column) == len(group), f"{name} has {len(column)} rows for {len(group)} sequences"
            rows.setdefault(name, []).append(column.numpy())
        for name, array in made.totals(batch).items():
            totals[name] = totals[name] + array.numpy() if name in totals else array.numpy()
        ids += batch.ids
    documents = merge(Units(tuple(ids), {name: np.concatenate(parts) for name, parts in rows.items()}))
    return made.tables(documents, totals)


def figures(made: Task, tables: dict[str, Units], resamples: int = 50) -> dict[str, Estimate]:
    """All metrics of a task, as a report makes them."""
    draws = drawn(made.spec, tables, seed=0, resamples=resamples)
    return {
        name: estimated(draws[spec.table], made.metrics[name], interval=spec.interval)
        for name, spec in made.spec.metrics.items()
    }


def cut(n: int, sizes: Sequence[int]) -> list[list[int]]:
    """`n` sequences in batches of the given sizes, repeated as often as needed."""
    edges = [0]
    while edges[-1] < n:
        edges.append(min(n, edges[-1] + max(1, sizes[(len(edges) - 1) % len(sizes)])))
    return [list(range(a, b)) for a, b in pairwise(edges)]


def assert_same(a: Estimate, b: Estimate, rel: float, scale: float = 1.0) -> None:
    """Figure and interval of `b` are `scale` times those of `a`."""
    for one, other in ((a.value, b.value), (a.low, b.low), (a.high, b.high)):
        assert (one is None) == (other is None), (a, b)
        if one is not None and other is not None:
            assert abs(one * scale - other) <= rel * max(1.0, abs(other)), (a, b)
