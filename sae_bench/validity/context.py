"""World 2, "context": its ladder, and the tasks run on it as a user runs them, with a judge that reads.

Truth counts features: one without a latent of its own scores 0. A judge and a rule of tokens are asked about latents,
and only about those that fire: what is dead, merged or split is not to be seen by them. And both like latents that a
list of words describes, whatever is true of the world: those that are blind for context, or fire on words at random,
are in the ladder to show how far that goes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_bench import chosen
from sae_bench.judge.here import answering
from sae_bench.settings import Settings
from sae_bench.validity import judge, sets
from sae_bench.validity.context_known import KnownInContext, Plan, plans
from sae_bench.validity.context_subject import model, tokenizer
from sae_bench.validity.context_words import Flags, Ids
from sae_bench.validity.context_world import FEATURES, World, text, true, world
from sae_bench.validity.ladder import Rung
from sae_bench.validity.measure import Draw, run
from sae_bench.validity.truth import of_parts

__all__ = ["CHECKPOINTS", "DRAWS", "TASKS", "measured"]

NAME = "context"
DRAWS = 4
CHECKPOINTS: tuple[str, ...] = ()  # no SAE of this world is trained
TASKS = "reconstruction,sparsity,token_rules,autointerp,probe_recovery,sparse_probing,token_labels"
PHRASE = 12  # words of a labelled text
EVERY = 4  # a labelled set for every fourth feature: of all kinds


@dataclass(frozen=True)
class Size:
    """How much is measured: documents, examples of a part of a labelled set, resamples, parameters of autointerp."""

    documents: int
    examples: int
    resamples: int
    autointerp: Mapping[str, int]


WINDOW = 12  # words: about one sentence and a half, so that most features are in some windows and not in others
FEW = {"latents": 16, "null_latents": 4, "shown": 12, "positives": 8, "random": 4, "matched": 4}
WHOLE = Size(480, 200, 1000, {"latents": 48, "null_latents": 12, "window_tokens": WINDOW})
QUICK = Size(192, 80, 200, FEW | {"window_tokens": WINDOW})


def measured(seed: int, *, quick: bool = False, tasks: str | None = None, task_dir: str | Path | None = None) -> Draw:
    """One draw of the world: all of it hangs on ``seed``, of which there are :data:`DRAWS`. Raises SaeBenchError.

    ``quick`` reads less text and has fewer latents explained. ``tasks`` as in :class:`sae_bench.Settings`, by default
    :data:`TASKS`; ``task_dir`` a folder of other tasks.
    """
    made, size, tasks = world(seed), QUICK if quick else WHOLE, tasks or TASKS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        labelled(made, folder / "sets", size.examples)
        own: dict[str, Any] = {}
        if any(spec.judge for spec in chosen.task_specs(Settings(tasks=tasks, task_dir=task_dir)).values()):
            stack.enter_context(answering(judge.ADDRESS, judge.ReadingJudge()))
            own = {"judge_model": judge.NAME, "judge_base_url": judge.ADDRESS, "judge_cache": folder / "judge.sqlite"}
            own["parameters"] = {f"autointerp.{name}": value for name, value in size.autointerp.items()}
        return run(
            NAME, seed, ladder(made),
            model=model(made), tokenizer=tokenizer(), data=text(made.ids(2 * size.documents, "data")), tasks=tasks,
            task_dir=task_dir, probe_data=folder / "sets", limit=size.documents, resamples=size.resamples, **own,
        )  # fmt: skip


def ladder(made: World) -> dict[str, Rung]:
    """The SAEs of a world by name, with how good each is."""
    return {name: rung(name, plan, made) for name, plan in plans(made).items()}


def rung(name: str, plan: Plan, made: World) -> Rung:
    """One SAE; how good it is, on text that no task reads."""
    coder = KnownInContext(name, plan, made)
    fires = coder.encode(torch.from_numpy(made.stream)).dense().numpy() != 0
    return Rung(
        name, coder, of_parts(made.has, made.directions, fires, plan.decoder, np.full(len(fires), 1 / len(fires)))
    )


def labelled(made: World, folder: Path, n: int) -> None:
    """Labelled sets of short texts, half of which have the feature somewhere: every fourth feature has one."""
    for part in ("train", "test"):
        ids = made.ids(15 * n, f"labelled {part}", PHRASE)
        has = np.asarray(true(ids))
        for i in range(0, len(FEATURES), EVERY):
            kept = _balanced(np.asarray(has[:, :, i].any(1)), n)
            sets.write(folder / f"f{i:02d}", part, sets.of_words(text(ids[kept]), has[kept, :, i]))


def _balanced(has: Flags, n: int) -> Ids:
    """At most ``n`` texts, half of which have it."""
    half = min(n // 2, int(has.sum()), int((~has).sum()))
    return np.concatenate([np.flatnonzero(has)[:half], np.flatnonzero(~has)[:half]])
