"""Probe recovery: is there one latent that predicts a property of a text?

For every labelled set a logistic probe on every latent alone; the latent with the least loss on the train part is the
one that is reported, on the test part. From "Scaling and evaluating sparse autoencoders" (Gao et al. 2024), section
4.2, which leaves open how tokens are pooled and on which part the latent is chosen: see the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_bench.kernels.logistic import probe_losses
from sae_bench.kernels.probes import Probes, fit_probes, fit_probes_dense, take
from sae_bench.kernels.ranks import auroc, lowest, positive
from sae_bench.metrics import probe_recovery
from sae_bench.randomness import generator
from sae_bench.schema import TaskSpec
from sae_bench.tasks.labelled import (
    LabelledTask,
    LabelledView,
    ResidualView,
    Rows,
    labelled_rows,
    residual_scores,
)

TILE = 1024  # latents whose pre-activations are in memory at once


class Found(NamedTuple):
    """The chosen latent (-1: none is active), its probe, and the probe's loss on the train part."""

    latent: int
    weight: float
    bias: float
    loss: float


class ProbeRecovery(LabelledTask):
    """Example table: loss, placement and decision of the chosen latent on each test example."""

    only_of_coders = frozenset({"probe_r_shuffled"})

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = probe_recovery.Parameters.of(spec.id, spec.parameters)
        self.source, self.ridge, self.folds, self.strengths = p.source, p.ridge, p.folds, p.ceiling_strengths

    def examples(self, view: LabelledView) -> tuple[Rows, dict[str, float]]:
        """The chosen latent on every test example."""
        truth, labels = view.labels("train"), view.labels("test")
        mixed = truth[torch.randperm(len(truth), generator=generator(view.seed, f"shuffled labels {view.set_name}"))]
        found, by_chance = self._search(view, [truth, mixed])
        scores = self._scores(view, found)
        rows = self._rows(scores, labels) | {"shuffled_loss": probe_losses(self._scores(view, by_chance), labels)}
        numbers = {
            "latent": float(found.latent),
            "weight": found.weight,
            "bias": found.bias,
            "train_loss": found.loss,
            "density": float(view.density(torch.tensor([found.latent]))[0]) if found.latent >= 0 else 0.0,
            "train_examples": float(len(truth)),
            "test_examples": float(len(labels)),
            "train_base_rate": float(truth.double().mean()),
            "test_base_rate": float(labels.double().mean()),
        }
        return rows, numbers

    def _search(self, view: LabelledView, labels: list[Tensor]) -> list[Found]:
        """The latent with the least loss on the train part, for each labelling; the lowest of near-ties."""
        if not (self.source == "pre_activations" and view.dense):
            columns = view.columns("train", self.pooling)
            return [_best(fit_probes(columns, y, ridge=self.ridge), columns.latents, y) for y in labels]
        tiles: list[list[Probes]] = [[] for _ in labels]
        for start in range(0, view.n_latents, TILE):
            z = view.pre_activations("train", self.pooling, start, min(start + TILE, view.n_latents))
            for own, truth in zip(tiles, labels, strict=True):
                own.append(fit_probes_dense(z, truth, ridge=self.ridge))
        whole = [Probes(*(torch.cat(parts) for parts in zip(*own, strict=True))) for own in tiles]
        return [_best(probes, torch.arange(view.n_latents), y) for probes, y in zip(whole, labels, strict=True)]

    def _scores(self, view: LabelledView, found: Found) -> Tensor:
        """Logits of the test examples."""
        if found.latent < 0:
            return torch.full((len(view.labels("test")),), found.bias, dtype=torch.float64)
        if self.source == "pre_activations" and view.dense:
            z = view.pre_activations("test", self.pooling, found.latent, found.latent + 1).squeeze(1)
        else:
            z = take(view.columns("test", self.pooling), torch.tensor([found.latent])).squeeze(1)
        return found.weight * z + found.bias

    def ceiling(self, view: ResidualView) -> Rows:
        """A logistic probe on the full residual stream: its mean over tokens, or the last."""
        return self._rows(residual_scores(view, self.pooling, self.strengths, self.folds), view.labels("test"))

    def set_details(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        """Whole numbers as such; the sign in words of the probe: +1 where an active latent speaks for the label."""
        whole = ("latent", "train_examples", "test_examples")
        shown: dict[str, Any] = {name: int(v) if name in whole else v for name, v in numbers.items()}
        shown["sign"] = int(np.sign(numbers["weight"]))
        if shown["latent"] < 0:
            shown["latent"] = None
        return shown

    @staticmethod
    def _rows(scores: Tensor, labels: Tensor) -> Rows:
        says_yes = positive(scores)
        return labelled_rows(labels) | {
            "loss": probe_losses(scores, labels),
            "auroc": auroc(scores, labels)[1],
            "true_positive": (says_yes & labels).double(),
            "false_positive": (says_yes & ~labels).double(),
            "false_negative": (~says_yes & labels).double(),
        }


def _best(probes: Probes, latents: Tensor, truth: Tensor) -> Found:
    """The probe with the least loss; without any the base rate alone."""
    if not len(latents):
        rate = truth.double().mean()
        return Found(-1, 0.0, float(torch.logit(rate)), float(-(rate * rate.log() + (1 - rate) * (1 - rate).log())))
    best = lowest(probes.loss)
    return Found(int(latents[best]), *(float(column[best]) for column in probes))
