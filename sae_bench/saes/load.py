"""From what a user writes after ``--sae`` to a coder.

``demo`` or ``demo/NAME`` (globs allowed), a folder or file in a known layout, ``hf:owner/repo/path@revision``,
``saelens:release/id``, or ``module:factory`` of the user's own code. ``#16`` behind one of them is the nested
dictionary of 16 latents of a Matryoshka SAE, ``#*`` all of them and the whole.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import importlib
import os
import re
import sys
from collections.abc import Iterator

import torch

from sae_bench import demo
from sae_bench.errors import CoderError, named
from sae_bench.saes import detect, origin
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.prefixes import prefix_of
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.reading import Reading, build, hook_points
from sae_bench.saes.source import SUFFIXES, Source
from sae_bench.saes.wrap import as_coder
from sae_bench.settings import Told

_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_PREFIX = re.compile(r"(.+)#(\d+|\*)")


def expand(sources: list[str], told: Told | None = None) -> list[str]:
    """The sources with globs over the demo SAEs, files and nested dictionaries resolved; each once. CoderError."""
    found: dict[str, str] = {}
    for source in sources:
        whole, width = _parted(source)
        for match in _matched(whole):
            names = [match] if width is None else [f"{match}#{width}"]
            if width == "*":
                names = [match, *(f"{match}#{n}" for n in _prefix_widths(match, told or Told()))]
                if len(names) == 1:
                    raise CoderError(f"--sae {source}: {match} declares no nested dictionaries")
            for name in names:
                is_path = os.path.exists(match) and not match.startswith("demo/")
                key = os.path.realpath(match) + name.removeprefix(match) if is_path else name
                found.setdefault(key, name)
    return list(found.values())


def _matched(source: str) -> list[str]:
    """What a glob stands for; else the source itself."""
    if source == "demo":
        return [f"demo/{demo.DEFAULT_SAE}"]
    if source.startswith("demo/"):
        pattern = source.removeprefix("demo/")
        matched = [f"demo/{name}" for name in demo.SAE_NAMES if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            demo.sae_path(pattern)  # raises with a suggestion
        return matched
    source = source if source.startswith(origin.REMOTE) else os.path.expanduser(source)
    if source.startswith(origin.REMOTE) or not any(c in source for c in "*?[") or os.path.exists(source):
        return [source]
    found = sorted(glob.glob(source, recursive=True))
    matched = [path for path in found if os.path.isdir(path)] or [p for p in found if p.endswith(SUFFIXES)]
    if not matched:
        raise CoderError(f"no folder or file of weights matches --sae {source}")
    return matched


def load_sae(
    source: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, told: Told | None = None
) -> SparseCoder:
    """The coder that ``source`` names, computing in ``dtype`` on ``device``. Raises CoderError.

    ``told`` settles what its files leave open, and overrides what they say.
    """
    whole, width = _parted(source)
    coder = _whole(whole, told or Told(), device, dtype)
    return coder if width is None else _nested(source, coder, int(width))


def load_saes(
    sources: list[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    told: Told | None = None,
) -> Iterator[tuple[str, SparseCoder]]:
    """All that ``sources`` stand for (:func:`expand`), each with its coder when it is its turn. Raises CoderError.

    Nested dictionaries have the weights of their SAE, which is read once.
    """
    last: tuple[str, SparseCoder] | None = None
    for source in expand(sources, told):
        whole, width = _parted(source)
        if last is None or last[0] != whole:
            last = whole, _whole(whole, told or Told(), device, dtype)
        yield source, last[1] if width is None else _nested(source, last[1], int(width))


def _whole(source: str, told: Told, device: str | torch.device, dtype: torch.dtype) -> SparseCoder:
    if _is_factory(source):
        return _from_factory(source, told)
    coder = _from_files(source, told, device, dtype)
    if source.startswith("demo/"):
        coder.info = dataclasses.replace(coder.info, name=source)  # type: ignore[misc]
    return coder


def _nested(source: str, coder: SparseCoder, width: int) -> SparseCoder:
    if not isinstance(coder, LinearCoder):
        raise CoderError(f"--sae {source}: {coder.info.architecture} has no nested dictionaries")
    return prefix_of(coder, width)


def _parted(source: str) -> tuple[str, str | None]:
    """The SAE, and the width of its nested dictionary if one is meant."""
    match = _PREFIX.fullmatch(source)
    return (source, None) if match is None or os.path.exists(source) else (match[1], match[2])


def _is_factory(source: str) -> bool:
    return bool(_FACTORY.match(source)) and not source.startswith(origin.REMOTE) and not os.path.exists(source)


def _from_files(source: str, told: Told, device: str | torch.device, dtype: torch.dtype) -> SparseCoder:
    place, name, reading, told = _read(source, told)
    return build(place, name, reading, told, device=device, dtype=dtype)


def _prefix_widths(source: str, told: Told) -> tuple[int, ...]:
    """Widths of nested dictionaries, for which no weights are checked. Raises CoderError."""
    if _is_factory(source):
        return _from_factory(source, told).info.prefix_widths
    return _read(source, told)[2].prefix_widths


def _read(source: str, told: Told) -> tuple[Source, str, Reading, Told]:
    """Where the SAE lies, its format, what was read, and what was told, by a registry too. Raises CoderError."""
    if source.startswith("demo/"):
        fetched = origin.Fetched(demo.sae_path(source.removeprefix("demo/")))
    else:
        fetched = origin.fetch(source)
        told = dataclasses.replace(fetched.told, **told.given())
    if not os.path.exists(fetched.path):
        raise CoderError(
            f"there is no SAE at {source}: give a folder or file, 'demo', 'demo/NAME', 'hf:owner/repo/path', "
            "'saelens:release/id' or module:factory ('sae-bench ls formats' lists the layouts)"
        )
    found = Source(fetched.path, label=fetched.label, origin=fetched.origin)
    entry, place = detect.detect(found, told.format)
    return place, entry.name, detect.reader(entry).read(place, told), told


def _from_factory(source: str, told: Told) -> SparseCoder:
    module, _, attribute = source.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's module lies in the current folder more often than not
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CoderError(f"--sae {source}: there is no module {error.name!r} on the path or in this folder") from error
    except Exception as error:
        raise CoderError(f"--sae {source}: importing {module} fails: {named(error)}") from error
    if not hasattr(loaded, attribute):
        raise CoderError(f"--sae {source}: the module {module} has no {attribute}")
    made = getattr(loaded, attribute)
    if isinstance(made, type) or (callable(made) and not hasattr(made, "encode")):
        try:
            made = made()
        except Exception as error:
            raise CoderError(f"--sae {source}: {attribute}() fails: {named(error)}") from error
    meaningless = [name for name in told.given() if name not in ("hook_in", "hook_out")]
    if meaningless:
        raise CoderError(f"--sae {source}: --{meaningless[0].replace('_', '-')} says nothing about code of your own")
    coder = as_coder(made, name=attribute, hook=told.hook_in, hook_out=told.hook_out)
    return _moved(coder, told)


def _moved(coder: SparseCoder, told: Told) -> SparseCoder:
    """The coder with other hook points than it declares. Raises CoderError."""
    old = coder.info
    new_in, new_out = ((hook,) if hook else None for hook in (told.hook_in, told.hook_out))
    hooks_in, hooks_out = hook_points(old.hooks_in, old.hooks_out, new_in, new_out)
    if (hooks_in, hooks_out) == (old.hooks_in, old.hooks_out):
        return coder
    declared = {"declared_hooks": [*old.hooks_in, *old.hooks_out]}
    info = dataclasses.replace(old, hooks_in=hooks_in, hooks_out=hooks_out, provenance={**old.provenance, **declared})
    try:
        coder.info = info  # type: ignore[misc]
    except AttributeError as error:
        raise CoderError(
            f"{old.name}: the hook points cannot be changed, since info of {type(coder).__name__} is read-only; "
            "set hooks_in and hooks_out there"
        ) from error
    return coder
