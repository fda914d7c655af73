"""Scores of rules by loops over tokens."""

from __future__ import annotations

import numpy as np


def loop_scores(tokens, previous, fires, held_out, held_out_previous, strength, least):
    """The score of every held-out token for every latent, from the definition."""
    out = np.zeros((len(fires), len(held_out)))
    for i, actual in enumerate(fires):
        for j, (v, u) in enumerate(zip(held_out, held_out_previous, strict=True)):
            own, pair = tokens == v, (tokens == v) & (previous == u)
            if actual[own].any():
                out[i, j] = actual[own].sum() / (own.sum() + strength)
                if pair.sum() >= least:
                    out[i, j] = (actual[pair].sum() + strength * out[i, j]) / (pair.sum() + strength)
    return out
