"""Some sequences of a batch as a batch of their own: what was computed for all of them is not computed again."""

from __future__ import annotations

import numpy as np

from sae_bench.engine.batch import Batch
from sae_bench.engine.layout import Ints
from sae_bench.engine.loss import Clean
from sae_bench.engine.rest import Logits
from sae_bench.engine.workspace import Entry
from sae_bench.kernels.divergence import Normaliser
from sae_bench.kernels.transfer import onto
from sae_bench.models.subject import Capture
from sae_bench.saes.protocol import Codes


class PartOfBatch(Batch):
    """The sequences ``rows``, ascending, of ``whole``: its activations, its clean pass and its codes."""

    def __init__(self, whole: Batch, rows: Ints) -> None:
        names = tuple(whole.names[i] for i in rows) if whole.names else ()
        self._begin(whole.work, whole.layout.rows(rows), names, whole.seed)
        self.whole, self._rows = whole, rows
        self.failed, self.unread, self.looked_at = whole.failed, whole.unread, whole.looked_at

    @property
    def capture(self) -> Capture:
        """That of the whole, of these sequences."""
        return self.once("capture", lambda: self.whole.capture.rows(onto(self._rows, self.work.subject.device)))

    @property
    def clean(self) -> Clean:
        """That of the whole, at the predictions of these sequences."""

        def compute() -> Clean:
            clean = self.whole.clean
            own = np.isin(np.nonzero(self.whole.layout.predicts)[0], self._rows)
            at = onto(np.flatnonzero(own), clean.loss.device)
            norm = Normaliser(*(part.index_select(0, at) for part in clean.norm))
            logits = Logits(clean.logits.rows, clean.logits.place[self._rows])
            return Clean(logits, norm, clean.loss.index_select(0, at), clean.top.index_select(0, at))

        return self.once("clean", compute)

    def codes_of(self, entry: Entry) -> Codes:
        """Those of the whole, if it has them; else by the encoder.

        How many entries a part has is known to the device alone: where nothing may wait for it, it is encoded again.
        """
        key = ("codes", id(entry.encoder))
        if key in self._memo or (known := self.whole.known(key)) is None or not self.work.waits:
            return super().codes_of(entry)
        codes: Codes = known
        own = np.isin(np.nonzero(self.whole.layout.attention)[0], self._rows)
        return self.once(key, lambda: codes.select(onto(own, codes.indices.device)))


def part_of(batch: Batch, rows: list[int]) -> Batch:
    """The sequences ``rows`` (ascending) of a batch; the batch itself if these are all."""
    return batch if len(rows) == len(batch.layout.tokens) else PartOfBatch(batch, np.array(rows, dtype=np.int64))
