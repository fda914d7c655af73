"""Locks of what known truth says, made by hand: in tests SAEs are ranked by whatever claims to measure something."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sae_bench import registry, standing
from sae_bench.schema import TaskSpec
from sae_bench.standing import InWorld, Standing

REAL = registry.lock_of
WORLD = InWorld(features=0.9, signal=9.0, rungs=26, draws=4)


def trusting(specs: Iterable[TaskSpec]) -> dict[str, Standing]:
    """A lock by which everything is ranked that claims something and has a direction."""
    return {
        f"{spec.id}.{name}": Standing(
            digest=registry.definition_sha256(spec), claims=one.claims, ranked=True, worlds={"tokens": WORLD}
        )
        for spec in specs
        for name, one in spec.metrics.items()
        if one.claims is not None and one.better != "none"
    }


def lock_beside(folder: Path) -> Path:
    """Write such a lock for the tasks in a folder."""
    file, own = folder / standing.FILE, {one.parent.name for one in folder.glob("*/task.toml")}
    standing.write(file, trusting(spec for name, spec in registry.tasks(folder).items() if name in own))
    registry._tasks.cache_clear()
    return file


@cache
def _shipped() -> Mapping[str, Standing]:
    return trusting(map(registry.read_task, sorted(registry.data_folder("tasks").glob("*/task.toml"))))


def _ours(folder: Path) -> Mapping[str, Standing]:
    return _shipped() if folder == registry.data_folder("tasks") else REAL(folder)


def trust_what_claims() -> None:
    """Judge what ships by such a lock in this process, and what others bring by their own."""
    registry.lock_of = _ours  # type: ignore[assignment]


@contextmanager
def judged_by(lock: Mapping[str, Standing] | None) -> Iterator[None]:
    """Judge what ships by this lock, or by the one that ships (None)."""
    before = registry.lock_of
    registry.lock_of = lambda folder: (  # type: ignore[assignment]
        lock if lock is not None and folder == registry.data_folder("tasks") else REAL(folder)
    )
    registry._tasks.cache_clear()
    try:
        yield
    finally:
        registry.lock_of = before
        registry._tasks.cache_clear()
