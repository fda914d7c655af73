"""From settings to what they name: SAEs, the language model, conditions of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_bench import demo, registry
from sae_bench.errors import CoderError, TaskError, UsageError
from sae_bench.models.subject import SubjectModel
from sae_bench.saes.formats.files import sha256
from sae_bench.saes.load import expand, load_sae
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.wrap import as_coder
from sae_bench.schema import TaskSpec
from sae_bench.settings import Settings

if TYPE_CHECKING:
    from sae_bench.engine.batch import Entry
    from sae_bench.tasks.base import Task

DEFAULT_CONTEXT = 128


def task_specs(settings: Settings) -> dict[str, TaskSpec]:
    """The chosen tasks, in the order in which they are shown. Raises UsageError, TaskError."""
    known = registry.tasks(settings.task_dir)
    return {name: known[name] for name in registry.choose(settings.tasks, known, "task")}


def task(spec: TaskSpec) -> Task:
    """The task of a definition. Raises TaskError if its code does not make the metrics that the definition lists."""
    made: Task = registry.load(spec.code)(spec)
    if set(made.metrics) != set(spec.metrics):
        differ = ", ".join(sorted(set(made.metrics) ^ set(spec.metrics)))
        raise TaskError(f"task {spec.id}: {spec.code} and the definition do not list the same metrics; see {differ}")
    return made


def control_names(names: str) -> tuple[str, ...]:
    """The chosen controls. Raises UsageError."""
    if names == "none":
        return ()
    if names == "default":
        return registry.DEFAULT_CONTROLS
    return tuple(registry.choose(names, registry.controls(), "control"))


def device_name(name: str) -> str:
    """The device that "auto" stands for, or ``name``."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def coders(sae: Any, settings: Settings, device: str) -> tuple[list[SparseCoder], list[str]]:
    """The coders that are meant, and what the user wrote for each. Raises CoderError."""
    given = list(sae) if isinstance(sae, list | tuple) else [sae]
    if not given:
        raise UsageError("give at least one SAE")
    dtype = torch.float64 if settings.dtype == "float64" else torch.float32
    hooks = {"hook_in": settings.hook_in, "hook_out": settings.hook_out}
    coders, sources = [], []
    for one in given:
        if isinstance(one, str | Path):
            for source in expand([str(one)]):
                coders.append(load_sae(source, device=device, dtype=dtype, **hooks))
                sources.append(source)
        else:
            coders.append(as_coder(one, hook=settings.hook_in, hook_out=settings.hook_out))
            sources.append("in memory")
    return coders, sources


def model_source(model: Any, infos: Sequence[Any]) -> Any:
    """The language model: what the user gave, else what all SAEs declare. Raises UsageError."""
    if model is None:
        declared = {info.model for info in infos}
        if len(declared) != 1 or None in declared:
            listed = ", ".join(sorted(str(name) for name in declared))
            raise UsageError(f"which model do the SAEs read? They declare {listed}; give --model FOLDER or a hub id")
        model = declared.pop()
    return demo.MODEL_PATH if isinstance(model, str) and model == "demo" else model


def context_length(settings: Settings, infos: Sequence[Any], subject: SubjectModel) -> int:
    """Tokens of a sequence: as given, else the shortest that an SAE declares; at most what the model takes."""
    declared = [info.context_size for info in infos if info.context_size]
    wanted = settings.context or min(declared, default=DEFAULT_CONTEXT)
    return min(wanted, subject.context_length or wanted)


def prepend_bos(settings: Settings, infos: Sequence[Any], tokenizer: Any) -> bool:
    """Whether texts start with BOS: as given, else as the SAEs declare, else if there is one. Raises UsageError."""
    if settings.bos != "auto":
        return settings.bos == "yes"
    declared = {info.prepend_bos for info in infos if info.prepend_bos is not None}
    if len(declared) > 1:
        raise UsageError(
            "some of these SAEs were trained with a BOS token before the text and some without; run them apart, or "
            "settle it for all with --bos yes or --bos no"
        )
    has_bos = getattr(tokenizer, "bos_token_id", None) is not None
    return declared.pop() if declared else has_bos


def special_ids(tokenizer: Any, subject: SubjectModel) -> frozenset[int]:
    """BOS, EOS and padding ids, from the tokenizer and the model's configuration."""
    config = getattr(subject.model, "config", None)
    found: set[int] = set()
    for owner in (tokenizer, config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(owner, name, None)
            found.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
    return frozenset(found)


def check_fit(entry: Entry, subject: SubjectModel) -> None:
    """The SAE's hook points exist in the model and are as wide as the SAE expects. Raises CoderError, ModelError."""
    info = entry.coder.info
    for hook, width, side in ((entry.hook_in, info.d_in, "reads"), (entry.hook_out, info.d_out, "writes")):
        actual = subject.width(hook)
        if actual != width:
            raise CoderError(
                f"{entry.label} {side} {width} numbers a token, but {hook} of {subject.name} has {actual}; "
                "is it another model's SAE, or another hook point (--hook-in, --hook-out)?"
            )


def model_sha256(source: Any, subject: SubjectModel) -> str:
    """Digest of the weight files, or of the parameters of a model in memory."""
    folder = _folder(source)
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin")) if folder else []
    if files:
        return sha256(*files)
    model = source if isinstance(source, torch.nn.Module) else subject.model
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _folder(source: Any) -> Path | None:
    """Where the weight files of a model lie: its folder, or its snapshot in the hub's cache."""
    if not isinstance(source, str | Path):
        return None
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(source), "config.json")
    return Path(cached).parent if isinstance(cached, str) else None
