"""The same reach as the command line, for objects in memory: ``sae_bench.evaluate(sae, model=..., data=...)``."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sae_bench import chosen, defaults, demo, given, judging, locks, registry, resolve
from sae_bench.engine.checkpoint import FORMAT, Checkpoint
from sae_bench.errors import SaeBenchError, UsageError
from sae_bench.files import at_home
from sae_bench.forecasting import Forecasting
from sae_bench.modules import as_declared
from sae_bench.results import store
from sae_bench.schema import Result
from sae_bench.session.environment import environment, machine, versions
from sae_bench.session.identity import Conditions, Work, identify, judged_by, look_again
from sae_bench.session.keeping import keeping
from sae_bench.session.report import coder_record, results, skipped
from sae_bench.session.run import measure
from sae_bench.settings import Settings, of
from sae_bench.streams import stream
from sae_bench.streams.base import Progress
from sae_bench.suites import keep
from sae_bench.switches import alone_with

# settings that a result keeps, if they are not the default: with these and its inputs it can be repeated
REPEAT = tuple(name for name, stated in of(Settings).items() if stated.repeats)
PARTIAL = ".partial"  # below the folder of results: runs in progress
_DEFAULT = {name: stated.default for name, stated in of(Settings).items()}


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
    Settings(**settings)  # refuses what no setting can be, before they are held against each other
    keep.refuse(settings, keep.setting)
    if "suite" not in settings and keep.said(settings):
        settings["suite"] = keep.NONE
    with alone_with(settings.get("model")):
        return Session(sae, Settings(**settings)).run(progress or silent)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody follows."""


class Session(Forecasting):
    """An evaluation that is ready to run: everything is loaded and checked, nothing has been measured."""

    def __init__(self, sae: Any, settings: Settings, progress: Progress = silent) -> None:
        settings, self.suite = keep.explicit(settings)
        progress("SAEs", 0, 1)
        self.tasks, self.controls = chosen.tasks(settings), chosen.control_names(settings.controls)
        if self.suite is not None:
            defaults.check_there(self.suite, settings.model, settings.data)
        saes = given.saes(sae, settings)
        infos = [one.info for one in saes]
        progress("language model", 0, 1)
        settings = self._settled(settings, infos)
        entries = given.entries(saes, self.subject)
        self.judge = judging.configure(self.tasks, settings, self.controls)
        progress("text", 0, 1)
        settings, place = self._text(settings, infos)
        self.settings = settings
        self.inputs = resolve.inputs(settings, infos, self.model, self.tasks, self.controls, place)
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
        if self.suite is not None:
            protocols = [protocol for work in self.work for _, protocol in work.protocols.values()]
            keep.check(self.suite, protocols, registry.tasks(), "what was loaded")

    def _settled(self, settings: Settings, infos: Sequence[Any]) -> Settings:
        """Open the language model; the settings with those of its suite, where nothing else is said."""
        known = self.suite
        if known is not None:
            source = defaults.suite_model(known, settings.model)
        else:
            source = resolve.model_source(settings.model, infos)
            name = "demo" if source == demo.MODEL_PATH else source
            settings, self.suite = keep.adopted(settings, name if isinstance(name, str) else None)
        if known is None and self.suite is not None:
            self.tasks, self.controls = chosen.tasks(settings), chosen.control_names(settings.controls)
            warnings.warn(
                f"nothing was said of what to measure: the run keeps to the suite {self.suite.suite.name} "
                f"({self.suite.word}; --suite none keeps to none)",
                stacklevel=2,
            )
            defaults.check_there(self.suite, settings.model, settings.data)
        if self.suite is None:
            declared = settings.model is None
            defaults.check_model(source, defaults.foreseen_text(settings, infos, source), declared=declared)
        self.model = resolve.opened(settings, source, self.suite)
        if self.suite is not None:
            keep.check_model(self.suite, self.model.digests, self.model.tokenizer_sha256)
        return settings

    def _text(self, settings: Settings, infos: Sequence[Any]) -> tuple[Settings, defaults.Place]:
        """Where the text lies, and the settings with how it is read. Raises DataError, UsageError."""
        if self.suite is not None:
            return settings, defaults.suite_text(self.suite, settings.data)
        if settings.data is not None:
            return settings, defaults.Place(settings.data)
        return defaults.default_text(settings, infos, self.model.source)

    def _claim(self, out: Path | None) -> None:
        """Let results that were there already name the suite, whose protocol they have."""
        if self.suite is None or self.settings.overwrite == "never":
            return
        for work in self.work:
            for name, result in work.finished.items():
                if result.suite != self.suite.claim:
                    work.finished[name] = self._named(result)
                    if out is not None:
                        store.renamed(out, work.finished[name])

    def _named(self, result: Result) -> Result:
        """The result with the suite that the run keeps to."""
        return result if self.suite is None else result.model_copy(update={"suite": self.suite.claim})

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
        self._claim(out)
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
            return self._named(skipped(work.record, self.specs[name], work.protocols[name], self.skipped[name], *given))
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
        for i, (made, tables) in enumerate(results(measured, records, protocols, provenance)):
            result = self._named(made)
            if out is not None and result.status != "skipped":  # what waits for a batch has nothing to keep
                with locks.held(out / PARTIAL / "writing.lock"):  # results of an unequal run may have the same name
                    result, _ = store.written(out, result, tables)
            by_name[result.sae.name].finished[result.task] = result
            progress("intervals", i + 1, len(todo) * len(names))

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
