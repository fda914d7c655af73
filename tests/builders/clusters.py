"""Text in clusters: pieces of documents that are alike, as packing, cutting and pre-tokenised rows make them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sae_bench.units import Units
from sae_bench.units.bootstrap import Ratio
from sae_bench.units.groups import in_group


def nmse(s: Any) -> Ratio:
    """Error over energy."""
    return Ratio(s.error, s.energy, "the energy of the activations")


def equal_documents(rng: np.random.Generator, n: int, tag: str = "") -> Units:
    """Documents of equal length whose errors are independent."""
    tokens = np.full(n, 128.0)
    columns = {"tokens": tokens, "error": tokens * rng.gamma(4, 0.05, n), "energy": tokens * rng.gamma(50, 0.02, n)}
    return Units(tuple(f"{tag}{i}" for i in range(n)), columns)


def packed(rng: np.random.Generator, n: int, pieces: int = 8, tag: str = "", tail: float = 0.5) -> Units:
    """``n`` documents in 1 to ``pieces`` pieces, which are about as hard as one another."""
    of = np.repeat(np.arange(n), rng.integers(1, pieces + 1, n))
    hard = rng.lognormal(0, tail, n)[of]
    tokens = np.full(len(of), 128.0)
    ids = tuple(in_group(f"{tag}d{document}", f"{i}") for i, document in enumerate(of))
    return Units(ids, {"tokens": tokens, "error": tokens * 0.1 * hard * rng.gamma(50, 0.02, len(of)), "energy": tokens})


def alone(units: Units) -> Units:
    """The same rows, each as if it stood alone."""
    return Units(tuple(unit.replace("~", "-") for unit in units.ids), units.columns)
