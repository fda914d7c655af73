"""Tables of several coders at one hook point, by hand; nothing here imports torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sae_bench.results import store
from sae_bench.units import Common, Units
from tests.builders.results import result

ROWS, WIDTH = 40, 3


def hook(n: int = ROWS, seed: int = 0, width: int = WIDTH) -> Common:
    rng = np.random.default_rng(seed)
    ids = tuple(f"unit {i}" for i in range(n))
    columns = {"tokens": rng.uniform(1, 9, n), "x": rng.normal(size=(n, width)), "first_x": rng.normal(size=(n, width))}
    return Common(ids, columns)


def table(common: Common, seed: int = 1) -> Units:
    error = np.random.default_rng(seed).normal(size=len(common.ids))
    return Units(common.ids, {**common.columns, "error": error, "size": error**2}, common)


def saved(folder: Path, common: Common, name: str = "a", seed: int = 1, **more: Units) -> Path:
    own = table(common, seed)
    control = replace(table(common, seed + 100), columns={"error": table(common, seed + 100).columns["error"]})
    return store.write(folder, result(name=name), {"document": own, "control/mean/document": control, **more})
