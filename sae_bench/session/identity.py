"""What identifies the results of a run: a protocol for every SAE and task, and which results are there already."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_bench import registry
from sae_bench.data.mask import begins_bare
from sae_bench.engine.workspace import Entry
from sae_bench.errors import ResultError
from sae_bench.models.digests import ModelDigests
from sae_bench.models.subject import SubjectModel
from sae_bench.results import store
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.pursuit import PursuitCoder
from sae_bench.schema import CONTROL_RULES, CoderRecord, Protocol, Result
from sae_bench.settings import Settings
from sae_bench.show import marks
from sae_bench.streams import Inputs, Population, stream
from sae_bench.tasks.base import Task


@dataclass
class Work:
    """An SAE with what identifies its results."""

    entry: Entry
    record: CoderRecord
    protocols: dict[str, tuple[str, Protocol]] = field(default_factory=dict)
    finished: dict[str, Result] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """All that changes a number but SAE and task. ``judge`` is what of the judge belongs to a task's protocol."""

    settings: Settings
    inputs: Inputs
    subject: SubjectModel
    digests: ModelDigests
    tokenizer_sha256: str | None
    controls: tuple[str, ...]
    judge: Mapping[str, dict[str, Any]]  # by task


def identify(works: Sequence[Work], tasks: Mapping[str, Task], conditions: Conditions) -> dict[str, Population]:
    """Fill in protocols and results that are there; returns the population of every task."""
    populations = {name: stream(task.stream).population(conditions.inputs) for name, task in tasks.items()}
    for work in works:
        for name, task in tasks.items():
            partners = [other.record.weights_sha256 for other in works if other is not work]
            protocol = _protocol(work, task, populations[name], conditions, partners)
            work.protocols[name] = store.protocol_hash(protocol), protocol
            _find(work, task, conditions)
    return populations


def judged_by(works: Sequence[Work], tasks: Mapping[str, Task], of: Mapping[str, Population], now: Conditions) -> None:
    """Identify the results of judged tasks anew: by now it is known who judges."""
    for work in works:
        for name in (name for name, task in tasks.items() if task.spec.judge):
            partners = [other.record.weights_sha256 for other in works if other is not work]
            protocol = _protocol(work, tasks[name], of[name], now, partners)
            work.protocols[name] = store.protocol_hash(protocol), protocol
            work.finished.pop(name, None)
            _find(work, tasks[name], now)


def _protocol(work: Work, task: Task, of: Population, conditions: Conditions, partners: Sequence[str]) -> Protocol:
    settings, inputs, spec = conditions.settings, conditions.inputs, task.spec
    subject, digests = conditions.subject, conditions.digests
    shipped = registry.tasks(settings.task_dir)[spec.id].parameters
    parameters = {name: value for name, value in spec.parameters.items() if shipped[name] != value}
    parameters |= conditions.judge[spec.id] | stream(task.stream).parameters(inputs) | _first_position(task, inputs)
    parameters |= _chat_template(inputs)
    parameters |= _sae_dtype(work.entry.encoder, settings)
    if spec.pairs:
        parameters["partners"] = sorted(partners)
    return Protocol(
        task=spec.id,
        version=spec.version,
        task_sha256=registry.definition_sha256(spec),
        parameters=parameters,
        model=subject.name,
        model_sha256=digests.weights,
        dtype=str(subject.dtype).removeprefix("torch."),
        hooks_in=work.record.hooks_in,
        hooks_out=work.record.hooks_out,
        data=of.data,
        data_sha256=of.sha256,
        calibration_sha256=inputs.corpus.calibration.sha256,
        n_documents=of.n_documents,
        mask=settings.mask,
        special_ids=tuple(sorted(inputs.options.special_ids)) if settings.mask == "special" else (),
        mean_from=settings.mean_from,
        seed=settings.seed,
        resamples=settings.resamples,
        config_sha256=digests.config,
        tokenizer_sha256=conditions.tokenizer_sha256,
        backend=subject.backend,
        bos=of.bos,
        code_sha256=registry.code_sha256(spec),
    )


def _first_position(task: Task, inputs: Inputs) -> dict[str, Any]:
    """That the mask "special" leaves out what begins a sequence without a BOS token; results of before scored it."""
    if inputs.options.mask != "special":
        return {}
    read = inputs.suite.tokens if stream(task.stream).labels and inputs.suite else inputs.corpus.evaluation
    bare = any(begins_bare(tokens, inputs.options.special_ids) for tokens in (read, inputs.corpus.calibration))
    return {"first_position": "left out"} if bare else {}


def _chat_template(inputs: Inputs) -> dict[str, Any]:
    """With what the messages of chats were written as text; results on plain text say nothing of it."""
    digest = inputs.corpus.details.get("chat_template_sha256")
    return {} if digest is None else {"chat_template": digest}


def _sae_dtype(coder: SparseCoder, settings: Settings) -> dict[str, Any]:
    """What an SAE computes in, if that is not what SAEs do by default, of which results say nothing."""
    if not isinstance(coder, LinearCoder | PursuitCoder):
        return {}
    dtype = str(coder.dtype).removeprefix("torch.")
    shorter = dtype == "float32" and (settings.dtype, settings.sae_dtype) == ("float64", "float32")
    return {"sae_dtype": dtype} if shorter or dtype not in ("float32", "float64") else {}


def look_again(works: Sequence[Work], tasks: Mapping[str, Task], conditions: Conditions) -> None:
    """Take results that another run has written meanwhile."""
    for work in works:
        for task in tasks.values():
            _find(work, task, conditions)


def _find(work: Work, task: Task, conditions: Conditions) -> None:
    """Take a result that is there, if nothing of it would be measured again."""
    settings, spec = conditions.settings, task.spec
    if settings.out is None or settings.overwrite == "always":
        return
    file = store.path_of(Path(settings.out), work.record, spec.id, spec.version, work.protocols[spec.id][0])
    if not file.exists():
        return
    try:
        result = store.read(file)
        store.check_whole(file, result)
    except ResultError as error:
        if settings.overwrite == "never":
            raise
        warnings.warn(f"{error}; it is measured again", stacklevel=2)
        return
    wanted = {name for name in conditions.controls if task.wants_control(name)}
    judged = wanted if spec.judge else set()
    if settings.overwrite == "never" or (
        result.status == "ok"
        and set(conditions.controls) <= set(result.provenance.controls)
        and not {"incomplete", "unanswered", marks.MARKED} & set(result.details)
        and judged <= set(result.controls)
        and (not wanted or result.provenance.control_rules == CONTROL_RULES)
    ):
        work.finished[spec.id] = result
