"""A task definition that changes a number must get a new version."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_bench import registry
from sae_bench.schema import MetricSpec, TaskSpec

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def refresh() -> Any:
    """The script that makes everything again that follows from the code."""
    found = importlib.util.spec_from_file_location("refresh", ROOT / "scripts" / "refresh.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["refresh"] = module
    found.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("shipped_lock")
def test_the_lock_and_the_tables_of_documents_are_those_of_the_code(refresh: Any) -> None:
    """If this fails: python scripts/refresh.py. A released definition that changed needs a new ``version`` first."""
    stale = [str(f) for f, text in refresh.wanted(measure=False).items() if f.read_text(encoding="utf-8") != text]
    assert stale == []


def spec(version: int, unit: str = "nats") -> TaskSpec:
    metric = MetricSpec(name="m", unit=unit, better="lower", table="document", description="a figure")
    return TaskSpec(id="mine", version=version, title="t", question="q", code="a:B", figures="a", metrics={"m": metric})


def locked(refresh: Any, *lines: tuple[int, str, str]) -> list[Any]:
    return [
        refresh.Locked("mine", version, registry.definition_sha256(spec(version, unit)), release)
        for version, unit, release in lines
    ]


@pytest.mark.parametrize(
    ("before", "now", "release", "after"),
    [
        ([], (1, "nats"), "", [(1, "nats", "")]),
        ([(1, "nats", "")], (1, "bits"), "", [(1, "bits", "")]),  # nothing is released: the version stays
        ([(1, "nats", "")], (1, "nats"), "0.1.0", [(1, "nats", "0.1.0")]),
        ([(1, "nats", "0.1.0")], (1, "nats"), "0.1.0", [(1, "nats", "0.1.0")]),
        ([(1, "nats", "0.1.0")], (2, "bits"), "", [(1, "nats", "0.1.0"), (2, "bits", "")]),
        ([(1, "nats", "0.1.0"), (2, "bits", "")], (2, "1"), "", [(1, "nats", "0.1.0"), (2, "1", "")]),
    ],
)
def test_a_task_has_at_most_one_unreleased_version(
    refresh: Any, before: Any, now: Any, release: str, after: Any
) -> None:
    found = refresh.relocked(locked(refresh, *before), [spec(*now)], release if len(after) < 2 else "")
    expected = locked(refresh, *after)
    if len(after) > 1:
        expected[-1] = expected[-1]._replace(release="")
    assert found == expected


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        ([(1, "nats", "0.1.0")], (1, "bits"), "mine changed under version 1, which is released: make it 2"),
        ([(1, "nats", "0.1.0")], (3, "bits"), "mine must have version 2, the only unreleased one, not 3"),
        ([(1, "nats", "")], (2, "bits"), "mine must have version 1, the only unreleased one, not 2"),
        ([], (2, "nats"), "mine must have version 1"),
    ],
)
def test_versions_that_would_mislead_are_refused(refresh: Any, before: Any, now: Any, sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        refresh.relocked(locked(refresh, *before), [spec(*now)], "")


def test_a_release_is_what_the_changelog_gives_a_date(refresh: Any) -> None:
    assert refresh.released("# Changelog\n\n## 0.1.0 - unreleased\n") == ""
    assert refresh.released("## 0.2.0 - unreleased\n\n## 0.1.0 - 2026-12-01\n\n## 0.0.1 - 2026-01-01\n") == "0.1.0"


def test_parameters_have_one_home(refresh: Any) -> None:
    """The definition's defaults are the record's, each within its own range and with a sentence."""
    for name, one in registry.tasks().items():
        record = getattr(registry.load(one.figures), "Parameters", None)
        assert (record is None) == (not one.parameters), name
        for parameter in one.parameters:
            assert len(record.about(parameter)) >= 15, (name, parameter)
            assert record.must(parameter).startswith(f"{parameter} must be ")
            assert "another kind" not in record.must(parameter)


def test_every_task_has_a_card_that_names_its_metrics() -> None:
    for name, spec in registry.tasks().items():
        card = (ROOT / "tasks" / name / "README.md").read_text()
        for heading in (
            "**Question.**",
            "## Formulas",
            "## How to read it",
            "## Known failures",
            "**Cost:**",
            "Source",
        ):
            assert heading in card, (name, heading)
        for metric in spec.metrics:
            stem = metric.removeprefix("first_")
            assert stem in card or f"_{stem.rpartition('_')[2]}`" in card, (name, metric)
