"""What a task on ablations is: one latent at one position is taken away, and the rest of the model runs from there."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sae_bench.tasks.base import Task
from sae_bench.units import Units


class AblationTask(Task):
    """Base class of tasks that score single ablations.

    ``positions`` of a document and ``latents`` at a position are sampled; an effect is followed over ``horizon``
    tokens, the changed one included. ``base`` is what the model carries meanwhile: "activation" or "reconstruction".
    ``columns`` names those of the ablation table: what :meth:`score` returns, of each of these that ends in
    ``l2_squared`` the same of one change by rounding alone (``noise_...``), and position, latent, value and norm of
    what was taken away.
    """

    stream = "ablations"
    horizon: int
    positions: int
    latents: int
    base = "activation"
    columns: tuple[str, ...]

    def score(self, change: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Sums over each ablation, float64 ``[ablations]``; one of them is called l2_squared.

        ``change`` float ``[ablations, tokens, vocabulary]`` is ablated minus clean, ``clean`` ``[tokens, vocabulary]``
        the logits without any ablation.
        """
        raise NotImplementedError

    def output(self, change: Tensor) -> Tensor:
        """What a latent adds to the next token's logits, float64 ``[ablations, vocabulary]``."""
        raise NotImplementedError

    def beside(self, tables: dict[str, Units], random: Units) -> dict[str, Units]:
        """The tables of an SAE with what it needs of ``random``, the ablations of directions as long at its places."""
        return tables

    def unusable(self, tables: Mapping[str, Units]) -> str | None:
        """Without any ablation there is nothing to score."""
        if len(tables["ablation"]):
            return None
        return "no latent is active at any of the sampled positions; on such text this SAE explains nothing"
