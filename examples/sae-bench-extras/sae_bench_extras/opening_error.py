"""How well an SAE gives back the beginning of a document, where there is little context yet."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.tasks.base import View
from sae_bench_extras.openings import WIDTH, OpeningTask


class OpeningError(OpeningTask):
    """Squared errors and lengths, of all windows and of the first one of each document."""

    def tokens(self, view: View) -> dict[str, Tensor]:
        """Four numbers of every token ``[T]``."""
        x, x_hat = view.target.double(), view.x_hat.double()
        error, energy = (x - x_hat).square().sum(1), x.square().sum(1)
        early = _position(view.first) < WIDTH
        return {
            "error": error,
            "energy": energy,
            "first_error": torch.where(early, error, 0),
            "first_energy": torch.where(early, energy, 0),
        }


def _position(first: Tensor) -> Tensor:
    """The place of every token in its sequence ``[T]``, from where sequences begin ``[T]``."""
    at = torch.arange(len(first), device=first.device)
    return at - at[first][first.cumsum(0) - 1]
