"""A batch: one pass of the model up to the deepest hook point. What no task asks for is not computed, nor twice.

What tasks see of it is in :mod:`sae_bench.engine.views`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_bench.engine import rest
from sae_bench.engine.block import Block
from sae_bench.engine.layout import Layout
from sae_bench.engine.loss import Clean, clean_scores, score
from sae_bench.engine.placed import Placed, not_finite
from sae_bench.engine.rest import Logits
from sae_bench.engine.workspace import Entry, Workspace
from sae_bench.kernels.divergence import Scores
from sae_bench.models.subject import Capture
from sae_bench.saes.protocol import Codes

if TYPE_CHECKING:
    from sae_bench.engine.views import CoderView


class Batch(Placed):
    """Some sequences: ``tokens`` int64 ``[batch, seq]``, ``attention``, ``keep`` and ``target`` bool ``[batch, seq]``.

    They come from the host, where :class:`~sae_bench.engine.layout.Layout` works out shapes before the device begins.
    ``keep`` says which tokens count, ``target`` which may be predicted (None: all). ``names`` of the sequences key what
    is drawn at random, with ``seed``. ``saes`` are the views of the SAEs of the run by key, ``failed`` which failed.
    """

    def __init__(
        self,
        work: Workspace,
        tokens: Tensor,
        attention: Tensor,
        keep: Tensor,
        target: Tensor | None = None,
        *,
        names: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        self._on_host = tokens, attention
        self._begin(work, Layout.of(tokens, attention, keep, target), names, seed)

    def _begin(self, work: Workspace, layout: Layout, names: tuple[str, ...], seed: int) -> None:
        super().__init__(layout, work.subject.device, work.waits)
        self.work, self.names, self.seed = work, names, seed
        self.saes: Mapping[str, CoderView] = {}
        self.failed: Mapping[str, str] = {}
        self.looked_at: dict[tuple[str, str], set[str]] = {}  # by task and coder: the partners that it asked for
        self.block: Block | None = None
        self.owed: Counter[str] = Counter()  # what was counted for it in its block, before its turn

    @property
    def capture(self) -> Capture:
        """The model's activations at all hook points of the run."""

        def compute() -> Capture:
            self.work.counters["prefix"] += len(self.layout.tokens)
            captured = self.work.subject.capture(*self._on_host, self.work.hooks)
            for hook, x in captured.activations.items():
                finite = x.isfinite().all(-1).flatten().index_select(0, self.put("real"))
                self.check(finite.logical_not_(), not_finite(hook, self.work.subject.dtype, self.layout, self.names))
            return captured

        return self.once("capture", compute)

    @property
    def capture_made(self) -> Capture | None:
        """The capture, if anybody has asked for it."""
        made: Capture | None = self._memo.get("capture")
        return made

    def captured(self, capture: Capture) -> None:
        """Take what the model carried in this very batch before, so that it does not pass again."""
        self._memo["capture"] = capture

    def activations(self, hook: str) -> Tensor:
        """Activations of the real tokens ``[T, d]``."""
        return self.once(
            ("x", hook), lambda: self.capture.activations[hook].flatten(0, 1).index_select(0, self.put("real"))
        )

    @property
    def clean(self) -> Clean:
        """What the clean model says at the predicting positions."""

        def compute() -> Clean:
            hook = self.work.hooks[-1]
            logits = self.logits(hook, self.capture.activations[hook], "clean")
            return clean_scores(logits, self.layout.predicts, self.targets, elements=self.work.chunk)

        return self.once("clean", compute)

    def codes_of(self, entry: Entry) -> Codes:
        """Latent activations of the T tokens by an encoder, computed once. Raises CoderFailure."""

        def compute() -> Codes:
            self.work.counters["encode"] += len(self.layout.tokens)
            return self.work.encode(entry, self.activations(entry.hook_in))

        codes = self.once(("codes", id(entry.encoder)), compute)
        if self.block is not None:
            self.block.encode(entry)
        return codes

    def scores(self, hook: str, values: Tensor, kind: str, *, constant: bool = False) -> Scores:
        """CE, KL and agreement of every prediction with ``values`` ``[T, d]`` at the kept tokens.

        ``constant``: they are one vector at all of them, so that sequences with nothing else between them pass as one.
        """
        full = self.capture.activations[hook].clone(memory_format=torch.contiguous_format)
        kept = values.index_select(0, self.put("kept_tokens")).to(full.dtype)
        full.flatten(0, 1).index_copy_(0, self.put("kept_places"), kept)
        logits, work = self.logits(hook, full, kind, constant=constant), self.work
        return score(logits, self.layout.predicts, self.targets, self.clean, elements=work.chunk, waits=work.waits)

    def logits(self, hook: str, activation: Tensor, kind: str, *, constant: bool = False) -> Logits:
        """Logits of the rest of the model when ``hook`` carries ``activation`` ``[batch, seq, d]``."""
        alike = self.layout.alike if constant else None
        with self._checked_later():
            apart = kind != "clean" and not self.work.waits  # the clean ones are kept, since all others need them
            found, passed = rest.logits(self.work.subject, self.capture, hook, activation, alike, apart=apart)
        self.work.counters[f"suffix_{kind}"] += passed
        if not self.work.subject.can_resume(hook):
            self.work.counters["full_instead_of_suffix"] += passed
        return found

    def _checked_later(self) -> AbstractContextManager[None]:
        """What the model checks in a pass is read with the batch, if its back end can wait for that."""
        later = None if self.work.waits else getattr(self.work.subject, "checked_later", None)
        return nullcontext() if later is None else later(lambda bad, error: self.check(bad, lambda _: error))
