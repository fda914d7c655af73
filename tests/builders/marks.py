"""Parameters of which some run always and the others where slow tests do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(always: int, values: Iterable[Any]) -> list[Any]:
    """The first ``always`` values as they are, the rest marked slow; put those first that differ most."""
    return [value if i < always else _slow(value) for i, value in enumerate(values)]


def _slow(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)


def slow_but_each(n: int, values: Iterable[Any]) -> list[Any]:
    """Every ``n``-th value as it is, the rest marked slow: for many values of which none differs more than others."""
    return [value if i % n == 0 else _slow(value) for i, value in enumerate(values)]
