"""Flags from what is stated of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sae_bench.settings import Stated, of


def add(group: Any, record: type, names: Iterable[str], said: Mapping[str, str] | None = None) -> None:
    """Add the flags of some settings to a group of a parser; ``said`` has other help of some of them.

    One that is not given is None, so that a suite may say it, else the default of settings; help says that all the
    same.
    """
    known = of(record)
    for name in names:
        _add(group, replace(known[name], help=(said or {}).get(name, known[name].help)))


def of_group(record: type, group: str) -> list[str]:
    """The settings whose flags stand in a group of the help of ``run``."""
    return [name for name, stated in of(record).items() if stated.group == group]


def given(args: Any, record: type) -> Mapping[str, Any]:
    """The settings that were given, by name; those with several values as what stood behind each flag."""
    return {name: value for name in of(record) if (value := getattr(args, name, None)) is not None}


def _add(group: Any, stated: Stated) -> None:
    how: dict[str, Any] = {"dest": stated.name, "help": stated.help, "default": None}
    if stated.many:
        how |= {"action": "append", "metavar": stated.metavar or "NAME=VALUE"}
    elif stated.type is bool:
        how |= {"action": "store_const", "const": not stated.default}
    else:
        how |= {"metavar": stated.metavar, "type": stated.type, "choices": stated.choices or None}
        if stated.default is not None and "(default: " not in stated.help:
            how["help"] += f" (default: {stated.default})"
    group.add_argument(stated.flag, **how)
