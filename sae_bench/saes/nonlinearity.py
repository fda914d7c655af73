"""How pre-activations of a linear coder become latents."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from sae_bench.saes.protocol import CoderInfo, Needs
from sae_bench.saes.weights import Weights

if TYPE_CHECKING:
    from sae_bench.saes.linear import LinearCoder

Activation = Literal["relu", "topk", "abstopk", "groupmax", "jumprelu", "gated"]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]
SELECTS_K: tuple[Activation, ...] = ("topk", "abstopk", "groupmax")


@dataclass(frozen=True)
class Nonlinearity:
    """How pre-activations become latents, and what is done to activations around the coder."""

    activation: Activation
    k: int | None = None
    apply_b_dec_to_input: bool = True
    by_decoder_norm: Literal["no", "latents", "selection"] = "no"
    normalise: Normalisation = "none"
    undo_normalisation: bool = True  # false for transcoders: their output has units of its own
    input_scale: float = 1.0
    output_scale: float = 1.0
    keep_negative: bool = False  # topk without the relu

    @property
    def signed(self) -> bool:
        """Whether latents may be negative."""
        return self.activation == "abstopk" or self.keep_negative

    @property
    def selects_k(self) -> bool:
        """Whether at most k latents of a token are active."""
        return self.activation in SELECTS_K

    def needs(self, weights: Weights) -> Needs:
        """What the reconstruction of a token needs of its activation."""
        if weights.W_skip is not None:
            return "skip"
        return "scale" if self.normalise != "none" and self.undo_normalisation else "nothing"

    def scaled(self, weights: Weights, factor: float) -> tuple[Nonlinearity, Weights]:
        """Rule and weights for activations multiplied with ``factor`` first and reconstructions divided by it last.

        Latents in units of the decoder's norm stay in those of the decoder that writes to the model, the one with the
        factor in it: vectors are divided instead, which is the same otherwise.
        """
        if self.by_decoder_norm != "latents":
            return dataclasses.replace(self, input_scale=factor, output_scale=1 / factor), weights
        rule = dataclasses.replace(self, input_scale=1.0, output_scale=1.0)
        return rule, weights.divided(factor, "b_enc", "b_dec", "threshold")

    def coder(self, info: CoderInfo, weights: Weights, dtype: torch.dtype) -> LinearCoder:
        """The coder of these weights. Raises CoderError."""
        from sae_bench.saes.linear import LinearCoder  # it needs this module

        return LinearCoder(info, weights, self, dtype=dtype)
