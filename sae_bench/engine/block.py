"""Batches that are encoded together, one SAE after the other, so that wide weights are read once for all of them.

Weights that are mapped from files and larger than memory would otherwise come from the disk once a batch. What is
computed is the same, batch by batch: only the order changes, and with it nothing in any figure.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from torch import Tensor

from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.errors import ModelError
from sae_bench.saes.linear import LinearCoder

if TYPE_CHECKING:
    from sae_bench.engine.batch import Batch

TOKENS = 1 << 14  # of a block, at least, where there are so many
ROOM = 1 << 30  # bytes of reconstructions that a block may keep; SAEs beyond it decode batch by batch
SHARE = 0.5  # of the machine's memory: weights that take less stay there from batch to batch


def block_tokens(entries: Sequence[Entry]) -> int:
    """How many tokens a block should have for the weights of these SAEs; 0 for none: each batch by itself."""
    known = {id(entry.encoder): entry.encoder for entry in entries if isinstance(entry.encoder, LinearCoder)}
    wide = [coder.weights for coder in known.values() if coder.weights.W_enc.device.type == "cpu"]
    weights = sum(tensor.nbytes for own in wide for tensor in (own.W_enc, own.W_dec))
    return TOKENS if len(wide) > 1 and weights > SHARE * _memory() else 0


def _memory() -> int:
    """Bytes of the machine's memory; where that cannot be told, more than any weights."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 62


class Block:
    """Some batches that run after one another: who first asks one of them for what an SAE makes asks all of them."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._left = list(batches)
        self._kept = 0  # bytes of reconstructions
        self._busy = False
        for batch in batches:
            batch.block = self

    def begins(self, batch: Batch) -> None:
        """Let a batch run, which counts what was done for it before."""
        self._left.remove(batch)
        batch.work.counters.update(batch.owed)

    def encode(self, entry: Entry) -> None:
        """Have an SAE encode the batches that are still to run."""
        self._ahead(entry, lambda batch: batch.codes_of(entry))

    def decode(self, entry: Entry, like: Tensor) -> None:
        """Have an SAE decode them, as far as there is room for reconstructions as wide as ``like`` ``[T, d_out]``."""
        a_token = like.shape[1] * like.itemsize

        def compute(batch: Batch) -> None:
            size = len(batch.layout.real) * a_token
            view = batch.saes[entry.key]
            if view.known("x_hat") is None and self._kept + size <= ROOM:
                self._kept += size
                _ = view.x_hat

        self._ahead(entry, compute)

    def _ahead(self, entry: Entry, compute: Callable[[Batch], object]) -> None:
        """An SAE that fails on a batch fails on it again in its turn, and is told of then."""
        if self._busy:
            return
        self._busy = True
        try:
            for batch in self._left:
                if entry.key in batch.saes:  # controls are not asked about all documents
                    with suppress(ModelError), _counted_for(batch):
                        _ = batch.capture
                    with suppress(CoderFailure, ModelError), _counted_for(batch):
                        compute(batch)
        finally:
            self._busy = False


@contextmanager
def _counted_for(batch: Batch) -> Iterator[None]:
    """What is done in here counts when the batch itself runs: a run that is killed before has not counted it.

    What fails does not count, since it is done again then.
    """
    work = batch.work
    own, work.counters = work.counters, Counter()
    try:
        yield
        batch.owed.update(work.counters)
    finally:
        work.counters = own
