"""A task definition that changes a number must get a new version."""

from __future__ import annotations

from pathlib import Path

from sae_bench import registry

ROOT = Path(__file__).parents[1]


def test_every_definition_is_the_one_that_its_version_names() -> None:
    """If this fails: raise ``version`` in the task.toml, then run scripts/lock_tasks.py."""
    locked = (ROOT / "tasks" / "versions.lock").read_text().splitlines()
    now = [f"{s.id} {s.version} {registry.definition_sha256(s)}" for s in registry.tasks().values()]
    assert sorted(locked) == sorted(now)


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
