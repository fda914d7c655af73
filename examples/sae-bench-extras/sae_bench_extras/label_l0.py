"""How many latents are active in texts with a label and without: a probe must beat what that number alone tells."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.kernels.ranks import auroc
from sae_bench.tasks.labelled import LabelledTask, LabelledView, ResidualView, Rows, labelled_rows


class LabelL0(LabelledTask):
    """Example table: active latents, the same of positive texts alone, and the pseudo-values of the AUROC."""

    def examples(self, view: LabelledView) -> tuple[Rows, dict[str, float]]:
        """Rows of the test examples of one set, and how many there are."""
        labels = view.labels("test")
        active = torch.bincount(view.columns("test", self.pooling).rows, minlength=len(labels)).double()
        return _rows(active, active, labels), {"test_examples": float(len(labels))}

    def ceiling(self, view: ResidualView) -> Rows:
        """All channels of the residual stream are active, so that its length has to tell the classes apart."""
        features, labels = view.features("test", "last" if self.pooling == "last" else "mean"), view.labels("test")
        everywhere = torch.full((len(labels),), float(features.shape[1]), dtype=torch.float64)
        return _rows(everywhere, features.norm(dim=1), labels)


def _rows(active: Tensor, scores: Tensor, labels: Tensor) -> Rows:
    own = {"active": active, "active_positive": active * labels, "auroc": auroc(scores, labels)[1]}
    return labelled_rows(labels) | own
