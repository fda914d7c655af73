"""What a task on labelled texts is: rows per test example and per data set, and metrics as functions of their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sae_bench.kernels.probes import Columns
from sae_bench.schema import TaskSpec
from sae_bench.tasks.base import Task
from sae_bench.units import Units


class LabelledView(Protocol):
    """One labelled set as one coder sees it. Texts are pooled: one row an example, in the order of its labels."""

    seed: int

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


class ResidualView(Protocol):
    """One labelled set before any SAE."""

    seed: int
    memo: dict[Any, Tensor]

    def labels(self, part: str) -> Tensor:
        """As for :class:`LabelledView`."""
        ...

    def features(self, part: str, pooling: str) -> Tensor:
        """The pooled residual stream ``[examples, d_in]``, float64, as deviations from the calibration mean."""
        ...


Rows = dict[str, Tensor]


class LabelledTask(Task):
    """Base class of tasks on labelled texts.

    :meth:`examples` gives one row a test example (float64 ``[test examples]``), and numbers about the set. The engine
    runs it for every coder, and for the residual channels as if they were a coder, whose columns come back under
    ``floor_``; :meth:`ceiling` gives the columns of the full residual stream (``ceiling_``).
    """

    stream = "labelled"
    sees_decoder = False
    source = "codes"  # or "pre_activations", if the task has that parameter and it is set

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.pooling: str = spec.parameters.get("pooling", "max")

    def examples(self, view: LabelledView) -> tuple[Rows, dict[str, float]]:
        """Rows of the test examples, and numbers about the set (which latent was found, ...)."""
        raise NotImplementedError

    def ceiling(self, view: ResidualView) -> Rows:
        """The columns that a probe on the full residual stream gives."""
        raise NotImplementedError

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


def residual_scores(view: ResidualView, pooling: str, strengths: Sequence[float], folds: int) -> Tensor:
    """Scores of the test examples by an L2 logistic probe on the full residual stream, fitted on the train part.

    Features are the residual stream's mean over tokens (or its last token, where the task pools so), standardised; the
    penalty (``strength / 2`` times the squared weights, beside the mean cross-entropy) is chosen by cross-validation.
    The features are many, so this is scikit-learn's L-BFGS rather than Newton's method.
    """
    pooling = "last" if pooling == "last" else "mean"
    key = (pooling, *strengths, folds)
    if key not in view.memo:  # two tasks may ask for the same one
        view.memo[key] = _residual_scores(view, pooling, strengths, folds)
    return view.memo[key]


def _residual_scores(view: ResidualView, pooling: str, strengths: Sequence[float], folds: int) -> Tensor:
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    train, test = view.features("train", pooling), view.features("test", pooling)
    labels = view.labels("train")
    mean, scale = train.mean(0), train.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    folds = max(2, min(folds, int(labels.sum()), int((~labels).sum())))
    probe = LogisticRegressionCV(
        Cs=[1 / (strength * len(labels)) for strength in sorted(strengths, reverse=True)],
        cv=StratifiedKFold(folds, shuffle=True, random_state=view.seed % 2**32),
        scoring="neg_log_loss",
        max_iter=1000,
        tol=1e-3,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    probe.fit(((train - mean) / scale).numpy(), labels.numpy())
    return torch.from_numpy(probe.decision_function(((test - mean) / scale).numpy()))
