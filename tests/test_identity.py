"""What identifies a result: every setting, default and input in turn changes its hash, or moves no figure.

The table is in ``tests/builders/variations.py``. A row that names another result must change what a result is
identified by, and move a figure where it says so, or the row tests nothing; any other row must change neither. A
setting without a row fails.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from sae_bench.api import Session, evaluate
from sae_bench.settings import Settings
from tests.builders.variations import INPUTS, SETTINGS, Row, World, made

CLOSE = 1e-6  # relative: what the order of sums does in float32


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What was found on a base, so that it is found once."""
    return {}


def identity(given: dict[str, Any]) -> list[tuple[str, str]]:
    """Weights' digest and protocol of every task of the first SAE, without a measurement."""
    settings = {name: value for name, value in given.items() if name != "sae"}
    work = Session(given["sae"], Settings(**settings)).work[0]
    return [(work.record.weights_sha256, digest) for digest, _ in work.protocols.values()]


def measured(given: dict[str, Any]) -> list[float]:
    """Every figure of the first SAE with its interval."""
    settings = {name: value for name, value in given.items() if name != "sae"}
    results = evaluate(given["sae"], **settings)
    results = [r for r in results if r.sae.name == results[0].sae.name]
    assert {r.status for r in results} == {"ok"}, [r.reason for r in results]
    shown = [m for r in results for _, m in sorted(r.metrics.items())]
    return [math.nan if number is None else number for m in shown for number in (m.value, m.low, m.high)]


def at_base(row: Row, world: World, what: Any, seen: dict[str, Any]) -> Any:
    base = row.base(world)
    own = id(row) if "sae" in base else None  # modules of other weights are written alike
    key = f"{what.__name__} {sorted(base)} {sorted(map(str, base.values()))} {own}"
    if key not in seen:
        seen[key] = what(world.given(**base))
    return seen[key]


def table(*, is_named: bool | None = None) -> list[Any]:
    return [
        pytest.param(row, id=f"{name} {i}")
        for name, rows in (SETTINGS | INPUTS).items()
        for i, row in enumerate(rows)
        if isinstance(row, Row) and is_named in (None, row.named)
    ]


def test_every_setting_has_its_rows() -> None:
    """A new one belongs into the table: does it name another result, or move no figure?"""
    assert list(SETTINGS.keys() ^ {f.name for f in dataclasses.fields(Settings)}) == []


@pytest.mark.parametrize("row", table())
def test_what_names_another_result(row: Row, world: World, seen: dict[str, Any]) -> None:
    there, here = at_base(row, world, identity, seen), identity(world.given(**row.changes(world)))
    if row.named:
        assert not set(there) & set(here)
    else:
        assert there == here


@pytest.mark.slow
@pytest.mark.parametrize("row", table())
def test_figures_move_only_where_the_name_is_another(row: Row, world: World, seen: dict[str, Any]) -> None:
    there, here = at_base(row, world, measured, seen), measured(world.given(**row.changes(world)))
    alike = len(there) == len(here) and here == pytest.approx(there, rel=CLOSE, abs=1e-7, nan_ok=True)
    assert alike or row.named
    assert not (row.named and row.moves and alike), "this row tests nothing"
