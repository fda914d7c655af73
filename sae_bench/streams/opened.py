"""Batches of documents with their views, opened in the order in which they run: one by one, or some as a block."""

from __future__ import annotations

from sae_bench.engine.batch import Batch
from sae_bench.engine.block import Block
from sae_bench.engine.plan import Batches
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import Workspace
from sae_bench.streams.base import Run

Views = tuple[Batch, dict[str, SiteView]]  # a batch with the views of its SAEs, and one of each hook point


class Opened:
    """The ``batches`` of a run, in blocks of ``tokens`` or more; of one batch each by default."""

    def __init__(self, run: Run, batches: Batches, work: Workspace, tokens: int = 0) -> None:
        self._run, self._batches, self._work, self._tokens = run, batches, work, tokens
        self._ready: list[Views] = []

    def next(self, index: int) -> Views:
        """The batch ``index``; they are asked for one after the other, from any one on."""
        if not self._ready:
            groups, stop, n = self._batches.groups, index, 0
            while stop < len(groups) and (stop == index or n < self._tokens):
                n += sum(len(self._batches.tokens[i].ids) for i in groups[stop])
                stop += 1
            self._ready = [self._open(i) for i in range(index, stop)]
            if len(self._ready) > 1:
                Block([batch for batch, _ in self._ready])
        batch, sites = self._ready.pop(0)
        if batch.block is not None:
            batch.block.begins(batch)
        return batch, sites

    def _open(self, index: int) -> Views:
        options, cast = self._run.inputs.options, self._run.cast
        tensors = self._batches.tensors(index, options)
        batch = Batch(self._work, *tensors, names=self._batches.names(index), seed=options.seed)
        sites = {hook: SiteView(batch, hook) for hook in dict.fromkeys(entry.hook_out for entry in cast.entries)}
        batch.saes = {sae.key: CoderView(sites[sae.hook_out], sae) for sae in cast.saes}
        batch.failed = self._run.state.failures
        return batch, sites
