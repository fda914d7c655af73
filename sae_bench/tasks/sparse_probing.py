"""Sparse probing: how well do k latents together predict a property of a text?

The k latents whose means differ most between the classes, each first divided by its mean activation where it is active,
and a logistic probe on them, with the penalty chosen inside the train part (Gurnee et al. 2023, "Finding neurons in a
haystack"; Kantamneni et al. 2025, "Are sparse autoencoders useful?").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sae_bench.kernels.logistic import l1_logistic_cv, logistic_cv
from sae_bench.kernels.probes import mean_difference, take
from sae_bench.kernels.ranks import auroc, positive, top
from sae_bench.metrics import sparse_probing
from sae_bench.schema import TaskSpec
from sae_bench.tasks.labelled import (
    LabelledTask,
    LabelledView,
    ResidualView,
    Rows,
    labelled_rows,
    residual_scores,
)


class SparseProbing(LabelledTask):
    """Example table: placement and correctness of the probe on k latents, for each k."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = sparse_probing.Parameters.of(spec.id, spec.parameters)
        self.folds, self.strengths, self.ceiling_strengths = p.folds, p.strengths, p.ceiling_strengths
        self.fit = logistic_cv if p.penalty == "l2" else l1_logistic_cv

    def examples(self, view: LabelledView) -> tuple[Rows, dict[str, float]]:
        """The probes on the 1, 2, 5 and 16 latents that differ most on the train part."""
        truth, labels = view.labels("train"), view.labels("test")
        train, test = (view.columns(part, self.pooling) for part in ("train", "test"))
        difference = mean_difference(train, truth)
        order = top(difference, max(sparse_probing.KS))
        chosen = train.latents[order]
        fitted, tested = take(train, chosen), take(test, chosen)
        rows = labelled_rows(labels)
        numbers = {"train_examples": float(len(truth)), "test_examples": float(len(labels))}
        for k in sparse_probing.KS:
            probe = self.fit(fitted[:, :k], truth, self.strengths, folds=self.folds, seed=view.seed)
            rows |= _rows(probe.scores(tested[:, :k]), labels, k)
            numbers[f"strength_k{k}"] = probe.strength
        for i in range(max(sparse_probing.KS)):
            numbers[f"latent_{i + 1:02d}"] = float(chosen[i]) if i < len(chosen) else -1.0
        return rows, numbers

    def ceiling(self, view: ResidualView) -> Rows:
        """A logistic probe on the full residual stream, the same for every k."""
        scores, labels = residual_scores(view, self.pooling, self.ceiling_strengths, self.folds), view.labels("test")
        rows = labelled_rows(labels)
        for k in sparse_probing.KS:
            rows |= _rows(scores, labels, k)
        return rows

    def set_details(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        """The latents in the order in which they were chosen, and the penalties."""
        latents = [int(v) for name, v in sorted(numbers.items()) if name.startswith("latent_") and v >= 0]
        shown: dict[str, Any] = {name: int(numbers[name]) for name in ("train_examples", "test_examples")}
        return shown | {"latents": latents} | {f"strength_k{k}": numbers[f"strength_k{k}"] for k in sparse_probing.KS}


def _rows(scores: Tensor, labels: Tensor, k: int) -> Rows:
    return {f"auroc_k{k}": auroc(scores, labels)[1], f"correct_k{k}": (positive(scores) == labels).double()}
