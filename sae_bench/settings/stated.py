"""A setting with all that hangs on it, as metadata of a dataclass field.

From it are made the flag and its help, what a value may be, what a suite fixes, and what repeats a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Group = Literal["what", "told", "model", "text", "labels", "judge", "run"]  # groups of the help of run


@dataclass(frozen=True)
class Stated:
    """What is said of a setting beside its type.

    ``help`` of its flag, which stands in the ``group`` of the help of ``run``; without one it is for Python alone.
    ``many``: its flag takes NAME=VALUE, may be repeated, and is called ``flag``. ``choices`` are those of its type,
    unless given. ``least``: the smallest number. ``suite``: "fixed" in a frozen suite, "reads" files of the suite's
    text, or "said", which is of what is measured too though no suite has a value for it. ``repeats``: it is kept with a
    result, whose run it repeats. ``judge``: its name among the options of a judge.
    """

    help: str = ""
    group: Group | None = None
    metavar: str | None = None
    many: str | None = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    suite: Literal["fixed", "reads", "said"] | None = None
    repeats: bool = False
    judge: str | None = None
    name: str = ""
    default: Any = None
    type: Any = None  # int or float of numbers, bool of switches, None of all others

    @property
    def flag(self) -> str:
        """How the command line calls it."""
        words = [*(["no"] if self.default is True else []), *self.name.split("_")]
        return self.many or "--" + "-".join(words)


def stated(default: Any, help: str = "", group: Group | None = None, metavar: str | None = None, **more: Any) -> Any:
    """A dataclass field with what is said of it."""
    known = {"stated": Stated(help=help, group=group, metavar=metavar, **more)}
    if default == {}:
        return field(default_factory=dict, metadata=known, repr=more.get("many") != "--judge-header")
    return field(default=default, metadata=known)


@cache
def of(record: type) -> Mapping[str, Stated]:
    """What is said of every field of a dataclass, by name; nothing of what a class of someone's own adds."""
    hints = get_type_hints(record)
    found = {}
    for one in fields(record):
        kinds = get_args(hints[one.name]) if get_origin(hints[one.name]) is Literal else ()
        said: Stated = one.metadata.get("stated", Stated())
        default = one.default if one.default is not MISSING else {}
        number = next((t for t in (bool, int, float) if t in _parts(hints[one.name])), None)
        found[one.name] = replace(
            said, name=one.name, default=default, type=number, choices=said.choices or tuple(map(str, kinds))
        )
    return MappingProxyType(found)


def _parts(hint: Any) -> tuple[Any, ...]:
    from types import UnionType

    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def flag(record: type, name: str) -> str:
    """How the command line calls a field; one that it does not know gets the name that it would have."""
    known = of(record)
    return known[name].flag if name in known else f"--{name.replace('_', '-')}"
