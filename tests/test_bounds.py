"""The lowest versions that pyproject.toml allows are those that `.ci/lowest` installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BOUND = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(,<[0-9.]+)?")


def minima() -> dict[str, str]:
    """The highest of the lower bounds of each package, over the dependencies and all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lowest: dict[str, str] = {}
    for one in asked:
        found = BOUND.fullmatch(one)
        assert found is not None, f"{one} has no lower bound"
        name, version = found[1].lower(), found[2]
        lowest[name] = max(version, lowest.get(name, version), key=lambda v: tuple(map(int, v.split("."))))
    return lowest


@pytest.mark.skipif(not (ROOT / "constraints-lowest.txt").is_file(), reason="needs the checkout")
def test_the_lowest_set_is_that_of_pyproject() -> None:
    """A bound that is lowered or added is one that nobody has run, until .ci/lowest has passed with it."""
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = {name: version for name, version in minima().items() if name != "torch"}
    assert pinned == wanted
