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
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_bench.errors import SaeBenchError, TaskError, UsageError

if TYPE_CHECKING:
    from sae_bench.schema import TaskSpec

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A registered thing: a sentence about it and where its code is (``module`` or ``module:attribute``)."""

    name: str
    code: str
    description: str


FORMATS = (
    Entry("native", "sae_bench.saes.formats.native", "sae_bench.json + weights.safetensors (see the README)"),
    Entry("saelens", "sae_bench.saes.formats.saelens", "SAELens v6: cfg.json + sae_weights.safetensors"),
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
def tasks(extra: str | None = None) -> dict[str, TaskSpec]:
    """All task definitions by id: built-in, from entry points (a folder), and from the folder ``extra``."""
    folders = [data_folder("tasks"), *(Path(load(p.value)) for p in entry_points(group="sae_bench.tasks"))]
    if extra is not None:
        if not Path(extra).is_dir():
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} is not a folder")
        if not any(Path(extra).glob("*/task.toml")):
            raise UsageError(f"--task-dir must be a folder with <task>/task.toml files, but {extra} has none")
        folders.append(Path(extra))
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
    from pydantic import ValidationError

    from sae_bench.schema import TaskSpec

    try:
        spec = TaskSpec.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise TaskError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{file} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise TaskError(f"{file}: {field!r}: {first['msg']}") from error
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
