"""Probes fitted once more under other weights of the training examples: how far figures depend on which there were.

Weights ``[R, n]`` are positive, one row a refit: exponential weights are a bootstrap (Rubin 1981, "The Bayesian
bootstrap") in which no example, and so no class, is ever absent. Only the best columns of the fit take part, and of
these one Newton step from its solution, which is a few matrix products for all refits at once, leaves ``EXACT`` a refit
to be fitted to the end.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sae_bench.kernels.logistic import l1_penalty, newton, softplus_sigmoid
from sae_bench.kernels.probes import FLATTEST
from sae_bench.kernels.ranks import exceeds, top

BEST = 50  # columns among which a refit chooses
EXACT = 4  # of them that each refit fits to the end


class Refits(NamedTuple):
    """What R refits chose: the column (-1: there is none), and its probe in raw units; all ``[R]``."""

    column: Tensor
    weight: Tensor
    bias: Tensor

    def scores(self, z: Tensor) -> Tensor:
        """Logits ``[R, rows]`` of the columns ``z`` ``[rows, k]``."""
        if not z.shape[1]:
            return self.bias[:, None].expand(-1, len(z))
        return torch.addcmul(self.bias[:, None], self.weight[:, None], z[:, self.column].T)


def shares(weights: Tensor) -> Tensor:
    """Weights ``[R, n]`` as shares of each refit's sum."""
    return weights / weights.sum(1, keepdim=True)


def refit_probes(z: Tensor, labels: Tensor, weights: Tensor, start: tuple[Tensor, Tensor], ridge: float) -> Refits:
    """The probe of least training loss among those on single columns ``z`` ``[n, k]``, for each row of ``weights``.

    ``start`` is weight and bias ``[k]`` of the fit with equal weights. As in
    :func:`~sae_bench.kernels.probes.fit_probes` the penalty knows a column's standard deviation (here weighted), and
    as there the first of near-ties wins.
    """
    share, y = shares(weights), labels.double()
    if not z.shape[1]:
        bias = (share @ y).logit()
        return Refits(torch.full_like(bias, -1, dtype=torch.int64), torch.zeros_like(bias), bias)
    mean, scale = centre_and_scale(z)
    u = (z - mean) / scale
    variance = (share @ u.square() - (share @ u) ** 2).clamp(min=0)
    penalty = ridge * variance
    weight, bias = start
    theta = torch.stack([bias + weight * mean, weight * scale])
    tried = _promising(u, y, share, penalty, theta)  # [R, EXACT], ascending
    R, k = tried.shape
    flat = tried.reshape(-1)
    of = torch.arange(R).repeat_interleave(k)
    problem = _Weighted.of(u[:, flat], y, share[of].T.contiguous(), penalty[of, flat])
    start_at = theta[:, flat]
    found, objective = newton(problem, start_at, *problem.evaluate(start_at))
    loss = (objective - problem.penalty / 2 * found[1] ** 2).clamp(min=0).view(R, k)
    first = (~exceeds(loss, loss.amin(1, keepdim=True))).double().argmax(1)
    at = torch.arange(R) * k + first
    column = flat[at]
    slope = found[1, at] / scale[column]
    return Refits(column, slope, found[0, at] - slope * mean[column])


def centre_and_scale(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of columns; 1 for one that is constant."""
    if not z.shape[1]:
        return z.new_zeros(0), z.new_ones(0)  # torch warns of what it makes of no column
    scale = z.std(0, correction=0)
    return z.mean(0), torch.where((z.amax(0) > z.amin(0)) & (scale > 0), scale, 1.0)


def _promising(u: Tensor, y: Tensor, share: Tensor, penalty: Tensor, theta: Tensor) -> Tensor:
    """The columns ``[R, EXACT]`` of least loss after one Newton step from ``theta`` ``[2, k]``, in ascending order."""
    softplus, p = softplus_sigmoid(-(theta[0] + theta[1] * u))
    error, curvature = p - y[:, None], p * (1 - p)
    to_bias, to_weight = share @ error, share @ (error * u) + penalty * theta[1]
    bias_bias, bias_weight = share @ curvature + FLATTEST, share @ (curvature * u)
    weight_weight = share @ (curvature * u * u) + penalty + FLATTEST
    determinant = (bias_bias * weight_weight - bias_weight**2).clamp(min=FLATTEST**2)
    weight_step = (bias_weight * to_bias - bias_bias * to_weight) / determinant
    bias_step = -(to_bias + bias_weight * weight_step) / bias_bias
    objective = share @ (softplus + (1 - y)[:, None] * (theta[0] + theta[1] * u)) + penalty / 2 * theta[1] ** 2
    objective = objective + (to_bias * bias_step + to_weight * weight_step) / 2
    loss = objective - penalty / 2 * (theta[1] + weight_step) ** 2
    return loss.nan_to_num(math.inf).topk(min(EXACT, u.shape[1]), largest=False).indices.sort(1).values


class _Weighted(NamedTuple):
    """Problems for :func:`newton`: m probes on ``u`` ``[n, m]`` under ``share`` ``[n, m]``; theta is bias, weight."""

    u: Tensor
    share: Tensor
    positive: Tensor  # [m], share of the positive rows
    of_positives: Tensor  # [m], weighted sum of u over them
    of_negatives: Tensor
    penalty: Tensor  # [m]

    @classmethod
    def of(cls, u: Tensor, y: Tensor, share: Tensor, penalty: Tensor) -> _Weighted:
        positive = share * y[:, None]
        of_positives = (positive * u).sum(0)
        return cls(u, share, positive.sum(0), of_positives, (share * u).sum(0) - of_positives, penalty)

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        bias, weight = theta
        softplus, p = softplus_sigmoid(torch.addcmul(-bias, -weight, self.u))
        loss = softplus.mul_(self.share).sum(0) + (1 - self.positive) * bias + weight * self.of_negatives
        weighted = p * self.share
        curvature = torch.addcmul(weighted, weighted, p, value=-1)
        to_bias = weighted.sum(0) - self.positive
        to_weight = weighted.mul_(self.u).sum(0) - self.of_positives + self.penalty * weight
        bias_bias = curvature.sum(0) + FLATTEST
        slope = curvature.mul_(self.u).sum(0) / bias_bias
        weight_weight = curvature.mul_(self.u).sum(0) - slope**2 * bias_bias + self.penalty + FLATTEST
        weight_step = (slope * to_bias - to_weight) / weight_weight
        step = torch.stack([-to_bias / bias_bias - slope * weight_step, weight_step])
        return loss + self.penalty / 2 * weight**2, step

    def keep(self, which: Tensor) -> _Weighted:
        return _Weighted(*(t.index_select(-1, which) for t in self))


def choose_by_difference(z: Tensor, labels: Tensor, weights: Tensor, k: int) -> Tensor:
    """The ``k`` columns ``[R, k]`` of ``z`` ``[n, K]`` whose weighted means differ most between the classes.

    Each is first divided by the weighted mean of its magnitude where it is active, as in
    :func:`~sae_bench.kernels.probes.mean_difference`.
    """
    y = labels.double()
    difference = shares(weights * y) @ z - shares(weights * (1 - y)) @ z
    active = weights @ (z != 0).double()
    magnitude = weights @ z.abs()
    found = torch.where(magnitude > 0, difference.abs() * active / magnitude, 0.0)
    return torch.stack([top(row, k) for row in found])


def refit_l2(
    z: Tensor, labels: Tensor, weights: Tensor, chosen: Tensor, strength: float, near: tuple[Tensor, float]
) -> Tensor:
    """Coefficients ``[R, k + 1]`` of L2 logistic regressions on the columns ``chosen`` ``[R, k]`` of ``z`` ``[n, K]``.

    The penalty is that of :func:`~sae_bench.kernels.logistic.logistic_cv`, with weighted standard deviations.
    ``z`` should be standardised; the coefficients are of its columns, the last is the bias. ``near``, weights ``[K]``
    and bias of the fit with equal weights, saves steps and changes nothing.
    """
    share, y = shares(weights), labels.double()
    design = torch.cat([z.T[chosen].transpose(1, 2), z.new_ones(len(chosen), len(z), 1)], 2)  # [R, n, k + 1]
    first = torch.bmm(share[:, None], design[:, :, :-1])
    variance = torch.bmm(share[:, None], (design[:, :, :-1] - first).square()).squeeze(1)
    variance = torch.where(variance > 0, variance, 1.0)
    penalty = torch.cat([strength * variance, variance.new_zeros(len(chosen), 1)], 1).T
    of_positives = torch.bmm((share * y)[:, None], design).squeeze(1).T
    of_negatives = torch.bmm((share * (1 - y))[:, None], design).squeeze(1).T
    problem = _Designs(design, share, of_positives, of_negatives, penalty)
    theta = torch.cat([near[0][chosen].T, design.new_full((1, len(chosen)), near[1])])
    return newton(problem, theta, *problem.evaluate(theta))[0].T


class _Designs(NamedTuple):
    """Problems for :func:`newton`: m regressions, each with a ``design`` ``[m, n, k + 1]`` of its own."""

    design: Tensor
    share: Tensor  # [m, n]
    of_positives: Tensor  # [k + 1, m]
    of_negatives: Tensor
    penalty: Tensor

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        softplus, p = softplus_sigmoid(-torch.bmm(self.design, theta.T[:, :, None]).squeeze(2))
        loss = softplus.mul_(self.share).sum(1) + (theta * (self.of_negatives + self.penalty / 2 * theta)).sum(0)
        weighted = p * self.share
        gradient = torch.bmm(weighted[:, None], self.design).squeeze(1).T - self.of_positives + self.penalty * theta
        curvature = torch.addcmul(weighted, weighted, p, value=-1)
        hessian = torch.bmm((self.design * curvature[:, :, None]).transpose(1, 2), self.design)
        hessian.diagonal(dim1=1, dim2=2).add_(self.penalty.T)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        step = torch.cholesky_solve(-gradient.T[:, :, None], factor).squeeze(2).T
        return loss, torch.where(failed > 0, math.nan, step)

    def keep(self, which: Tensor) -> _Designs:
        first = (self.design.index_select(0, which), self.share.index_select(0, which))
        return _Designs(*first, *(t.index_select(1, which) for t in self[2:]))


def refit_l1(
    z: Tensor, labels: Tensor, weights: Tensor, chosen: Tensor, strength: float, near: tuple[Tensor, float]
) -> Tensor:
    """As :func:`refit_l2` with the penalty of :func:`~sae_bench.kernels.logistic.l1_logistic_cv`, by liblinear."""
    from sklearn.linear_model import LogisticRegression  # not needed by anything else

    found = []
    for share, columns in zip(shares(weights), chosen, strict=True):
        used = z[:, columns]
        mean = share @ used
        scale = (share @ (used - mean).square()).sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        model = LogisticRegression(
            solver="liblinear", C=1 / (len(z) * strength), intercept_scaling=300.0, tol=1e-6, max_iter=1000,
            random_state=0, **l1_penalty(),
        )  # fmt: skip
        model.fit(((used - mean) / scale).numpy(), labels.numpy(), sample_weight=(share * len(z)).numpy())
        slope = torch.from_numpy(model.coef_[0]) / scale
        found.append(torch.cat([slope, torch.from_numpy(model.intercept_) - slope @ mean]))
    return torch.stack(found)
