"""Matching pursuit: latents are chosen one after another against what is still unexplained (Mallat & Zhang 1993).

There is no encoder: the residual of ``x - b_dec`` is projected on all decoder directions, the largest positive
projection is added to its latent and taken off the residual, until the residual is small, the set of latents no longer
grows, or the iterations are used up. The rules for stopping are those of SAELens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.kernels import topk
from sae_bench.kernels.decode import sparse_decode
from sae_bench.saes.inference import beside_arrays, of_arrays
from sae_bench.saes.protocol import CoderInfo, Codes, indptr_of
from sae_bench.saes.weights import Weights, check_shapes


@dataclass(frozen=True)
class Pursuit:
    """When to stop. ``residual_threshold`` is a norm in units of ``x``; 0 never stops for it."""

    max_iterations: int
    residual_threshold: float = 0.01
    stop_on_duplicate_support: bool = True
    apply_b_dec_to_input: bool = True

    @property
    def signed(self) -> bool:
        """Latents are sums of positive projections."""
        return False

    def scaled(self, weights: Weights, factor: float) -> tuple[Pursuit, Weights]:
        """Rule and weights for activations multiplied with ``factor`` first and reconstructions divided by it last.

        Latents are in units of the activations as the model has them: pursuit scales with its input.
        """
        return replace(self, residual_threshold=self.residual_threshold / factor), weights.divided(factor, "b_dec")

    def coder(self, info: CoderInfo, weights: Weights, dtype: torch.dtype) -> PursuitCoder:
        """The coder of these weights, of which the encoder is not used. Raises CoderError."""
        return PursuitCoder(info, weights, self, dtype)


class PursuitCoder:
    """A :class:`~sae_bench.saes.protocol.SparseCoder` by matching pursuit."""

    def __init__(self, info: CoderInfo, weights: Weights, rule: Pursuit, dtype: torch.dtype = torch.float32) -> None:
        check_shapes(info.name, weights, info.n_latents, info.d_in, info.d_out)
        if info.d_in != info.d_out:
            raise CoderError(f"{info.name}: matching pursuit needs d_in={info.d_in} and d_out={info.d_out} to be equal")
        if not 1 <= rule.max_iterations <= max(info.d_in, info.n_latents):
            raise CoderError(f"{info.name}: max_iterations must be a plausible number, but it is {rule.max_iterations}")
        self.info, self.rule, self.dtype = info, rule, dtype
        self.checks = False
        self.W_dec, self.b_dec = weights.W_dec.detach(), weights.b_dec.detach().to(dtype)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.b_dec.device

    @of_arrays
    @torch.no_grad()
    def encode(self, x: Tensor) -> Codes:
        """Latent activations of ``x`` ``[tokens, d_in]``."""
        parts = [self._pursue(x[rows]) for rows in topk.row_chunks(len(x), self.info.n_latents)]
        empty = torch.zeros(0, dtype=torch.int64, device=x.device)
        counts = torch.cat([empty, *(part[0] for part in parts)])
        indices = torch.cat([empty, *(part[1] for part in parts)])
        values = torch.cat([x.new_zeros(0, dtype=self.dtype), *(part[2] for part in parts)])
        return Codes(indptr_of(counts), indices, values, self.info.n_latents)

    @beside_arrays
    @torch.no_grad()
    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``."""
        return sparse_decode(codes.indptr, codes.indices, codes.values.to(self.dtype), self.W_dec) + self.b_dec

    @torch.no_grad()
    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]``."""
        return self.W_dec[latents].to(self.dtype)

    def _pursue(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts ``[tokens]``, indices and values of the entries."""
        residual = x.to(self.dtype)
        if self.rule.apply_b_dec_to_input:
            residual = residual - self.b_dec
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        chosen = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        amounts = residual.new_zeros(len(x), 0)
        for _ in range(self.rule.max_iterations):
            _, best = topk.top_k(lambda a, b, r=residual: r @ self.W_dec[a:b].to(self.dtype).T, self.info.n_latents, 1)  # type: ignore[misc]
            rows = self.W_dec[best.squeeze(1)].to(self.dtype)
            value = (residual * rows).sum(1, keepdim=True).relu() * ~done.unsqueeze(1)
            residual = residual - value * rows
            grows = ((chosen != best) | (amounts == 0)).all(1) & (value.squeeze(1) != 0)
            chosen, amounts = torch.cat([chosen, best], 1), torch.cat([amounts, value], 1)
            if self.rule.stop_on_duplicate_support:
                done |= ~grows
            if self.rule.residual_threshold > 0:
                done |= residual.norm(dim=1) < self.rule.residual_threshold
            if bool(done.all()):
                break
        return _merged(chosen, amounts)


def _merged(chosen: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries sorted by latent, with what was added to the same latent twice summed, in the order of choice."""
    rows = torch.arange(len(chosen), device=chosen.device).unsqueeze(1).expand_as(chosen)[amounts != 0]
    n = int(chosen.max()) + 1 if chosen.numel() else 1
    entries, where = torch.unique(rows * n + chosen[amounts != 0], return_inverse=True)
    values = amounts.new_zeros(len(entries)).index_add_(0, where, amounts[amounts != 0])
    return torch.bincount(entries // n, minlength=len(chosen)), entries % n, values
