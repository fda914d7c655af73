"""Sparsity of downstream effects: when one latent is taken away, how many output logits move?

At a sampled position an active latent's contribution ``f_i d_i`` is subtracted from the activation, and the rest of the
model runs on that position and the tokens behind it. ``D`` is the change of the logits, less each token's median over
the vocabulary; ``(sum |D|)^2 / (sum D^2 * vocabulary)`` over the ablated token is the effective fraction of its logits
that moved, and the same over all tokens and logits that of (token, logit) pairs. From "Scaling and evaluating sparse
autoencoders" (Gao et al. 2024), section 4.5, which leaves several choices open: see the card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.kernels.divergence import divergence, normaliser
from sae_bench.kernels.effects import centred, effect_sparsity
from sae_bench.kernels.ranks import TOLERANCE, settled
from sae_bench.metrics import downstream_sparsity
from sae_bench.schema import TaskSpec
from sae_bench.tasks.ablations import AblationTask
from sae_bench.units import Column, Units, kinds

BINS = 10
BIN_RESAMPLES = 500
FIGURE = "effect_sparsity_token"  # the one of which details hold parts
GAUSSIAN = 2 / math.pi  # what independent Gaussian changes of all logits score


class DownstreamSparsity(AblationTask):
    """Ablation table: one row an ablation; documents are resampled. Beside it, the sampled latents."""

    columns = (  # of the ablation table: :meth:`score`, and where the ablation is
        *("tokens", "entries", "l1", "l2_squared", "token_l1", "token_l2_squared", "kl"),
        *("noise_l2_squared", "noise_token_l2_squared"),
        *("position", "latent", "value", "norm"),
    )
    only_of_coders = frozenset({"effect_sparsity_token_gain"})  # random directions are measured beside SAEs alone
    constants: Mapping[str, Mapping[str, float]] = {
        "gaussian": {"effect_sparsity": GAUSSIAN, "effect_sparsity_token": GAUSSIAN}
    }

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = downstream_sparsity.Parameters.of(spec.id, spec.parameters)
        self.horizon, self.positions, self.latents = p.horizon, p.positions, p.latents
        self.base, self.centre, self.noise_factor = p.base, p.centre, p.noise_factor

    def score(self, change: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Sums over each ablation, float64 ``[ablations]``.

        ``change`` float ``[ablations, tokens, vocabulary]`` is ablated minus clean, ``clean`` ``[tokens, vocabulary]``
        the logits without any ablation.
        """
        effects = effect_sparsity(change, centre=self.centre)
        of_clean = normaliser(clean)
        ablated = (clean + one for one in change)
        kl = [divergence(clean, of_clean, logits, normaliser(logits)).sum() for logits in ablated]
        return {
            "tokens": effects.tokens,
            "entries": effects.entries,
            "l1": effects.l1,
            "l2_squared": effects.l2_squared,
            "token_l1": effects.token_l1[:, 0],
            "token_l2_squared": effects.token_l2_squared[:, 0],
            "kl": torch.stack(kl),
        }

    def output(self, change: Tensor) -> Tensor:
        """What a latent adds to the next token's logits: minus the change, centred, float64 ``[ablations, vocab]``."""
        return -centred(change[:, 0], "median")

    def tables(self, rows: Units, totals: Mapping[str, Column]) -> dict[str, Units]:
        """The ablations, and, of an SAE, the sampled latents and the output of those that are shown."""
        raw, none = rows.columns, np.zeros(len(rows))
        sparsity, scored = self._share("", raw, raw["entries"])
        of_token, token_scored = self._share("token_", raw, raw["entries"] / np.maximum(raw["tokens"], 1))
        derived = {
            "sparsity": sparsity,
            "scored": scored,
            "token_share": of_token,
            "token_scored": token_scored,
            **{"gain": none, "paired": none},  # of an SAE: see beside
            "ablations": np.ones(len(rows)),
        }
        tables = {"ablation": Units(rows.ids, dict(raw) | derived)}
        if "density" in totals:
            latents = np.unique(raw["latent"])
            tables["latent"] = Units(_names(latents), {"density": totals["density"]})
            output = {n.removeprefix("output_"): c for n, c in totals.items() if n.startswith("output_")}
            tables["output"] = Units(_names(output.pop("latent")), output)
        return tables

    def _share(self, prefix: str, raw: Mapping[str, Column], entries: Column) -> tuple[Column, Column]:
        """The effective fraction of ``entries`` that each ablation moves, 0 where it is not scored, and where it is."""
        l1, l2_squared, noise = raw[f"{prefix}l1"], raw[f"{prefix}l2_squared"], raw[f"noise_{prefix}l2_squared"]
        scored = (l2_squared > self.noise_factor**2 * noise) & (l2_squared > 0)
        share = np.zeros(len(l1))
        np.divide(l1**2, l2_squared * entries, out=share, where=scored)
        return share, scored.astype(np.float64)

    def beside(self, tables: dict[str, Units], random: Units) -> dict[str, Units]:
        """The ablations with how much sparser each is than a random direction of its norm at its position."""
        own = tables["ablation"]
        if own.ids != random.ids:
            raise ValueError("the random directions beside an SAE are not at the positions of its ablations")
        paired = own.columns["token_scored"] * random.columns["token_scored"]
        gain = (random.columns["token_share"] - own.columns["token_share"]) * paired
        return tables | {"ablation": Units(own.ids, dict(own.columns) | {"gain": gain, "paired": paired})}

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """Counts, the figure by decile of activation and of density, and the output of latents."""
        table = tables["ablation"]
        rows = table.columns
        density = dict(zip(tables["latent"].ids, tables["latent"].columns["density"], strict=True))
        return {
            "ablations": len(table),
            "documents": len({unit.partition("@")[0] for unit in table.ids}),
            "latents": len(density),
            "scored": int(rows["scored"].sum()),
            "token_scored": int(rows["token_scored"].sum()),
            "figure": FIGURE,
            "vocabulary": int(rows["entries"][0] / rows["tokens"][0]),
            "by_activation": _deciles(table, rows["norm"]),
            "by_density": _deciles(table, np.array([density[name] for name in _names(rows["latent"])])),
            "outputs": self._outputs(tables, density),
        }

    def _outputs(self, tables: Mapping[str, Units], density: Mapping[str, float]) -> list[dict[str, Any]]:
        output, rows = tables["output"], tables["ablation"].columns
        found = []
        for row, unit in enumerate(output.ids):
            own = {name: float(column[rows["latent"] == int(unit)].sum()) for name, column in rows.items()}
            entry: dict[str, Any] = {
                "latent": int(unit),
                "positions": int(own["ablations"]),
                "density": float(density[unit]),
                FIGURE: own["token_share"] / own["token_scored"] if own["token_scored"] else None,
                "kl": own["kl"] / own["tokens"],
            }
            for what in ("promoted", "suppressed", "direct_promoted", "direct_suppressed"):
                if f"{what}_token" in output.columns:
                    tokens, logits = output.columns[f"{what}_token"][row], output.columns[f"{what}_logit"][row]
                    entry[what] = [
                        {"id": int(t), "token": self.token_text(int(t)), "logit": float(f"{v:.4g}")}
                        for t, v in zip(tokens, logits, strict=True)
                    ]
            found.append(entry)
        return found


def _names(latents: NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(str(int(latent)) for latent in latents)


def _deciles(ablations: Units, by: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Effect sparsity of the ablations in every tenth of ``by``, 0 or more; near-ties stay together."""
    own = settled(torch.from_numpy(by)).numpy()
    edges = np.unique(np.quantile(own, np.linspace(0, 1, BINS + 1)))
    reached = np.searchsorted(edges, own * (1 + TOLERANCE), side="right")  # an edge may be a value but for rounding
    bins = np.clip(reached - 1, 0, max(len(edges) - 2, 0))
    needed = {name: ablations.columns[name] for name in ("token_share", "token_scored", "ablations")}
    found = []
    for i in np.unique(bins):
        members = np.flatnonzero(bins == i)
        some = Units(ablations.ids, needed).select(members)
        draws = kinds.ABLATION.drawn(some, seed=0, resamples=BIN_RESAMPLES)
        e = kinds.estimate(draws, downstream_sparsity.token_share, interval="bootstrap")
        span: dict[str, Any] = {
            "from": float(by[members].min()),
            "to": float(by[members].max()),
            "ablations": len(members),
        }
        found.append(span | {"value": e.value, "low": e.low, "high": e.high})
    return found
