"""From what a user writes after ``--sae`` to a coder.

``demo``, ``demo/NAME`` or ``demo/more/NAME`` (globs allowed), a folder or file in a known layout,
``hf:owner/repo/path@revision``, ``saelens:release/id``, or ``module:factory`` of the user's own code. ``#16`` behind
one of them is the nested dictionary of 16 latents of a Matryoshka SAE, ``#*`` all of them and the whole.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import glob
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sae_bench import demo
from sae_bench.errors import CoderError, SaeBenchError, named
from sae_bench.modules import wrapped_in
from sae_bench.saes import detect, origin
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.prefixes import prefix_of
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.pursuit import PursuitCoder
from sae_bench.saes.reading import Reading, build, hook_points
from sae_bench.saes.source import SUFFIXES, Source
from sae_bench.saes.wrap import DenseCoder, Unsized, coder_or_unsized
from sae_bench.settings import Told

_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_PREFIX = re.compile(r"(.+)#(\d+|\*)")


def expand(sources: Sequence[str | Path], told: Told | None = None) -> list[str]:
    """The sources with globs over the demo SAEs, files and nested dictionaries resolved; each once. CoderError.

    What was written in several ways stays as one of them, which does not depend on the order of ``sources``.
    """
    found: dict[str, str] = {}
    for source in map(written, sources):
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
                found[key] = min(found.get(key, name), name, key=_spelling)
    return list(found.values())


def written(source: str | Path) -> str:
    """What a user would write for ``source`` after ``--sae``: a ``Path`` is one, also where a name is spelled alike."""
    text = str(source)
    is_name = text == "demo" or text.startswith(("demo/", *origin.REMOTE)) or _FACTORY.match(text)
    return f".{os.sep}{text}" if isinstance(source, Path) and is_name else text


def _spelling(source: str) -> tuple[str, bool, int, str]:
    """Orders the ways to write one path: an SAE may be called by its last part, and absolute ones say most."""
    return os.path.basename(os.path.normpath(source)), not os.path.isabs(source), len(source), source


def _at_home(source: str) -> str:
    """A path with ``~`` for the home folder resolved."""
    return source if source.startswith(origin.REMOTE) else os.path.expanduser(source)


def _matched(source: str) -> list[str]:
    """What a glob stands for; else the source itself."""
    if source == "demo":
        return [f"demo/{demo.DEFAULT_SAE}"]
    if source.startswith("demo/"):
        pattern = source.removeprefix("demo/")
        names = (*demo.SAE_NAMES, *demo.MORE_SAES)
        matched = [f"demo/{name}" for name in names if _is_below(name, pattern)]
        if not matched:
            demo.sae_path(pattern)  # raises with a suggestion
        return matched
    source = _at_home(source)
    if source.startswith(origin.REMOTE) or not any(c in source for c in "*?[") or os.path.exists(source):
        return [source]
    found = sorted(glob.glob(source, recursive=True))
    folders = [path for path in found if os.path.isdir(path)]
    files = [path for path in found if not os.path.isdir(path) and path.endswith(SUFFIXES)]
    matched = folders or files
    if folders and files:
        warnings.warn(
            f"--sae {source} matches {len(folders)} folders and {len(files)} files of weights, such as {files[0]}: the "
            "folders are taken",
            stacklevel=2,
        )
    if not matched:
        raise CoderError(f"no folder or file of weights matches --sae {source}")
    return matched


def _is_below(name: str, pattern: str) -> bool:
    """Whether a name matches a glob as a path does: a ``*`` stands for no ``/``."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def load_sae(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    told: Told | None = None,
    d_in: int | None = None,
) -> SparseCoder:
    """The coder that ``source`` names, computing in ``dtype`` on ``device``. Raises CoderError.

    ``encode(x)`` returns :class:`~sae_bench.Codes` of ``x`` ``[..., d_in]``: a tensor on any device or an array, such
    as ``numpy.load(file, mmap_mode="r")``, in 16, 32 or 64 bits, of any number of tokens, which are numbered in the
    order of memory. It is read, converted and encoded some tokens at a time, weights that are larger than the device's
    memory are streamed, and no gradient is kept, so that beside the codes memory stays flat. ``decode(codes, x)``
    returns ``[tokens, d_out]``; ``x`` is what ``info.decode_needs`` says, or nothing. Both compute in ``dtype``
    whatever autocast or TF32 says, and raise CoderError for another width, another type of number and what is not
    finite. Code of the user's own (``module:factory``) that conforms to the protocol is called as it is.

    ``told`` settles what its files leave open, and overrides what they say. ``d_in`` is the width of a module with
    dense ``encode`` and ``decode`` that does not say it: here there is no language model whose width it could take.
    """
    found = expand([source], told)
    if len(found) > 1:
        raise CoderError(f"{source} stands for {len(found)} SAEs: load one of them, such as {found[0]}")
    name = found[0]
    whole, width = _parted(name)
    coder = _whole(whole, told or Told(), device, dtype)
    if width is not None:
        return _checking(_nested(name, coder, int(width)))
    if isinstance(coder, Unsized):
        if d_in is None:
            raise coder.no_width()
        return _checking(coder.of_width(d_in))
    return _checking(coder)


def _checking(coder: SparseCoder) -> SparseCoder:
    if isinstance(coder, LinearCoder | PursuitCoder | DenseCoder):
        coder.checks = True
    return coder


def load_saes(
    sources: Sequence[str | Path],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    told: Told | None = None,
) -> Iterator[tuple[str, SparseCoder | Unsized]]:
    """All that ``sources`` stand for (:func:`expand`), each with its coder when it is its turn. Raises CoderError.

    Nested dictionaries have the weights of their SAE, which is read once.
    """
    last: tuple[str, SparseCoder | Unsized] | None = None
    for source in expand(sources, told):
        whole, width = _parted(source)
        if last is None or last[0] != whole:
            last = whole, _whole(whole, told or Told(), device, dtype)
        yield source, last[1] if width is None else _nested(source, last[1], int(width))


def _whole(source: str, told: Told, device: str | torch.device, dtype: torch.dtype) -> SparseCoder | Unsized:
    if _is_factory(source):
        return _from_factory(source, told)
    coder = _from_files(source, told, device, dtype)
    if source.startswith("demo/"):
        coder.info = dataclasses.replace(coder.info, name=source)  # type: ignore[misc]
    return coder


def _nested(source: str, coder: SparseCoder | Unsized, width: int) -> SparseCoder:
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
    try:
        return place, entry.name, detect.reader(entry).read(place, told), told
    except Exception as error:
        if not entry.origin or isinstance(error, SaeBenchError):
            raise
        raise CoderError(f"{place.path} cannot be read by {entry.origin}: {named(error)}") from error


def _from_factory(source: str, told: Told) -> SparseCoder | Unsized:
    module, _, attribute = source.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's module lies in the current folder more often than not
    importlib.invalidate_caches()  # the file may have been written a moment ago, by a notebook for instance
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CoderError(f"--sae {source}: there is no module {error.name!r} on the path or in this folder") from error
    except Exception as error:
        raise CoderError(f"--sae {source}: importing {module} fails: {named(error)}") from error
    if not hasattr(loaded, attribute):
        raise CoderError(f"--sae {source}: the module {module} has no {attribute}")
    made = getattr(loaded, attribute)
    if isinstance(made, type) or (callable(made) and not hasattr(made, "encode") and wrapped_in(made) is None):
        try:
            made = made()
        except Exception as error:
            raise CoderError(f"--sae {source}: {attribute}() fails: {named(error)}") from error
    return from_object(made, told, f"--sae {source}", name=source.replace(":", "."))


def from_object(made: Any, told: Told, source: str, *, name: str | None = None) -> SparseCoder | Unsized:
    """The coder that an object of the user's own is or is wrapped to. Raises CoderError.

    It is called ``name`` (by default ``module.Class``) unless it is a coder with a name of its own. ``source`` is what
    the user calls it.
    """
    meaningless = [name for name in told.given() if name not in ("hook_in", "hook_out")]
    if meaningless:
        raise CoderError(f"{source}: --{meaningless[0].replace('_', '-')} says nothing about code of your own")
    coder = coder_or_unsized(made, name=name, hook=told.hook_in, hook_out=told.hook_out)
    if isinstance(coder, Unsized):
        return coder
    if name and isinstance(coder, DenseCoder) and coder.info.name == coder.info.provenance.get("class"):
        coder.info = dataclasses.replace(coder.info, name=name)  # of overcomplete: nobody has given it a name
    return _moved(coder, told)


def _moved(coder: SparseCoder, told: Told) -> SparseCoder:
    """A coder with other hook points than this one declares, which is the user's own and stays as it is. CoderError."""
    old = coder.info
    new_in, new_out = ((hook,) if hook else None for hook in (told.hook_in, told.hook_out))
    hooks_in, hooks_out = hook_points(old.hooks_in, old.hooks_out, new_in, new_out)
    if (hooks_in, hooks_out) == (old.hooks_in, old.hooks_out):
        return coder
    declared = {"declared_hooks": [*old.hooks_in, *old.hooks_out]}
    info = dataclasses.replace(old, hooks_in=hooks_in, hooks_out=hooks_out, provenance={**old.provenance, **declared})
    try:
        moved = copy.copy(coder)
        moved.info = info  # type: ignore[misc]
    except (AttributeError, TypeError) as error:
        raise CoderError(
            f"{old.name}: the hook points cannot be changed, since info of {type(coder).__name__} is read-only; "
            "set hooks_in and hooks_out there"
        ) from error
    return moved
