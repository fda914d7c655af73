"""The stream of ablations: a few latents at a few positions of some documents are taken away, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sae_bench.models.continuation import reuses
from sae_bench.streams.ablation_reader import AblationReader
from sae_bench.streams.base import Inputs, Planned, Population, Reader, Run, Stream, of_text, some_documents
from sae_bench.streams.captures import sampled_sequences
from sae_bench.tasks.ablations import AblationTask
from sae_bench.tasks.base import Task


class AblationStream(Stream):
    """Tasks that take latents away one by one, in one sequence of each of some documents."""

    name = "ablations"
    whole = frozenset({"latent", "output"})
    announced = True

    def population(self, inputs: Inputs) -> Population:
        """The sequences in which latents are ablated."""
        lengths = _lengths(inputs)
        return of_text(inputs.corpus, len(lengths), sum(lengths))

    def parameters(self, inputs: Inputs) -> dict[str, Any]:
        """Effects are measured on the outputs that belong to tokens."""
        return {"vocabulary": inputs.options.vocabulary}

    def cost(self, planned: Planned) -> dict[str, Any]:
        """How many ablations there will be, and how many tokens of the rest of the model each takes."""
        saes, controls, lengths = planned.saes, planned.controls, _lengths(planned.inputs)
        own = [cast(AblationTask, task) for task in planned.tasks.values()]
        hooks = list(dict.fromkeys(entry.hook_out for entry in saes))
        coders = len(saes) * (2 + len(controls)) + len(hooks)  # an SAE, random directions, controls; all channels
        longest, n = max(lengths, default=1), 0
        for task in own:
            floors = len(hooks)  # one change by rounding alone at each position, for each thing that the model carries
            floors += len(saes) * (1 + len(controls)) if task.base == "reconstruction" else 0
            n += len(lengths) * task.positions * (coders * task.latents + floors)
        whole = [hook for hook in hooks if not reuses(planned.subject, hook, longest)]
        each = longest if whole else min(max(task.horizon for task in own), longest)
        cost: dict[str, Any] = {
            "documents with ablations": len(lengths),
            "ablations, at most": n,
            "tokens of the rest of the model, an ablation": each,
        }
        return cost | ({"hook points where each ablation is a run over the whole sequence": whole} if whole else {})

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """A reader for each task: what is sampled depends on its parameters."""
        made = {name: AblationReader(run, cast(AblationTask, task)) for name, task in tasks.items()}
        run.readers |= {reader.name: reader for reader in made.values()}
        return {**made}

    def pool(self, inputs: Inputs) -> list[int]:
        """The documents in which latents are ablated."""
        tokens, options = inputs.corpus.evaluation, inputs.options
        rows = sampled_sequences(tokens, options.ablation_documents, options.seed)
        return sorted({int(tokens.units[i]) for i in rows})

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these documents."""
        return some_documents(inputs, chosen)


def _lengths(inputs: Inputs) -> list[int]:
    """Lengths of the sequences in which latents are ablated."""
    tokens, options = inputs.corpus.evaluation, inputs.options
    return [len(tokens[i].ids) for i in sampled_sequences(tokens, options.ablation_documents, options.seed)]
