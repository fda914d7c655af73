"""Logistic regression: the damped Newton iteration that all probes share, and a fit with a cross-validated penalty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from sae_bench.kernels.ranks import exceeds

MAX_STEPS = 100
TOLERANCE = 1e-5  # relative size of the last step but one; each squares the error, so what is left is below 1e-8
FLOOR = 1e-3  # coefficients nearer to 0 than this are found to an absolute error
STUCK = 1e-13  # relative size of a step that has been halved in vain
ROUNDING = 1e-13  # by which a mean loss may seem to rise although it does not
DROP_AT = 0.75  # converged problems leave the work when no more than this share is left
PRODUCTS = 1 << 22  # 32 MiB of float64: products of pairs of features are kept if they are no more


class Problem(Protocol):
    """Independent convex problems that are solved together."""

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Objective ``[m]`` and Newton step ``[p, m]`` at ``theta`` ``[p, m]``."""

    def keep(self, which: Tensor) -> Self:
        """The problems at positions ``which`` alone."""


def newton(problem: Problem, theta: Tensor, objective: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise from ``theta`` ``[p, m]``, where the objective is ``objective`` ``[m]``, with ``step`` as first step.

    A step that would raise the objective is halved until it does not, each problem for itself. A problem without a
    finite minimum stops after ``MAX_STEPS``. Returns the last ``theta`` and ``objective``.
    """
    solution, reached = theta.clone(), objective.clone()
    where = torch.arange(theta.shape[1], device=theta.device)
    for _ in range(MAX_STEPS):
        if len(where) == 0:
            return solution, reached
        candidate = theta + step
        value, following = problem.evaluate(candidate)
        size = (step.abs() / (candidate.abs() + FLOOR)).amax(0)
        better = value <= objective + ROUNDING
        converged = better & (size <= TOLERANCE)
        theta, objective = torch.where(better, candidate, theta), torch.where(better, value, objective)
        step = torch.where(better, following, step / 2)
        # written so that a step that is not finite ends the work: there is no way on from there
        left = (~converged & (size > STUCK)).nonzero().squeeze(1)
        if len(left) <= DROP_AT * len(where):
            last = converged & step.isfinite().all(0)
            solution[:, where], reached[where] = torch.where(last, theta + step, theta), objective
            problem, where = problem.keep(left), where[left]
            theta, objective, step = theta[:, left], objective[left], step[:, left]
    solution[:, where], reached[where] = theta, objective
    return solution, reached


def class_counts(labels: Tensor) -> tuple[int, int]:
    """Numbers of negative and positive ``labels`` (bool ``[n]``). Raises ValueError if a class is absent."""
    if labels.dtype != torch.bool:
        raise ValueError(f"labels must be of type bool, and are {labels.dtype}")
    n_positive = int(labels.count_nonzero())
    if not 0 < n_positive < len(labels):
        raise ValueError(f"a probe needs examples of both classes, and {n_positive} of {len(labels)} are positive")
    return len(labels) - n_positive, n_positive


def softplus_sigmoid(minus_t: Tensor) -> tuple[Tensor, Tensor]:
    """``softplus(-t)`` and ``sigmoid(t)`` of ``minus_t``, with one exponential.

    A cross-entropy at logit t with label y is ``softplus(-t) + (1 - y) t``: the labels enter linearly.
    """
    odds = minus_t.exp().add_(1)
    softplus = odds.log()
    if float(softplus.amax()) == math.inf:  # exp has overflowed
        softplus = torch.where(softplus.isinf(), minus_t, softplus)
    return softplus, odds.reciprocal_()


def probe_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``[n]`` in nats of logits ``scores`` ``[n]`` and bool ``labels``, exact for scores of any size."""
    signed = torch.where(labels, -scores.double(), scores.double())
    return signed.clamp(min=0) + signed.abs().neg().exp().log1p()


class Logistic(NamedTuple):
    """A logistic regression: ``weight`` ``[k]`` and ``bias`` in raw units of the features, and its penalty."""

    weight: Tensor
    bias: float
    strength: float

    def scores(self, features: Tensor) -> Tensor:
        """Logits ``[n]`` of ``features`` ``[n, k]``."""
        return features.double() @ self.weight + self.bias


def logistic_cv(features: Tensor, labels: Tensor, strengths: Sequence[float], *, folds: int, seed: int) -> Logistic:
    """L2 logistic regression of bool ``labels`` ``[n]`` on ``features`` ``[n, k]``.

    Minimises the mean cross-entropy plus ``strength / 2`` times the squared weights of the features divided by their
    standard deviation in the part that is fitted. ``strength`` is the one of ``strengths`` (all positive) with the
    smallest mean cross-entropy on held-out folds (:func:`stratified_folds`); among near-ties the strongest. With fewer
    than 2 examples of a class it is the strongest. All fits of all folds run as one batch. Raises ValueError if a
    class is absent or a feature is not finite.
    """
    return _cross_validated(features, labels, strengths, folds, seed, _l2_fits)


def l1_logistic_cv(features: Tensor, labels: Tensor, strengths: Sequence[float], *, folds: int, seed: int) -> Logistic:
    """As :func:`logistic_cv` with ``strength`` times the sum of absolute weights as penalty.

    One fit at a time by liblinear (through scikit-learn, which must be installed).
    """
    return _cross_validated(features, labels, strengths, folds, seed, _l1_fits)


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold ``[n]`` of every example; each class is spread over the folds as evenly as its size allows.

    There are as many folds as the smaller class has members, if that is less than ``folds``.
    """
    n_negative, n_positive = class_counts(labels)
    generator = torch.Generator().manual_seed(seed)
    fold = torch.empty(len(labels), dtype=torch.int64)
    dealt = 0
    for members in (labels.cpu().nonzero().squeeze(1), (~labels.cpu()).nonzero().squeeze(1)):
        shuffled = members[torch.randperm(len(members), generator=generator)]
        fold[shuffled] = torch.arange(dealt, dealt + len(members)) % min(folds, n_negative, n_positive)
        dealt += len(members)  # the second class goes on where the first stopped, so that folds are of equal size
    return fold.to(labels.device)


class _Parts(NamedTuple):
    """``design`` ``[n, k + 1]`` (the last column is 1), ``train`` bool ``[parts, n]``, ``scale`` ``[parts, k]``."""

    design: Tensor
    labels: Tensor
    train: Tensor
    scale: Tensor


_Fits = Callable[[_Parts, list[float]], Tensor]  # coefficients [parts, strengths, k + 1]


def _cross_validated(
    features: Tensor, labels: Tensor, strengths: Sequence[float], folds: int, seed: int, fits: _Fits
) -> Logistic:
    smaller_class = min(class_counts(labels))
    if folds < 2 or not strengths or min(strengths) <= 0:
        raise ValueError(f"needs 2 folds or more and positive strengths, got folds={folds}, strengths={strengths}")
    ordered = sorted(strengths, reverse=True)
    raw = features.double()
    if not bool(raw.isfinite().all()):
        raise ValueError("a probe needs finite features, and some value is not")
    if not raw.shape[1]:  # the base rate alone
        return Logistic(raw.new_zeros(0), float(torch.logit(labels.double().mean())), ordered[0])
    mean, scale = raw.mean(0), _scale(raw)
    design = torch.cat([(raw - mean) / scale, raw.new_ones(len(raw), 1)], 1)
    train = labels.new_ones(1, len(labels))
    if smaller_class < 2 or len(ordered) == 1:
        ordered = ordered[:1]
    else:
        fold = stratified_folds(labels, folds, seed)
        train = torch.cat([fold != torch.arange(int(fold.max()) + 1, device=fold.device)[:, None], train])
    scales = torch.stack([_scale(design[part, :-1]) for part in train])
    theta = fits(_Parts(design, labels, train, scales), ordered)
    chosen = 0
    if len(ordered) > 1:
        logits = theta[:-1] @ design.T
        held_out = probe_losses(logits, labels) * ~train[:-1, None]
        loss = held_out.sum((0, 2)) / len(labels)
        chosen = int((~exceeds(loss, loss.min())).nonzero()[0])
    weight = theta[-1, chosen, :-1] / scale
    return Logistic(weight, float(theta[-1, chosen, -1] - weight @ mean), ordered[chosen])


def _scale(features: Tensor) -> Tensor:
    """Standard deviation ``[k]``; 1 for a feature that is constant, whose weight the penalty then brings to 0."""
    deviation = (features - features.mean(0)).square().mean(0).sqrt()
    return torch.where((features.amax(0) == features.amin(0)) | (deviation == 0), 1.0, deviation)


class _Pairs(NamedTuple):
    """Fits of m pairs (part, strength); ``share`` ``[n, m]`` is the weight of an example in a pair's mean loss."""

    design: Tensor
    products: Tensor | None  # [(k + 1)(k + 2) / 2, n] of pairs of columns of design, if few enough to keep
    share: Tensor
    of_negatives: Tensor  # [k + 1, m], mean of design over the examples, negative ones alone
    of_positives: Tensor
    penalty: Tensor  # [k + 1, m]

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        softplus, p = softplus_sigmoid(self.design @ -theta)
        loss = softplus.mul_(self.share).sum(0) + (theta * (self.of_negatives + self.penalty / 2 * theta)).sum(0)
        weighted = p * self.share
        gradient = self.design.T @ weighted - self.of_positives + self.penalty * theta
        hessian = self._curvature(torch.addcmul(weighted, weighted, p, value=-1).T)
        hessian.diagonal(dim1=1, dim2=2).add_(self.penalty.T)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        step = torch.cholesky_solve(-gradient.T[:, :, None], factor).squeeze(2).T
        return loss, torch.where(failed > 0, math.nan, step)

    def _curvature(self, weight: Tensor) -> Tensor:
        """``design.T @ diag(weight) @ design`` ``[m, k + 1, k + 1]`` for every row of ``weight`` ``[m, n]``."""
        if self.products is None:
            return torch.stack([(self.design * w[:, None]).T @ self.design for w in weight])
        width = self.design.shape[1]
        row, column = torch.triu_indices(width, width, device=weight.device)
        out = weight.new_empty(len(weight), width, width)
        out[:, row, column] = out[:, column, row] = weight @ self.products.T
        return out

    def keep(self, which: Tensor) -> _Pairs:
        rest = (t.index_select(1, which) for t in self[2:] if t is not None)
        return _Pairs(self.design, self.products, *rest)


def _l2_fits(parts: _Parts, strengths: list[float]) -> Tensor:
    design, train = parts.design, parts.train.double()
    n, width = design.shape
    strength = design.new_tensor(strengths)
    penalty = design.new_zeros(len(train), len(strengths), width)
    penalty[:, :, :-1] = strength[:, None] * parts.scale[:, None] ** 2
    share = (train / train.sum(1, keepdim=True)).repeat_interleave(len(strengths), 0)
    positive = share * parts.labels
    of_positives, of_negatives = design.T @ positive.T, design.T @ (share - positive).T
    theta = design.new_zeros(width, len(share))
    theta[-1] = positive.sum(1).logit()
    products = None
    if n * width * (width + 1) // 2 <= PRODUCTS:
        row, column = torch.triu_indices(width, width, device=design.device)
        across = design.T.contiguous()
        products = across.index_select(0, row).mul_(across.index_select(0, column))
    problem = _Pairs(
        design, products, share.T.contiguous(), of_negatives, of_positives, penalty.view(-1, width).T.contiguous()
    )
    solution, _ = newton(problem, theta, *problem.evaluate(theta))
    return solution.T.view(len(train), len(strengths), width)


def _l1_fits(parts: _Parts, strengths: list[float]) -> Tensor:
    from sklearn.linear_model import LogisticRegression  # not needed by anything else

    theta = []
    for train, scale in zip(parts.train, parts.scale, strict=True):
        used, y = (parts.design[train, :-1] / scale).cpu(), parts.labels[train].cpu()
        mean = used.mean(0)
        for strength in strengths:
            model = LogisticRegression(
                solver="liblinear",
                C=1 / (len(y) * strength),
                intercept_scaling=300.0,
                tol=1e-6,
                max_iter=1000,
                random_state=0,
                **l1_penalty(),
            ).fit((used - mean).numpy(), y.numpy())
            weight = torch.from_numpy(model.coef_[0])
            offset = used @ weight
            theta.append(torch.cat([weight / scale.cpu(), _intercept(offset, y)]))
    return torch.stack(theta).view(len(parts.train), len(strengths), -1).to(parts.design)


def l1_penalty() -> dict[str, Any]:
    """How scikit-learn is told of an L1 penalty."""
    from sklearn.linear_model import LogisticRegression

    old = LogisticRegression().get_params().get("penalty") == "l2"  # releases before 1.8 name the penalty
    return {"penalty": "l1"} if old else {"l1_ratio": 1.0}


class _Offset(NamedTuple):
    """The fit of a bias alone, to logits ``offset`` ``[n, 1]`` of which the share ``rate`` is positive."""

    offset: Tensor
    rate: Tensor

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        softplus, p = softplus_sigmoid(-self.offset - theta)
        loss = softplus.mean(0) + (1 - self.rate) * theta[0]
        return loss, (self.rate - p.mean(0, keepdim=True)) / (p * (1 - p)).mean(0, keepdim=True)

    def keep(self, which: Tensor) -> _Offset:
        return self  # there is one problem only


def _intercept(offset: Tensor, labels: Tensor) -> Tensor:
    """The best bias ``[1]`` for logits ``offset`` ``[n]``; liblinear's own is penalised, and can be off by 1."""
    rate = labels.double().mean()
    problem = _Offset(offset[:, None], rate)
    start = (rate.logit() - offset.mean()).view(1, 1)
    return newton(problem, start, *problem.evaluate(start))[0][0]
