"""Draws of a world that is made up: SAEs of known quality, and figures that see it, or are wrong in a known way.

No model runs: the rows of every table are drawn. What an SAE is worth is its truth; ``fvu`` falls with it and is
measured on documents that are alike within themselves, as text is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from sae_bench.registry import definition_sha256
from sae_bench.schema import MetricSpec, MetricValue, TaskSpec
from sae_bench.units import Units, kinds
from sae_bench.units.bootstrap import Ratio, Sums, draw, quotient
from sae_bench.units.groups import group_of, in_group
from sae_bench.units.kinds import Kind
from tests.builders.results import result

TOKENS = Kind("token", "<document>~<token>", draw=draw, together=group_of, text=True)  # draws tokens: wrong on purpose
CHECKPOINTS = tuple(f"trained_{step}" for step in (0, 1, 2, 3, 4))
# encoder and decoder; both is their product but for a decoder in the wrong order
QUALITY: Mapping[str, tuple[float, float]] = {
    "perfect": (1.0, 1.0), "split": (0.6, 1.0), "absorbed": (0.8, 0.95), "missed": (0.5, 1.0),
    "noisy_90": (1.0, 0.9), "noisy_70": (1.0, 0.7), "noisy_50": (1.0, 0.5), "permuted": (1.0, 1.0),
    "turned": (0.98, 0.99), "turned_split": (0.62, 0.98), "turned_missed": (0.52, 0.97),
    "random_fit": (0.12, 0.3), "frozen_random": (0.12, 0.28),
    **{name: (0.15 + 0.12 * i, 0.3 + 0.1 * i) for i, name in enumerate(CHECKPOINTS)},
}  # fmt: skip
DISORDERED = ("permuted", "turned", "turned_split", "turned_missed")
DOCUMENTS, PIECES = 100, 5


@dataclass(frozen=True)
class Truth:
    both: float
    encoder: float
    decoder: float


def truth_of(name: str) -> Truth:
    encoder, decoder = QUALITY[name]
    return Truth(0.05 * encoder if name in DISORDERED else encoder * decoder, encoder, decoder)


def spec(**changes: Mapping[str, object]) -> TaskSpec:
    """The task of the made-up figures."""
    common = {"unit": "1", "table": "document", "description": "made up"}
    metrics = {
        "seen": {"better": "higher", "claims": "features"},
        "fvu": {"better": "lower", "claims": "fidelity"},
        "half_seen": {"better": "higher", "claims": "features"},  # sees the encoder alone
        "fvu_of_batches": {"better": "lower", "claims": "fidelity"},  # mean of ratios, not ratio of sums
        "fvu_of_tokens": {"better": "lower", "claims": "fidelity", "table": "token"},  # as if tokens were independent
        "noise": {"better": "higher", "claims": "decoder"},
        "same": {"better": "higher"},
        "aimless": {"better": "none"},
    }
    made = {n: MetricSpec(name=n, **(common | own | dict(changes.get(n, {})))) for n, own in metrics.items()}
    return TaskSpec(
        id="made_up", version=1, title="Made up", question="?", code="tests.builders.made_up_draws:metrics",
        figures="tests.builders.made_up_draws", metrics=made,
    )  # fmt: skip


def metrics(parameters: object = None) -> dict[str, object]:
    """Figures as functions of sums."""

    def mean_of(column: str, sums: Sums) -> Ratio:
        return Ratio(getattr(sums, column), sums.rows, "the number of rows")

    def fvu(sums: Sums) -> Ratio:
        return Ratio(sums.error, sums.energy, "the energy")

    wanted = {n: partial(mean_of, n) for n in ("seen", "half_seen", "noise", "same", "aimless")}
    return {**wanted, "fvu": fvu, "fvu_of_tokens": fvu, "fvu_of_batches": partial(mean_of, "quotient")}


def tables_of(name: str, seed: int, of_text: np.random.Generator) -> dict[str, Units]:
    """Rows of documents, and rows of their pieces. ``of_text`` draws what all SAEs of a draw share: give equal ones."""
    truth, rng = truth_of(name), np.random.default_rng([seed, *name.encode()])
    hard = of_text.lognormal(0, 0.7, DOCUMENTS)
    energy = of_text.gamma(0.6, 1.0, (DOCUMENTS, PIECES))  # most pieces say little: a quotient of one is of chance
    worth = 1 - 0.9 * truth.both
    error = worth * energy * hard[:, None] * rng.gamma(8, 1 / 8, energy.shape)
    leak = 0.02 * rng.gamma(1, 1.0, energy.shape)  # of every piece, however small its energy

    def about(value: float, spread: float = 0.05) -> np.ndarray:
        return value + spread * rng.standard_normal(DOCUMENTS)

    ids = tuple(f"d{i:03d}" for i in range(DOCUMENTS))
    documents = {
        "rows": np.ones(DOCUMENTS), "tokens": np.full(DOCUMENTS, 16.0),
        "seen": about(truth.both), "half_seen": about(truth.encoder), "noise": about(0.0, 1.0),
        "same": np.full(DOCUMENTS, 0.5), "aimless": about(truth.both),
        "error": (error + leak).sum(1), "energy": energy.sum(1), "quotient": ((error + leak) / energy).mean(1),
    }  # fmt: skip
    pieces = tuple(in_group(unit, str(j)) for unit in ids for j in range(PIECES))
    tokens = {"error": error.ravel(), "energy": energy.ravel(), "tokens": np.full(error.size, 16.0)}
    return {"document": Units(ids, documents), "token": Units(pieces, tokens)}


def measured(seed: int, *, quick: bool = False, tasks: str | None = None, task_dir: object = None) -> SimpleNamespace:
    """One draw, with the members of a real one."""
    task, results, units = spec(), {}, {}
    for name in QUALITY:
        tables = tables_of(name, seed, np.random.default_rng(seed))
        values = {}
        for metric, own in task.metrics.items():
            of = kinds.kind(own.table)
            point = float(quotient(of.point(of.totals(tables[own.table]), metrics()[metric]))[0])
            values[metric] = MetricValue(value=point, low=None, high=None, unit="1", better=own.better, n_units=1)
        made = result(name, metrics=values, task="made_up", task_sha256=definition_sha256(task), n_documents=DOCUMENTS)
        provenance = made.provenance.model_copy(update={"resamples": 200})
        results[name] = {"made_up": made.model_copy(update={"provenance": provenance})}
        units[name] = {"made_up": tables}
    rungs = {name: SimpleNamespace(name=name, coder=None, truth=truth_of(name)) for name in QUALITY}
    return SimpleNamespace(world="made up", seed=seed, rungs=rungs, results=results, units=units, lacks={})


DRAWS, TASKS = 3, "made_up"  # with CHECKPOINTS and measured, what a module of a world has


def write_task(folder: Path, **changes: Mapping[str, object]) -> Path:
    """A folder for --task-dir with the definition of the made-up figures."""
    task = spec(**changes)
    lines = [
        f"{key} = {json.dumps(getattr(task, key))}" for key in ("id", "version", "title", "question", "code", "figures")
    ]
    for name, metric in task.metrics.items():
        lines += [
            f"[metrics.{name}]",
            *(f"{k} = {json.dumps(v)}" for k, v in metric.model_dump(exclude_unset=True).items()),
        ]
    (folder / task.id).mkdir(parents=True, exist_ok=True)
    (folder / task.id / "task.toml").write_text("\n".join(lines))
    return folder
