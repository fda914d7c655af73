"""Small SAEs for tests of the preflight: trained within a second, and copies of SAEs in other words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_bench.preflight.text import Activations
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights

VECTORS = ("b_enc", "b_dec", "threshold", "b_gate", "b_mag")  # in units of activations


@dataclass(frozen=True)
class Healthy:
    """An SAE that is evaluated as it was trained."""

    name: str
    coder: LinearCoder
    activations: Activations


def changed(coder: LinearCoder, *, rule: dict[str, Any] | None = None, info: dict[str, Any] | None = None,
            **weights: Any) -> LinearCoder:  # fmt: skip
    """A copy with other fields of its rule, record and weights; the record follows the rule, as readers make it."""
    new, tensors = dataclasses.replace(coder.rule, **(rule or {})), dataclasses.replace(coder.weights, **weights)
    follows = {"signed": new.signed, "decode_needs": new.needs(tensors)}
    return LinearCoder(dataclasses.replace(coder.info, **follows | (info or {})), tensors, new, dtype=coder.dtype)


def at_hooks(coder: LinearCoder, hook_in: str, hook_out: str | None = None) -> LinearCoder:
    """The same said to read (and predict) other hook points."""
    return changed(coder, info={"hooks_in": (hook_in,), "hooks_out": (hook_out or hook_in,)})


def refolded(coder: LinearCoder) -> LinearCoder:
    """The same function, written with b_dec subtracted from the input if it was not, or folded away if it was."""
    w, subtracts = coder.weights, coder.rule.apply_b_dec_to_input
    shift = (w.b_dec @ w.W_enc) * (-1 if subtracts else 1)
    rule = {"apply_b_dec_to_input": not subtracts}
    if w.b_gate is None:
        return changed(coder, rule=rule, b_enc=shift + (0 if w.b_enc is None else w.b_enc))
    return changed(coder, rule=rule, b_gate=w.b_gate + shift, b_mag=w.b_mag + shift * w.r_mag.exp())


def in_units(coder: LinearCoder, factor: float, *, scaled_in: float, scaled_out: float) -> LinearCoder:
    """The coder as trained on activations times ``factor``, evaluated with other factors in and out."""
    vectors = {name: t * factor for name, t in coder.weights.items() if name in VECTORS}
    return changed(coder, rule={"input_scale": scaled_in, "output_scale": scaled_out}, **vectors)


def with_norms(coder: LinearCoder, norms: Tensor) -> LinearCoder:
    """The same directions with decoder rows of other norms: at equal selection the reconstruction is the same."""
    w = coder.weights
    parts = {name: t / norms for name, t in w.items() if name in ("b_enc", "threshold")}
    return changed(coder, W_enc=w.W_enc / norms, W_dec=w.W_dec * norms.unsqueeze(1), **parts)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def train(
    x: Tensor,
    y: Tensor | None = None,
    *,
    hooks: tuple[str, str],
    k: int = 16,
    n_latents: int = 256,
    steps: int = 150,
    activation: str = "topk",
    normalise: str = "none",
    free_norms: bool = False,
    seed: int = 0,
) -> LinearCoder:
    """A small SAE (or transcoder of ``x`` to ``y``), trained for a second: TopK, Adam, directions started from data.

    ``free_norms``: decoder norms start unequal and stay as they become.
    """
    if normalise == "layer_norm":
        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    elif normalise != "none":
        x = torch.nn.functional.normalize(x, dim=1) * x.shape[1] ** 0.5
    target = x if y is None else y
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n_latents]
    b_dec = target.mean(0).clone()
    W_dec = torch.nn.functional.normalize(target[rows] - b_dec, dim=1)
    W_enc = torch.nn.functional.normalize(x[rows] - x.mean(0), dim=1).T.contiguous()
    if free_norms:
        W_dec = W_dec * (0.6 * seeded(n_latents, 1, seed=seed + 1)).exp()
    b_enc = torch.zeros(n_latents) if y is None else -(x.mean(0) @ W_enc)
    optimiser = torch.optim.Adam([t.requires_grad_() for t in (W_enc, W_dec, b_enc, b_dec)], lr=4e-3)
    for step in range(steps):
        batch = torch.randint(len(x), (256,), generator=torch.Generator().manual_seed(seed * 1000 + step))
        pre = (x[batch] - b_dec if y is None else x[batch]) @ W_enc + b_enc
        top = (pre.abs() if activation == "abstopk" else pre).topk(k, dim=1).indices
        kept = pre.gather(1, top)
        latents = torch.zeros_like(pre).scatter(1, top, kept if activation == "abstopk" else kept.relu())
        loss = (latents @ W_dec + b_dec - target[batch]).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if not free_norms:
            with torch.no_grad():
                W_dec /= W_dec.norm(dim=1, keepdim=True)
    info = CoderInfo(
        name=f"{activation} of {hooks[0]}",
        n_latents=n_latents,
        d_in=x.shape[1],
        d_out=target.shape[1],
        hooks_in=(hooks[0],),
        hooks_out=(hooks[1],),
        architecture=activation,
        decode_needs="nothing" if normalise == "none" else "scale",
        signed=activation == "abstopk",
        prepend_bos=True,
        provenance={"declared_l0": k},
    )
    rule = Nonlinearity(activation, k=k, apply_b_dec_to_input=y is None, normalise=normalise)  # type: ignore[arg-type]
    return LinearCoder(info, Weights(W_enc.detach(), W_dec.detach(), b_dec.detach(), b_enc.detach()), rule)
