"""Every figure of an independent float64 program, for a real language model and nine SAEs, under two masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sae_bench import registry
from sae_bench.api import evaluate
from sae_bench.results import store
from sae_bench.units import folds
from tests.builders.marks import slow_but
from tests.conftest import ON_TEXT

THEIRS = {
    "fvu": "fvu",
    "nmse": "nmse",
    "mse": "mse",
    "cosine": "cosine",
    "norm_ratio": "l2_ratio",
    "relative_reconstruction_bias": "gamma",
    "l0": "l0",
    "l1": "l1",
    "dead_fraction": "never_active_fraction",
    "ce_clean": "ce_clean",
    "ce_spliced": "ce_spliced",
    "ce_zero": "ce_zero",
    "ce_mean": "ce_mean",
    "loss_recovered_zero": "loss_recovered_zero",
    "loss_recovered_mean": "loss_recovered_mean",
    "kl": "kl",
}
SETS = {"none": "set_all", "first": "set_no_bos"}
ONE, EVEN, ODD = slice(4, 5), slice(0, None, 2), slice(1, None, 2)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "mask", "part", "tasks"),
    slow_but(
        1,
        [
            ("float32", 1e-3, "none", ONE, "reconstruction,sparsity"),  # without a pass over the whole model
            ("float32", 1e-3, "none", ODD, ON_TEXT),
            ("float32", 1e-3, "first", EVEN, ON_TEXT),
            ("float64", 1e-6, "none", EVEN, ON_TEXT),
            ("float64", 1e-6, "first", ODD, ON_TEXT),
        ],
    ),
)
def test_figures_equal_those_of_an_independent_program(
    shared: Path, tmp_path: Path, dtype: str, tolerance: float, mask: str, part: slice, tasks: str
) -> None:
    """Every SAE under both masks and in both types, one mask in float32, the other in float64."""
    reference = json.loads((shared / "lm" / "reference.json").read_text())
    saes = list(reference["saes"])[part]
    results = evaluate(
        [shared / "lm" / "saes" / name for name in saes],
        model=shared / "lm" / "model",
        data=shared / "lm" / "reference_tokens.npy",
        mask=mask,
        mean_from="evaluation",
        dtype=dtype,
        tier="full",
        tasks=tasks,
        controls="none",
        resamples=20,
        out=tmp_path,
    )
    names = {name for task in tasks.split(",") for name in registry.tasks()[task].metrics} & THEIRS.keys()
    compared = 0
    for result in results:
        assert result.status == "ok"
        assert result.provenance.protocol.n_documents == reference["n_sequences"]
        expected = reference["saes"][result.sae.name][SETS[mask]]
        for ours, theirs in THEIRS.items():
            if ours in result.metrics:
                assert result.metrics[ours].value == pytest.approx(expected[theirs], rel=tolerance), (
                    f"{result.sae.name} {ours}"
                )
                compared += 1
    assert compared == len(saes) * len(names) >= 9 * len(saes)
    assert tasks != ON_TEXT or names == THEIRS.keys()
    _check_densities(shared, tmp_path, mask, dtype)


def _check_densities(shared: Path, out: Path, mask: str, dtype: str) -> None:
    """On how many tokens each latent is active, where the reference has it."""
    densities = np.load(shared / "lm" / "reference_density.npz")
    for file in store.find(out):
        if not file.name.startswith("sparsity"):
            continue
        name = file.parent.parent.name
        active = folds.active_tokens(store.read_units(file)["fold"])
        slack = 0.0 if dtype == "float64" else 3.0  # a near tie can fall the other way in float32
        np.testing.assert_allclose(active, densities[f"{name}|{SETS[mask]}"], atol=slack, rtol=0)
