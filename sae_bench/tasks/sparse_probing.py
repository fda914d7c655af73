"""Sparse probing: how well do k latents together predict a property of a text?

The k latents whose means differ most between the classes, each first divided by its mean activation where it is active,
and a logistic probe on them, with the penalty chosen inside the train part (Gurnee et al. 2023, "Finding neurons in a
haystack"; Kantamneni et al. 2025, "Are sparse autoencoders useful?").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_bench.kernels.logistic import Logistic, l1_logistic_cv, logistic_cv
from sae_bench.kernels.probes import mean_difference, take
from sae_bench.kernels.ranks import auroc, aurocs, positive, top
from sae_bench.kernels.refits import BEST, centre_and_scale, choose_by_difference, refit_l1, refit_l2
from sae_bench.metrics import sparse_probing
from sae_bench.schema import TaskSpec
from sae_bench.tasks.ceiling import Ceiling, named_ceiling, residual_ceiling
from sae_bench.tasks.labelled import LabelledTask, LabelledView, ResidualView, Rows, labelled_rows


class SparseProbing(LabelledTask):
    """Example table: placement and correctness of the probe on k latents, for each k."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = sparse_probing.Parameters.of(spec.id, spec.parameters)
        self.folds, self.strengths, self.ceiling_strengths = p.folds, p.strengths, p.ceiling_strengths
        self.fit, self.refit = (logistic_cv, refit_l2) if p.penalty == "l2" else (l1_logistic_cv, refit_l1)
        self.n_refits, self.reads_tokens = p.refits, self.pooling != "last"

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
        probes: dict[int, Logistic] = {}
        for k in sparse_probing.KS:
            probes[k] = probe = self.fit(fitted[:, :k], truth, self.strengths, folds=self.folds, seed=view.seed)
            rows |= _rows(probe.scores(tested[:, :k]), labels, k)
            numbers[f"strength_k{k}"] = probe.strength
        for i in range(max(sparse_probing.KS)):
            numbers[f"latent_{i + 1:02d}"] = float(chosen[i]) if i < len(chosen) else -1.0
        view.memo[self.spec.id] = train.latents[top(difference, BEST).sort().values], chosen, probes
        return rows, numbers

    def refits(self, view: LabelledView) -> Rows:
        """The same columns by probes whose latents are chosen among the best, under other weights.

        The penalties are those that cross-validation found for the fit.
        """
        latents, first, probes = view.memo[self.spec.id]
        truth, labels, weights = view.labels("train"), view.labels("test"), view.train_weights(self.n_refits)
        train, test = (take(view.columns(part, self.pooling), latents) for part in ("train", "test"))
        order = choose_by_difference(train, truth, weights, max(sparse_probing.KS))
        mean, scale = centre_and_scale(train)
        train, test = (train - mean) / scale, (test - mean) / scale
        place = torch.searchsorted(latents, first)
        sums: Rows = {}
        for k, probe in probes.items():
            chosen, own = order[:, :k], place[:k]
            near = torch.zeros_like(mean).index_copy(0, own, probe.weight * scale[own])
            bias = probe.bias + float(probe.weight @ mean[own])
            theta = self.refit(train, truth, weights, chosen, probe.strength, (near, bias))
            scores = (test.T[chosen] * theta[:, :-1, None]).sum(1) + theta[:, -1:]
            sums |= _sums(scores, labels, k)
        return sums

    def ceiling(self, view: ResidualView) -> Rows:
        """The best probe on the full residual stream, the same for every k."""
        scores, labels = self._ceiling(view).scores, view.labels("test")
        rows = labelled_rows(labels)
        for k in sparse_probing.KS:
            rows |= _rows(scores, labels, k)
        return rows

    def ceiling_refits(self, view: ResidualView) -> Rows | None:
        """The same columns by refits of that probe."""
        refits, labels = self._ceiling(view).refits, view.labels("test")
        if refits is None:
            return None
        of_one = _sums(refits, labels, 1)
        return {name.replace("_k1", f"_k{k}"): column for k in sparse_probing.KS for name, column in of_one.items()}

    def about_ceiling(self, view: ResidualView) -> dict[str, float]:
        """Which probe is the best."""
        return {"ceiling": float(self._ceiling(view).probe)}

    def _ceiling(self, view: ResidualView) -> Ceiling:
        return residual_ceiling(view, self.pooling, self.ceiling_strengths, self.folds, self.n_refits)

    def set_details(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        """The latents in the order in which they were chosen, and the penalties."""
        latents = [int(v) for name, v in sorted(numbers.items()) if name.startswith("latent_") and v >= 0]
        shown: dict[str, Any] = {name: int(numbers[name]) for name in ("train_examples", "test_examples")}
        shown |= {"latents": latents} | {f"strength_k{k}": numbers[f"strength_k{k}"] for k in sparse_probing.KS}
        return shown | named_ceiling(numbers)


def _rows(scores: Tensor, labels: Tensor, k: int) -> Rows:
    return {f"auroc_k{k}": auroc(scores, labels)[1], f"correct_k{k}": (positive(scores) == labels).double()}


def _sums(scores: Tensor, labels: Tensor, k: int) -> Rows:
    """The sums ``[R]`` of those columns from logits ``[R, n]`` of refits."""
    right = (positive(scores) == labels).double().sum(1)
    return {f"auroc_k{k}": len(labels) * aurocs(scores, labels), f"correct_k{k}": right}
