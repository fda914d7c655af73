"""Some sequences of a batch as a batch of their own: what was computed for all of them is not computed again."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.engine.batch import Batch
from sae_bench.engine.loss import Clean
from sae_bench.engine.rest import Logits
from sae_bench.engine.workspace import Entry
from sae_bench.kernels.divergence import Normaliser
from sae_bench.models.subject import Capture
from sae_bench.saes.protocol import Codes


class PartOfBatch(Batch):
    """The sequences ``rows``, int64 ascending, of ``whole``: its activations, its clean pass and its codes."""

    def __init__(self, whole: Batch, rows: Tensor) -> None:
        names = tuple(whole.names[i] for i in rows.tolist()) if whole.names else ()
        super().__init__(
            whole.work, whole.tokens[rows], whole.attention[rows], whole.keep[rows], names=names, seed=whole.seed
        )
        self.whole, self._rows = whole, rows
        self.predicts = whole.predicts[rows]  # what may be predicted is known to the whole
        self.targets = self.tokens.roll(-1, dims=1)[self.predicts]
        self.failed = whole.failed

    @property
    def capture(self) -> Capture:
        """That of the whole, of these sequences."""
        return self.once("capture", lambda: self.whole.capture.rows(self._rows))

    @property
    def clean(self) -> Clean:
        """That of the whole, at the predictions of these sequences."""

        def compute() -> Clean:
            clean, at = self.whole.clean, self._of(self.whole.predicts)
            norm = Normaliser(*(part[at] for part in clean.norm))
            place = clean.logits.place[self._rows]
            return Clean(Logits(clean.logits.rows, place), norm, clean.loss[at], clean.top[at])

        return self.once("clean", compute)

    def codes_of(self, entry: Entry) -> Codes:
        """Those of the whole, if it has them; else by the encoder."""
        key = ("codes", id(entry.encoder))
        if key in self._memo or (known := self.whole.known(key)) is None:
            return super().codes_of(entry)
        codes: Codes = known
        return self.once(key, lambda: codes.select(self._of(self.whole.attention)))

    def _of(self, where: Tensor) -> Tensor:
        """Which of the places ``where``, bool ``[batch, seq]``, are of these sequences: bool ``[places]``."""
        own = torch.zeros(len(where), dtype=torch.bool, device=where.device)
        own[self._rows] = True
        return own.unsqueeze(1).expand_as(where)[where]


def part_of(batch: Batch, rows: list[int]) -> Batch:
    """The sequences ``rows`` (ascending) of a batch; the batch itself if these are all."""
    if len(rows) == len(batch.tokens):
        return batch
    return PartOfBatch(batch, torch.tensor(rows, dtype=torch.int64, device=batch.tokens.device))
