"""Probe recovery: is there one latent that predicts a property of a text?

For every labelled set a logistic probe on every latent alone; the latent with the least loss on the train part is the
one that is reported, on the test part. From "Scaling and evaluating sparse autoencoders" (Gao et al. 2024), section
4.2, which leaves open how tokens are pooled and on which part the latent is chosen: see the card. Of the same latent:
does what it writes tell the property too?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_bench.kernels.logistic import probe_losses
from sae_bench.kernels.probes import Probes, dense, fit_probes, fit_probes_dense, take
from sae_bench.kernels.ranks import auroc, aurocs, lowest, positive, top
from sae_bench.kernels.refits import BEST, Refits, refit_probes
from sae_bench.metrics import probe_recovery
from sae_bench.metrics.labelled import FULL_RESIDUAL
from sae_bench.randomness import generator
from sae_bench.schema import TaskSpec
from sae_bench.tasks.ceiling import Ceiling, named_ceiling, residual_ceiling
from sae_bench.tasks.labelled import LabelledTask, LabelledView, ResidualView, Rows, labelled_rows

TILE = 1024  # latents whose pre-activations are in memory at once
WRITTEN = ("write", "shuffled_write")  # columns of what is written, of the labels and of shuffled ones


class Found(NamedTuple):
    """The chosen latent (-1: none is active), its probe, and the probe's loss on the train part."""

    latent: int
    weight: float
    bias: float
    loss: float


class Best(NamedTuple):
    """The latents ``[k]`` of least loss, in ascending order, their train part ``[n, k]``, and their probes."""

    latents: Tensor
    z: Tensor
    probes: Probes

    @classmethod
    def of(cls, latents: Tensor, z: Tensor, probes: Probes) -> Best:
        """The best of these."""
        best = top(-probes.loss, BEST).sort().values
        return cls(latents[best], z[:, best], Probes(*(column[best] for column in probes)))

    def beside(self, other: Best) -> Best:
        """The best of both; the latents of ``other`` are the higher ones."""
        probes = Probes(*(torch.cat(pair) for pair in zip(self.probes, other.probes, strict=True)))
        return Best.of(torch.cat([self.latents, other.latents]), torch.cat([self.z, other.z], 1), probes)

    def found(self, truth: Tensor) -> Found:
        """The probe with the least loss, the lowest latent of near-ties; without any the base rate alone."""
        if not len(self.latents):
            rate = truth.double().mean()
            return Found(-1, 0.0, float(torch.logit(rate)), float(-(rate * rate.log() + (1 - rate) * (1 - rate).log())))
        best = lowest(self.probes.loss)
        return Found(int(self.latents[best]), *(float(column[best]) for column in self.probes))


class Probed(NamedTuple):
    """All that the codes of a set say under one labelling of the train part, whatever the decoder."""

    best: Best
    found: Found
    refits: Refits

    def latents(self) -> set[int]:
        """Those that are chosen by the fit or by a refit."""
        columns = set(self.refits.column.tolist()) - {-1}
        return ({self.found.latent} - {-1}) | {int(self.best.latents[column]) for column in columns}


class ProbeRecovery(LabelledTask):
    """Example table: loss, placement and decision of the chosen latent on each test example, and of what it writes."""

    sees_decoder = True
    only_of_coders = frozenset({"probe_r_shuffled", "probe_write_shuffled"})

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = probe_recovery.Parameters.of(spec.id, spec.parameters)
        self.source, self.ridge, self.folds, self.strengths = p.source, p.ridge, p.folds, p.ceiling_strengths
        self.n_refits, self.reads_tokens = p.refits, self.pooling != "last"

    def directions(self, view: LabelledView) -> Tensor:
        """The latents that are chosen, by the fits and by their refits."""
        return torch.tensor(sorted(set().union(*(one.latents() for one in self._probed(view)))), dtype=torch.int64)

    def examples(self, view: LabelledView) -> tuple[Rows, dict[str, float]]:
        """The chosen latent on every test example."""
        truth, labels = view.labels("train"), view.labels("test")
        probed = self._probed(view)
        found, by_chance = (one.found for one in probed)
        rows = _rows(self._scores(view, found), labels)
        rows |= {"shuffled_loss": probe_losses(self._scores(view, by_chance), labels)}
        for name, one in zip(WRITTEN, probed, strict=True):
            rows[name] = auroc(self._written(view, one, [one.found.latent], [one.found.weight])[0], labels)[1]
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

    def refits(self, view: LabelledView) -> Rows:
        """The same columns by probes that are chosen among the best latents and fitted under other weights."""
        labels, probed = view.labels("test"), self._probed(view)
        found, by_chance = (self._refitted(view, one) for one in probed)
        sums = _sums(found, labels) | {"shuffled_loss": probe_losses(by_chance, labels).sum(1)}
        for name, one in zip(WRITTEN, probed, strict=True):
            latents = [int(one.best.latents[c]) if c >= 0 else -1 for c in one.refits.column.tolist()]
            scores = self._written(view, one, latents, one.refits.weight.tolist())
            sums[name] = len(labels) * aurocs(scores, labels)
        return sums

    def _probed(self, view: LabelledView) -> list[Probed]:
        """What the codes say under each labelling; found once for all decoders."""
        if self.spec.id not in view.memo:
            labels, weights = self._labellings(view), view.train_weights(self.n_refits)
            view.memo[self.spec.id] = [
                Probed(best, best.found(y), refit_probes(best.z, y, weights, best.probes[:2], self.ridge))
                for best, y in zip(self._search(view, labels), labels, strict=True)
            ]
        made: list[Probed] = view.memo[self.spec.id]
        return made

    def _written(self, view: LabelledView, probed: Probed, latents: list[int], weights: list[float]) -> Tensor:
        """Scores ``[len(latents), n]`` of the test examples: how far they lie along what each latent writes.

        With the sign of its probe's weight: what a latent writes that speaks against the label speaks against it too.
        Nothing is said, 0, by a latent that is -1 (there is none) or that is constant on the train part.
        """
        there = sorted(set(latents) - {-1})
        scores = view.written(torch.tensor(there, dtype=torch.int64), self.pooling)
        columns = {latent: scores[:, i] for i, latent in enumerate(there)}
        varies = dict(zip(probed.best.latents.tolist(), (z.amax() > z.amin() for z in probed.best.z.T), strict=True))
        silent = torch.zeros(len(view.labels("test")), dtype=torch.float64)
        rows = zip(latents, weights, strict=True)
        return torch.stack([np.sign(w) * columns[j] if j >= 0 and varies[j] else silent for j, w in rows])

    @staticmethod
    def _labellings(view: LabelledView) -> list[Tensor]:
        """The labels of the train part, and the same shuffled."""
        truth = view.labels("train")
        order = torch.randperm(len(truth), generator=generator(view.seed, f"shuffled labels {view.set_name}"))
        return [truth, truth[order]]

    def _search(self, view: LabelledView, labels: list[Tensor]) -> list[Best]:
        """The latents with the least loss on the train part, for each labelling."""
        if not (self.source == "pre_activations" and view.dense):
            columns = view.columns("train", self.pooling)
            found = []
            for y in labels:
                probes = fit_probes(columns, y, ridge=self.ridge)
                best = top(-probes.loss, BEST).sort().values
                own = Probes(*(column[best] for column in probes))
                found.append(Best(columns.latents[best], dense(columns, best), own))
            return found
        so_far: list[Best] = []
        for start in range(0, view.n_latents, TILE):
            stop = min(start + TILE, view.n_latents)
            z = view.pre_activations("train", self.pooling, start, stop)
            fits = [fit_probes_dense(z, truth, ridge=self.ridge) for truth in labels]
            of_tile = [Best.of(torch.arange(start, stop), z, probes) for probes in fits]
            so_far = [a.beside(b) for a, b in zip(so_far, of_tile, strict=True)] if so_far else of_tile
        return so_far

    def _scores(self, view: LabelledView, found: Found) -> Tensor:
        """Logits of the test examples."""
        if found.latent < 0:
            return torch.full((len(view.labels("test")),), found.bias, dtype=torch.float64)
        return found.weight * self._tested(view, found.latent) + found.bias

    def _tested(self, view: LabelledView, latent: int) -> Tensor:
        """The test part of a latent ``[n]``."""
        if self.source == "pre_activations" and view.dense:
            return view.pre_activations("test", self.pooling, latent, latent + 1).squeeze(1)
        return take(view.columns("test", self.pooling), torch.tensor([latent])).squeeze(1)

    def _refitted(self, view: LabelledView, probed: Probed) -> Tensor:
        """Logits ``[R, n]`` of the test examples."""
        best, again = probed.best, probed.refits
        z = again.weight.new_zeros(len(view.labels("test")), len(best.latents))
        for column in sorted(set(again.column.tolist())) if len(best.latents) else ():
            z[:, column] = self._tested(view, int(best.latents[column]))
        return again.scores(z)

    def ceiling(self, view: ResidualView) -> Rows:
        """The best probe on the full residual stream."""
        return _rows(self._ceiling(view).scores, view.labels("test"))

    def ceiling_refits(self, view: ResidualView) -> Rows | None:
        """The same columns by refits of that probe."""
        refits = self._ceiling(view).refits
        return None if refits is None else _sums(refits, view.labels("test"))

    def about_ceiling(self, view: ResidualView) -> dict[str, float]:
        """Which probe is the best."""
        return {"ceiling": float(self._ceiling(view).probe)}

    def _ceiling(self, view: ResidualView) -> Ceiling:
        return residual_ceiling(view, self.pooling, self.strengths, self.folds, self.n_refits)

    def lacking(self, beside: str) -> frozenset[str]:
        """The full residual stream has no direction in which it writes, too."""
        own = {"probe_write", "probe_features"} if beside == FULL_RESIDUAL else set()
        return super().lacking(beside) | own

    def set_details(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        """Whole numbers as such; the sign in words of the probe: +1 where an active latent speaks for the label."""
        whole = ("latent", "train_examples", "test_examples")
        shown: dict[str, Any] = {name: int(v) if name in whole else v for name, v in numbers.items()}
        shown["sign"] = int(np.sign(numbers["weight"]))
        if shown["latent"] < 0:
            shown["latent"] = None
        return shown | named_ceiling(numbers)


def _rows(scores: Tensor, labels: Tensor) -> Rows:
    """The columns ``[n]`` of logits ``[n]``."""
    return labelled_rows(labels) | {"auroc": auroc(scores, labels)[1]} | _decided(scores, labels)


def _sums(scores: Tensor, labels: Tensor) -> Rows:
    """The sums ``[R]`` of those columns from logits ``[R, n]`` of refits."""
    sums = {name: column.sum(1) for name, column in _decided(scores, labels).items()}
    return {"auroc": len(labels) * aurocs(scores, labels)} | sums


def _decided(scores: Tensor, labels: Tensor) -> Rows:
    says_yes = positive(scores)
    return {
        "loss": probe_losses(scores, labels),
        "true_positive": (says_yes & labels).double(),
        "false_positive": (says_yes & ~labels).double(),
        "false_negative": (~says_yes & labels).double(),
    }
