"""The same reach as the command line, for objects in memory: ``sae_bench.evaluate(sae, model=..., data=...)``."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_bench import demo, registry
from sae_bench.data.documents import Corpus, DataOptions, load_corpus
from sae_bench.engine.plan import Batches, Options, batch_tokens, sae_entries
from sae_bench.engine.report import coder_record, results, versions
from sae_bench.engine.run import Progress, measure
from sae_bench.errors import CoderError, DataError, UsageError
from sae_bench.models.subject import SubjectModel, load_subject
from sae_bench.results import store
from sae_bench.saes.formats.files import sha256
from sae_bench.saes.load import expand, load_sae
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.wrap import as_coder
from sae_bench.schema import CoderRecord, Protocol, Result, TaskSpec

if TYPE_CHECKING:
    from sae_bench.engine.batch import Entry
    from sae_bench.tasks.base import Task

TIERS: dict[str, tuple[int | None, int | None]] = {"smoke": (32, 16), "standard": (512, 128), "full": (None, 512)}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_CONTEXT = 128


@dataclass(frozen=True)
class Settings:
    """Everything about an evaluation except the SAEs. The command line has a flag for each.

    ``model``: a folder, a hub id, "demo", or a ``transformers`` model in memory; by default what the SAE declares.
    ``data``: a file, folder, hub id, "demo", a list of texts, or token ids ``[sequences, length]``.
    ``limit``: evaluation documents; otherwise the ``tier`` decides. ``controls``: "none", "default", "all" or names.
    ``out``: folder for result files, None to write none.
    """

    model: Any = None
    data: Any = None
    tokenizer: Any = None
    tasks: str = "all"
    task_dir: str | None = None
    tier: Literal["smoke", "standard", "full"] = "standard"
    limit: int | None = None
    text_field: str = "text"
    split: str | None = None
    context: int | None = None
    packed: bool = False
    bos: Literal["auto", "yes", "no"] = "auto"
    mask: Literal["special", "first", "none"] = "special"
    mean_from: Literal["calibration", "evaluation"] = "calibration"
    controls: str = "default"
    hook_in: str | None = None
    hook_out: str | None = None
    backend: Literal["hf", "tl"] = "hf"
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    resamples: int = 2000
    batch_tokens: int | None = None
    out: str | Path | None = None
    overwrite: Literal["missing", "always", "never"] = "missing"
    checkpoint_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} must be one of {', '.join(allowed)}, but it is {getattr(self, name)!r}")
        for name, least in (("limit", 1), ("context", 3), ("batch_tokens", 1), ("resamples", 20), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, but it is {value}")


_CHOICES = {
    "tier": tuple(TIERS),
    "bos": ("auto", "yes", "no"),
    "mask": ("special", "first", "none"),
    "mean_from": ("calibration", "evaluation"),
    "backend": ("hf", "tl"),
    "dtype": tuple(DTYPES),
    "overwrite": ("missing", "always", "never"),
}


def evaluate(sae: Any, *, progress: Progress | None = None, **settings: Any) -> list[Result]:
    """Measure one SAE or a list of them; returns one result for every SAE and task, in that order.

    ``sae`` is what ``--sae`` takes (a path, "demo/*", "module:factory"), a :class:`SparseCoder`, or a module with dense
    ``encode`` and ``decode`` (give ``hook_in`` too). ``settings`` are the fields of :class:`Settings`. Raises
    SaeBenchError with one sentence for whatever cannot be used; an SAE that fails while it runs gives results with
    status "error" instead.
    """
    unknown = [name for name in settings if name not in {f.name for f in dataclasses.fields(Settings)}]
    if unknown:
        fields = [f.name for f in dataclasses.fields(Settings)]
        raise UsageError(f"evaluate has no setting {unknown[0]!r}; {registry.suggest(unknown[0], fields)}")
    return Session(sae, Settings(**settings)).run(progress or (lambda what, done, total: None))


@dataclass
class Work:
    """An SAE with what identifies its results."""

    entry: Entry
    record: CoderRecord
    protocols: dict[str, tuple[str, Protocol]] = field(default_factory=dict)
    finished: dict[str, Result] = field(default_factory=dict)


class Session:
    """An evaluation that is ready to run: everything is loaded and checked, nothing has been measured."""

    def __init__(self, sae: Any, settings: Settings) -> None:
        self.settings = settings
        self.specs = _specs(settings)
        self.controls = _controls(settings.controls)
        device = _device(settings.device)
        coders, sources = _coders(sae, settings, device)
        infos = [coder.info for coder in coders]
        self.model_source = _model_source(settings.model, infos)
        self.subject, self.tokenizer = load_subject(
            self.model_source,
            backend=settings.backend,
            device=device,
            dtype=DTYPES[settings.dtype],
            tokenizer=settings.tokenizer,
        )
        if self.model_source == demo.MODEL_PATH:
            self.subject.name = "demo"
        entries = sae_entries(coders)
        for entry in entries:
            _check_fit(entry, self.subject)
        self.corpus = self._corpus(infos)
        self.special_ids = _special_ids(self.tokenizer, self.subject)
        self.work = [Work(e, coder_record(e, source)) for e, source in zip(entries, sources, strict=True)]
        self._identify()

    def _corpus(self, infos: Sequence[Any]) -> Corpus:
        settings = self.settings
        data = settings.data
        if data is None:
            if self.model_source != demo.MODEL_PATH:
                raise DataError("text to evaluate on is needed: give --data FILE, a folder, or a data set's hub id")
            data = "demo"
        limit, calibration_limit = TIERS[settings.tier]
        limit = settings.limit or limit
        corpus = load_corpus(
            data,
            tokenizer=self.tokenizer,
            vocab_size=self.subject.vocab_size,
            options=DataOptions(
                text_field=settings.text_field,
                split=settings.split,
                context=_context(settings, infos, self.subject),
                packed=settings.packed,
                prepend_bos=_prepend_bos(settings, infos, self.tokenizer),
                limit=limit,
                calibration_limit=calibration_limit,
                mean_from_evaluation=settings.mean_from == "evaluation",
                seed=settings.seed,
            ),
        )
        if self.subject.context_length and corpus.evaluation.longest > self.subject.context_length:
            raise DataError(
                f"{corpus.source} has sequences of {corpus.evaluation.longest} tokens, but the model takes at most "
                f"{self.subject.context_length}; give shorter rows"
            )
        return corpus

    def options(self) -> Options:
        """What the engine needs of the settings."""
        s = self.settings
        return Options(
            mask=s.mask,
            mean_from=s.mean_from,
            controls=self.controls,
            seed=s.seed,
            resamples=s.resamples,
            batch_tokens=s.batch_tokens,
            checkpoint_seconds=s.checkpoint_seconds,
            special_ids=self.special_ids,
        )

    def _identify(self) -> None:
        """The protocol of every result, and which results are there already."""
        model_sha256 = _model_sha256(self.model_source, self.subject)
        for work in self.work:
            for name, spec in self.specs.items():
                protocol = Protocol(
                    task=name,
                    version=spec.version,
                    task_sha256=registry.definition_sha256(spec),
                    model=self.subject.name,
                    model_sha256=model_sha256,
                    dtype=self.settings.dtype,
                    hooks_in=work.record.hooks_in,
                    hooks_out=work.record.hooks_out,
                    data=Path(self.corpus.source).name or self.corpus.source,
                    data_sha256=self.corpus.evaluation.sha256,
                    calibration_sha256=self.corpus.calibration.sha256,
                    n_documents=self.corpus.evaluation.n_units,
                    mask=self.settings.mask,
                    mean_from=self.settings.mean_from,
                    seed=self.settings.seed,
                )
                digest = store.protocol_hash(protocol)
                work.protocols[name] = (digest, protocol)
                self._find(work, name, spec, digest)

    def _find(self, work: Work, name: str, spec: TaskSpec, digest: str) -> None:
        if self.settings.out is None or self.settings.overwrite == "always":
            return
        out = Path(self.settings.out)
        file = store.path_of(out, work.record, name, spec.version, digest)
        if file.exists():
            result = store.read(file)
            if self.settings.overwrite == "never" or (
                result.status == "ok" and set(self.controls) <= set(result.controls)
            ):
                work.finished[name] = result

    @property
    def missing(self) -> list[Work]:
        """SAEs that still have something to measure."""
        return [work for work in self.work if len(work.finished) < len(self.specs)]

    def forecast(self) -> dict[str, Any]:
        """What :meth:`run` will do: plain JSON."""
        todo = self.missing
        tokens, subject = self.corpus.evaluation, self.subject
        size = batch_tokens(self.options(), subject.vocab_size, subject.device, tokens.longest)
        suffixes = {"clean": 1, "zero and mean": 2 * len({w.entry.hook_out for w in todo}), "spliced (SAEs)": len(todo)}
        suffixes["spliced (controls, at most)"] = len(todo) * len(self.controls)
        uses_loss = any("loss_recovered" in set(self.specs) - set(w.finished) for w in todo)
        weights = sum(w.record.n_latents * (w.record.d_in + w.record.d_out) * 4 for w in todo)
        return {
            "saes": [w.record.name for w in self.work],
            "tasks": list(self.specs),
            "controls": list(self.controls),
            "already there": [f"{w.record.name} {name}" for w in self.work for name in w.finished],
            "model": subject.name,
            "data": self.corpus.source,
            "documents": tokens.n_units,
            "sequences": len(tokens),
            "tokens": tokens.n_tokens,
            "calibration documents": self.corpus.calibration.n_units,
            "batches": len(Batches.of(tokens, size)),
            "forwards of the first part of the model, a document": 1 if todo else 0,
            "forwards of the rest of the model, a document": suffixes if uses_loss else {},
            "memory beside the model, MiB": round((weights + 3 * 4 * size * subject.vocab_size) / 2**20),
        }

    def run(self, progress: Progress) -> list[Result]:
        """Measure what is missing, write it, and return all results."""
        todo = self.missing
        if todo:
            self._measure(todo, progress)
        return [work.finished[name] for work in self.work for name in self.specs]

    def _measure(self, todo: list[Work], progress: Progress) -> None:
        names = [n for n in self.specs if any(n not in w.finished for w in todo)]
        tasks: dict[str, Task] = {n: registry.load(self.specs[n].code)(self.specs[n]) for n in names}
        options = self.options()
        out = Path(self.settings.out) if self.settings.out is not None else None
        folder = None if out is None else out / ".partial" / self._run_key(todo, names)
        measured = measure(
            self.subject,
            self.corpus,
            [w.entry for w in todo],
            tasks,
            options,
            folder=folder,
            progress=progress,
        )
        by_name = {w.record.name: w for w in todo}
        provenance = {
            "device": str(self.subject.device),
            "backend": self.subject.backend,
            "batch_tokens": self._batch_tokens(),
            "data": self.corpus.details,
        }
        protocols = {(w.entry.key, n): w.protocols[n] for w in todo for n in names}
        records = {w.entry.key: w.record for w in todo}
        progress("intervals", 0, len(todo) * len(names))
        for i, (result, tables) in enumerate(results(measured, records, protocols, provenance, options)):
            by_name[result.sae.name].finished[result.task] = result
            if out is not None:
                store.write(out, result, tables)
            progress("intervals", i + 1, len(todo) * len(names))
        measured.checkpoint.remove()

    def _batch_tokens(self) -> int:
        return batch_tokens(
            self.options(), self.subject.vocab_size, self.subject.device, self.corpus.evaluation.longest
        )

    def _run_key(self, todo: list[Work], names: list[str]) -> str:
        """Names the folder of a run in progress: two runs share it only if they would measure the same."""
        parts = [
            [(w.record.name, w.record.weights_sha256, [w.protocols[n][0] for n in names]) for w in todo],
            self.controls,
            self._batch_tokens(),
            str(self.subject.device),
            self.subject.backend,
            versions(),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _specs(settings: Settings) -> dict[str, TaskSpec]:
    known = registry.tasks(settings.task_dir)
    return {name: known[name] for name in registry.choose(settings.tasks, known, "task")}


def _controls(names: str) -> tuple[str, ...]:
    if names == "none":
        return ()
    if names == "default":
        return registry.DEFAULT_CONTROLS
    return tuple(registry.choose(names, registry.controls(), "control"))


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _coders(sae: Any, settings: Settings, device: str) -> tuple[list[SparseCoder], list[str]]:
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


def _model_source(model: Any, infos: Sequence[Any]) -> Any:
    if model is None:
        declared = {info.model for info in infos}
        if len(declared) != 1 or None in declared:
            listed = ", ".join(sorted(str(name) for name in declared))
            raise UsageError(f"which model do the SAEs read? They declare {listed}; give --model FOLDER or a hub id")
        model = declared.pop()
    return demo.MODEL_PATH if isinstance(model, str) and model == "demo" else model


def _context(settings: Settings, infos: Sequence[Any], subject: SubjectModel) -> int:
    declared = [info.context_size for info in infos if info.context_size]
    wanted = settings.context or min(declared, default=DEFAULT_CONTEXT)
    return min(wanted, subject.context_length or wanted)


def _prepend_bos(settings: Settings, infos: Sequence[Any], tokenizer: Any) -> bool:
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


def _special_ids(tokenizer: Any, subject: SubjectModel) -> frozenset[int]:
    """BOS, EOS and padding ids, from the tokenizer and the model's configuration."""
    config = getattr(subject.model, "config", None)
    found: set[int] = set()
    for owner in (tokenizer, config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(owner, name, None)
            found.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
    return frozenset(found)


def _check_fit(entry: Entry, subject: SubjectModel) -> None:
    """The SAE's hook points exist in the model and are as wide as the SAE expects. Raises CoderError, ModelError."""
    info = entry.coder.info
    for hook, width, side in ((entry.hook_in, info.d_in, "reads"), (entry.hook_out, info.d_out, "writes")):
        actual = subject.width(hook)
        if actual != width:
            raise CoderError(
                f"{entry.label} {side} {width} numbers a token, but {hook} of {subject.name} has {actual}; "
                "is it another model's SAE, or another hook point (--hook-in, --hook-out)?"
            )


def _model_sha256(source: Any, subject: SubjectModel) -> str:
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
