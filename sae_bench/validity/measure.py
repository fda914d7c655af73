"""The tasks run on the ladder of a world, as a user runs them: through :func:`sae_bench.evaluate`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench import registry
from sae_bench.errors import SaeBenchError
from sae_bench.results import store
from sae_bench.schema import MetricValue, Result
from sae_bench.units import Units
from sae_bench.validity import sets
from sae_bench.validity.ladder import STEPS, Rung, ladder
from sae_bench.validity.subject import model, tokenizer
from sae_bench.validity.trained import DRAWS
from sae_bench.validity.world import LENGTH, PHRASE, World, text, world

__all__ = ["CHECKPOINTS", "DRAWS", "TASKS", "Draw", "Rung", "measured", "run"]

NAME = "tokens"
CHECKPOINTS = STEPS
# Not token_rules: here what a token has is said by the token itself, so that a list of tokens is right for any latent.
TASKS = "reconstruction,loss_recovered,sparsity,probe_recovery,sparse_probing,token_labels,downstream_sparsity"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Documents of text, labelled sets, examples of each part of a set, resamples, and the tier, which bounds ablations.
    """

    documents: int
    sets: int
    examples: int
    resamples: int
    tier: str


# No figure hangs on it. Logits of 8,192 tokens are 64 MiB, which glibc gives back when they are freed; it keeps most of
# smaller blocks, so that the peak of loss_recovered on a whole draw was 4.2 GB at the default and is 1.4 GB here.
BATCH_TOKENS = 8192
WHOLE, QUICK = Size(400, 24, 300, 1000, "standard"), Size(64, 5, 120, 200, "smoke")


@dataclass(frozen=True)
class Draw:
    """A draw of a world: its SAEs of known quality, and all that is measured of them.

    ``rungs`` by name, ``results`` by SAE, then task; ``units`` the tables that they were made of, by SAE, then task.
    ``lacks`` says by task what the world has not that it needs, of tasks that are not made for it.
    """

    world: str
    seed: int
    rungs: Mapping[str, Rung]
    results: Mapping[str, Mapping[str, Result]]
    units: Mapping[str, Mapping[str, Mapping[str, Units]]] = field(default_factory=dict, repr=False)
    lacks: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def figures(self) -> Mapping[str, Mapping[str, MetricValue]]:
        """By SAE, every figure under "task.metric"."""
        return {
            sae: {f"{task}.{name}": value for task, one in own.items() for name, value in one.metrics.items()}
            for sae, own in self.results.items()
        }


def measured(seed: int, *, quick: bool = False, tasks: str | None = None, task_dir: str | Path | None = None) -> Draw:
    """One draw of the world: all of it hangs on ``seed``, of which there are :data:`DRAWS`. Raises SaeBenchError.

    ``quick`` reads less text and fewer labelled sets of the same world. ``tasks`` as in :class:`sae_bench.Settings`,
    by default :data:`TASKS`; ``task_dir`` a folder of other tasks.
    """
    made, size = world(seed), QUICK if quick else WHOLE
    rungs = ladder(made)
    with tempfile.TemporaryDirectory() as folder:
        labelled(made, Path(folder), size)
        return run(
            NAME,
            seed,
            rungs,
            model=model(made),
            tokenizer=tokenizer(),
            data=text(made.ids(2 * size.documents, LENGTH, "text")),
            tasks=tasks or TASKS,
            task_dir=task_dir,
            probe_data=folder,
            limit=size.documents,
            tier=size.tier,
            resamples=size.resamples,
        )


def run(name: str, seed: int, rungs: Mapping[str, Rung], **settings: Any) -> Draw:
    """The draw ``seed`` of the world ``name``: its SAEs measured under these settings. Raises SaeBenchError.

    Nothing is kept of it on disk, and nothing of other runs is taken; there are no controls, which the ladder holds.
    """
    from sae_bench.api import evaluate

    asked: dict[str, Any] = {
        "controls": "none",
        "suite": "none",
        "calibration_cache": False,
        "device": "cpu",
        "batch_tokens": BATCH_TOKENS,
    } | settings
    found: dict[str, dict[str, Result]] = {sae: {} for sae in rungs}
    units: dict[str, dict[str, dict[str, Units]]] = {sae: {} for sae in rungs}
    ours, folder, lacks = registry.data_folder("tasks"), settings.get("task_dir"), dict[str, str]()
    with tempfile.TemporaryDirectory() as out:
        for one in evaluate({sae: rung.coder for sae, rung in rungs.items()}, out=out, **asked):
            if one.status == "skipped" and registry.folder_of_task(one.task, folder) != ours:
                lacks[one.task] = one.reason or "it is skipped"
                continue
            if not one.measured:
                raise SaeBenchError(f"the world {name}, draw {seed}: {one.task} of {one.sae.name}: {one.reason}")
            found[one.sae.name][one.task] = one
            file = store.path_of(out, one.sae, one.task, one.version, one.protocol)
            units[one.sae.name][one.task] = store.read_units(file)
    return Draw(name, seed, rungs, found, units, lacks)


def labelled(made: World, folder: Path, size: Size) -> None:
    """Labelled sets of short texts, half of which have the feature: features of all kinds, one a set."""
    for feature in chosen(made, size.sets):
        for part in ("train", "test"):
            ids = balanced(made, feature, part, size.examples)
            sets.write(folder / f"f{feature:03d}", part, sets.of_words(text(ids), made.strengths[ids, feature] > 0))


def chosen(made: World, n: int) -> list[int]:
    """Features of the labelled sets: ``n`` of those that 5 to 60 % of short texts have, spread over all kinds."""
    share = (made.strengths > 0)[made.ids(500, PHRASE, "how often")].any(1).mean(0)
    usable = np.flatnonzero((share > 0.05) & (share < 0.6))
    return [int(i) for i in usable[np.linspace(0, len(usable) - 1, min(n, len(usable))).round().astype(int)]]


def balanced(made: World, feature: int, part: str, n: int) -> NDArray[np.int64]:
    """At most ``n`` texts of one part of a set, half of which have the feature."""
    ids = made.ids(12 * n, PHRASE, f"{feature} {part}")
    has = (made.strengths[ids, feature] > 0).any(1)
    half = min(n // 2, int(has.sum()), int((~has).sum()))
    return np.concatenate([ids[has][:half], ids[~has][:half]])
