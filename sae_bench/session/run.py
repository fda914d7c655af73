"""The run: calibration, one loop for each reader, and what was measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from sae_bench import registry
from sae_bench.engine.batch import Batch
from sae_bench.engine.calibrate import CalibrationText, calibrate
from sae_bench.engine.checkpoint import Checkpoint, added
from sae_bench.engine.kept import Kept
from sae_bench.engine.plan import Batches, Options, batch_tokens, with_controls
from sae_bench.engine.workspace import Entry, Workspace
from sae_bench.models.subject import SubjectModel
from sae_bench.modules import as_declared
from sae_bench.saes.calibration import Moments
from sae_bench.session.keeping import Keeping
from sae_bench.streams import Inputs, Reader, Run, stream
from sae_bench.streams.base import Progress
from sae_bench.streams.beside import control_documents
from sae_bench.streams.loop import read
from sae_bench.tasks.base import Task


@dataclass
class Measured:
    """All that a run has measured; figures are made from it in :mod:`sae_bench.session.report`."""

    run: Run
    tasks: dict[str, Task]
    readers: dict[str, Reader]  # by task

    def counters(self, task: str, entry: Entry) -> dict[str, int]:
        """What the run cost, and what the tables of this SAE and its controls took besides, as far as that was done."""
        found = Counter(self.run.state.counters)
        found.update(self.readers[task].counters(self.tasks[task], entry))
        return dict(sorted(found.items()))


def hook_points(subject: SubjectModel, saes: list[Entry]) -> tuple[str, ...]:
    """All hook points of the run, checked against the model; the last one is where the clean pass is resumed."""
    hooks: list[str] = []
    for entry in saes:
        for hook in (entry.hook_in, entry.hook_out):
            subject.width(hook)
            if hook not in hooks:
                hooks.append(hook)
    return tuple(sorted(hooks, key=_depth))


def _depth(hook: str) -> int:
    """Layer of a hook point, -1 before the first block."""
    layer = re.search(r"\d+", hook)
    return int(layer.group()) if layer else -1


def may_wait(device: torch.device) -> bool:
    """Whether the host may wait for the device within a batch: on a CPU there is nothing to wait for."""
    return device.type == "cpu"


@as_declared()
def measure(
    subject: SubjectModel,
    inputs: Inputs,
    saes: list[Entry],
    tasks: dict[str, Task],
    *,
    checkpoint: Checkpoint | None = None,
    kept: Kept | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Measured:
    """Run the model once over what the tasks read and measure every task on every SAE and its controls.

    With a ``checkpoint`` on disk the run can be killed at any moment and called again with the same arguments. ``kept``
    is what it may take from earlier runs; without it everything is measured.
    """
    checkpoint = checkpoint or Checkpoint()
    hooks = hook_points(subject, saes)
    size = batch_tokens(inputs.options, subject.vocab_size, subject.device, inputs.corpus.evaluation.longest)
    keeping = Keeping(kept, inputs, size)
    resumed = checkpoint.load_moments(subject.device)
    again: Counter[str] = Counter()  # what reading more text for controls takes
    text = _text(subject, inputs.options, keeping.batches, again)
    moments, counters = resumed or _calibration(subject, inputs.options, hooks, keeping, text, progress)
    if resumed is None:
        checkpoint.save_moments(moments, counters)
        keeping.keep_moments(moments)
    progress("controls", 0, 1)
    work = Workspace(subject, hooks, moments, waits=may_wait(subject.device))
    scored = _text(subject, inputs.options, _measured_on(inputs, size), again) if inputs.options.controls else None
    cast = with_controls(saes, work, inputs.options, text, scored)
    text.forget()
    run = Run(work, cast, inputs, size, checkpoint, checkpoint.load())
    fresh = not run.state.done
    if fresh:
        run.state.failures = dict(cast.failures)
    with torch.no_grad():
        readers = _open(run, tasks)
        if fresh:  # else what comes before the first step is counted already
            more = added(work.counters, again)
            run.state.counters = added(counters, {f"calibration_{name}": n for name, n in more.items()})
        work.counters.clear()
        keeping.take_columns(run)
        for reader in run.readers.values():
            read(reader, progress)
    if fresh and resumed is None:  # what another process has measured before may be of another machine
        keeping.keep_columns(run)
    return Measured(run, tasks, readers)


def _open(run: Run, tasks: Mapping[str, Task]) -> dict[str, Reader]:
    """The reader of every task, in the order in which streams run."""
    readers: dict[str, Reader] = {}
    for name in registry.streams():
        own = {task: made for task, made in tasks.items() if made.stream == name}
        if own:
            readers |= stream(name).open(run, own)
    return readers


def _measured_on(inputs: Inputs, size: int) -> Batches:
    """The documents on which controls are measured."""
    tokens = inputs.corpus.evaluation
    chosen = control_documents(tokens, inputs.options.seed)
    return Batches.of(tokens, size, [i for i, unit in enumerate(tokens.units.tolist()) if unit in chosen])


def _text(subject: SubjectModel, options: Options, batches: Batches, counters: Counter[str]) -> CalibrationText:
    """A text of which more is read than a sample, before anything is scored; ``counters`` say what that took."""

    def read(hooks: Sequence[str]) -> Iterator[Batch]:
        work = Workspace(subject, tuple(sorted(hooks, key=_depth)), {}, counters=counters)
        return (Batch(work, *batches.tensors(i, options)) for i in range(len(batches)))

    return CalibrationText(batches, options, read, subject.device)


def _calibration(
    subject: SubjectModel,
    options: Options,
    hooks: tuple[str, ...],
    keeping: Keeping,
    text: CalibrationText,
    progress: Progress,
) -> tuple[dict[str, Moments], dict[str, int]]:
    """Moments at all hook points, measured where no earlier run kept them, and what that took."""
    moments = keeping.moments(hooks, subject.device)
    lacking, batches = tuple(hook for hook in hooks if hook not in moments), keeping.batches
    work = Workspace(subject, lacking, {})

    def each() -> Iterator[Batch]:
        for i in range(len(batches)):
            progress("calibration", i, len(batches))
            yield Batch(work, *batches.tensors(i, options))

    if lacking:
        with torch.no_grad():
            watched = text.watched(each(), lacking) if options.controls else each()
            measured = calibrate(watched, lacking, len(batches.tokens))
        progress("calibration", len(batches), len(batches))
        moments |= measured
    return moments, {"calibration_prefix": work.counters["prefix"]}
