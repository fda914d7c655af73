"""Coders that only controls are: raw channels as latents, and an SAE whose decoder rows stand in another order."""

from __future__ import annotations

from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.saes.protocol import CoderInfo, Codes, SparseCoder, TokenScale, indptr_of


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


class PermutedDecoder:
    """The SAE's own codes, decoded with decoder rows in another order."""

    def __init__(self, info: CoderInfo, sae: SparseCoder, order: Tensor) -> None:
        self.info = info
        self.sae = sae
        self._order = order

    def encode(self, x: Tensor) -> Codes:
        """The codes of the SAE itself."""
        return self.sae.encode(x)

    def decode(self, codes: Codes, x: Tensor | TokenScale | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]`` with the wrong directions."""
        self._order = self._order.to(codes.indices.device)  # once
        moved = codes._replace(indices=self._order[codes.indices])
        return self.sae.decode(moved, x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]`` in the other order."""
        return self.sae.decoder_rows(self._order.to(latents.device)[latents])
