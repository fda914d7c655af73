"""Labelled texts token by token: the sets that say where their label is, in the pass of the other labelled tasks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sae_bench.data.labelled import Suite
from sae_bench.streams.base import Inputs, Planned, Population, Reader, Run, Stream
from sae_bench.streams.labelled import LabelledStream
from sae_bench.streams.labelled_reader import LabelledReader
from sae_bench.streams.token_sets import TokenSets
from sae_bench.tasks.base import Task
from sae_bench.tasks.labelled import LabelledTask

NO_SPANS = (
    "no labelled set says which tokens its label is on; give sets whose files have a column spans "
    "(--probe-data DIR, docs/probes.md)"
)


class TokenLabelStream(LabelledStream):
    """Tasks that read the labels of tokens; where others read labelled texts too, they share their pass."""

    name = "token_labels"

    def why_not(self, inputs: Inputs) -> str | None:
        """Without spans, or a tokenizer that finds them again, no token has a label."""
        if inputs.suite is None:
            return super().why_not(inputs)
        sets = _sets(inputs)
        if sets.usable:
            return None
        if sets.located:
            first = inputs.suite.sets[sets.located[0]].name
            why = sets.too_few(sets.located[0])
            return f"of {len(sets.located)} sets with labels of tokens none can be used: of {first}, {why}"
        lost = [why for one in inputs.suite.sets if (why := one.notes.get("spans_left_out"))]
        return f"no token has a label: {lost[0]}" if lost else NO_SPANS

    def check(self, entries: Sequence[Any], tasks: Mapping[str, Task]) -> None:
        """Every SAE has codes."""

    def population(self, inputs: Inputs) -> Population:
        """The sets with labels of tokens; what these are is in the digest."""
        if inputs.suite is None:
            return Stream.population(self, inputs)
        sets, suite = _sets(inputs), inputs.suite
        own = _only(suite, sets.usable)
        content = json.dumps([[one.name, one.token_digest] for one in own.sets])
        lengths = suite.tokens.offsets[sets.measured + 1] - suite.tokens.offsets[sets.measured]
        digest = hashlib.sha256(content.encode()).hexdigest()
        return Population(suite.name, digest, len(sets.measured), int(lengths.sum()), _details(sets), suite.bos)

    def cost(self, planned: Planned) -> dict[str, Any]:
        """How much text has labels of tokens."""
        sets = _sets(planned.inputs) if planned.inputs.suite else None
        return {
            "sets with labels of tokens": len(sets.usable) if sets else 0,
            "sets that lie inside another": len(sets.parents) if sets else 0,
            "texts with labels of tokens": len(sets.measured) if sets else 0,
            "tokens of these that count": sets.n_counted if sets else 0,
        }

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """A reader of labelled texts; where other tasks have one, in its place one that measures these too."""
        all_tasks = {name: cast(LabelledTask, task) for name, task in tasks.items()}
        other = run.readers.get("labelled")
        if isinstance(other, LabelledReader):
            all_tasks = {**other.tasks, **all_tasks}
        else:
            run = dataclasses.replace(run, inputs=self.part(run.inputs, self.pool(run.inputs)), readers=run.readers)
        reader = run.readers["labelled"] = LabelledReader(run, all_tasks)
        return dict.fromkeys(all_tasks, reader)

    def pool(self, inputs: Inputs) -> list[int]:
        """The sets with labels of tokens."""
        return _sets(inputs).usable

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these sets, and those that they lie inside."""
        assert inputs.suite is not None, "a run without labelled sets skips these tasks"
        return dataclasses.replace(inputs, suite=_only(inputs.suite, _sets(inputs).with_parents(chosen)))


def _sets(inputs: Inputs) -> TokenSets:
    assert inputs.suite is not None, "a run without labelled sets skips these tasks"
    return TokenSets.of(inputs.suite, inputs.options.mask, inputs.options.special_ids)


def _only(suite: Suite, chosen: Sequence[int]) -> Suite:
    return dataclasses.replace(suite, sets=tuple(suite.sets[i] for i in chosen))


def _details(sets: TokenSets) -> dict[str, Any]:
    """What was loaded, as plain JSON: of each set how many tokens have its label, and why others do not take part."""
    suite = sets.suite
    found: dict[str, dict[str, Any]] = {}
    for i in sets.usable:
        one = suite.sets[i]
        found[one.name] = {"source": one.source, "digest": one.token_digest}
        for part, (n, own, texts) in sets.counts[i].items():
            found[one.name][part] = {"tokens": n, "with_the_label": own, "texts_with_such": texts}
        if (parent := sets.parents.get(i)) is not None:
            found[one.name]["lies_inside"] = suite.sets[parent].name
    left_out = {suite.sets[i].name: f"Not used: {sets.too_few(i)}." for i in sets.located if i not in sets.usable}
    return {
        "name": suite.name,
        "coverage": f"{len(sets.usable)} of {len(sets.located)}",
        "texts": len(sets.measured),
        "sets": found,
        "skipped": left_out,
    }
