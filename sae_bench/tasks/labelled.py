"""What a task on labelled texts is: rows per test example and per data set, and metrics as functions of their sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from sae_bench.kernels.probes import Columns
from sae_bench.schema import TaskSpec
from sae_bench.tasks.base import Task
from sae_bench.units import Units


class LabelledView(Protocol):
    """One labelled set as one coder sees it. Texts are pooled: one row an example, in the order of its labels.

    ``memo`` is what a task keeps from one method for the next, and for other decoders of the same codes.
    """

    seed: int
    memo: dict[Any, Any]
    firing: Any  # a TokenView of sae_bench.tasks.firing, for tasks that read single tokens (``on_tokens``)

    @property
    def set_name(self) -> str:
        """Name of the set."""
        ...

    def labels(self, part: str) -> Tensor:
        """Bool ``[examples]`` of "train" or "test"; both classes occur in both."""
        ...

    def columns(self, part: str, pooling: str) -> Columns:
        """Pooled latent activations ``[examples, n_latents]``, sparse, float64."""
        ...

    @property
    def n_latents(self) -> int:
        """Width of the dictionary."""
        ...

    @property
    def dense(self) -> bool:
        """Whether the task asked for pre-activations and the coder offers them."""
        ...

    def pre_activations(self, part: str, pooling: str, start: int, stop: int) -> Tensor:
        """Pooled pre-activations of the latents ``start:stop``, float64 ``[examples, stop - start]``."""
        ...

    def density(self, latents: Tensor) -> Tensor:
        """Share of the tokens of all labelled texts of the set's group on which each latent is active, float64."""
        ...

    def written(self, latents: Tensor, pooling: str) -> Tensor:
        """How far the test texts lie along the directions in which some latents write, ``[examples, len(latents)]``.

        Float64: (x - mean)·d of each token, x the activation where the coder writes and ``mean`` that of calibration,
        pooled as codes are; "max" is the largest, or that of largest magnitude if codes may be negative. Only of
        latents that :meth:`LabelledTask.directions` has named.
        """
        ...

    def train_weights(self, count: int) -> Tensor:
        """Weights of the train examples in ``count`` refits, ``[count, examples]``, float64.

        Exponential, with mean 1, keyed by the seed and the text: the same for every SAE, and in every set.
        """
        ...


class ResidualView(Protocol):
    """One labelled set before any SAE."""

    seed: int
    memo: dict[Any, Any]

    def labels(self, part: str) -> Tensor:
        """As for :class:`LabelledView`."""
        ...

    def train_weights(self, count: int) -> Tensor:
        """As for :class:`LabelledView`."""
        ...

    def features(self, part: str, pooling: str) -> Tensor:
        """The pooled residual stream ``[examples, d_in]``, float64, as deviations from the calibration mean.

        ``pooling`` is "mean", "high" or "low" (the largest and the smallest value of each channel) or "last".
        """
        ...

    def tokens(self, part: str, most: int) -> tuple[Tensor, Tensor] | None:
        """At most so many tokens of each text, evenly spaced, float64 ``[tokens, d_in]``, and how many of each text.

        None where tokens are not kept.
        """
        ...

    def strongest(self, part: str, directions: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The largest score ``[examples, m]`` of any token on ``directions`` ``[d_in, m]``, and those tokens.

        The latter are ``[examples, d_in]`` for each direction, float64. Where :meth:`tokens` are there.
        """
        ...


Rows = dict[str, Tensor]


class LabelledTask(Task):
    """Base class of tasks on labelled texts.

    :meth:`examples` gives one row a test example (float64 ``[test examples]``), and numbers about the set. The engine
    runs it for every coder, and for the residual channels as if they were a coder, whose columns come back under
    ``floor_``; :meth:`ceiling` gives the columns of the full residual stream (``ceiling_``). A task that fits something
    to the train part says with :meth:`refits` how its columns move with the examples there; without, an interval
    knows of the test part alone.
    """

    stream = "labelled"
    sees_decoder = False
    source = "codes"  # or "pre_activations", if the task has that parameter and it is set
    n_refits = 1
    references = True  # whether the residual stream is measured too: best channels, and :meth:`ceiling`
    on_tokens = False  # whether it reads single tokens, of the sets alone that say which of them have the label
    reads_tokens = False  # whether the ceiling asks for single tokens of the residual stream

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.pooling: str = spec.parameters.get("pooling", "max")

    def directions(self, view: LabelledView) -> Tensor:
        """The latents, int64, whose directions it asks for by :meth:`LabelledView.written`; none by default.

        Called before :meth:`examples`, with the same view, of a task with ``sees_decoder``.
        """
        return torch.zeros(0, dtype=torch.int64)

    def examples(self, view: LabelledView) -> tuple[Rows, dict[str, float]]:
        """Rows of the test examples, and numbers about the set (which latent was found, ...)."""
        raise NotImplementedError

    def refits(self, view: LabelledView) -> Rows | None:
        """Sums over the test examples ``[n_refits]`` of columns of :meth:`examples`, by fits under other weights.

        Called after it, with the same view. Columns that are left out do not depend on a fit. None: there is no fit.
        """
        return None

    def ceiling(self, view: ResidualView) -> Rows:
        """The columns that a probe on the full residual stream gives."""
        raise NotImplementedError

    def ceiling_refits(self, view: ResidualView) -> Rows | None:
        """As :meth:`refits` for :meth:`ceiling`. None: its interval knows of the test part alone."""
        return None

    def about_ceiling(self, view: ResidualView) -> dict[str, float]:
        """Numbers about the ceiling of the set, which stand beside those of every coder."""
        return {}

    def set_details(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        """What a result shows of one set beside its metrics, from the numbers of :meth:`examples`."""
        return dict(numbers)

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """One entry a set."""
        table = tables["dataset"]
        sets = {}
        for row, unit in enumerate(table.ids):
            numbers = {name: float(column[row]) for name, column in table.columns.items()}
            sets[unit.partition("@")[0]] = self.set_details(numbers)
        return {"sets": sets}


def labelled_rows(labels: Tensor) -> Rows:
    """The columns that every row has: that it is one example, and whether its label is positive."""
    return {"examples": torch.ones(len(labels), dtype=torch.float64), "positive": labels.double()}
