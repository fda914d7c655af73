"""On how much text the controls beside an SAE are measured, and whether that was enough.

A control is far from an SAE that is worth anything, so a fixed sample of documents shows it, with an interval of its
own. Where an SAE and a control cannot be told apart there, by pairs, the control is measured on all documents, for that
SAE. Neither depends on the other SAEs of the run, on its other tasks, or on the size of batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch
from sae_bench.engine.part import part_of
from sae_bench.engine.plan import Options
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import Entry
from sae_bench.tasks.base import Task
from sae_bench.units import Units, bootstrap, kinds
from sae_bench.units.kinds import Draws
from sae_bench.units.sample import first_for_controls

PERMUTED = "permuted"
DOCUMENTS = 128  # on which controls are measured, of each text that has more: of 128 groups, if there are as many


def control_documents(tokens: TokenSet, seed: int) -> frozenset[int]:
    """The documents on which controls are measured, of all groups alike: first by a hash, or all if they are few."""
    return frozenset(first_for_controls(tokens.unit_ids, DOCUMENTS, seed))


class Parts:
    """Some sequences of one batch as coders see them; each part is made once. ``sites`` are of the whole."""

    def __init__(self, batch: Batch, sites: Mapping[str, SiteView], saes: Sequence[Entry]) -> None:
        self._batch, self._saes = batch, saes
        self._made: dict[tuple[int, ...], tuple[Batch, dict[str, SiteView]]] = {
            tuple(range(len(batch.layout.tokens))): (batch, dict(sites))
        }

    def view(self, entry: Entry, rows: Sequence[int]) -> CoderView:
        """The sequences ``rows`` of the batch, ascending, as ``entry`` sees them."""
        key = tuple(rows)
        if key not in self._made:
            part = part_of(self._batch, list(rows))
            hooks = [entry.hook_out, *(sae.hook_out for sae in self._saes)]
            sites = {hook: SiteView(part, hook) for hook in dict.fromkeys(hooks)}
            part.saes = {sae.key: CoderView(sites[sae.hook_out], sae) for sae in self._saes}
            self._made[key] = part, sites
        return CoderView(self._made[key][1][entry.hook_out], entry)


class Loss(NamedTuple):
    """What a metric of fidelity is for an SAE, and for a control on the same units, and how much worse the control is.

    ``low`` and ``high`` hold the loss, paired over the same resampled units; None for too few of these.
    """

    value: float
    other: float
    loss: float
    low: float | None
    high: float | None


def loss_beside(task: Task, own: Mapping[str, Draws], control: Mapping[str, Draws]) -> Loss | None:
    """How much worse a control is than the SAE in the task's metric of fidelity; None where that has no meaning."""
    if task.fidelity is None:
        return None
    name = task.fidelity.metric
    spec, figure = task.spec.metrics[name], task.metrics[name]
    a, b = own.get(spec.table), control.get(spec.table)
    if not isinstance(a, bootstrap.Draws) or not isinstance(b, bootstrap.Draws):
        return None
    points = [figure(draws.points) for draws in (a, b)]
    if any(bootstrap.undefined(point, None) for point in points):
        return None
    value, other = (float(bootstrap.quotient(point)[0]) for point in points)
    sign = 1 if spec.better == "lower" else -1
    loss = sign * (other - value)
    if not math.isfinite(loss):
        return None
    if a.n < bootstrap.FEWEST:
        return Loss(value, other, loss, None, None)
    replicates = [bootstrap.quotient(figure(draws.replicates)) for draws in (a, b)]
    drawn = sign * (replicates[1] - replicates[0])
    return Loss(value, other, loss, *bootstrap.percentile_interval(loss, drawn, a.n, bootstrap.CONFIDENCE))


def tied(task: Task, loss: Loss) -> bool:
    """Whether the SAE is no more faithful than the control: the loss may be 0, or is too small to mean anything."""
    assert task.fidelity is not None
    return not (loss.loss > task.fidelity.least and (loss.low is None or loss.low > 0))


def told_apart(task: Task, name: str, own: Units, control: Units, options: Options) -> bool:
    """Whether the documents of a control's table are enough to tell it from the SAE, ``own``, in the task's fidelity.

    From ``permuted`` it must be told to be better: that it is not says that its latents count for nothing.
    """
    assert task.fidelity is not None
    kind = task.spec.metrics[task.fidelity.metric].table
    there = set(control.ids)
    tables = own.where(there.__contains__), control
    if tables[0].ids != control.ids:
        return False
    draws = [{kind: kinds.kind(kind).drawn(table, seed=options.seed, resamples=options.resamples)} for table in tables]
    loss = loss_beside(task, *draws)
    if loss is None:
        return False
    if not tied(task, loss):
        return True
    worse = loss.loss < -task.fidelity.least and loss.high is not None and loss.high < 0
    return worse and name != PERMUTED
