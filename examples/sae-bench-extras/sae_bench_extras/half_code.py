"""Half a code: what the model loses when it runs on the strongest half of every token's latents.

The strength of a latent is the length of what it adds, ``|f| ||d||``. A random half of equal size stands beside it: an
SAE whose strong latents do not matter more than others scores the same on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_bench.saes.protocol import Codes, indptr_of
from sae_bench.schema import TaskSpec
from sae_bench.tasks.base import Site, Task, View
from sae_bench.units import Units
from sae_bench.units.bootstrap import total
from sae_bench_extras.figures.half_code import Parameters


class HalfCode(Task):
    """Sums over the predictions of a document, of two replacements of its own."""

    replacements = ("clean",)

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.share: float = Parameters.of(spec.id, spec.parameters).share

    def passes(self) -> int:
        """Two keys of ``view.scores``: the strongest part, and a random one."""
        return 2

    def shared(self, site: Site) -> dict[str, Tensor]:
        """What does not depend on the SAE ``[sequences]``."""
        return {"predictions": site.predictions(), "ce_clean": site.loss("clean")}

    def measure(self, view: View) -> dict[str, Tensor]:
        """Losses on both parts of the code, and how many entries there are and are kept ``[sequences]``."""
        codes = view.codes
        strongest, chance = (strongest_part(codes, strength, self.share) for strength in (view.sizes, drawn(view)))
        half = view.scores(view.decode(strongest), "strongest")
        return {
            "ce_half": view.sum_predictions(half.ce),
            "kl_half": view.sum_predictions(half.kl),
            "kl_random": view.sum_predictions(view.scores(view.decode(chance), "random").kl),
            "tokens": view.sum(view.kept.double(), view.kept),
            "active": view.sum(codes.counts(), view.kept),
            "kept": view.sum(strongest.counts(), view.kept),
        }

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """How many latents of all tokens were active, and how many of them were kept."""
        s = total(tables["document"])
        return {"entries": {name: int(getattr(s, name)[0]) for name in ("tokens", "active", "kept")}}


def strongest_part(codes: Codes, strength: Tensor, share: float) -> Codes:
    """Of every token the ``ceil(share * active)`` entries of most ``strength`` ``[entries]``; the first of equals."""
    token = codes.token_of_entry()
    order = strength.argsort(descending=True, stable=True)
    order = order[token[order].argsort(stable=True)]  # by token, and within a token the strongest first
    place = torch.arange(len(order), device=order.device) - codes.indptr[:-1][token]
    wanted = (codes.counts() * share).ceil().long()
    kept = torch.zeros_like(token, dtype=torch.bool)
    kept[order[place < wanted[token]]] = True
    return Codes(indptr_of(wanted), codes.indices[kept], codes.values[kept], codes.n_latents)


def drawn(view: View) -> Tensor:
    """A random number for every entry of the codes ``[entries]``, which does not depend on how text is batched.

    The generator belongs to a sequence, and the entries of a sequence stand together.
    """
    noise, everywhere = view.noise("half_code"), torch.ones_like(view.kept)
    entries = view.sum(view.codes.counts(), everywhere).long().tolist()
    parts = [torch.rand(n, generator=noise.generator(i), dtype=torch.float64) for i, n in enumerate(entries)]
    return torch.cat(parts).to(view.codes.indices.device)
