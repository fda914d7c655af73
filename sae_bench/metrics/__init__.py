"""The figures of every task as pure functions of sums over units. NumPy alone: what only reads results needs no torch.

``sae_bench/metrics/<task>.py`` has ``metrics(parameters)``, functions of
:class:`~sae_bench.units.bootstrap.Sums` by id, the record ``Parameters`` of a task that has any,
``blocks(details)`` of a task that finds more than figures (:mod:`sae_bench.show.blocks`), and ``OF_CODES``, the ids of
those figures that see codes alone, of a task that has others too.
"""

from __future__ import annotations

from collections.abc import Mapping

from sae_bench import registry
from sae_bench.schema import TaskSpec
from sae_bench.units.bootstrap import Metric


def metrics_of(spec: TaskSpec) -> Mapping[str, Metric]:
    """The figures of a task by metric id, as functions of sums over units. Raises SaeBenchError where it has none."""
    made: Mapping[str, Metric] = registry.load(spec.figures).metrics(spec.parameters)
    return made


def silent_of(spec: TaskSpec, control: str) -> frozenset[str]:
    """The figures that a control has none of, by its name: of one with codes of another coder, what sees these alone.

    It would be equal to that coder there, and look like a rival that cannot be told from it.
    """
    known = registry.controls().get(control)
    if known is None or not known.codes_of:
        return frozenset()
    return frozenset(getattr(registry.load(spec.figures), "OF_CODES", ()))
