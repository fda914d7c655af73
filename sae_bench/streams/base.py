"""What a stream is: a population, a cost, a loop with its tables, and what a verifier measures again.

A :class:`Stream` knows what there is to read before anything runs; the :class:`Reader` that it opens measures. A task
names its stream. A package registers further streams through the entry point ``sae_bench.streams``.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sae_bench.data.documents import Corpus
from sae_bench.data.labelled import Suite
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.checkpoint import Arrays, Checkpoint, State
from sae_bench.engine.plan import Cast, Options
from sae_bench.engine.workspace import Entry, Workspace
from sae_bench.models.subject import SubjectModel
from sae_bench.streams.captures import Captures
from sae_bench.tasks.base import Task
from sae_bench.units import Units
from sae_bench.units.kinds import Draws

Progress = Callable[[str, int, int], None]  # what, done, of how many


@dataclass(frozen=True)
class Inputs:
    """What a run reads, and how; ``suite`` is None where no task reads labelled texts or there is no tokenizer."""

    corpus: Corpus
    suite: Suite | None
    options: Options


def some_documents(inputs: Inputs, chosen: Sequence[int]) -> Inputs:
    """The same inputs with these documents alone to evaluate; calibration stays."""
    tokens = inputs.corpus.evaluation
    place = {unit: i for i, unit in enumerate(chosen)}
    rows = [i for i, unit in enumerate(tokens.units.tolist()) if unit in place]
    ids = [tokens[i].ids for i in rows]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    of_row = np.array([place[int(tokens.units[i])] for i in rows], dtype=np.int32)
    ends = frozenset(row for row, i in enumerate(rows) if i in tokens.padded_ends)
    names = tuple(tokens.unit_ids[unit] for unit in chosen)
    sources = tuple(tokens.sources[unit] for unit in chosen) if tokens.sources else ()
    kept = TokenSet(np.concatenate(ids), offsets, of_row, names, ends, sources)
    return dataclasses.replace(inputs, corpus=dataclasses.replace(inputs.corpus, evaluation=kept))


@dataclass(frozen=True)
class Planned:
    """What a run is about to measure: tasks of one stream on these SAEs, with these controls beside each."""

    inputs: Inputs
    subject: SubjectModel
    tasks: Mapping[str, Task]
    saes: Sequence[Entry]
    controls: Sequence[str]


@dataclass(frozen=True)
class Population:
    """Name and digest of what a task reads, how much of that it is measured on, and what is known of its origin.

    ``bos`` is an id before every text that the digest does not hold, None where there is none.
    """

    data: str
    sha256: str
    n_documents: int
    n_tokens: int
    details: dict[str, Any]
    bos: int | None = None


@dataclass
class Run:
    """What all readers of a run share, and the readers; ``size`` is the number of tokens of a batch.

    ``known``: columns of a task and ``@hook point`` that need not be measured, an entry a sequence of the text.
    """

    work: Workspace
    cast: Cast
    inputs: Inputs
    size: int
    checkpoint: Checkpoint
    state: State
    readers: dict[str, Reader] = field(default_factory=dict)  # by their names, in the order in which they run
    captures: Captures = field(default_factory=Captures)
    known: dict[tuple[str, str], dict[str, NDArray[Any]]] = field(default_factory=dict)


@dataclass
class Part:
    """What one step of a reader has measured; nothing of it counts unless the step is complete.

    ``rows`` are appended, ``totals`` added up. ``failures`` names the coders that failed, ``task_failures`` the pairs
    of task and coder (or ``@hook point``) in which a task failed.
    """

    rows: Arrays = field(default_factory=dict)
    totals: Arrays = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    task_failures: dict[tuple[str, str], str] = field(default_factory=dict)


class Reader:
    """Measures some tasks of one stream: the steps of a loop, then tables of units.

    ``name`` is unique in a run, ``label`` stands in the progress bar, ``prefix`` before the counters of its steps.
    ``atomic``: a step that is interrupted leaves nothing behind, so what came before it can be saved. ``ahead``: how
    many steps may have begun before the first of them is read.
    """

    label: ClassVar[str] = "evaluation"
    prefix: ClassVar[str] = ""
    atomic: ClassVar[bool] = True
    ahead: int = 0

    def __init__(self, name: str, run: Run, tasks: Mapping[str, Task], work: Workspace | None = None) -> None:
        self.name, self.run, self.tasks = name, run, tasks
        self.work = work or run.work.fresh()

    def __len__(self) -> int:
        """Number of steps."""
        raise NotImplementedError

    def place(self, done: int) -> tuple[int, int]:
        """What the progress bar shows after so many steps: done, of how many."""
        return done, len(self)

    def begin(self, progress: Progress) -> None:
        """What comes before the first step that is left."""

    def step(self, index: int, progress: Progress) -> Part:
        """One step."""
        raise NotImplementedError

    def launch(self, index: int, progress: Progress) -> Callable[[], Part]:
        """Begin a step; what is returned waits for its end. Where nothing runs beside the host, all is done here."""
        part = self.step(index, progress)
        return lambda: part

    def sums(self) -> Arrays:
        """Totals that the reader keeps itself while it runs, to be saved beside the others."""
        return {}

    def finish(self) -> None:
        """What comes after the last step; may change the totals of the state."""

    def tables(self, task: Task, entry: Entry) -> dict[str, Units]:
        """The tables of units of one coder on one task."""
        raise NotImplementedError

    def beside(self, task: Task, control: Entry, sae: Entry) -> dict[str, Units]:
        """The tables of a control beside an SAE. Raises CoderFailure, TaskFailure."""
        return self.tables(task, control)

    def measured_on(self, task: Task, control: Entry, sae: Entry) -> int | None:
        """On how many documents a control is measured beside an SAE, if not on all; see :attr:`Stream.whole`."""
        return None

    def l0_of(self, control: Entry) -> float | None:
        """The mean L0 that a control had where it was measured, if it was matched in that."""
        return None

    def references(self, task: Task, entry: Entry) -> dict[str, dict[str, Units]]:
        """Tables of what stands beside an SAE besides controls."""
        return {}

    def details(
        self, task: Task, entry: Entry, tables: Mapping[str, Units], draws: Mapping[str, Draws]
    ) -> dict[str, Any]:
        """What a result shows beside its metrics."""
        return task.details(tables)

    def failure(self, task: Task, entry: Entry) -> str | None:
        """Why a task has no rows of a coder, or None."""
        failed = self.run.state.task_failures.get(task.spec.id, {})
        return failed.get(entry.key, failed.get(f"@{entry.hook_out}"))

    def has_rows(self, control: Entry) -> bool:
        """Whether a control has rows: a coder without latents has nothing to probe, to track or to ablate."""
        return control.coder.info.n_latents > 0

    def counters(self, task: Task, entry: Entry) -> Counter[str]:
        """What the tables of an SAE and its controls cost after the loop."""
        return Counter()


class Stream:
    """One way of reading: what can be said of it before anything runs.

    ``counts`` names what a verifier draws from, ``whole`` the tables that need all of it. ``labels``: it reads the
    labelled sets, which are loaded only then. ``partial``: a part of the population gives rows of the whole.
    ``announced``: its cost is said before a run begins, since a user may want to know it.
    """

    name: ClassVar[str]
    counts: ClassVar[str] = "documents"
    whole: ClassVar[frozenset[str]] = frozenset({"latent", "fold"})
    labels: ClassVar[bool] = False
    announced: ClassVar[bool] = False
    partial: ClassVar[bool] = True

    def why_not(self, inputs: Inputs) -> str | None:
        """Why tasks of this stream cannot be measured, or None if they can."""
        return None

    def check(self, entries: Sequence[Entry], tasks: Mapping[str, Task]) -> None:
        """Refuse SAEs that the tasks cannot read. Raises UsageError."""

    def population(self, inputs: Inputs) -> Population:
        """On what tasks of this stream are measured."""
        tokens = inputs.corpus.evaluation
        return of_text(inputs.corpus, tokens.n_units, tokens.n_tokens)

    def parameters(self, inputs: Inputs) -> dict[str, Any]:
        """What of the inputs belongs to the protocol of its tasks beside the population."""
        return {}

    def cost(self, planned: Planned) -> dict[str, Any]:
        """What a run will cost, in words and numbers: plain JSON."""
        return {}

    def open(self, run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
        """The reader of every task, by task id; readers are made here, and each is entered in the run's."""
        raise NotImplementedError

    def pool(self, inputs: Inputs) -> list[int]:
        """What a verifier may draw from: places of documents (or sets)."""
        return list(range(inputs.corpus.evaluation.n_units))

    def part(self, inputs: Inputs, chosen: Sequence[int]) -> Inputs:
        """The same inputs with only these members of :meth:`pool`."""
        raise NotImplementedError

    def expected(self, inputs: Inputs) -> dict[str, set[str]]:
        """The ids of the rows that a complete table has, where they are known without measuring: by table."""
        return {}


def of_text(corpus: Corpus, n_documents: int, n_tokens: int) -> Population:
    """The population of a task that reads so much of a text."""
    name = Path(corpus.source).name or corpus.source
    return Population(name, corpus.evaluation.sha256, n_documents, n_tokens, corpus.details)
