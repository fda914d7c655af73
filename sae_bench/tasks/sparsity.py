"""Sparsity: how many latents are active on a token, and on how many tokens a latent is active.

A latent is active on a token when its activation is not 0 (negative ones count too). Figures over tokens resample
documents, shares of latents folds of the documents (:mod:`sae_bench.units.folds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_bench.tasks.base import Site, Task, View
from sae_bench.units import Column, Units, folds

HISTOGRAM = (-7.0, 0.0, 28)  # log10 of density: from, to, number of bins


class Sparsity(Task):
    """Document table: active entries and their size. Fold table: on how many tokens of each fold latents are active."""

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
        """On how many kept tokens of each fold every latent is active ``[32, n_latents]``, and what it contributes."""
        codes, n = view.codes, view.codes.n_latents
        token = codes.token_of_entry()
        kept = view.kept[token]

        def added(place: Tensor, entries: Tensor, n_places: int) -> Tensor:
            """Summed in the same order every time, on a GPU too, and without the entries that count nothing."""
            return entries.new_zeros(n_places).index_put_((place,), entries, accumulate=True)

        return {
            "active_tokens": added(view.folds[token] * n + codes.indices, kept.int(), folds.FOLDS * n).view(
                folds.FOLDS, n
            ),
            "contribution": added(codes.indices, torch.where(kept, view.sizes, 0), n),
        }

    def tables(self, rows: Units, totals: Mapping[str, Column]) -> dict[str, Units]:
        """Adds the table of folds."""
        return {"document": rows, "fold": folds.table(rows, totals["active_tokens"], totals["contribution"])}

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """Histogram of log10 density, how many latents are dead on fewer tokens, and what is known of the dead ones.

        ``firings_of_dead`` is the share of firings on other text that are of latents dead here: that of single firings
        (Good-Turing).
        """
        tokens, active = float(tables["document"].columns["tokens"].sum()), folds.active_tokens(tables["fold"])
        low, high, bins = HISTOGRAM
        logs = np.log10(active[active > 0] / max(tokens, 1))
        counts, edges = np.histogram(np.clip(logs, low, high), bins=bins, range=(low, high))
        return {
            "tokens": int(tokens),
            "never_active": int((active == 0).sum()),
            "firings_of_dead": float(f"{(active == 1).sum() / max(active.sum(), 1):.3g}"),
            "density_histogram": {"log10_edges": edges.round(6).tolist(), "latents": counts.tolist()},
            "dead_by_tokens": _curve(tables["fold"]),
        }


def _curve(table: Units) -> dict[str, Any]:
    """How many latents are dead on so many tokens, and what the dead ones would do on others.

    ``expected`` is the mean over all choices of so many folds. ``at_twice`` is the curve gone on by one doubling, None
    where there are too few folds for that.
    """
    there = table.select(np.flatnonzero(table.columns["documents"]))
    active, tokens = folds.active_tokens(table), float(table.columns["tokens"].sum())
    n = sorted({max(1, len(there) >> i) for i in range(6)}) if len(there) else []
    twice = folds.dead_at_twice(table)
    return {
        "latents": len(active),
        "tokens": [round(tokens * i / len(there)) for i in n],
        "expected": [round(folds.expected_dead(there, i), 2) for i in n],
        "at_twice": None if twice is None else round(twice, 2),
    }
