"""Loss recovered: what the language model loses when it runs on the reconstruction.

At every position inside the mask the activation is replaced by the reconstruction ("spliced"), by 0, or by the mean
activation; all other positions are left alone in all three. Cross-entropy and KL are averaged over the predictions made
at the same positions. Nats throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sae_bench.metrics import loss_recovered
from sae_bench.tasks.base import Fidelity, Site, Task, View
from sae_bench.units import Units


class LossRecovered(Task):
    """Columns: number of predictions, and sums of CE and KL for each replacement."""

    fidelity = Fidelity("kl", loss_recovered.ROUNDING)
    replacements = ("clean", *loss_recovered.ABLATIONS, "spliced")

    def shared(self, site: Site) -> dict[str, Tensor]:
        """Losses that do not depend on the SAE."""
        losses = {f"ce_{name}": site.loss(name) for name in ("clean", *loss_recovered.ABLATIONS)}
        divergences = {f"kl_{name}": site.kl(name) for name in loss_recovered.ABLATIONS}
        return {"predictions": site.predictions(), **losses, **divergences}

    def measure(self, view: View) -> dict[str, Tensor]:
        """Losses of the spliced model."""
        return {"ce_spliced": view.loss("spliced"), "kl": view.kl("spliced")}

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """Over how many predictions the losses are averaged, and what they are where no SAE plays a part."""
        columns = tables["document"].columns
        n = float(columns["predictions"].sum())
        names = ("clean", *loss_recovered.ABLATIONS)
        context = {name: float(columns[f"ce_{name}"].sum()) / n for name in names if n}
        return {"predictions": int(n), loss_recovered.CONTEXT: context}
