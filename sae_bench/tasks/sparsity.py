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

from sae_bench.statistics import Metric, Ratio, Sums
from sae_bench.tasks.base import Site, Task, View
from sae_bench.units import Column, Units

DENSE = {"1pct": 0.01, "10pct": 0.10}
HISTOGRAM = (-7.0, 0.0, 28)  # log10 of density: from, to, number of bins


def l0(s: Sums) -> Ratio:
    """Mean number of active latents of a token."""
    return Ratio(s.active, s.tokens, "the number of tokens")


def l1(s: Sums) -> Ratio:
    """Mean over tokens of Σ|f|, in units of the latents: it changes when a latent and its direction are rescaled."""
    return Ratio(s.magnitude, s.tokens, "the number of tokens")


def l1_contribution(s: Sums) -> Ratio:
    """Mean over tokens of Σ|f|·‖d‖, in units of the activations: it does not change when a latent is rescaled."""
    return Ratio(s.contribution, s.tokens, "the number of tokens")


def dead_fraction(s: Sums) -> Ratio:
    """Share of latents that are active on no token of the evaluation set; it falls as more tokens are seen."""
    return Ratio(s.dead, s.latents, "the number of latents")


def _dense_fraction(name: str) -> Metric:
    return lambda s: Ratio(getattr(s, f"dense_{name}"), s.latents, "the number of latents")


def _dense_contribution(name: str) -> Metric:
    return lambda s: Ratio(getattr(s, f"contribution_{name}"), s.contribution, "the contribution of all latents")


class Sparsity(Task):
    """Document table: active entries and their size. Latent table: on how many tokens each latent is active."""

    metrics: Mapping[str, Metric] = {
        "l0": l0,
        "l1": l1,
        "l1_contribution": l1_contribution,
        "dead_fraction": dead_fraction,
        **{f"dense_fraction_{name}": _dense_fraction(name) for name in DENSE},
        **{f"dense_contribution_{name}": _dense_contribution(name) for name in DENSE},
    }

    def shared(self, site: Site) -> dict[str, Tensor]:
        """Number of tokens."""
        return {"tokens": site.sum(torch.ones(len(site.kept), device=site.kept.device), site.kept)}

    def measure(self, view: View) -> dict[str, Tensor]:
        """Active entries of each sequence, their size, and their size times decoder norm."""
        codes = view.codes
        token = codes.token_of_entry()
        size = codes.values.double().abs()

        def of_token(entries: Tensor) -> Tensor:
            return torch.zeros(codes.n_tokens, dtype=torch.float64, device=size.device).index_add_(0, token, entries)

        return {
            "active": view.sum(codes.counts(), view.kept),
            "magnitude": view.sum(of_token(size), view.kept),
            "contribution": view.sum(of_token(size * view.decoder_norms[codes.indices]), view.kept),
        }

    def totals(self, view: View) -> dict[str, Tensor]:
        """On how many kept tokens each latent is active, and its summed contribution: ``[n_latents]`` each."""
        codes = view.codes.select(view.kept)
        size = codes.values.double().abs() * view.decoder_norms[codes.indices]
        return {
            "active_tokens": torch.bincount(codes.indices, minlength=codes.n_latents).double(),
            "contribution": torch.bincount(codes.indices, weights=size, minlength=codes.n_latents).double(),
        }

    def tables(self, rows: Units, totals: Mapping[str, Column]) -> dict[str, Units]:
        """Adds the table of latents."""
        active, contribution = totals["active_tokens"], totals["contribution"]
        density = active / max(rows.columns["tokens"].sum(), 1)
        columns = {"latents": np.ones(len(active)), "active_tokens": active, "contribution": contribution}
        columns["dead"] = (active == 0).astype(np.float64)
        for name, threshold in DENSE.items():
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
