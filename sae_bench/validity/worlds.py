"""The worlds by name. Each is a module, imported when it is asked for: what only lists them needs no torch.

A world has ``measured(seed, *, quick, tasks, task_dir)``, which gives a draw, how many there are (``DRAWS``), what is
measured in it (``TASKS``), and the SAEs of one training in order (``CHECKPOINTS``).
"""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_bench.validity.measure import Draw

WORLDS = {
    "tokens": "sae_bench.validity.measure",
    "context": "sae_bench.validity.context",
    "demo": "sae_bench.validity.witness",
}
# What a world does not speak of, by name of the task or metric, and why.
SILENT: Mapping[str, Mapping[str, str]] = {
    "tokens": {"token_rules.*": "what a token has depends on it alone there, so that rules about tokens are trivial"}
}


@dataclass(frozen=True)
class KnownWorld:
    """A world as the table needs it: ``measured`` gives draw after draw, of which there are ``draws``.

    ``tasks`` are those that are measured in it, ``checkpoints`` the SAEs of one training in order. ``silent`` says by
    pattern of ``task.metric`` why it does not speak of a metric.
    """

    name: str
    measured: Callable[..., Draw]
    draws: int
    tasks: tuple[str, ...]
    checkpoints: tuple[str, ...]
    silent: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def speaks_of(self, metric: str) -> bool:
        """Whether what it says of a metric counts; what is not measured in it is another question."""
        return not any(fnmatch.fnmatchcase(metric, pattern) for pattern in self.silent)


def world(name: str) -> KnownWorld:
    """The world of a name. Raises KeyError for one that there is not."""
    module = importlib.import_module(WORLDS[name])
    tasks = tuple(one.strip() for one in module.TASKS.split(","))
    return KnownWorld(name, module.measured, module.DRAWS, tasks, tuple(module.CHECKPOINTS), SILENT.get(name, {}))
