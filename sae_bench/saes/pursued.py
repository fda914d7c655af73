"""The control ``pursuit``: the SAE's decoder with codes that are looked for token by token, at the SAE's own L0.

Gradient pursuit (Blumensath & Davies 2008, "Gradient pursuits"): again and again the direction that lies closest to
what is unexplained joins the support, and the codes on the support move along the gradient by the best step. There is
no encoder to learn it, so it says what the SAE's decoder allows: a bound for its encoder, and none that it must reach.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.saes.calibration import Calibration, NoControl
from sae_bench.saes.controls import dtype_of, info_of, turns
from sae_bench.saes.graded import Turns
from sae_bench.saes.protocol import CoderInfo, Codes, SparseCoder, indptr_of

FURTHER = 8  # rounds beyond the L0, for tokens of which a code has come back to 0
ROWS = 1 << 22  # numbers in the directions of the supports of some tokens
MOST_L0 = 512  # the rounds of a token, each as dear as encoding it


def pursuit(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The SAE with codes by gradient pursuit; None for a transcoder, which does not see what it predicts."""
    if sae.info.is_transcoder or sae.info.n_latents == 0:
        return None
    if sae.info.decode_needs != "nothing":
        raise NoControl("pursuit is for decoders that are shown codes alone, and this one undoes a scale of each token")
    l0 = calibration.of("latents", min(sae.info.n_latents, MOST_L0))
    info = info_of(sae, "pursuit", sae.info.n_latents, sae.info.signed, l0=l0)
    return Pursued(info, sae, l0, turns(calibration, seed), dtype_of(calibration))


class Pursued:
    """The decoder of ``sae`` with codes by pursuit, ``l0`` of a token on average; ``more`` says whose are one more."""

    def __init__(self, info: CoderInfo, sae: SparseCoder, l0: float, more: Turns, dtype: torch.dtype) -> None:
        self.info, self.sae, self._l0, self._more, self._dtype = info, sae, l0, more, dtype
        self._decoder: tuple[Tensor, Tensor, Tensor] | None = None

    def _parts(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Unit directions ``[n_latents, d]``, their lengths ``[n_latents]``, and what no latent gives ``[d]``."""
        if self._decoder is None:
            n = self.info.n_latents
            rows = self.sae.decoder_rows(torch.arange(n, device=device)).to(self._dtype)
            lengths = rows.norm(dim=1)
            units = rows / lengths.clamp(min=torch.finfo(self._dtype).tiny).unsqueeze(1)
            none = torch.zeros(2, dtype=torch.int64, device=device)
            bias = self.sae.decode(Codes(none, none[:0], rows.new_zeros(0), n)).to(self._dtype)[0]
            self._decoder = units, lengths, bias
        return self._decoder

    @torch.no_grad()
    def encode(self, x: Tensor) -> Codes:
        """Latent activations of ``x`` ``[tokens, d_in]``."""
        units, lengths, bias = self._parts(x.device)
        wanted = torch.full((len(x),), math.floor(self._l0), device=x.device)
        if self._l0 % 1:
            wanted += (self._more(x) < self._l0 % 1).long()
        step = max(1, min(ROWS // (math.ceil(self._l0) * len(bias)), topk.TILE_ELEMENTS // len(units)))
        parts = [
            self._pursue(rows.to(self._dtype) - bias, own, units)
            for rows, own in zip(x.split(step), wanted.split(step), strict=True)  # type: ignore[no-untyped-call]
        ]
        indices, amounts = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        order = indices.where(amounts != 0, len(units)).argsort(dim=1)
        indices, amounts = indices.gather(1, order), amounts.gather(1, order)
        there = (amounts != 0) & (lengths[indices] > 0)
        values = (amounts / lengths[indices])[there]
        return Codes(indptr_of(there.sum(1)), indices[there], values, self.info.n_latents)

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]`` by the SAE."""
        return self.sae.decode(codes)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]`` of the SAE."""
        return self.sae.decoder_rows(latents)

    def _pursue(self, target: Tensor, wanted: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``[tokens, most]`` and their amounts in units of length; 0 where there is none."""
        n, most = len(target), int(wanted.max()) if len(wanted) else 0
        chosen = torch.zeros(n, most, dtype=torch.int64, device=target.device)
        amounts, rest = target.new_zeros(n, most), target
        for done in range(most + FURTHER if most else 0):
            lacking = ((amounts != 0).sum(1) < wanted) & (done < wanted + FURTHER)  # by itself, whatever others do
            if not bool(lacking.any()):
                break
            new = self._best(rest, chosen, amounts, units)
            towards = (rest * units[new]).sum(1)
            free = (amounts == 0).long().argmax(1, keepdim=True)
            joins = lacking & (towards != 0 if self.info.signed else towards > 0)
            chosen = torch.where(joins.unsqueeze(1), chosen.scatter(1, free, new.unsqueeze(1)), chosen)
            support = (amounts != 0).scatter(1, free, joins.unsqueeze(1) | (amounts.gather(1, free) != 0))
            moved = self._moved(target, rest, chosen, amounts, support, units)
            amounts, rest = (
                torch.where(lacking.unsqueeze(1), *pair) for pair in zip(moved, (amounts, rest), strict=True)
            )
        return chosen, amounts

    def _best(self, rest: Tensor, chosen: Tensor, amounts: Tensor, units: Tensor) -> Tensor:
        """The latent closest to what is unexplained of each token ``[tokens]``, but for its support."""
        along = rest @ units.T
        taken = torch.zeros_like(along).scatter_add_(1, chosen, (amounts != 0).to(along)) > 0  # an empty slot names 0
        return (along.abs() if self.info.signed else along).masked_fill(taken, -torch.inf).argmax(1)

    def _moved(
        self, target: Tensor, rest: Tensor, chosen: Tensor, amounts: Tensor, support: Tensor, units: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Amounts after one step along the gradient, and what they leave unexplained."""
        rows = units[chosen]
        gradient = torch.einsum("tsd,td->ts", rows, rest) * support
        along = torch.einsum("ts,tsd->td", gradient, rows)
        length = along.square().sum(1, keepdim=True)
        step = torch.where(length > 0, (along * rest).sum(1, keepdim=True) / length.clamp(min=1e-30), 0)
        amounts = (amounts + step * gradient) * support
        amounts = amounts if self.info.signed else amounts.clamp(min=0)
        return amounts, target - torch.einsum("ts,tsd->td", amounts, rows)
