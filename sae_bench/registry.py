"""Tasks, SAE formats, controls and back ends by name.

Built-in ones are listed here, without importing what they name; others come from entry points (groups
``sae_bench.tasks``, ``sae_bench.formats``, ``sae_bench.controls``, ``sae_bench.backends``) or, for tasks, from a folder
given by the user. A task is a folder with a ``task.toml`` whose ``code`` names one class.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import importlib
import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_bench.errors import SaeBenchError, TaskError, UsageError, named
from sae_bench.parsing import read_record

if TYPE_CHECKING:
    from sae_bench.schema import TaskSpec

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A registered thing: a sentence about it and where its code is (``module`` or ``module:attribute``)."""

    name: str
    code: str
    description: str


@dataclass(frozen=True)
class Format(Entry):
    """A layout on disk: by which files it is recognised, and what they do not say and the user is asked for.

    ``weights``: a folder of a repository that has such a file holds one SAE, whatever else lies beside it.
    """

    files: str = ""
    asks: str = ""
    weights: tuple[str, ...] = ()


def _format(name: str, description: str, files: str, asks: str = "", weights: tuple[str, ...] = ()) -> Format:
    return Format(name, f"sae_bench.saes.formats.{name}", description, files, asks, weights)


# in the order in which they are tried: what is refused comes first, since crosscoders have the names of other layouts
FORMATS = (
    _format(
        "native",
        "sae-bench's own",
        "`sae_bench.json` + `weights.safetensors`",
        weights=("weights.safetensors",),
    ),
    _format(
        "refused",
        "recognised and refused, with the reason: temporal, cross-layer, crosscoders",
        "`conf.yaml` + `latest_ckpt.safetensors`, `W_enc_*.safetensors`, encoders of three axes",
    ),
    _format(
        "saelens",
        "SAELens v3 to v6 and its checkpoints of training: standard, topk, abstopk, jumprelu, gated, BatchTopK, "
        "Matryoshka, matching pursuit, transcoders with and without skip",
        "`cfg.json` + `sae_weights.safetensors`",
        "the factor of `expected_average_only_in` (`--norm-factor`)",
        weights=("sae_weights.safetensors",),
    ),
    _format(
        "sparsify",
        "EleutherAI sparsify: topk, groupmax, transcoders",
        "`cfg.json` + `sae.safetensors`",
        weights=("sae.safetensors",),
    ),
    _format(
        "lm_saes",
        "Language-Model-SAEs (OpenMOSS) of 2025: SAEs and transcoders",
        "`config.json` with `sae_type` + `sae_weights.safetensors`",
        "norms that are not stored (`--norm-factor`); the threshold of BatchTopK (`--threshold`)",
        weights=("sae_weights.safetensors", "sae_weights.pt"),
    ),
    _format(
        "llama_scope",
        "Llama Scope (2024)",
        "`hyperparams.json` + `checkpoints/final.safetensors`",
        "TopK or threshold where both are stored (`--format llama_scope:topk` or `:jumprelu`)",
        weights=("checkpoints/final.safetensors",),
    ),
    _format(
        "batchtopk",
        "BatchTopK repository (Bussmann)",
        "`config.json` + `sae.pt`",
        "the threshold (`--threshold`)",
        weights=("sae.pt",),
    ),
    _format(
        "dictionary_learning",
        "dictionary_learning: standard, new, gated, jumprelu, topk, BatchTopK, Matryoshka, and backups",
        "`config.json` + `ae.pt`, or `checkpoints/ae_*.pt`, or a bare `.pt` with its keys",
        "of a bare file: the hook point, and `--k` or `--threshold` of TopK and BatchTopK, which look alike",
        weights=("ae.pt",),
    ),
    _format(
        "gemma_scope",
        "Gemma Scope: residual stream, MLP, attention, embedding, transcoders",
        "`params.npz`",
        "site and layer, unless the path has the names of the release",
        weights=("params.npz",),
    ),
    _format(
        "gemma_scope_2",
        "Gemma Scope 2: SAEs and transcoders",
        "`config.json` + `params.safetensors`",
        weights=("params.safetensors",),
    ),
    _format(
        "circuit_tracer",
        "transcoders of circuit-tracer",
        "`layer_N.safetensors` (+ `config.yaml`)",
        "the layer (`--layer`) if there are several; how a square decoder lies (`--format circuit_tracer:rows` or "
        "`:columns`)",
    ),
    _format("openai", "OpenAI sparse_autoencoder on GPT-2", "one `.pt`", "the hook point, unless the path has it"),
    _format("goodfire", "Goodfire", "one `.pth`", "model and layer, unless the file name has them"),
    _format("connor_rob", "attention SAEs of Kissane et al.", "`NAME.pt` + `NAME_cfg.json`"),
    _format("qwen_scope", "Qwen Scope", "`layerN.sae.pt`", "k (`--k`), which only the name of the repository has"),
    _format(
        "deepseek",
        "qresearch on DeepSeek-R1: plain ReLU",
        "one `.pt` with `encoder.*`, `decoder.*`",
        "the layer, unless the file name has it",
    ),
)

CONTROLS = (
    Entry("mean", "sae_bench.saes.controls:mean_only", "always the mean activation: what explaining nothing scores"),
    Entry("identity", "sae_bench.saes.controls:identity", "the activation itself: what a perfect copy scores"),
    Entry("pca", "sae_bench.saes.controls:pca", "as many principal components as the SAE has active latents"),
    Entry(
        "random", "sae_bench.saes.controls:random_init", "random dictionary, untrained encoder, TopK at the SAE's L0"
    ),
    Entry("random_l0", "sae_bench.saes.controls:random_l0", "random encoder, unrelated random decoder, the SAE's L0"),
    Entry("permuted", "sae_bench.saes.controls:permuted", "the SAE itself with its decoder rows in another order"),
    Entry("pca_topk", "sae_bench.saes.controls:pca_topk", "per token the largest PCA coordinates, at the SAE's L0"),
    Entry("channels", "sae_bench.saes.controls:channels", "per token the largest raw channels, at the SAE's L0"),
)
UNITS = (
    Entry("document", "sae_bench.units.kinds:DOCUMENT", "a text: its sums over tokens"),
    Entry("latent", "sae_bench.units.kinds:LATENT", "a latent of one SAE: its sums over the text"),
    Entry("example", "sae_bench.units.kinds:EXAMPLE", "a test example of a labelled set; a figure is a mean over sets"),
    Entry("ablation", "sae_bench.units.kinds:ABLATION", "an ablation; documents and latents are resampled"),
)
STREAMS = (  # in the order in which they run
    Entry("documents", "sae_bench.streams.documents:Documents", "every document of the text"),
    Entry("tracked", "sae_bench.streams.tracked:TrackedStream", "where some latents fire, on some documents"),
    Entry("labelled", "sae_bench.streams.labelled:LabelledStream", "labelled sets of texts"),
    Entry("ablations", "sae_bench.streams.ablations:AblationStream", "latents taken away one by one"),
)
DEFAULT_CONTROLS = ("mean", "identity", "pca", "random", "random_l0", "permuted")

# what runs the language model; sae_bench.models.subject says what the code must be
BACKENDS = (
    Entry("hf", "sae_bench.models.huggingface:HuggingFaceSubject", "transformers"),
    Entry("tl", "sae_bench.models.transformer_lens:TransformerLensSubject", "TransformerLens"),
)


def formats() -> dict[str, Entry]:
    """All formats by name, in the order in which they are tried."""
    return _with_entry_points(FORMATS, "sae_bench.formats")


def controls() -> dict[str, Entry]:
    """All controls by name."""
    return _with_entry_points(CONTROLS, "sae_bench.controls")


def units() -> dict[str, Entry]:
    """All kinds of units by name."""
    return _with_entry_points(UNITS, "sae_bench.units")


def streams() -> dict[str, Entry]:
    """All streams by name, in the order in which they run."""
    return _with_entry_points(STREAMS, "sae_bench.streams")


def backends() -> dict[str, Entry]:
    """All back ends by name."""
    return _with_entry_points(BACKENDS, "sae_bench.backends")


def _with_entry_points(builtin: Iterable[Entry], group: str) -> dict[str, Entry]:
    found = {entry.name: entry for entry in builtin}
    for point in entry_points(group=group):
        if point.name in found:
            raise SaeBenchError(
                f"the name {point.name} is registered twice in {group}: by {found[point.name].code} and by "
                f"{point.value}; uninstall one of the packages"
            )
        found[point.name] = Entry(point.name, point.value, f"from the package {point.dist.name if point.dist else '?'}")
    return found


def load(code: str) -> Any:
    """Import ``module`` or ``module:attribute``. Raises SaeBenchError if there is no such thing."""
    module, _, attribute = code.partition(":")
    try:
        loaded = importlib.import_module(module)
        _check_place(module, loaded)
        return getattr(loaded, attribute) if attribute else loaded
    except SaeBenchError:
        raise
    except Exception as error:  # a module of somebody else may raise anything
        raise SaeBenchError(
            f"{code} cannot be imported ({named(error)}); install or correct what registers it"
        ) from error


def choose(names: str, known: Mapping[str, Any], what: str) -> list[str]:
    """Names from "all", a comma-separated list or globs, in registry order. Raises UsageError with a suggestion."""
    chosen: set[str] = set()
    for pattern in (part.strip() for part in names.split(",")):
        matched = list(known) if pattern == "all" else fnmatch.filter(known, pattern)
        if not matched:
            raise UsageError(f"no {what} is named {pattern!r}; {suggest(pattern, known)}")
        chosen.update(matched)
    return [name for name in known if name in chosen]


def suggest(name: str, known: Iterable[str]) -> str:
    """A question, "did you mean ...?", or the list of what there is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    listed = ", ".join(known)
    return f"did you mean {close[0]!r}?" if close else f"there are: {listed}"


def data_folder(name: str) -> Path:
    """A folder that is data beside the code (``tasks``, ``leaderboard``): in the wheel, else in the checkout."""
    shipped = _PACKAGE / "_shipped" / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def tasks(extra: str | Path | None = None) -> dict[str, TaskSpec]:
    """All task definitions by id: built-in, from entry points (a folder), and from the folder ``extra``.

    What a package registers and cannot be read is left out, with one warning each. Raises TaskError or UsageError for
    the folder that the user named.
    """
    return {name: spec for name, (spec, _) in _tasks(extra if extra is None else str(extra)).items()}


def card(name: str, extra: str | Path | None = None) -> str | None:
    """The card of a task, the ``README.md`` beside its definition; None if it has none."""
    file = _tasks(extra if extra is None else str(extra))[name][1].parent / "README.md"
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


@cache
def _tasks(extra: str | None) -> dict[str, tuple[TaskSpec, Path]]:
    found: dict[str, tuple[TaskSpec, Path]] = {}
    _add(found, data_folder("tasks"))
    for point in entry_points(group="sae_bench.tasks"):
        more = dict(found)
        try:
            _add(more, _folder(load(point.value)))
        except SaeBenchError as error:  # a package that is only installed must not stop everything else
            _left_out(point, error)
            continue
        found = more
    if extra is not None:
        folder = Path(extra).expanduser()
        if not folder.is_dir():
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} is not a folder")
        if not any(folder.glob("*/task.toml")):
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} has none")
        _importable(folder.resolve())
        _add(found, folder)
    return dict(sorted(found.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))))


def _folder(registered: Any) -> Path:
    if not isinstance(registered, str | Path) or not Path(registered).is_dir():
        raise TaskError(f"it must name a folder with <task>/task.toml files, and is {str(registered)[:80]!r}")
    return Path(registered)


def _add(found: dict[str, tuple[TaskSpec, Path]], folder: Path) -> None:
    """Add the definitions in a folder. Raises TaskError."""
    for file in sorted(folder.glob("*/task.toml")):
        spec = read_task(file)
        if spec.id in found:
            raise TaskError(f"{file}: the task id {spec.id} is taken already; choose another id")
        found[spec.id] = spec, file


def _left_out(point: EntryPoint, error: SaeBenchError) -> None:
    package = f" of the package {point.dist.name}" if point.dist else ""
    warnings.warn(
        f"the entry point {point.name} = {point.value!r} in {point.group}{package} is left out: {error}",
        stacklevel=3,
    )


_NAMED: list[Path] = []  # folders of --task-dir, whose code may be imported


def _importable(folder: Path) -> None:
    """Let code in a folder that the user named be imported, behind everything that is installed."""
    if folder not in _NAMED:
        _NAMED.append(folder)
        sys.path.append(str(folder))


def _check_place(module: str, loaded: Any) -> None:
    """Raise SaeBenchError where code of ``--task-dir`` is hidden by a module of the same name elsewhere."""
    top = module.partition(".")[0]
    own = [f for f in _NAMED if (f / f"{top}.py").is_file() or (f / top / "__init__.py").is_file()]
    file = getattr(loaded, "__file__", None)
    if own and file is not None and not any(Path(file).resolve().is_relative_to(folder) for folder in own):
        raise SaeBenchError(
            f"the module {top} of {own[0]} is hidden by {file}; give the one in the folder another name"
        )


_ORDER = {
    name: i
    for i, name in enumerate(
        (
            *("reconstruction", "sparsity", "loss_recovered", "probe_recovery", "sparse_probing"),
            *("downstream_sparsity", "token_rules", "autointerp"),
        )
    )
}


def read_task(file: Path) -> TaskSpec:
    """One task definition. Raises TaskError naming the file and the field."""
    from sae_bench.schema import TaskSpec

    spec = read_record(file, TaskSpec, TaskError)
    if spec.id != file.parent.name:
        raise TaskError(
            f"{file}: the id is {spec.id!r}, but the folder is called {file.parent.name!r}; they must agree"
        )
    for name, metric in spec.metrics.items():
        if metric.table not in units():
            raise TaskError(
                f"{file}: 'metrics.{name}.table': no kind of unit is named {metric.table!r}; "
                f"{suggest(metric.table, units())}"
            )
    record = getattr(load(spec.figures), "Parameters", None)
    if record is None:
        return spec
    if spec.parameters:
        raise TaskError(f"{file}: [parameters] stands beside the record Parameters of {spec.figures}; remove one")
    return spec.model_copy(update={"parameters": record.defaults()})


def with_parameters(spec: TaskSpec, values: Mapping[str, Any]) -> TaskSpec:
    """The definition with other values of some parameters. Raises TaskError: no such name, type or value."""
    record = getattr(load(spec.figures), "Parameters", None)
    changed = dict(spec.parameters)
    for name, value in values.items():
        if name not in spec.parameters:
            there = suggest(name, spec.parameters) if spec.parameters else "it has none"
            raise TaskError(f"task {spec.id} has no parameter {name!r}; {there}")
        default = spec.parameters[name]
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not type(default):
            kind = type(default).__name__
            raise TaskError(f"parameter {spec.id}.{name} must be of type {kind} (as {default!r} is), not {value!r}")
        changed[name] = value
    if record is not None:
        record.of(spec.id, changed)
    return spec.model_copy(update={"parameters": changed})


def definition_sha256(spec: TaskSpec) -> str:
    """Digest of all in a definition that changes a number or its meaning: not its prose, nor the order of its lines."""
    prose = {
        "title": True,
        "question": True,
        "figures": True,
        "pairs": not spec.pairs,
        "metrics": {"__all__": {"description", "name", "headline", "lowest", "highest"}},
    }
    content = spec.model_dump(mode="json", exclude=prose)  # type: ignore[arg-type]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
