"""The SAEs of a run: loaded, as wide as the language model where they do not say, and called by what they are.

An SAE has the name that it was told, else that of its files or its own, else ``module.factory`` or ``module.Class``.
Equal names get an addition that does not depend on the order in which SAEs were given: how their paths differ, or the
first digits of their weights' digest.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch

from sae_bench.engine.plan import entry_of
from sae_bench.engine.workspace import Entry
from sae_bench.errors import CoderError, UsageError
from sae_bench.models.loading import device_of
from sae_bench.models.subject import SubjectModel, canonical_name
from sae_bench.modules import same_device
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.load import from_object, load_saes
from sae_bench.saes.protocol import CoderInfo, SparseCoder, skips_itself
from sae_bench.saes.pursuit import PursuitCoder
from sae_bench.saes.wrap import Unsized
from sae_bench.session.report import weights_sha256
from sae_bench.settings import Settings, Told, check_name

IN_MEMORY = "in memory"
DIGITS = 8  # of a digest, where nothing else tells two SAEs apart


@dataclass(frozen=True)
class Given:
    """An SAE, what the user wrote for it (:data:`IN_MEMORY` for an object), and the name that it was told to have."""

    coder: SparseCoder | Unsized
    source: str
    name: str | None = None

    @property
    def info(self) -> CoderInfo:
        """What the SAE is, as far as it is known without a language model."""
        return self.coder.info


def saes(sae: Any, settings: Settings) -> list[Given]:
    """All SAEs that are meant: ``sae`` is one, a list, or a mapping from names. Raises CoderError, UsageError."""
    device = device_of(settings)
    if isinstance(sae, Mapping):
        if settings.name is not None:
            raise UsageError("give the names of SAEs as the keys of the mapping or one name=..., not both")
        for name in sae:
            check_name(name)
        found = [one for name, each in sae.items() for one in _loaded([each], settings, device, name)]
    else:
        found = _loaded(list(sae) if isinstance(sae, list | tuple) else [sae], settings, device, settings.name)
    if not found:
        raise UsageError("give at least one SAE")
    return found


def _loaded(asked: Sequence[Any], settings: Settings, device: str, name: str | None) -> list[Given]:
    found = []
    for is_path, some in groupby(asked, key=lambda one: isinstance(one, str | Path)):
        load = _from_paths if is_path else _from_memory
        for one in load(list(some), settings, device, name):
            found.append(one)
            if name is not None and len(found) > 1:
                raise UsageError(
                    f"the name {name} can be of one SAE only, but there are more ({found[0].source}, {one.source}, "
                    "...): run them apart, or give evaluate a mapping {name: SAE}"
                )
    return found


def _from_paths(sources: list[Any], settings: Settings, device: str, name: str | None) -> Iterator[Given]:
    dtype = dtype_of(settings)
    for source, coder in load_saes(sources, device=device, dtype=dtype, told=Told(**settings.given())):
        if isinstance(coder, LinearCoder):
            coder.select_in = settings.select_in
        _check_dtype(coder, settings)
        yield Given(coder, source, name)


def _from_memory(objects: list[Any], settings: Settings, device: str, name: str | None) -> Iterator[Given]:
    told = Told(**settings.given())
    for one in objects:
        coder = _unchecked(from_object(one, told, "the SAE in memory", name=name))
        _check_dtype(coder, settings)
        yield Given(_selecting(coder, settings), IN_MEMORY, name)


def dtype_of(settings: Settings) -> torch.dtype:
    """What SAEs that are loaded compute in."""
    if settings.sae_dtype != "auto":
        return getattr(torch, settings.sae_dtype)  # type: ignore[no-any-return]
    return torch.float64 if settings.dtype == "float64" else torch.float32


def _check_dtype(coder: SparseCoder | Unsized, settings: Settings) -> None:
    """Refuse a ``sae_dtype`` in which this SAE does not compute. Raises UsageError."""
    if settings.sae_dtype == "auto":
        return
    name, asked = coder.info.name, f"sae_dtype={settings.sae_dtype!r}"
    if isinstance(coder, PursuitCoder) and settings.sae_dtype == "bfloat16":
        raise UsageError(
            f"{asked}: matching pursuit takes away what it has found again and again; {name} needs float32"
        )
    own = getattr(coder, "dtype", None)
    if not isinstance(coder, LinearCoder | PursuitCoder):
        raise UsageError(f"{asked} says nothing about code of your own ({name}), which computes in its own type")
    if own != dtype_of(settings):
        raise UsageError(
            f"{asked}: the SAE in memory computes in {str(own).removeprefix('torch.')} and stays as it is ({name})"
        )


def _unchecked(coder: SparseCoder | Unsized) -> SparseCoder | Unsized:
    """One of ``load_sae``, which stays as it is, without its checks: a run says itself where numbers are not finite."""
    if not getattr(coder, "checks", False):
        return coder
    made: Any = copy.copy(coder)
    made.checks = False
    return cast("SparseCoder", made)


def _selecting(coder: SparseCoder | Unsized, settings: Settings) -> SparseCoder | Unsized:
    """The SAE in memory, which stays as it is, with the way of selecting latents that was asked for. UsageError."""
    if settings.select_in in ("exact", getattr(coder, "select_in", None)):
        return coder
    if not isinstance(coder, LinearCoder):
        raise UsageError(f"select_in={settings.select_in!r} says nothing about code of your own ({coder.info.name})")
    made = copy.copy(coder)
    made.select_in = settings.select_in
    return made


def sized(coder: SparseCoder | Unsized, subject: SubjectModel) -> SparseCoder:
    """The coder, as wide as the model at its hook point if it does not say. Raises CoderError, ModelError."""
    if not isinstance(coder, Unsized):
        return coder
    return coder.of_width(subject.width(coder.info.hooks_in[0]), subject.name)


def entries(given: Sequence[Given], subject: SubjectModel) -> list[Entry]:
    """The SAEs under names that differ, each of the model's width. Raises CoderError, ModelError, UsageError."""
    made = [entry_of(sized(one.coder, subject), one.name) for one in given]
    for entry in made:
        check_fit(entry, subject)
    names = [entry.key for entry in made]
    for name in {name for name in names if names.count(name) > 1}:
        places = [i for i, entry in enumerate(made) if entry.key == name]
        additions = _differing([given[i].source for i in places])
        for i, addition in zip(places, additions or [weights_sha256(made[i])[:DIGITS] for i in places], strict=True):
            names[i] = f"{name} ({addition})"
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two SAEs are called {twice}, and neither their paths nor their weights tell them apart: give one of them "
            "alone, or give evaluate a mapping {name: SAE}"
        )
    return [Entry(name, name, entry.coder) for name, entry in zip(names, made, strict=True)]


def check_fit(entry: Entry, subject: SubjectModel) -> None:
    """The SAE's hook points exist in the model and are as wide as the SAE expects. Raises CoderError, ModelError.

    A skip connection between two names of one place is refused too, and weights on another device than the model.
    """
    info = entry.coder.info
    for hook, width, side in ((entry.hook_in, info.d_in, "reads"), (entry.hook_out, info.d_out, "writes")):
        actual = subject.width(hook)
        if actual != width:
            raise CoderError(
                f"{entry.label} {side} {width} numbers a token, but {hook} of {subject.name} has {actual}; "
                "is it another model's SAE, or another hook point (--hook-in, --hook-out)?"
            )
    if info.decode_needs == "skip" and canonical_name(subject, entry.hook_in) == canonical_name(
        subject, entry.hook_out
    ):
        raise CoderError(skips_itself(entry.label, entry.hook_in, entry.hook_out))
    if isinstance(entry.coder, LinearCoder) and not same_device(entry.coder.weights.b_dec.device, subject.device):
        there = entry.coder.weights.b_dec.device
        raise CoderError(
            f"{entry.label} is on {there}, but {subject.name} on {subject.device}: load it there, with "
            f"load_sae(..., device={str(subject.device)!r})"
        )


def _differing(sources: Sequence[str]) -> list[str] | None:
    """The shortest runs of parts of paths, from the same place from the end, that differ; None where none do."""
    parts = [_parts(source) for source in sources]
    for most in range(1, max(map(len, parts)) + 1):
        tails = [part[-most:] for part in parts]
        if len(set(tails)) == len(tails):
            same = next(n for n in range(most + 1) if len({tail[len(tail) - n :] for tail in tails}) > 1) - 1
            return ["/".join(tail[: len(tail) - same]) for tail in tails]
    return None


def _parts(source: str) -> tuple[str, ...]:
    whole, hash_sign, width = source.partition("#")
    path = os.path.abspath(whole) if os.path.exists(whole) else whole
    return tuple(part for part in (path + hash_sign + width).split("/") if part)
