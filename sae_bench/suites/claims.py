"""Whether a result is of the suite that it names: anybody can write a name, so its protocol is held against a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_bench import registry
from sae_bench.errors import SaeBenchError
from sae_bench.schema import Protocol, Result, TaskSpec
from sae_bench.suites.record import Known, every

# What of a protocol belongs to the SAE, or is a name beside its digest.
FREE = frozenset({"task", "hooks_in", "hooks_out", "model", "data"})
# What is said of the judge of a judged task; it is held against the suite's own, and known only once one was asked.
JUDGED = frozenset(
    {"judge", "judge_endpoint", "judge_params", "judge_model", "judge_fingerprint", "judge_provider", "temperature"}
)


def expected(known: Known, spec: TaskSpec) -> dict[str, Any]:
    """What the protocol of a result of a task must say, by field; of a suite that is not sealed what people wrote."""
    suite, seal = known.suite, known.suite.seal
    own = {n.partition(".")[2]: v for n, v in suite.parameters.items() if n.partition(".")[0] == spec.id}
    fixed: dict[str, Any] = {
        "task_sha256": registry.definition_sha256(registry.with_parameters(spec, own)),
        "dtype": suite.model.dtype,
        "mask": suite.mask,
        "mean_from": suite.mean_from,
        "seed": suite.seed,
        "resamples": suite.resamples,
        "backend": suite.model.backend,
        "code_sha256": None,
    }
    if seal is None:
        return fixed
    task = seal.tasks[spec.id]
    return fixed | {
        "version": task.version,
        "parameters": task.parameters,
        "model_sha256": seal.weights_sha256,
        "config_sha256": seal.config_sha256,
        "tokenizer_sha256": seal.tokenizer_sha256,
        "data_sha256": task.data_sha256,
        "calibration_sha256": seal.calibration_sha256,
        "n_documents": task.documents,
        "special_ids": seal.special_ids,
        "bos": task.bos,
    }


def differences(known: Known, protocol: Protocol, specs: Mapping[str, TaskSpec]) -> list[str]:
    """In what a protocol is not that of the suite, a sentence each; empty if it is."""
    name, suite = protocol.task, known.suite
    if name not in suite.tasks or name not in specs:
        return [f"{name} is no task of it; its tasks are {', '.join(suite.tasks)}"]
    try:
        wanted = expected(known, specs[name])
    except SaeBenchError as error:  # parameters that the installed definition does not have
        return [str(error)]
    said = protocol.model_dump()
    if specs[name].judge:
        asked = said["parameters"].get("judge")
        if suite.judge is not None and asked != suite.judge.model:
            return [f"its judge is {suite.judge.model}, and here it is {asked}"]
        for one in (said, wanted):
            if "parameters" in one:
                one["parameters"] = {n: v for n, v in one["parameters"].items() if n not in JUDGED}
    return [
        f"its {field} is {_short(value)}, and here it is {_short(said[field])}"
        for field, value in wanted.items()
        if said[field] != value
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if isinstance(value, str) and len(text) == 64 else text[:80]


class Claims:
    """Claims of results held against the suites of a folder, by default those that ship; each file is read once."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self._known, self._specs = every(folder), registry.tasks()

    def problem(self, result: Result) -> str | None:
        """Why a result is of no sealed suite, in a sentence; None if it is."""
        if result.suite is None:
            return "it is of a run with settings of its own, of no suite (run --suite NAME)"
        name, _, digest = result.suite.partition("@")
        known = self._known.get(name)
        if known is None:
            return f"it names the suite {name[:80]!r}, which is not known here; {registry.suggest(name, self._known)}"
        if digest != known.sha256:
            there = digest[:80] if digest.startswith(known.sha256[:12]) else digest[:12] or "none"
            return f"it names the suite {name} with the digest {there}, and the one here has {known.sha256[:12]}"
        if not known.sealed:
            return f"the suite {name} is not sealed: nothing holds that its text and model are the same everywhere"
        found = differences(known, result.provenance.protocol, self._specs)
        wanted = _controls(known, self._specs.get(result.task))
        if lacking := [control for control in wanted if control not in result.provenance.controls]:
            found.append(f"it asks for the controls {', '.join(lacking)}, which are not there")
        return f"it is not what the suite {name} fixes: {found[0]}" if found else None

    def label(self, result: Result) -> str:
        """What stands above a table of such results: the suite, or that they are unofficial and of which claim."""
        name, _, digest = (result.suite or "").partition("@")
        if self.problem(result) is None:
            return f"suite {name} ({digest[:8]})"
        return f"unofficial, named {name[:40]} ({digest[:8] or 'no digest'})" if name else "unofficial (no suite)"


def _controls(known: Known, spec: TaskSpec | None) -> list[str]:
    if spec is None or spec.judge or known.suite.controls == "none":
        return []
    parts = [part.strip() for part in known.suite.controls.split(",")]
    return [name for part in parts for name in (registry.DEFAULT_CONTROLS if part == "default" else (part,))]
