"""From what a user writes after ``--sae`` to a coder.

``demo`` or ``demo/NAME`` (globs allowed), a folder in a known layout, or ``module:factory`` of the user's own code.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import importlib
import os
import re
import sys
from pathlib import Path

import torch

from sae_bench import demo, registry
from sae_bench.errors import CoderError
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.wrap import as_coder, in_one_line

_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


def expand(sources: list[str]) -> list[str]:
    """The sources with globs over the demo SAEs and over folders resolved; each once, in order. Raises CoderError."""
    found: dict[str, str] = {}
    for source in sources:
        if source == "demo":
            matched = [f"demo/{demo.DEFAULT_SAE}"]
        elif source.startswith("demo/"):
            pattern = source.removeprefix("demo/")
            matched = [f"demo/{name}" for name in demo.SAE_NAMES if fnmatch.fnmatchcase(name, pattern)]
            if not matched:
                demo.sae_path(pattern)  # raises with a suggestion
        elif any(c in source for c in "*?[") and not os.path.exists(source):
            matched = sorted(path for path in glob.glob(source, recursive=True) if os.path.isdir(path))
            if not matched:
                raise CoderError(f"no folder matches --sae {source}")
        else:
            matched = [source]
        for match in matched:
            is_folder = os.path.isdir(match) and not match.startswith("demo/")
            found.setdefault(os.path.realpath(match) if is_folder else match, match)
    return list(found.values())


def load_sae(
    source: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    hook_in: str | None = None,
    hook_out: str | None = None,
) -> SparseCoder:
    """The coder that ``source`` names, computing in ``dtype`` on ``device``. Raises CoderError.

    ``hook_in`` and ``hook_out`` override the hook points that the SAE declares.
    """
    if _FACTORY.match(source) and not os.path.exists(source):
        coder = _from_factory(source, hook_in, hook_out)
    else:
        in_demo = source.startswith("demo/")
        folder = _folder(demo.sae_path(source.removeprefix("demo/")) if in_demo else Path(source))
        coder = read_folder(folder, device=device, dtype=dtype)
        if in_demo:
            coder.info = dataclasses.replace(coder.info, name=source)  # type: ignore[misc]
    if hook_in or hook_out:
        _move(coder, hook_in, hook_out)
    return coder


def _move(coder: SparseCoder, hook_in: str | None, hook_out: str | None) -> None:
    old = coder.info
    hooks_in = (hook_in,) if hook_in else old.hooks_in
    follows = hooks_in if old.hooks_out == old.hooks_in else old.hooks_out
    info = dataclasses.replace(
        old,
        hooks_in=hooks_in,
        hooks_out=(hook_out,) if hook_out else follows,
        provenance={**old.provenance, "declared_hooks": [*old.hooks_in, *old.hooks_out]},
    )
    try:
        coder.info = info  # type: ignore[misc]
    except AttributeError as error:
        raise CoderError(
            f"{old.name}: the hook points cannot be changed, since info of {type(coder).__name__} is read-only; "
            "set hooks_in and hooks_out there"
        ) from error


def read_folder(folder: Path, *, device: str | torch.device, dtype: torch.dtype) -> SparseCoder:
    """The coder in a folder of a known layout."""
    for entry in registry.formats().values():
        reader = registry.load(entry.code)
        if reader.matches(folder):
            coder: SparseCoder = reader.read(folder, device=device, dtype=dtype)
            return coder
    known = "; ".join(f"{e.name}: {e.description}" for e in registry.formats().values())
    inside = sorted(p.name for p in folder.iterdir())
    candidates = [p.name for p in folder.iterdir() if p.is_dir() and _is_known(p)]
    if candidates:
        raise CoderError(
            f"{folder} holds several SAEs: give one of its folders ({', '.join(sorted(candidates)[:5])}, ...) "
            f"or all of them as --sae '{folder}/*'"
        )
    raise CoderError(
        f"{folder} is not an SAE in a known layout ({known}); it holds {', '.join(inside[:8]) or 'nothing'}. "
        "Give your own code as --sae module:factory"
    )


def _is_known(folder: Path) -> bool:
    return any(registry.load(entry.code).matches(folder) for entry in registry.formats().values())


def _folder(path: Path) -> Path:
    if os.path.isdir(path):
        return path
    if os.path.isfile(path) and path.suffix in _PICKLES:
        raise CoderError(
            f"{path} is a pickle, which can run code when it is opened, so sae-bench does not open it; save the "
            "tensors as safetensors (see the README), or load the file in your own code and give --sae module:factory"
        )
    if os.path.isfile(path):
        raise CoderError(f"--sae must be the folder of an SAE, but {path} is a file; give {path.parent}")
    raise CoderError(
        f"there is no SAE at {path}: give a folder, 'demo', 'demo/NAME', or module:factory ('sae-bench ls formats' "
        "lists the layouts)"
    )


def _from_factory(source: str, hook_in: str | None, hook_out: str | None) -> SparseCoder:
    module, _, attribute = source.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's module lies in the current folder more often than not
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CoderError(f"--sae {source}: there is no module {error.name!r} on the path or in this folder") from error
    except Exception as error:
        raise CoderError(f"--sae {source}: importing {module} fails: {in_one_line(error)}") from error
    if not hasattr(loaded, attribute):
        raise CoderError(f"--sae {source}: the module {module} has no {attribute}")
    made = getattr(loaded, attribute)
    if isinstance(made, type) or (callable(made) and not hasattr(made, "encode")):
        try:
            made = made()
        except Exception as error:
            raise CoderError(f"--sae {source}: {attribute}() fails: {in_one_line(error)}") from error
    return as_coder(made, name=attribute, hook=hook_in, hook_out=hook_out)
