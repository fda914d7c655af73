"""What the ablated latents do to the next token's logits, summed over positions, for a bounded number of latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.engine.workspace import Entry, guarded
from sae_bench.kernels.ranks import top
from sae_bench.models.subject import SubjectModel
from sae_bench.models.unembedding import direct_logits
from sae_bench.saes.protocol import Codes
from sae_bench.streams.sampling import Ablations

SHOWN = 100  # latents whose output a result holds, at most
TOKENS = 5  # promoted and suppressed tokens of each
OUTPUT_BYTES = 32 << 20  # sums of logits, for all SAEs of a run together


class Census:
    """Of each latent of one SAE ``[n_latents]``, float64: how often it is active, how often sampled, and summed then.

    ``tokens`` counts those of the sampled documents that are inside the mask.
    """

    def __init__(self, n_latents: int, device: torch.device) -> None:
        self.active, self.sampled, self.summed = torch.zeros(3, n_latents, dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, codes: Codes, chosen: Ablations) -> None:
        """Count one batch: the codes inside the mask, and the sampled latents."""
        self.active += torch.bincount(codes.indices, minlength=codes.n_latents)
        self.sampled += torch.bincount(chosen.latent, minlength=codes.n_latents)
        self.summed += torch.bincount(chosen.latent, weights=chosen.value.double(), minlength=codes.n_latents)
        self.tokens += codes.n_tokens

    def density(self) -> NDArray[np.float64]:
        """Share of the tokens on which each sampled latent is active, in the order of the latents."""
        density: NDArray[np.float64] = (self.active[self.sampled > 0] / max(self.tokens, 1)).cpu().numpy()
        return density


@dataclass
class Outputs:
    """Summed logits ``[shown, vocabulary]`` of ``latents`` (sorted), float64, and over how many positions."""

    latents: Tensor
    logits: Tensor
    positions: Tensor

    @staticmethod
    def of(census: Census, vocabulary: int, n_saes: int) -> Outputs:
        """Nothing yet, for the latents that were sampled most often; the lowest of equals first."""
        most = max(1, OUTPUT_BYTES // (8 * vocabulary * n_saes))
        n = min(SHOWN, most, int((census.sampled > 0).sum()))
        latents = census.sampled.argsort(descending=True, stable=True)[:n].sort().values
        logits = census.sampled.new_zeros(n, vocabulary)
        return Outputs(latents, logits, census.sampled.new_zeros(n))

    def add(self, ablations: Ablations, rows: Tensor, logits: Tensor) -> None:
        """Add ``logits`` ``[len(rows), vocabulary]``; rows that are no ablation of a shown latent are passed over."""
        own = (rows >= 0) & (rows < len(ablations.latent))
        if not len(self.latents) or not bool(own.any()):
            return
        latent = ablations.latent[rows[own]]
        slot = torch.searchsorted(self.latents, latent).clamp(max=len(self.latents) - 1)
        shown = self.latents[slot] == latent
        self.logits.index_add_(0, slot[shown], logits[own][shown])
        self.positions.index_add_(0, slot[shown], torch.ones_like(slot[shown], dtype=torch.float64))

    def columns(self, subject: SubjectModel, entry: Entry, census: Census) -> dict[str, NDArray[np.float64]]:
        """The most promoted and suppressed tokens of each latent, by its effect and by its direction alone.

        Raises CoderFailure.
        """
        found = extremes(self.logits / self.positions.clamp(min=1).unsqueeze(1))
        signs = census.summed[self.latents].sign().unsqueeze(1)
        directions = guarded(entry, lambda: entry.coder.decoder_rows(self.latents)) * signs
        direct = direct_logits(subject, entry.hook_out, directions, self.logits.shape[1])
        if direct is not None:
            found |= {f"direct_{name}": column for name, column in extremes(direct).items()}
        return found | {"latent": self.latents.double().cpu().numpy()}


def extremes(logits: Tensor) -> dict[str, NDArray[np.float64]]:
    """The most promoted and most suppressed tokens of each row of ``logits`` ``[latents, vocabulary]``, with values.

    Near-ties are in order of their ids.
    """
    k = min(TOKENS, logits.shape[1])
    found = {}
    for what, sign in (("promoted", 1), ("suppressed", -1)):
        tokens = torch.stack([top(sign * row, k) for row in logits]) if len(logits) else logits.new_zeros(0, k).long()
        values = logits.gather(1, tokens)
        found[f"{what}_token"], found[f"{what}_logit"] = tokens.double().cpu().numpy(), values.double().cpu().numpy()
    return found
