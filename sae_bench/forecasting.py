"""What a run will do and cost, said before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_bench import chosen, judging
from sae_bench.builtin import cost as cost_of_task
from sae_bench.engine.plan import batch_tokens, memory
from sae_bench.judge import JudgeOptions
from sae_bench.models.subject import SubjectModel
from sae_bench.resolve import Opened
from sae_bench.schema import TaskSpec
from sae_bench.session.identity import Work
from sae_bench.streams import Inputs, stream
from sae_bench.streams.base import Planned
from sae_bench.streams.captures import of_documents
from sae_bench.suites.record import Known
from sae_bench.tasks.base import Task


class Forecasting:
    """What is known of a run that is ready: its SAEs, tasks and inputs, what is left of them, and what that costs."""

    model: Opened
    inputs: Inputs
    tasks: dict[str, Task]
    controls: Sequence[str]
    work: list[Work]
    skipped: dict[str, str]
    judge: JudgeOptions | None
    suite: Known | None

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
            "suite": "none" if self.suite is None else f"{self.suite.suite.name}, {self.suite.word}",
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
        each = {f"cost of {name}": self._cost_of(name) for name in self.tasks}
        return cost | self.stream_cost() | self.judge_cost() | each | {"memory beside the model, MiB, roughly": size}

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

    def _cost_of(self, name: str) -> str:
        """What one task takes of the model, in runs or tokens, and how dear it was where it was measured."""
        if name in self.skipped:
            return f"nothing: {self.skipped[name]}"
        task = self.tasks[name]
        todo = [work.entry for work in self.missing if name not in work.finished]
        planned = Planned(self.inputs, self.subject, {name: task}, todo, self.controls)
        parts = [part for what, value in stream(task.stream).cost(planned).items() if (part := _words(what, value))]
        runs = "; ".join(parts) or "no run of the model beyond the shared pass"
        return f"{runs}; CPU time where measured, reconstruction = 1: {cost_of_task(name, judged=task.spec.judge)}"

    def judge_cost(self) -> dict[str, Any]:
        """How much the judge will be asked; empty if not at all."""
        asks = {name: task for name, task in self.tasks.items() if name not in self.skipped}
        todo = [w for w in self.missing if any(name not in w.finished for name in asks)]
        return judging.forecast(asks, self.judge, len(todo))

    def _batch_tokens(self) -> int:
        longest = self.inputs.corpus.evaluation.longest
        return batch_tokens(self.inputs.options, self.subject.vocab_size, self.subject.device, longest)


def _words(what: str, value: Any) -> str:
    """A part of a forecast in words; nothing of decoders and pursuits, which all tasks share."""
    if isinstance(value, dict):
        told = ", ".join(f"{n} {kind}" for kind, n in value.items())
        return f"{what}: {told}" if told and what.startswith("forwards") else ""
    return f"{what}: {value}" if isinstance(value, int) else ""
