"""What no setting can be, said in one sentence before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sae_bench import registry
from sae_bench.errors import UsageError
from sae_bench.files import check_folder, check_place, possible
from sae_bench.schema import MOST_RESAMPLES
from sae_bench.settings.stated import of


def check(settings: Any) -> None:
    """Refuse what cannot be used, and resolve ``~`` in paths. Raises UsageError."""
    record: type = type(settings)
    for name, stated in of(record).items():
        value = getattr(settings, name)
        if stated.choices and not (isinstance(value, str) and value in stated.choices):
            raise UsageError(f"{name} must be one of {', '.join(stated.choices)}, but it is {value!r}")
    known = list(registry.backends())
    if settings.backend not in known:
        raise UsageError(f"no backend is named {settings.backend!r}; {registry.suggest(str(settings.backend), known)}")
    if settings.name is not None:
        check_name(settings.name)
    _check_types(settings)
    for name in paths(record):
        object.__setattr__(settings, name, _resolved(getattr(settings, name)))
    if settings.sae_dtype == "bfloat16" and settings.select_in == "bfloat16":
        raise UsageError(
            "select_in='bfloat16' finds the latents that float32 selects, and sae_dtype='bfloat16' asks for those "
            "of bfloat16: give one of them"
        )
    _check_places(settings)
    _check_numbers(settings)


def check_name(name: Any) -> None:
    """Refuse what no result can be called. Raises UsageError."""
    if not isinstance(name, str) or not name.isprintable() or not any(map(str.isalnum, name)):
        raise UsageError(f"the name of an SAE must be a line of text with a letter or digit in it, but it is {name!r}")


def _check_types(settings: Any) -> None:
    """Refuse a setting of another type than its field's, such as a list of names, before anything asks it."""
    record: type = type(settings)
    for name, types in _types(record).items():
        value = getattr(settings, name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            kinds = " or ".join(_CALLED[one] for one in types if one in _CALLED)
            raise UsageError(f"{name} must be {kinds}, but it is {str(value)[:80]!r} ({type(value).__name__})")


def _check_places(settings: Any) -> None:
    """Refuse where nothing can be written, before anything is loaded."""
    for name in ("out", "judge_cache", "judge_batch"):
        if getattr(settings, name) is not None:
            possible(getattr(settings, name))
    if settings.out is not None:
        check_folder(Path(settings.out))
    if settings.judge_batch is not None:
        check_place(Path(settings.judge_batch))


def _check_numbers(settings: Any) -> None:
    record: type = type(settings)
    for name, stated in of(record).items():
        value = getattr(settings, name)
        if stated.least is not None and value is not None and value < stated.least:
            raise UsageError(f"{name} must be at least {stated.least}, but it is {value}")
    if settings.resamples > MOST_RESAMPLES:
        raise UsageError(f"resamples must be at most {MOST_RESAMPLES}, but it is {settings.resamples}")


_CALLED = {
    str: "a text",
    Path: "a path",
    Integral: "a whole number",
    Real: "a number",
    bool: "True or False",
    Mapping: "a mapping",
    type(None): "None",
}
ANYTHING = ("model", "data", "tokenizer")  # what takes objects as well, of which these may be paths


@cache
def paths(record: type) -> tuple[str, ...]:
    """The settings that may be paths."""
    named = tuple(name for name, types in _types(record).items() if Path in types)
    return tuple(f.name for f in fields(record) if f.name in named or f.name in ANYTHING)


@cache
def _types(record: type) -> dict[str, tuple[type, ...]]:
    """What the value of each setting may be an instance of, by its annotation; of those that take anything, nothing.

    A number of another library, such as numpy's, is one. Choices are held against the words that may be chosen.
    """
    wider: dict[Any, type] = {int: Integral, float: Real}
    found = {}
    for name, hint in get_type_hints(record).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = [get_origin(one) or one for one in parts]
        if Any not in types and Literal not in types:
            found[name] = tuple(wider.get(one, one) for one in types)
    return found


def _resolved(given: Any) -> Any:
    """A path in which ``~`` is the home folder; whatever else a setting takes stays as it is.

    Where there is no such home folder the path becomes absolute, so that nobody behind looks for it again.
    """
    if not isinstance(given, str | Path) or not str(given).startswith("~"):
        return given
    found = os.path.expanduser(given)
    return type(given)(os.path.abspath(found) if found.startswith("~") else found)
