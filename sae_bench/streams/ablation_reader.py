"""The pass over ablations: one latent at one position taken away, the rest of the model run from there.

Two passes over the sampled documents. The first, cheap one encodes them: it finds the density of the latents that will
be ablated, and whose output is kept. In the second, all coders' ablations of a position run together, because they
share the keys and values of what comes before. The model's first part passes once for both, and for the pass over the
documents (:mod:`sae_bench.streams.captures`). Beside the coders run all residual channels, random directions of the
same norm, and one change by rounding alone: the floor below which an effect is not scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch
from sae_bench.engine.checkpoint import Arrays, State
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.models.continuation import Continuation
from sae_bench.randomness import generator
from sae_bench.streams.base import Part, Progress, Reader, Run
from sae_bench.streams.captures import of_ablations
from sae_bench.streams.channels import channels_entry, channels_key, is_identity
from sae_bench.streams.documents import NAME as DOCUMENTS
from sae_bench.streams.guard import Columns, TaskFailure, guarded
from sae_bench.streams.outputs import Census, Outputs
from sae_bench.streams.sampling import (
    Ablations,
    Sampled,
    random_directions,
    sampled_latents,
    sampled_positions,
)
from sae_bench.streams.whole import check_rows
from sae_bench.tasks.ablations import AblationTask
from sae_bench.tasks.base import Task
from sae_bench.units import Units


def random_key(entry: Entry) -> str:
    """The key under which random directions beside this SAE are measured."""
    return f"{entry.key} @random directions"


@dataclass
class _Job:
    """Ablations of one coder in one batch, under its key; ``base`` is what the model carries at the hook point."""

    key: str
    hook: str
    ablations: Ablations
    base: Tensor | None = None


class AblationReader(Reader):
    """One task's ablations on every coder."""

    label = "ablations"
    prefix = "ablation_"
    atomic = False  # outputs are summed in place

    def __init__(self, run: Run, task: AblationTask) -> None:
        super().__init__(f"ablations of {task.spec.id}", run, {task.spec.id: task})
        self.cast, self.task, self.options = run.cast, task, run.inputs.options
        self.tokens = run.inputs.corpus.evaluation
        self.id = task.spec.id
        self.batches = of_ablations(self.tokens, self.options, run.size)
        if run.state.done.get(self.name, 0) < len(self.batches):
            run.captures.expect(self.batches)
        hooks = dict.fromkeys(entry.hook_out for entry in self.cast.saes)
        self.channels = [channels_entry(self.work, hook) for hook in hooks]
        self.entries = [e for e in self.cast.entries if e.coder.info.n_latents and measured_as(e) == e.key]
        self.vocabulary = self.options.vocabulary or self.work.subject.vocab_size
        self.census: dict[str, Census] = {}
        self.outputs: dict[str, Outputs] = {}
        self._columns = Columns()

    def __len__(self) -> int:
        return len(self.batches)

    def begin(self, progress: Progress) -> None:
        """Encode the sampled documents: density of the latents, and which outputs are kept."""
        state = self.run.state
        self.census = self._first_pass(state, progress)
        for group in self.batches.groups[: state.done.get(self.name, 0)]:
            self.run.captures.release(group)
        self.outputs = {key: Outputs.of(own, self.vocabulary, len(self.cast.saes)) for key, own in self.census.items()}
        for key, out in self.outputs.items():
            if (kept := state.totals.get((self.id, key, "sum_logits"))) is not None:
                out.logits.copy_(torch.from_numpy(kept))
                out.positions.copy_(torch.from_numpy(state.totals[self.id, key, "sum_positions"]))

    def sums(self) -> Arrays:
        """The summed outputs so far."""
        found: Arrays = {}
        for key, own in self.outputs.items():
            found[self.id, key, "sum_logits"] = own.logits.cpu().numpy()
            found[self.id, key, "sum_positions"] = own.positions.cpu().numpy()
        return found

    def _prepared(self, index: int) -> tuple[Batch, Sampled]:
        batch = Batch(self.work, *self.batches.tensors(index, self.options))
        self.run.captures.lend(self.batches.groups[index], batch, was_read=self._was_read)
        units = [self.tokens.unit_ids[unit] for unit in self.batches.units(index)]
        return batch, sampled_positions(batch, units, self.task.positions, self.options.seed)

    @cached_property
    def _was_read(self) -> bool:
        """Whether the same batches were read before: in the pass over the documents, or by another such task."""
        first = next(n for n, other in self.run.readers.items() if n == DOCUMENTS or isinstance(other, AblationReader))
        return first != self.name

    def _sample(self, entry: Entry, batch: Batch, places: Sampled) -> Ablations:
        x = batch.activations(entry.hook_in)[places.token]
        codes = self.work.encode(entry, x)
        same_codes = (sae for sae in self.cast.saes if sae.coder is entry.encoder)
        sizes = self.work.sizes(next(same_codes, entry), codes)  # a permuted decoder: the same latents as its SAE
        return sampled_latents(entry, x, codes, sizes, places, self.task.latents, self.options.seed)

    def _first_pass(self, state: State, progress: Progress) -> dict[str, Census]:
        """Encode the sampled documents with every SAE."""
        census = {}
        for entry in self.cast.saes:
            census[entry.key] = Census(entry.coder.info.n_latents, self.work.subject.device)
        for index in range(len(self.batches)):
            progress("ablations, first pass", index, len(self.batches))
            batch, places = self._prepared(index)
            for entry in self.cast.saes:
                if entry.key in state.failures:
                    continue
                try:
                    codes = CoderView(SiteView(batch, entry.hook_out), entry).codes.select(batch.kept)
                    census[entry.key].add(codes, self._sample(entry, batch, places))
                except CoderFailure as failure:
                    state.failures[entry.key] = str(failure)
            self.run.captures.offer(self.batches.groups[index], batch)
        progress("ablations, first pass", len(self.batches), len(self.batches))
        return {key: own for key, own in census.items() if key not in state.failures}

    def finish(self) -> None:
        """Put the most promoted and suppressed tokens in the place of the summed logits."""
        census, outputs, state = self.census, self.outputs, self.run.state
        for entry in self.cast.saes:
            for what in ("logits", "positions"):
                state.totals.pop((self.id, entry.key, f"sum_{what}"), None)
            if entry.key in state.failures or self.id in state.task_failures or not len(outputs[entry.key].latents):
                continue
            own = census[entry.key]
            try:
                columns = outputs[entry.key].columns(self.work.subject, entry, own)
            except CoderFailure as failure:
                state.failures[entry.key] = str(failure)
                continue
            state.totals |= {(self.id, entry.key, f"output_{name}"): column for name, column in columns.items()}
            state.totals[self.id, entry.key, "density"] = own.density()

    def step(self, index: int, progress: Progress) -> Part:
        """One batch."""
        part, state = Part(), self.run.state
        batch, places = self._prepared(index)
        self.run.captures.release(self.batches.groups[index])
        if self.id in state.task_failures:  # whatever the task raised, it has no complete table any more
            return part
        jobs: dict[tuple[str, str], list[_Job]] = {}
        for entry in [*self.channels, *self.entries]:
            if entry.key in state.failures:
                continue
            try:
                for job in self._jobs(entry, batch, places):
                    jobs.setdefault((job.hook, "" if job.base is None else entry.key), []).append(job)
            except CoderFailure as failure:
                part.failures[entry.key] = str(failure)
        sequences = np.array(self.batches.groups[index])
        try:
            for group in jobs.values():
                part.rows |= self._measure(group, batch, places, sequences)
        except TaskFailure as failure:  # the ablations of all coders are scored together
            part.task_failures |= {(self.id, entry.key): str(failure) for entry in self.cast.entries}
        return part

    def _jobs(self, entry: Entry, batch: Batch, places: Sampled) -> Iterator[_Job]:
        chosen = self._sample(entry, batch, places)
        base = None
        if self.task.base == "reconstruction" and entry not in self.channels:
            view = CoderView(SiteView(batch, entry.hook_out), entry)
            base = batch.capture.activations[entry.hook_out].clone()
            base[batch.keep] = view.x_hat[batch.kept].to(base)
        yield _Job(entry.key, entry.hook_out, chosen, base)
        if entry in self.cast.saes:
            yield _Job(random_key(entry), entry.hook_out, random_directions(chosen, places, self.options.seed), base)

    def _measure(self, jobs: list[_Job], batch: Batch, places: Sampled, sequences: NDArray[np.int64]) -> Arrays:
        """Rows of some coders whose model carries the same at their hook point."""
        hook, capture = jobs[0].hook, batch.capture
        if jobs[0].base is not None:
            capture = dataclasses.replace(capture, activations={**capture.activations, hook: jobs[0].base})
        continuation = Continuation(self.work.subject, capture, hook)
        self.work.counters["suffix_cache"] += len(batch.tokens) * continuation.cached  # for keys and values, no logits
        before = capture.activations[hook][places.sequence, places.position]
        changed = [_rounded(before, places, self.options.seed)]
        changed += [before[job.ablations.place] - job.ablations.contribution.to(before) for job in jobs]
        place = torch.cat([torch.arange(len(before), device=before.device), *(job.ablations.place for job in jobs)])
        starts = np.cumsum([0, *map(len, changed)])
        nothing = torch.zeros(len(place), dtype=torch.float64, device=before.device)
        scores: dict[str, Tensor] = {}
        for rows, change, clean in continuation.differences(
            places.sequence[place], places.position[place], torch.cat(changed), self.task.horizon
        ):
            change, clean = change[..., : self.vocabulary], clean[..., : self.vocabulary]
            for name, values in self._scored(change, clean).items():
                scores.setdefault(name, nothing.clone())[rows] = values
            logits = guarded(self.task, partial(self.task.output, change), "output")
            for job, start in zip(jobs, starts[1:-1], strict=True):
                if job.key in self.outputs:
                    self.outputs[job.key].add(job.ablations, rows - int(start), logits)
        self.work.counters.update(continuation.counters)
        noise = {n: values[: len(before)] for n, values in scores.items() if n.endswith("l2_squared")}
        found: Arrays = {}
        for job, start, stop in zip(jobs, starts[1:-1], starts[2:], strict=True):
            columns = {name: values[start:stop] for name, values in scores.items()}
            columns |= {f"noise_{n}": values[job.ablations.place] for n, values in noise.items()}
            columns |= _facts(job.ablations, places)
            found |= {(self.id, job.key, n): c.double().cpu().numpy() for n, c in columns.items()}
            of_place = sequences[places.sequence[job.ablations.place].cpu().numpy()]
            found[self.id, job.key, "sequence"] = of_place.astype(np.float64)
        return found

    def _scored(self, change: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """What the task makes of some ablations, checked. Raises TaskFailure."""
        found = guarded(self.task, partial(self.task.score, change, clean), "score")
        checked = self._columns.rows(
            self.task, "score", found, len(change), "", lambda row: f"ablation {row} of a batch"
        )
        if "l2_squared" not in checked:
            raise TaskFailure(f"task {self.id}: score must return a column l2_squared, by which noise is told apart")
        return dict(found)

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """The ablation table, and of an SAE what is known of its latents."""
        found, beside = self._tables(measured_as(entry)), self._tables(random_key(entry))
        if entry not in self.cast.saes or not len(beside["ablation"]):
            return found
        return cast(AblationTask, task).beside(found, beside["ablation"])

    def references(self, task: Task, entry: Entry) -> dict[str, dict[str, Units]]:
        """All channels, and random directions of the same norm."""
        keys = {"all_channels": channels_key(entry.hook_out), "random_directions": random_key(entry)}
        return {label: self._tables(key) for label, key in keys.items()}

    def _tables(self, key: str) -> dict[str, Units]:
        rows = self.run.checkpoint.rows(self.run.state, {(self.id, key)})
        return ablation_tables(rows, self.run.state.totals, self.task, key, self.tokens)


def _facts(ablations: Ablations, places: Sampled) -> dict[str, Tensor]:
    return {
        "position": places.position[ablations.place],
        "latent": ablations.latent,
        "value": ablations.value,
        "norm": ablations.contribution.double().norm(dim=1),
    }


def _rounded(x: Tensor, places: Sampled, seed: int) -> Tensor:
    """``x`` ``[positions, d]`` with every channel moved by one rounding of its dtype, up or down at random."""
    step = torch.full((len(x), x.shape[1]), torch.finfo(x.dtype).eps, dtype=torch.float64)
    for row, (unit, position) in enumerate(zip(places.units, places.position.tolist(), strict=True)):
        down = torch.rand(x.shape[1], generator=generator(seed, f"rounding in {unit} at {position}")) < 0.5
        step[row, down] *= -1
    return (x.double() * (1 + step.to(x.device))).to(x)


def measured_as(entry: Entry) -> str:
    """The key of the coder whose ablations these are: the identity's are those of all channels."""
    return channels_key(entry.hook_out) if is_identity(entry) else entry.key


def ablation_tables(rows: Arrays, totals: Arrays, task: AblationTask, key: str, tokens: TokenSet) -> dict[str, Units]:
    """The tables of one coder (or random directions, or channels), rows sorted by document, position and latent."""
    columns = {name: column for (_, owner, name), column in rows.items() if owner == key}
    n = len(columns.get("latent", ()))
    order = np.lexsort([columns[name] for name in ("latent", "position", "sequence")]) if n else np.zeros(0, np.int64)
    columns = {name: column[order] for name, column in columns.items()}
    if n:
        sizes = len(tokens), tokens.longest, int(columns["latent"].max()) + 1
        named = [columns[name] for name in ("sequence", "position", "latent")]
        check_rows(task, "ablations", list(zip(named, sizes, strict=True)))
    sequence = columns.pop("sequence", np.zeros(0)).astype(int)
    units = [tokens.unit_ids[tokens.units[i]] for i in sequence]
    places = zip(units, columns.get("position", ()), columns.get("latent", ()), strict=True)
    ids = tuple(f"{unit}@{int(position)}:{int(latent)}" for unit, position, latent in places)
    own = {name: column for (_, owner, name), column in totals.items() if owner == key}
    return task.tables(Units(ids, columns if n else {name: np.zeros(0) for name in task.columns}), own)
