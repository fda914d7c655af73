"""Sealing a suite: what its names stand for today is looked up, loaded and written down as digests.

A coder that gives everything back stands for the SAE that is not there. What is measured with it of the model alone,
and of the control that needs no SAE, are the suite's reference rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sae_bench import defaults, hub
from sae_bench.api import Session
from sae_bench.errors import DataError, ModelError, UsageError
from sae_bench.files import at_home, check_place, read_text, write_atomically
from sae_bench.results import store
from sae_bench.schema import MetricValue, Protocol, Result
from sae_bench.settings import Settings
from sae_bench.streams.base import Progress
from sae_bench.suites import keep
from sae_bench.suites.claims import JUDGED
from sae_bench.suites.record import Known, Seal, SealedTask, find, folder_of, read, references_of

MARK = "# Written by sae-bench suite build: whatever changes below or above makes another suite.\n[seal]\n"
ALONE = ("mean",)  # controls that are the same beside every SAE, and not trivial
OF_THE_MODEL = ("ce_clean", "ce_zero", "ce_mean")  # figures that no SAE changes
MEASURED = ("reconstruction", "loss_recovered")  # tasks with such figures


class Whole(nn.Module):
    """Gives every activation back: what stands for the SAE while a suite is sealed."""

    def encode(self, x: Tensor) -> Tensor:
        """The activation, as if each channel were a latent."""
        return x

    def decode(self, codes: Tensor) -> Tensor:
        """What was encoded."""
        return codes


def place_of(known: Known, out: str | Path | None) -> Path:
    """The file into which a suite is sealed: its own, unless it is sealed or of an installed package. UsageError."""
    name = known.suite.name
    if out is not None:
        file = at_home(out)
        if file.name != f"{name}.toml":
            raise UsageError(f"--out must end in {name}.toml, since a suite is called as its file, but it is {out}")
    else:
        file = known.file
        if known.sealed:
            raise UsageError(
                f"the suite {name} is sealed, and a sealed suite never changes: give the new one another name, or "
                f"--out FOLDER/{name}.toml to build it again beside it"
            )
        if folder_of().parent.parent.name == "_shipped" and file.parent == folder_of():
            raise UsageError(f"the suite {name} lies in the installed package: give --out FOLDER/{name}.toml")
    check_place(file)
    return file


def build(name: str, out: str | Path | None, progress: Progress, *, device: str = "auto") -> tuple[Known, int]:
    """Seal a suite into a file, with its reference rows beside it; returns it, and how many rows there are.

    Raises UsageError, ModelError, DataError for what cannot be had: nothing is written then.
    """
    found = find(name)
    file = place_of(found, out)
    known = dataclasses.replace(found, suite=found.suite.model_copy(update={"seal": None}))
    revisions = _revisions(known)
    fixed, sessions = keep.values(known.suite), []
    hooks = known.suite.references.hooks if known.suite.references is not None else ()
    for hook in hooks or ("blocks.0.hook_resid_post",):
        sessions.append(_session(known, fixed, revisions, hook, device))
    seal = _seal(sessions[0], revisions)
    above = read_text(known.file, UsageError).partition(MARK)[0].rstrip()
    rows = [row for hook, session in zip(hooks, sessions, strict=False) for row in _rows(hook, session, progress)]
    text = f"{above}\n\n{MARK}{_toml(seal)}"
    write_atomically(file, text.encode())
    sealed = read(file)
    write_atomically(references_of(file), store.to_json({"suite": sealed.claim, "rows": rows}))
    return sealed, len(rows)


def _revisions(known: Known) -> dict[str, str | None]:
    """The commits at which model and text are taken, after they were fetched; None of what is not from the hub."""
    suite = known.suite
    needed = [one for one in (defaults.repository(suite.model.id), defaults.text_repository(known)) if one is not None]
    if suite.model.id == "demo":
        needed = [one for one in needed if one.kind != "model"]
    hub.lacking(needed, f"sealing {suite.name}", "a mirror of the hub as HF_ENDPOINT", UsageError)
    found: dict[str, str | None] = {"model": None, "dataset": None}
    for one in needed:
        patterns, raises = (hub.OF_MODEL, ModelError) if one.kind == "model" else (suite.text.files, DataError)
        found[one.kind] = hub.folder(one, patterns, raises)[1]
    return found


def _session(
    known: Known, fixed: Mapping[str, Any], revisions: Mapping[str, str | None], hook: str, device: str
) -> Session:
    """A run of the suite's own settings on the stand-in, with controls that need no SAE."""
    source = defaults.suite_model(known, None)
    model = defaults.model_place(source, known, revisions["model"])
    text = defaults.text_of_suite(known, revisions["dataset"])
    settings = Settings(
        **{**fixed, "controls": ",".join(ALONE)},
        suite=keep.NONE,
        model=model.where,
        data=text.where,
        tasks=",".join(known.suite.tasks),
        hook_in=hook,
        device=device,
    )
    return Session({"whole": Whole()}, settings)


def _seal(session: Session, revisions: Mapping[str, str | None]) -> Seal:
    corpus, work = session.inputs.corpus, session.work[0]
    protocols: dict[str, Protocol] = {name: protocol for name, (_, protocol) in work.protocols.items()}
    if session.skipped and (
        why := next(((n, w) for n, w in session.skipped.items() if not _judge_only(session, n)), None)
    ):
        raise UsageError(f"the suite cannot be sealed: {why[0]} cannot be measured, {why[1]}")
    one = next(iter(protocols.values()))
    special = session.inputs.options.special_ids if one.mask == "special" else ()
    return Seal(
        model_revision=revisions["model"],
        weights_sha256=one.model_sha256,
        config_sha256=str(one.config_sha256),
        tokenizer_sha256=one.tokenizer_sha256,
        special_ids=tuple(sorted(special)),
        text_revision=revisions["dataset"],
        evaluation_sha256=corpus.evaluation.sha256,
        calibration_sha256=corpus.calibration.sha256,
        documents=corpus.evaluation.n_units,
        groups=corpus.evaluation.n_groups,
        tokens=corpus.evaluation.n_tokens,
        tasks={name: _sealed_task(protocol) for name, protocol in protocols.items()},
    )


def _judge_only(session: Session, name: str) -> bool:
    return session.tasks[name].spec.judge


def _sealed_task(protocol: Protocol) -> SealedTask:
    return SealedTask(
        version=protocol.version,
        documents=protocol.n_documents,
        data_sha256=protocol.data_sha256,
        parameters={n: v for n, v in protocol.parameters.items() if n not in (*JUDGED, "partners")},
        bos=protocol.bos,
    )


def _rows(hook: str, session: Session, progress: Progress) -> list[dict[str, Any]]:
    """The figures of the model without an SAE, and of the controls that need none."""
    wanted = ",".join(name for name in MEASURED if name in session.tasks)
    if not wanted:
        return []
    settings = dataclasses.replace(session.settings, tasks=wanted, judge_model=None)
    found = []
    for result in Session({"whole": Whole()}, settings).run(progress):
        headlines = [name for name, spec in session.specs[result.task].metrics.items() if spec.headline]
        found += [_row(hook, "model", result, n, result.metrics[n]) for n in OF_THE_MODEL if n in result.metrics]
        for control in ALONE:
            beside = result.controls.get(control, {}).items()
            found += [_row(hook, control, result, n, v) for n, v in beside if n in headlines and n not in OF_THE_MODEL]
    return found


def _row(hook: str, who: str, result: Result, metric: str, value: MetricValue) -> dict[str, Any]:
    figures = value.model_dump(mode="json", include={"value", "low", "high", "unit", "n_units", "reason"})
    return {"hook": hook, "reference": who, "task": result.task, "metric": metric} | figures


def _toml(seal: Seal) -> str:
    """The seal as TOML: plain values first, then a table a task."""
    content = seal.model_dump(exclude_none=True)
    tasks = content.pop("tasks")
    lines = [f"{name} = {_value(value)}" for name, value in content.items()]
    for name, task in tasks.items():
        lines += ["", f"[seal.tasks.{name}]"]
        lines += [f"{field} = {_value(value)}" for field, value in task.items() if value != {}]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return store.to_json(str(value)).decode().strip()  # a string of JSON is one of TOML
