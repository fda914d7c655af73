"""What a whole residual stream tells of a label: the best of several probes, chosen inside the train part.

No few latents should beat this by the way in which tokens are pooled alone. So there are probes on the mean over
tokens, on the largest and smallest value of every channel, on all three, and one that looks for a single telling token,
as a latent that is pooled by its maximum does. The one with the least cross-entropy on held-out folds is the ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels.logistic import class_counts, probe_losses
from sae_bench.kernels.probes import fit_probes_dense
from sae_bench.kernels.ranks import exceeds
from sae_bench.tasks.labelled import ResidualView

PROBES = ("mean", "max+min", "mean+max+min", "token", "last")  # places are stored: only ever add at the end
POOLED = {"mean": ("mean",), "max+min": ("high", "low"), "mean+max+min": ("mean", "high", "low"), "last": ("last",)}
ROUNDS = 4  # in which the token probe looks for the telling token of each text anew
SAMPLED = 1 << 21  # numbers of the tokens that its first fit reads, or four tokens a text if they are more
FIRST = 1.0  # penalty of that fit, where most tokens of a positive text say nothing
RIDGE = 1e-3  # of the probe on the token probe's largest score


def named_ceiling(numbers: Mapping[str, float]) -> dict[str, str]:
    """The probe that won, in words, from what :meth:`~sae_bench.tasks.labelled.LabelledTask.about_ceiling` said."""
    return {"ceiling": PROBES[int(numbers["ceiling"])]} if "ceiling" in numbers else {}


class Ceiling(NamedTuple):
    """The best probe, by its place in :data:`PROBES`, and its logits of the test examples ``[n]``.

    ``refits`` ``[R, n]``: those of fits under other weights of the train part; none of the token probe, of which they
    would be dear.
    """

    probe: int
    scores: Tensor
    refits: Tensor | None


class _Fit(NamedTuple):
    """A probe on standardised features ``train`` ``[n, p]`` and ``test``, and its mean loss on held-out folds."""

    loss: float
    train: Tensor
    test: Tensor
    weight: Tensor
    bias: float
    strength: float

    def scores(self, features: Tensor) -> Tensor:
        return features @ self.weight + self.bias


def residual_ceiling(view: ResidualView, pooling: str, strengths: Sequence[float], folds: int, refits: int) -> Ceiling:
    """The ceiling of a set. ``pooling`` is the task's: where latents are read at the last token, so is the residual.

    Each probe has an L2 penalty (``strength / 2`` times the squared weights of standardised features, beside the mean
    cross-entropy), chosen by the same folds. Two tasks that ask for the same one share it.
    """
    key = ("ceiling", pooling == "last", *strengths, folds, refits)
    if key not in view.memo:
        view.memo[key] = _ceiling(view, pooling, strengths, folds, refits)
    found: Ceiling = view.memo[key]
    return found


def _ceiling(view: ResidualView, pooling: str, strengths: Sequence[float], folds: int, refits: int) -> Ceiling:
    labels = view.labels("train")
    parts = _folds(labels, folds, view.seed)
    names = ("last",) if pooling == "last" else ("mean", "max+min", "mean+max+min")
    fits = {name: _pooled(view, POOLED[name], labels, parts, strengths) for name in names}
    best = min(fits, key=lambda name: (fits[name].loss, names.index(name)))
    if "mean" in fits:
        token = _token_probe(view, fits["mean"].strength, labels, parts)
        if token is not None and exceeds(fits[best].loss, token[0]):
            return Ceiling(PROBES.index("token"), token[1], None)
    chosen = fits[best]
    again = _refits(chosen, labels, view.train_weights(refits))
    return Ceiling(PROBES.index(best), chosen.scores(chosen.test), again)


def _folds(labels: Tensor, folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Fitted and held-out rows of each fold; each class is spread over the folds."""
    from sklearn.model_selection import StratifiedKFold

    folds = max(2, min(folds, *class_counts(labels)))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
    found = []
    for fitted, held in split.split(labels[:, None].numpy(), labels.numpy()):
        if 0 < int(labels[fitted].sum()) < len(fitted):
            found.append((torch.from_numpy(fitted), torch.from_numpy(held)))
    return found


def _pooled(
    view: ResidualView,
    poolings: Sequence[str],
    labels: Tensor,
    parts: list[tuple[Tensor, Tensor]],
    strengths: Sequence[float],
) -> _Fit:
    """A probe on channels that are pooled in these ways, one after the other."""
    from sklearn.linear_model import LogisticRegressionCV

    train, test = (torch.cat([view.features(part, how) for how in poolings], 1) for part in ("train", "test"))
    train, test = _rotated(*_standardised(train, test))
    probe = LogisticRegressionCV(
        Cs=[1 / (strength * len(labels)) for strength in sorted(strengths, reverse=True)],
        cv=[(fitted.numpy(), held.numpy()) for fitted, held in parts],
        scoring="neg_log_loss",
        max_iter=1000,
        tol=1e-3,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    probe.fit(train.numpy(), labels.numpy())
    loss = -float(probe.scores_.mean(0).max())
    strength = 1 / (float(probe.C_) * len(labels))
    return _Fit(loss, train, test, torch.from_numpy(probe.coef_[0]), float(probe.intercept_[0]), strength)


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = train.mean(0), train.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    return (train - mean) / scale, (test - mean) / scale


def _rotated(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """The same in the directions that the rows of ``train`` span, where these are fewer than the features.

    An L2 penalty is the same in any rotation, and a probe has no part outside that span.
    """
    if len(train) >= train.shape[1]:
        return train, test
    values, vectors = torch.linalg.eigh(train @ train.T)
    there = values > values[-1] * 1e-12
    basis = vectors[:, there] / values[there].sqrt()
    return train @ (train.T @ basis), test @ (train.T @ basis)


def _refits(fit: _Fit, labels: Tensor, weights: Tensor) -> Tensor:
    """Logits ``[R, n]`` of the test examples after one Newton step under each of ``weights`` ``[R, n]``.

    The step is that of the fit's own curvature (the infinitesimal jackknife), with features and penalty as they are.
    """
    theta = torch.cat([fit.weight, fit.weight.new_tensor([fit.bias])])
    penalty = torch.cat([torch.full_like(fit.weight, fit.strength), theta.new_zeros(1)])
    design, tested = (torch.cat([x, x.new_ones(len(x), 1)], 1) for x in (fit.train, fit.test))
    p = torch.sigmoid(design @ theta)
    share = weights / weights.sum(1, keepdim=True)
    gradient = (share * (p - labels.double())) @ design + penalty * theta
    curvature = (design * (p * (1 - p) / len(p))[:, None]).T @ design
    curvature.diagonal().add_(penalty + 1e-12)
    steps: Tensor = torch.linalg.solve(curvature, gradient.T).T
    return (theta - steps) @ tested.T


def _token_probe(
    view: ResidualView, strength: float, labels: Tensor, parts: list[tuple[Tensor, Tensor]]
) -> tuple[float, Tensor] | None:
    """Mean loss on held-out folds, and test logits, of a probe of tokens whose largest score is the text's.

    It is fitted on tokens that have the label of their text, or then in rounds on the token of each text that scores
    highest (MI-SVM; Andrews, Tsochantaridis and Hofmann 2002, "Support vector machines for multiple-instance
    learning"), whichever does better on held-out folds. None where the tokens are not there.
    """
    n = len(labels)
    sampled = view.tokens("train", max(4, SAMPLED // (n * view.features("train", "mean").shape[1])))
    if sampled is None:
        return None
    x, size = sampled
    text = torch.arange(n).repeat_interleave(size)
    fitted = [part for part, _ in parts] + [torch.arange(n)]
    directions = [_direction(x[own], labels[text[own]], FIRST) for own in (torch.isin(text, part) for part in fitted)]
    tried = [_held_out(view, torch.stack(directions, 1), labels, parts)]
    for _ in range(ROUNDS):
        _, tokens = view.strongest("train", torch.stack(directions, 1))
        directions = [_direction(x[own], labels[own], strength) for x, own in zip(tokens, fitted, strict=True)]
    tried.append(_held_out(view, torch.stack(directions, 1), labels, parts))
    return min(tried, key=lambda one: one[0])


def _held_out(
    view: ResidualView, directions: Tensor, labels: Tensor, parts: list[tuple[Tensor, Tensor]]
) -> tuple[float, Tensor]:
    """Mean loss on held-out folds of the largest score on a direction for each, and test logits of that on the last."""
    train, test = (view.strongest(part, directions)[0] for part in ("train", "test"))
    losses = []
    for i, (own, held) in enumerate(parts):
        scores = _one_dimensional(train[own, i], labels[own], train[held, i])
        losses.append(float(probe_losses(scores, labels[held]).mean()))
    return sum(losses) / len(losses), _one_dimensional(train[:, -1], labels, test[:, -1])


def _direction(x: Tensor, labels: Tensor, strength: float) -> Tensor:
    """The direction ``[d]`` of a probe on ``x`` ``[n, d]``, in raw units."""
    from sklearn.linear_model import LogisticRegression

    scale = x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    probe: Any = LogisticRegression(C=1 / (strength * len(x)), max_iter=1000, tol=1e-3)
    probe.fit(((x - x.mean(0)) / scale).numpy(), labels.numpy())
    return torch.from_numpy(probe.coef_[0]) / scale


def _one_dimensional(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Logits of ``other`` by a probe on one feature."""
    probe = fit_probes_dense(train[:, None], labels, ridge=RIDGE)
    scores: Tensor = probe.weight * other + probe.bias
    return scores
