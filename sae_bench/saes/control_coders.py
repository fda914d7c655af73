"""Coders that only controls are: raw channels as latents, and the codes of an SAE with another decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.kernels.decode import sparse_decode
from sae_bench.saes.protocol import CoderInfo, Codes, SparseCoder, TokenScale, indptr_of

MEASURED_BY = 64  # latents, of which the longest direction tells the scale of a token


class ChannelCoder:
    """Raw channels as latents: for each token the ``k`` that are furthest from their mean (identity: all of them)."""

    def __init__(self, info: CoderInfo, mean: Tensor, k: int) -> None:
        self.info = info
        self._mean = mean
        self._k = k

    @property
    def copies(self) -> bool:
        """Whether nothing is left out, so that its reconstruction is defined to be the activation itself.

        ``decode`` comes near it: a deviation from the mean is rounded, and with the mean again once more. So whoever
        scores it takes the activation (:mod:`sae_bench.engine.batch`).
        """
        return self._k >= self.info.n_latents

    def encode(self, x: Tensor) -> Codes:
        """Deviations from the mean ``[tokens, d]``, sparse."""
        deviation = x.to(self._mean.dtype) - self._mean
        width = self.info.n_latents
        kept, channels = topk.top_k(lambda a, b: deviation[:, a:b], width, self._k, by_magnitude=True)
        fires = kept != 0
        return Codes(indptr_of(fires.sum(1)), channels[fires], kept[fires], width)

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Mean plus the kept deviations ``[tokens, d]``."""
        return codes.dense() + self._mean.to(codes.values)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Unit vectors ``[len(latents), d]``."""
        rows = self._mean.new_zeros(len(latents), self.info.d_out)
        return rows.scatter_(1, latents.unsqueeze(1), 1.0)


class OtherDecoder:
    """The SAE's own codes, which are made once for both, decoded in another way."""

    def __init__(self, info: CoderInfo, sae: SparseCoder) -> None:
        self.info, self.sae = info, sae

    def encode(self, x: Tensor) -> Codes:
        """The codes of the SAE itself."""
        return self.sae.encode(x)


class PermutedDecoder(OtherDecoder):
    """Decoded with decoder rows in another order."""

    def __init__(self, info: CoderInfo, sae: SparseCoder, order: Tensor) -> None:
        super().__init__(info, sae)
        self._order = order

    def decode(self, codes: Codes, x: Tensor | TokenScale | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]`` with the wrong directions."""
        self._order = self._order.to(codes.indices.device)  # once
        moved = codes._replace(indices=self._order[codes.indices])
        return self.sae.decode(moved, x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]`` in the other order."""
        return self.sae.decoder_rows(self._order.to(latents.device)[latents])


class FittedDecoder(OtherDecoder):
    """Decoded with ``rows`` ``[n_latents, d_out]`` and ``bias`` ``[d_out]`` in place of its own.

    What the SAE adds for the activation itself (a skip), and by what it scales a token, stays.
    """

    def __init__(self, info: CoderInfo, sae: SparseCoder, rows: Tensor, bias: Tensor) -> None:
        super().__init__(info, sae)
        self._rows, self._bias = rows, bias

    def decode(self, codes: Codes, x: Tensor | TokenScale | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``."""
        values = codes.values.to(self._rows.dtype)
        out = sparse_decode(codes.indptr, codes.indices, values, self._rows)
        if (beside := written(self.sae, codes, x)) is None:
            return out + self._bias
        base, scale = beside
        return (out * scale.unsqueeze(1) + self._bias + base).to(out.dtype)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]``."""
        return self._rows[latents]


def written(sae: SparseCoder, codes: Codes, x: Tensor | TokenScale | None) -> tuple[Tensor, Tensor] | None:
    """What an SAE writes without any latent ``[tokens, d_out]``, and by what it scales directions ``[tokens]``.

    Float64, of the tokens of ``codes``, of which decode is shown ``x``. None where it is shown nothing: the first is
    then a bias, and the second 1.
    """
    if sae.info.decode_needs == "nothing":
        return None
    n, device = codes.n_tokens, codes.indptr.device
    none = Codes(torch.zeros_like(codes.indptr), codes.indices[:0], codes.values[:0], codes.n_latents)
    base = sae.decode(none, x).double()
    if sae.info.decode_needs == "skip" or codes.n_latents == 0:
        return base, base.new_ones(n)
    rows = sae.decoder_rows(torch.arange(min(codes.n_latents, MEASURED_BY), device=device)).double()
    latent = rows.norm(dim=1).argmax()
    ones = Codes(
        torch.arange(n + 1, device=device), latent.expand(n).contiguous(), codes.values.new_ones(n), codes.n_latents
    )
    moved = sae.decode(ones, x).double() - base
    return base, (moved @ rows[latent]) / rows[latent].square().sum()
