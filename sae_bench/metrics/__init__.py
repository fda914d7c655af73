"""The figures of every task as pure functions of sums over units. NumPy alone: what only reads results needs no torch.

``sae_bench/metrics/<task>.py`` has ``metrics(parameters)``: functions of
:class:`~sae_bench.units.bootstrap.Sums` by id.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec

from sae_bench import registry
from sae_bench.schema import TaskSpec
from sae_bench.units.bootstrap import Metric


def metrics_of(spec: TaskSpec) -> Mapping[str, Metric]:
    """The metrics of a task by id; those of a task from elsewhere come from its class, which may import torch."""
    if find_spec(f"{__name__}.{spec.id}") is not None:
        made: Mapping[str, Metric] = importlib.import_module(f"{__name__}.{spec.id}").metrics(spec.parameters)
        return made
    own: Mapping[str, Metric] = registry.load(spec.code)(spec).metrics
    return own
