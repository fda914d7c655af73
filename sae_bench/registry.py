"""Tasks, SAE formats and controls by name.

Built-in ones are listed here, without importing what they name; others come from entry points (groups
``sae_bench.tasks``, ``sae_bench.formats``, ``sae_bench.controls``) or, for tasks, from a folder given by the user.
A task is a folder with a ``task.toml`` whose ``code`` names one class.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_bench.errors import SaeBenchError, TaskError, UsageError
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
DEFAULT_CONTROLS = ("mean", "identity", "pca", "random", "random_l0", "permuted")


def formats() -> dict[str, Entry]:
    """All formats by name, in the order in which they are tried."""
    return _with_entry_points(FORMATS, "sae_bench.formats")


def controls() -> dict[str, Entry]:
    """All controls by name."""
    return _with_entry_points(CONTROLS, "sae_bench.controls")


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
        return getattr(loaded, attribute) if attribute else loaded
    except (ImportError, AttributeError) as error:
        raise SaeBenchError(f"{code} cannot be imported ({error}); install or correct what registers it") from error


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


@cache
def tasks(extra: str | Path | None = None) -> dict[str, TaskSpec]:
    """All task definitions by id: built-in, from entry points (a folder), and from the folder ``extra``."""
    folders = [data_folder("tasks"), *(Path(load(p.value)) for p in entry_points(group="sae_bench.tasks"))]
    if extra is not None:
        extra = Path(os.path.expanduser(extra))
        if not extra.is_dir():
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} is not a folder")
        if not any(extra.glob("*/task.toml")):
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} has none")
        folders.append(extra)
    found: dict[str, TaskSpec] = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*/task.toml"))):
        spec = read_task(file)
        if spec.id in found:
            raise TaskError(f"{file}: the task id {spec.id} is taken already; choose another id")
        found[spec.id] = spec
    return dict(sorted(found.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))))


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
    return spec


def definition_sha256(spec: TaskSpec) -> str:
    """Digest of all in a definition that changes a number or its meaning: not its prose, nor the order of its lines."""
    prose = {
        "title": True,
        "question": True,
        "metrics": {"__all__": {"description", "name", "headline", "lowest", "highest"}},
    }
    content = spec.model_dump(mode="json", exclude=prose)  # type: ignore[arg-type]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
