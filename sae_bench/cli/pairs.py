"""Flags that take NAME=VALUE."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from sae_bench.errors import UsageError


def named(given: Sequence[str], flag: str, form: str = "NAME=VALUE") -> dict[str, Any]:
    """{name: value} from ``name=value``; a value that is not TOML is text. Raises UsageError."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{flag} must be {form}, but it is {one!r}")
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except RecursionError as error:
            raise UsageError(f"{flag} {name.strip()} is nested too deeply") from error
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value.strip()
    return found
