"""Collecting where some latents fire, in the pass over the documents, for the tasks that explain latents.

Nothing but what :mod:`sae_bench.streams.watched` chose grows with the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench.data.mask import inside
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.plan import Options
from sae_bench.engine.views import CoderView
from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.errors import Deferred
from sae_bench.kernels.token_counts import Firings, firings
from sae_bench.modules import as_declared
from sae_bench.show import marks
from sae_bench.streams.base import Inputs, Population, Reader, Run, Stream, of_text, some_documents
from sae_bench.streams.documents import pass_over
from sae_bench.streams.guard import TaskFailure, guarded
from sae_bench.streams.rounds import Turn, in_rounds
from sae_bench.streams.watched import Chosen, choose_latents, encoder_of, is_fit, tracked_units
from sae_bench.streams.whole import check_rows
from sae_bench.tasks.base import Task
from sae_bench.tasks.tracked import Text, Tracked, TrackedTask
from sae_bench.units import Units
from sae_bench.units.folds import fold_of
from sae_bench.units.groups import group_of
from sae_bench.units.kinds import Draws

TRACKED = "tracked"  # where a task's name stands in the keys of what is collected for all of them
AT_ONCE = 64  # sequences of the n-gram explanation in one pass


class TrackedStream(Stream):
    """Tasks that explain latents, on some documents of the text; their rows come with the pass over all of it."""

    name = "tracked"
    whole = frozenset()
    partial = False  # an explanation needs all of the text that it was made on

    def why_not(self, inputs: Inputs) -> str | None:
        """Where all groups would be explained on, or all scored on, there is nothing to hold an explanation against."""
        tokens = inputs.corpus.evaluation
        ids = [tokens.unit_ids[unit] for unit in self.pool(inputs)]
        halves = {is_fit(unit, inputs.options.seed) for unit in ids}
        if len(halves) > 1 or tokens.n_groups == tokens.n_units:
            return None
        return (
            "explanations are made on some groups of the text and scored on others, and all of its "
            f"{tokens.n_groups} are on one of these sides; give text of more groups"
        )

    def population(self, inputs: Inputs) -> Population:
        """The documents that are tracked."""
        tokens = inputs.corpus.evaluation
        units, lengths = self.pool(inputs), np.diff(tokens.offsets)
        return of_text(inputs.corpus, len(units), int(lengths[np.isin(tokens.units, units)].sum()))

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """One reader for all tasks; it rides along in the pass over the documents."""
        reader = TrackedReader(run, {name: cast(TrackedTask, task) for name, task in tasks.items()})
        pass_over(run).riders.append(reader)
        return dict.fromkeys(tasks, reader)

    def pool(self, inputs: Inputs) -> list[int]:
        """The documents that are tracked."""
        options = inputs.options
        return tracked_units(inputs.corpus.evaluation, options.tracked_documents, options.seed)

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these documents."""
        return some_documents(inputs, chosen)


def beside_control(details: dict[str, Any], name: str, control: Mapping[str, Any]) -> dict[str, Any]:
    """The details of an SAE, with what the figures of a control beside it must not be read without.

    That the control waits makes the result incomplete, after what the SAE itself waits for; its mark is the control's.
    """
    why = {key: f"control {name}: {control[key]}" for key in ("incomplete", "budget") if key in control}
    found = details | {key: f"{details[key]}; {said}" if key in details else said for key, said in why.items()}
    if mark := marks.of_details(control):
        found[marks.MARKED] = {**found.get(marks.MARKED, {}), name: mark.to_json()}
    return found


class TrackedReader(Reader):
    """What to collect of every coder, the collecting, and the explaining."""

    tasks: Mapping[str, TrackedTask]

    def __init__(self, run: Run, tasks: Mapping[str, TrackedTask]) -> None:
        super().__init__("tracked", run, tasks, run.work)
        self.tokens, self.options, self.cast = run.inputs.corpus.evaluation, run.inputs.options, run.cast
        self.units = tracked_units(self.tokens, self.options.tracked_documents, self.options.seed)
        self.documents = frozenset(self.units)
        self.chosen: dict[tuple[str, str], Chosen] = {}  # by encoder and task
        self._slots: dict[str, Tensor] = {}
        self._made: dict[tuple[str, str], tuple[dict[str, Units], dict[str, Any]]] = {}
        self._lost: dict[tuple[str, str], Exception] = {}  # why some could not be made
        self._cost: dict[tuple[str, str], Counter[str]] = {}  # of explanations
        for entry in [*self.cast.saes, *filter(self._asked_for, self.cast.controls)]:
            if encoder_of(entry, self.cast) == entry.key:
                self._choose(entry)

    def _asked_for(self, control: Entry) -> bool:
        """Whether any task explains a control."""
        return any(task.wants_control(control.label) for task in self.tasks.values())

    def _choose(self, entry: Entry) -> None:
        slots = torch.full((entry.coder.info.n_latents,), -1, dtype=torch.int32, device=self.work.subject.device)
        try:
            for name, task in self.tasks.items():
                chosen = choose_latents(entry, self.work, task.latents, task.most_density, self.options.seed)
                self.chosen[entry.key, name] = chosen
                slots[chosen.latents] = chosen.latents.int()
        except CoderFailure as failure:
            same = (e.key for e in self.cast.entries if e.encoder is entry.encoder)
            self.run.state.failures |= dict.fromkeys(same, str(failure))
            return
        self._slots[entry.key] = slots

    def __len__(self) -> int:
        return 0  # it has no loop of its own

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """The tables that the task makes of what was collected."""
        return self._explained(task, entry)[0]

    def details(
        self, task: Task, entry: Entry, tables: Mapping[str, Units], draws: Mapping[str, Draws]
    ) -> dict[str, Any]:
        """What the task shows; it says so if a control beside the SAE waits for more."""
        found = self._explained(task, entry)[1]
        for name, key in self.cast.controls_of.get(entry.key, {}).items():
            if (encoder := self._encoder(key), task.spec.id) in self._made and encoder != encoder_of(entry, self.cast):
                found = beside_control(found, name, self._made[encoder, task.spec.id][1])
        return found

    def _encoder(self, key: str) -> str:
        return next(encoder_of(entry, self.cast) for entry in self.cast.entries if entry.key == key)

    def counters(self, task: Task, entry: Entry) -> Counter[str]:
        """What explaining an SAE and its controls took, as far as it was done."""
        beside = set(self.cast.controls_of.get(entry.key, {}).values())
        coders = [entry, *(control for control in self.cast.controls if control.key in beside)]
        found: Counter[str] = Counter()
        for key in dict.fromkeys((encoder_of(coder, self.cast), task.spec.id) for coder in coders):
            found.update({f"explain_{name}": n for name, n in self._cost.get(key, {}).items()})
        return found

    def _explained(self, task: Task, entry: Entry) -> tuple[dict[str, Units], dict[str, Any]]:
        """Explanations of one coder's latents, in rounds with the others where what they cost may run out."""
        key = (encoder_of(entry, self.cast), task.spec.id)
        if key not in self._made and key not in self._lost and cast(TrackedTask, task).rationed:
            in_rounds(self._turns(), self._turn)
        if key in self._lost:
            raise self._lost[key]
        return self._explain(task, entry)

    def _turns(self) -> list[Turn]:
        """Everything that this run explains, by SAE and each encoder once."""
        controls = {entry.key: entry for entry in self.cast.controls}
        found: dict[tuple[str, str], Turn] = {}
        for sae in self.cast.saes:
            for name, task in self.tasks.items():
                if not task.rationed:
                    continue
                wanted = [
                    controls[key]
                    for control, key in self.cast.controls_of.get(sae.key, {}).items()
                    if task.wants_control(control) and self.has_rows(controls[key])
                ]
                for entry in (sae, *wanted):
                    if entry.key not in self.run.state.failures and self.failure(task, entry) is None:
                        found.setdefault((encoder_of(entry, self.cast), name), (task, entry))
        return list(found.values())

    def _turn(self, task: TrackedTask, entry: Entry) -> bool:
        """One coder's turn: whether it would spend more. What it raises is kept for its result."""
        key = (encoder_of(entry, self.cast), task.spec.id)
        self._made.pop(key, None)
        try:
            return "budget" in self._explain(task, entry)[1]
        except (TaskFailure, CoderFailure, Deferred) as failure:
            self._lost[key] = failure
            return False

    @as_declared()
    def _explain(self, task: Task, entry: Entry) -> tuple[dict[str, Units], dict[str, Any]]:
        """Explanations of one coder's latents; made once for all coders that share an encoder."""
        key = (encoder_of(entry, self.cast), task.spec.id)
        if key not in self._made:
            own = cast(TrackedTask, task)
            rows = self.run.checkpoint.rows(self.run.state, {(TRACKED, key[0])})
            own.activation = self.activation(entry)
            self._cost[key] = self.work.counters = Counter()
            found = self.tracked(entry, rows, task.spec.id)
            with torch.no_grad():
                self._made[key] = guarded(task, lambda: own.explain(found, self.options.seed), "explain")
        return self._made[key]

    def wants(self, entry: Entry) -> bool:
        """Whether latents of a coder are tracked."""
        return entry.key in self._slots

    def collect(self, view: CoderView, sequences: tuple[int, ...]) -> Arrays:
        """Where the tracked latents fire in one batch; ``sequences`` are its rows. Raises CoderFailure."""
        key = view.entry.key
        if key not in self._slots:
            return {}
        batch, codes = view.batch, view.codes
        here = [int(self.tokens.units[i]) in self.documents for i in sequences]
        tracked = torch.tensor(here, device=codes.indices.device)
        row, position = batch.attention.nonzero(as_tuple=True)
        token = codes.token_of_entry()
        slot = self._slots[key][codes.indices]
        own = (slot >= 0) & (batch.kept & tracked[row])[token]
        token = token[own]
        sequence = torch.tensor(sequences, dtype=torch.int32, device=token.device)[row[token]]
        size = codes.values[own].double().abs()
        if not bool(size.isfinite().all()):
            raise CoderFailure("the activation of a latent is NaN or infinite", key)
        columns = (sequence, position[token].int(), slot[own], size)
        return {(TRACKED, key, name): c.cpu().numpy() for name, c in zip(_COLUMNS, columns, strict=True)}

    def activation(self, entry: Entry) -> Callable[[int, list[list[int]]], list[float]]:
        """A function that runs sequences through the model: the size of a latent's activation at their last tokens.

        Sequences begin with BOS if those of the corpus do.
        """
        first = {int(self.tokens[i].ids[0]) for i in range(len(self.tokens))}
        bos = sorted(first & self.options.special_ids) if len(first) == 1 else []

        def run(latent: int, sequences: list[list[int]]) -> list[float]:
            found: list[float] = []
            for start in range(0, len(sequences), AT_ONCE):
                part = [torch.tensor([*bos, *ids]) for ids in sequences[start : start + AT_ONCE]]
                tokens = torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(self.work.subject.device)
                last = torch.tensor([len(ids) - 1 for ids in part], device=tokens.device)
                mask = torch.arange(tokens.shape[1], device=tokens.device) <= last.unsqueeze(1)
                captured = self.work.subject.capture(tokens, mask, [entry.hook_in]).activations[entry.hook_in]
                x = captured[torch.arange(len(part), device=tokens.device), last]
                self.work.counters["prefix"] += len(part)
                codes = self.work.encode(entry, x)
                own = codes.indices == latent
                sizes = torch.zeros(len(part), dtype=torch.float64, device=tokens.device)
                sizes[codes.token_of_entry()[own]] = codes.values[own].double().abs()
                found += sizes.tolist()
            return found

        return run

    def tracked(self, entry: Entry, rows: Arrays, task: str) -> Tracked:
        """What was collected of the latents of one coder that a task explains, cut in two."""
        key = encoder_of(entry, self.cast)
        chosen = self.chosen[key, task]
        own = {name: column for (_, owner, name), column in rows.items() if owner == key}
        fit = {unit for unit in self.units if is_fit(self.tokens.unit_ids[unit], self.options.seed)}
        sequence, position, latent, activation = (
            own.get(name, np.zeros(0, dtype)) for name, dtype in zip(_COLUMNS, _DTYPES, strict=True)
        )
        latents = chosen.latents.cpu().numpy()
        n, slot = len(latents), np.searchsorted(latents, latent)
        mine = latents[np.minimum(slot, max(n - 1, 0))] == latent if n else np.zeros(len(latent), dtype=bool)

        def half(units: set[int]) -> tuple[Text, Firings]:
            text, place = _text(self.tokens, units, self.options)
            at = place[self.tokens.offsets[sequence] + position]
            there = (at >= 0) & mine
            check_rows(self.tasks[task], "activations", ((at[there], len(self.tokens.ids)), (slot[there], max(n, 1))))
            return text, firings(slot[there], at[there], activation[there], n, len(text.tokens))

        halves = (*half(fit), *half(set(self.units) - fit))
        return Tracked(latents, chosen.density.cpu().numpy(), *halves, chosen.sampled)


_COLUMNS = ("sequence", "position", "latent", "activation")
_DTYPES = (np.int32, np.int32, np.int32, np.float64)


def _text(tokens: TokenSet, units: set[int], options: Options) -> tuple[Text, NDArray[np.int64]]:
    """The tokens of these documents inside the mask, and for every token of the corpus its place among them, or -1."""
    place = np.full(len(tokens.ids), -1, dtype=np.int64)
    documents = {unit: i for i, unit in enumerate(sorted(units))}
    chosen = [i for i, unit in enumerate(tokens.units.tolist()) if unit in documents]
    kept, before, document, n = [], [], [], 0
    for i in chosen:
        ids = tokens[i].ids.astype(np.int64)
        at = np.flatnonzero(inside(ids, options.mask, options.special_ids))
        place[tokens.offsets[i] + at] = n + np.arange(len(at))
        n += len(at)
        kept.append(ids[at])
        before.append(np.concatenate([[-1], ids[:-1]])[at])
        document.append(np.full(len(at), documents[int(tokens.units[i])]))
    nothing = [np.zeros(0, dtype=np.int64)]
    ids_of, previous_of, document_of = (np.concatenate(nothing + parts) for parts in (kept, before, document))
    folds = np.array([fold_of(tokens.unit_ids[unit]) for unit in documents], dtype=np.int64)
    names = [group_of(tokens.unit_ids[unit]) for unit in documents]
    groups = np.unique(np.array(names, dtype=object), return_inverse=True)[1] if names else folds
    return Text(ids_of, previous_of, document_of, len(documents), folds, groups), place
