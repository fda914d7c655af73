"""The same reach as the command line, for objects in memory: ``sae_bench.evaluate(sae, model=..., data=...)``."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sae_bench import chosen, given, judging, locks, registry, resolve
from sae_bench.engine.checkpoint import FORMAT, Checkpoint
from sae_bench.engine.plan import batch_tokens, memory
from sae_bench.errors import SaeBenchError, UsageError
from sae_bench.files import at_home
from sae_bench.models.subject import SubjectModel
from sae_bench.modules import as_declared
from sae_bench.results import store
from sae_bench.schema import Result, TaskSpec
from sae_bench.session.environment import environment, machine, versions
from sae_bench.session.identity import Conditions, Work, identify, judged_by, look_again
from sae_bench.session.keeping import keeping
from sae_bench.session.report import coder_record, results, skipped
from sae_bench.session.run import measure
from sae_bench.settings import TOLD, Settings
from sae_bench.streams import stream
from sae_bench.streams.base import Planned, Progress
from sae_bench.streams.captures import of_documents
from sae_bench.switches import alone_with

# settings that a result keeps, if they are not the default: with these and its inputs it can be repeated
REPEAT = (
    *(
        "tier",
        "limit",
        "tokens",
        "group_field",
        "probe_sets",
        "parameters",
        "text_field",
        "split",
        "context",
        "packed",
        "bos",
        "mask",
    ),
    *("mean_from", *TOLD, "select_in"),
    *("backend", "dtype", "sae_dtype", "seed", "resamples", "judge_model"),
)
PARTIAL = ".partial"  # below the folder of results: runs in progress
_DEFAULT = {f.name: f.default for f in dataclasses.fields(Settings) if f.name != "parameters"} | {"parameters": {}}


@as_declared()
def evaluate(sae: Any, *, progress: Progress | None = None, **settings: Any) -> list[Result]:
    """Measure one SAE or a list of them; returns one result for every SAE and task, in that order.

    ``sae`` is what ``--sae`` takes (a path, "demo/*", "module:factory"), a :class:`SparseCoder`, or a module with dense
    ``encode`` and ``decode`` (give ``hook_in``; unless it says its width, it has the model's there); or a mapping from
    names to these. ``settings`` are the fields of :class:`Settings`. Raises SaeBenchError with one sentence for what
    cannot be used; an SAE that fails while it runs gives results with status "error" instead.
    """
    fields = [f.name for f in dataclasses.fields(Settings)]
    unknown = [name for name in settings if name not in fields]
    if unknown:
        raise UsageError(f"evaluate has no setting {unknown[0]!r}; {registry.suggest(unknown[0], fields)}")
    with alone_with(settings.get("model")):
        return Session(sae, Settings(**settings)).run(progress or silent)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody follows."""


class Session:
    """An evaluation that is ready to run: everything is loaded and checked, nothing has been measured."""

    def __init__(self, sae: Any, settings: Settings, progress: Progress = silent) -> None:
        self.settings = settings
        progress("SAEs", 0, 1)
        self.tasks, self.controls = chosen.tasks(settings), chosen.control_names(settings.controls)
        saes = given.saes(sae, settings)
        infos = [one.info for one in saes]
        progress("language model", 0, 1)
        self.model = resolve.opened(settings, infos)
        entries = given.entries(saes, self.subject)
        self.judge = judging.configure(self.tasks, settings, self.controls)
        progress("text", 0, 1)
        self.inputs = resolve.inputs(settings, infos, self.model, self.tasks, self.controls)
        self.skipped = chosen.skipped(self.tasks, self.model.context, self.inputs, self.judge)
        for name, own in chosen.by_stream(self.tasks).items():
            stream(name).check(entries, own)
        records = [coder_record(e, one.source, self.subject) for e, one in zip(entries, saes, strict=True)]
        self.work = [Work(entry, record) for entry, record in zip(entries, records, strict=True)]
        self.asks = judging.made(self.judge, settings.judge_batch)
        self._who, self._met = judging.known(self.judge), False
        judged = {name: judging.parameters(task, self.judge, self._who) for name, task in self.tasks.items()}
        model = (self.subject, self.model.digests, self.model.tokenizer_sha256)
        self._conditions = Conditions(settings, self.inputs, *model, self.controls, judged)
        self.populations = identify(self.work, self.tasks, self._conditions)

    @property
    def subject(self) -> SubjectModel:
        """The language model."""
        return self.model.subject

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The definitions of the tasks, with the parameters of this run."""
        return {name: task.spec for name, task in self.tasks.items()}

    @property
    def missing(self) -> list[Work]:
        """SAEs that still have something to measure: all of them where a task looks at several at once."""
        left = [work for work in self.work if set(self.specs) - set(work.finished) - set(self.skipped)]
        pairs = any(s.pairs and n not in w.finished for w in left for n, s in self.specs.items())
        return self.work if pairs else left

    def forecast(self) -> dict[str, Any]:
        """What :meth:`run` will do and cost: plain JSON."""
        todo = self.missing
        tokens = self.inputs.corpus.evaluation
        cost: dict[str, Any] = {
            "saes": [w.record.name for w in self.work],
            "tasks": list(self.specs),
            "controls": list(self.controls),
            "already there": [f"{w.record.name} {name}" for w in self.work for name in w.finished],
            "model": self.subject.name,
            "data": self.inputs.corpus.source,
            "documents": tokens.n_units,
            "groups": tokens.n_groups,
            "sequences": len(tokens),
            "tokens": tokens.n_tokens,
            "calibration documents": self.inputs.corpus.calibration.n_units,
            "batches": len(of_documents(tokens, self.inputs.options, self._batch_tokens())),
            "forwards of the first part of the model, a document": 1 if todo else 0,
        }
        weights = [w.record.n_latents * (w.record.d_in + w.record.d_out) for w in todo]
        size = memory(weights, self._batch_tokens(), self.subject.vocab_size)
        return cost | self.stream_cost() | self.judge_cost() | {"memory beside the model, MiB, roughly": size}

    def stream_cost(self, *, announced: bool = False) -> dict[str, Any]:
        """What reading will cost, by the streams of the tasks that are left; ``announced``: of dear streams alone."""
        todo = self.missing
        left = {n: t for n, t in self.tasks.items() if any(n not in w.finished for w in todo)}
        cost: dict[str, Any] = {}
        for name, own in chosen.by_stream(left).items():
            if stream(name).announced or not announced:
                planned = Planned(self.inputs, self.subject, own, [w.entry for w in todo], self.controls)
                cost |= stream(name).cost(planned)
        return cost

    def judge_cost(self) -> dict[str, Any]:
        """How much the judge will be asked; empty if not at all."""
        asks = {name: task for name, task in self.tasks.items() if name not in self.skipped}
        todo = [w for w in self.missing if any(name not in w.finished for name in asks)]
        return judging.forecast(asks, self.judge, len(todo))

    def meet(self) -> str | None:
        """Ask the judge, if there is one to ask, who it is: results count as there only if they are its own.

        Says it in a line; None where nobody was asked. Raises JudgeError where it cannot be asked and is needed.
        """
        judged = [name for name, task in self.tasks.items() if task.spec.judge and name not in self.skipped]
        there = all(name in work.finished for work in self.work for name in judged)
        judge, self.asks = self.asks, self.asks if judged else None
        if judge is None or not judged or self._met or (there and self.settings.overwrite == "never"):
            return None
        self._met = True
        if not judge.may_ask:
            judging.check_cached(judge)
            return None
        try:
            with judge:
                said = judging.meet(judge)
        except SaeBenchError as error:
            if not there:
                raise
            warnings.warn(f"{error}; results by {self._who and self._who.served} are there and taken", stacklevel=2)
            return None
        self._who = judge.known
        judged_by_task = {name: judging.parameters(task, self.judge, self._who) for name, task in self.tasks.items()}
        if judged_by_task != self._conditions.judge:
            self._conditions = dataclasses.replace(self._conditions, judge=judged_by_task)
            judged_by(self.work, self.tasks, self.populations, self._conditions)
        return said

    def run(self, progress: Progress) -> list[Result]:
        """Measure what is missing, write it, and return all results.

        Of equal runs into one folder, whoever comes second waits for the first and takes what it has measured.
        """
        with alone_with(self.settings.model):
            return self._all(progress)

    def _all(self, progress: Progress) -> list[Result]:
        self.meet()
        out = None if self.settings.out is None else at_home(self.settings.out)
        if out is None:
            self._run(None, Checkpoint(), progress)
        elif (folder := out / PARTIAL / self._run_key()).exists() or self.missing:
            self._run_alone(out, folder, progress)
        return [self._result(work, name) for work in self.work for name in self.specs]

    def _run_alone(self, out: Path, folder: Path, progress: Progress) -> None:
        """Run while no equal run does; what is left of one that was killed at its very end goes too."""
        with locks.held(folder / "lock", partial(_waiting, out)) as waited:
            if waited:
                look_again(self.work, self.tasks, self._conditions)
            checkpoint = Checkpoint(folder)
            self._run(out, checkpoint, progress)
            checkpoint.remove()
        with suppress(OSError):  # it is empty if this was the last of all runs
            folder.parent.rmdir()

    def _run(self, out: Path | None, checkpoint: Checkpoint, progress: Progress) -> None:
        if todo := self.missing:
            with judging.opened(self.tasks, self.asks, self.settings.judge_batch, progress):
                self._measure(todo, out, checkpoint, progress)

    def _result(self, work: Work, name: str) -> Result:
        if name in self.skipped and name not in work.finished:
            given = self._provenance(name), self.inputs.options
            return skipped(work.record, self.specs[name], work.protocols[name], self.skipped[name], *given)
        return work.finished[name]

    def surroundings(self) -> dict[str, Any]:
        """With what is measured here: the fields of the provenance that say so."""
        return {
            "device": str(self.subject.device),
            "backend": self.subject.backend,
            "platform": machine(),
            "versions": versions(self.subject.backend),
            "environment": environment(self.subject, self.model.tokenizer),
        }

    def _provenance(self, name: str) -> dict[str, Any]:
        """What a result says of its origin that the engine does not know."""
        repeat = {name: getattr(self.settings, name) for name in REPEAT}
        return {
            **self.surroundings(),
            "model": self.model.digests.details(),
            "batch_tokens": self._batch_tokens(),
            "data": self.populations[name].details,
            "n_tokens": self.populations[name].n_tokens,
            "settings": {name: value for name, value in repeat.items() if value != _DEFAULT[name]},
            "judge": judging.provenance(self.judge, self._who) if self.judge and self.tasks[name].spec.judge else {},
        }

    def _measure(self, todo: list[Work], out: Path | None, checkpoint: Checkpoint, progress: Progress) -> None:
        names = [n for n in self.specs if n not in self.skipped and any(n not in w.finished for w in todo)]
        known = {"all_saes": [w.record.name for w in self.work], "all_tasks": list(self.specs)}
        saes, names = checkpoint.plan([w.record.name for w in todo], names, **known)
        todo = [w for w in self.work if w.record.name in saes]
        tasks = {name: self.tasks[name] for name in names}
        entries = [w.entry for w in todo]
        kept = keeping(self.settings, self.subject, self.model.digests, self.surroundings())
        measured = measure(
            self.subject, self.inputs, entries, tasks, checkpoint=checkpoint, kept=kept, progress=progress
        )
        by_name = {w.record.name: w for w in todo}
        provenance = {name: self._provenance(name) for name in names}
        protocols = {(w.entry.key, n): w.protocols[n] for w in todo for n in names}
        records = {w.entry.key: w.record for w in todo}
        progress("intervals", 0, len(todo) * len(names))
        for i, (result, tables) in enumerate(results(measured, records, protocols, provenance)):
            if out is not None and result.status != "skipped":  # what waits for a batch has nothing to keep
                with locks.held(out / PARTIAL / "writing.lock"):  # results of an unequal run may have the same name
                    result, _ = store.written(out, result, tables)
            by_name[result.sae.name].finished[result.task] = result
            progress("intervals", i + 1, len(todo) * len(names))

    def _batch_tokens(self) -> int:
        longest = self.inputs.corpus.evaluation.longest
        return batch_tokens(self.inputs.options, self.subject.vocab_size, self.subject.device, longest)

    def _run_key(self) -> str:
        """Names the folder of a run in progress: two runs share it only if they would measure the same."""
        parts = [
            [(w.record.name, w.record.weights_sha256, [w.protocols[n][0] for n in self.specs]) for w in self.work],
            self.controls,
            self._batch_tokens(),
            FORMAT,
            self.surroundings(),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _waiting(out: Path, holder: str) -> None:
    warnings.warn(f"the same run into {out} is in progress ({holder}); this one waits for its results", stacklevel=2)
