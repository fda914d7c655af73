"""The pass over labelled texts: each text once through the model, pooled codes of every coder, then all sets.

What is measured of them is in :mod:`sae_bench.streams.labelled_reader`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sae_bench.engine.workspace import Entry
from sae_bench.errors import UsageError
from sae_bench.saes.protocol import HasPreActivations
from sae_bench.streams.base import Inputs, Planned, Population, Reader, Run, Stream
from sae_bench.streams.labelled_reader import LabelledReader, suite_of
from sae_bench.tasks.base import Task
from sae_bench.tasks.labelled import LabelledTask


class LabelledStream(Stream):
    """Tasks that read labelled texts."""

    name = "labelled"
    counts = "labelled sets"
    whole = frozenset({"dataset"})
    labels = True

    def why_not(self, inputs: Inputs) -> str | None:
        """Without a tokenizer there are no sets; and of a suite that is mostly missing the rest is no score."""
        suite = inputs.suite
        if suite is None:
            return "labelled texts need a tokenizer, and there is none for this model; give one (--model FOLDER)"
        if suite.stands_for_all:
            return None
        there = f", or name those that are there with --probe-sets {suite.sets[0].name},..." if suite.sets else ""
        return (
            f"{suite.coverage} sets available (run once with a network, which downloads them, or give a folder of sets "
            f"with --probe-data{there})"
        )

    def check(self, entries: Sequence[Entry], tasks: Mapping[str, Task]) -> None:
        """Refuse SAEs without the pre-activations that a task was told to read. Raises UsageError."""
        asking = [name for name, task in tasks.items() if cast(LabelledTask, task).source == "pre_activations"]
        lacking = [entry.label for entry in entries if not isinstance(entry.encoder, HasPreActivations)]
        if asking and lacking:
            raise UsageError(f"{lacking[0]} offers no pre-activations; leave {asking[0]}.source at codes")

    def population(self, inputs: Inputs) -> Population:
        """The sets; without any, the text."""
        if inputs.suite is None:
            return super().population(inputs)
        suite, tokens = inputs.suite, inputs.suite.tokens
        return Population(suite.name, suite.sha256, tokens.n_units, tokens.n_tokens, suite.details(), suite.bos)

    def cost(self, planned: Planned) -> dict[str, Any]:
        """How much labelled text there is."""
        suite = planned.inputs.suite
        return {
            "labelled sets": len(suite.sets) if suite else 0,
            "labelled texts": suite.tokens.n_units if suite else 0,
            "labelled tokens": suite.tokens.n_tokens if suite else 0,
        }

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """One reader for all tasks."""
        reader = LabelledReader(run, {name: cast(LabelledTask, task) for name, task in tasks.items()})
        run.readers[reader.name] = reader
        return dict.fromkeys(tasks, reader)

    def pool(self, inputs: Inputs) -> list[int]:
        """The sets."""
        return list(range(len(suite_of(inputs).sets)))

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these sets."""
        suite = suite_of(inputs)
        sets = tuple(suite.sets[i] for i in chosen)
        return dataclasses.replace(inputs, suite=dataclasses.replace(suite, sets=sets))
