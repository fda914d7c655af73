"""A control: the SAE's decoder under an encoder whose latents stand in another order.

It is as sparse as the SAE and has its directions, but each stands where another one belongs.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sae_bench.randomness import generator
from sae_bench.saes.calibration import Calibration
from sae_bench.saes.protocol import Codes, SparseCoder, TokenScale


class ShuffledEncoder:
    """Codes of the SAE with latents renamed, decoded as they are then called."""

    def __init__(self, sae: SparseCoder, order: Tensor) -> None:
        self.info = dataclasses.replace(sae.info, name="control: shuffled_encoder", provenance={}, prefix_widths=())
        self._sae, self._order = sae, order

    def encode(self, x: Tensor) -> Codes:
        """The SAE's codes of ``x`` ``[tokens, d_in]``, each latent under another number."""
        codes = self._sae.encode(x)
        return codes._replace(indices=self._order.to(codes.indices.device)[codes.indices])

    def decode(self, codes: Codes, x: Tensor | TokenScale | None = None) -> Tensor:
        """The SAE's own decoder ``[tokens, d_out]``, given what the SAE declares: ``info`` is a copy of its own."""
        return self._sae.decode(codes, x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """The SAE's own directions ``[len(latents), d_out]``."""
        return self._sae.decoder_rows(latents)


def shuffled_encoder(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The control of an SAE; None for a transcoder, to which it says nothing that ``permuted`` does not."""
    if sae.info.is_transcoder:
        return None
    order = torch.randperm(sae.info.n_latents, generator=generator(seed, "shuffled encoder"))
    return ShuffledEncoder(sae, order)
