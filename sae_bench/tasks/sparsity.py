"""Sparsity: how many latents are active on a token, and on how many tokens a latent is active.

A latent is active on a token when its activation is not 0 (negative ones count too). Figures over tokens resample
documents; figures over latents are shares of the dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_bench.metrics import sparsity
from sae_bench.tasks.base import Site, Task, View
from sae_bench.units import Column, Units

HISTOGRAM = (-7.0, 0.0, 28)  # log10 of density: from, to, number of bins


class Sparsity(Task):
    """Document table: active entries and their size. Latent table: on how many tokens each latent is active."""

    counts = "tokens"
    sees_decoder = False  # but for the lengths of its directions

    def shared(self, site: Site) -> dict[str, Tensor]:
        """Number of tokens."""
        return {"tokens": site.sum(torch.ones(len(site.kept), device=site.kept.device), site.kept)}

    def measure(self, view: View) -> dict[str, Tensor]:
        """Active entries of each sequence, their size, and their size times decoder norm."""
        codes = view.codes
        counts = codes.counts()

        def of_token(entries: Tensor) -> Tensor:
            return torch.segment_reduce(entries, "sum", lengths=counts, unsafe=True)

        return {
            "active": view.sum(counts, view.kept),
            "magnitude": view.sum(of_token(codes.values.double().abs()), view.kept),
            "contribution": view.sum(of_token(view.sizes), view.kept),
        }

    def totals(self, view: View) -> dict[str, Tensor]:
        """On how many kept tokens each latent is active, and its summed contribution: ``[n_latents]`` each."""
        kept = view.kept[view.codes.token_of_entry()].double()

        def of_latent(entries: Tensor) -> Tensor:
            """Summed in the same order every time, on a GPU too, and without the entries that count nothing."""
            sums = entries.new_zeros(view.codes.n_latents)
            return sums.index_put_((view.codes.indices,), entries, accumulate=True)

        return {"active_tokens": of_latent(kept), "contribution": of_latent(torch.where(kept > 0, view.sizes, 0))}

    def tables(self, rows: Units, totals: Mapping[str, Column]) -> dict[str, Units]:
        """Adds the table of latents."""
        active, contribution = totals["active_tokens"], totals["contribution"]
        density = active / max(rows.columns["tokens"].sum(), 1)
        columns = {"latents": np.ones(len(active)), "active_tokens": active, "contribution": contribution}
        columns["dead"] = (active == 0).astype(np.float64)
        for name, threshold in sparsity.DENSE.items():
            dense = (density > threshold).astype(np.float64)
            columns |= {f"dense_{name}": dense, f"contribution_{name}": dense * contribution}
        return {"document": rows, "latent": Units(tuple(map(str, range(len(active)))), columns)}

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """Histogram of log10 density, with the number of tokens on which it was measured."""
        tokens = float(tables["document"].columns["tokens"].sum())
        active = tables["latent"].columns["active_tokens"]
        low, high, bins = HISTOGRAM
        logs = np.log10(active[active > 0] / max(tokens, 1))
        counts, edges = np.histogram(np.clip(logs, low, high), bins=bins, range=(low, high))
        return {
            "tokens": int(tokens),
            "never_active": int((active == 0).sum()),
            "density_histogram": {"log10_edges": edges.round(6).tolist(), "latents": counts.tolist()},
        }
