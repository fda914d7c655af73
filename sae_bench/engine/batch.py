"""The lazy view of a batch: what no task asks for is not computed; what two tasks ask for is computed once.

Three layers, each memoised: the batch (one pass of the model up to the deepest hook point), a site (one hook point: the
losses that do not depend on an SAE), and a coder's view (codes, reconstruction, spliced loss, and whatever else a task
lets the model run on).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sae_bench.engine import rest
from sae_bench.engine.asked import scores_under
from sae_bench.engine.block import Block
from sae_bench.engine.layout import Layout
from sae_bench.engine.loss import Clean, clean_scores, score
from sae_bench.engine.placed import Lazy, Placed, not_finite
from sae_bench.engine.rest import Logits
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace, guarded
from sae_bench.kernels.divergence import Scores
from sae_bench.models.subject import Capture
from sae_bench.randomness import Noise
from sae_bench.saes.decoding import decode
from sae_bench.saes.graded import Graded
from sae_bench.saes.protocol import CoderInfo, Codes
from sae_bench.units.folds import fold_of


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


class SiteView(Lazy):
    """A batch at one hook point; see :class:`sae_bench.tasks.base.Site`."""

    def __init__(self, batch: Batch, hook: str) -> None:
        super().__init__()
        self.batch, self.hook = batch, hook
        self.rms = batch.work.moments[hook].rms
        self.kept, self.first = batch.kept, batch.first
        self.sum = batch.sum

    @property
    def target(self) -> Tensor:
        """Activations ``[T, d]`` at this hook point."""
        return self.batch.activations(self.hook)

    @property
    def top(self) -> Tensor:
        """Bool ``[T]``: kept, and farther from the calibration mean than 99 % of the calibration tokens."""

        def compute() -> Tensor:
            moments = self.batch.work.moments[self.hook]
            return self.kept & ((self.target.double() - moments.mean).square().sum(1) > moments.far)

        return self.batch.once(("top", self.hook), compute)

    def predictions(self) -> Tensor:
        """Number of predictions of each sequence, float64 ``[batch]``."""
        return self.batch.put("predictions").double()

    @property
    def first_tokens(self) -> Tensor:
        """Int64: which of the T tokens stands at position 0 of each sequence that has one."""
        return self.batch.put("first_tokens")

    @property
    def folds(self) -> Tensor:
        """Int64 ``[T]``: the fold of the document of each token."""
        return self.batch.of_names("folds", self.batch.names, fold_of)

    def loss(self, replacement: str) -> Tensor:
        """Cross-entropy summed over each sequence's predictions ``[batch]``, nats."""
        if replacement == "clean":
            return self.batch.sum_predictions(self.batch.clean.loss)
        return self.batch.sum_predictions(self.replaced(replacement).ce)

    def kl(self, replacement: str) -> Tensor:
        """KL(clean || replaced) summed over each sequence's predictions ``[batch]``, nats."""
        return self.batch.sum_predictions(self.replaced(replacement).kl)

    def sum_predictions(self, values: Tensor) -> Tensor:
        """Float64 sums over the predictions of each sequence: ``[predictions]`` to ``[batch]``."""
        return self.batch.sum_predictions(values)

    def replaced(self, replacement: str) -> Scores:
        """What :meth:`loss` and :meth:`kl` sum, for every prediction."""

        def compute() -> Scores:
            values, constant = self.values(replacement), self.constant(replacement)
            return self.batch.scores(self.hook, values, replacement, constant=constant)

        return self.once(replacement, compute)

    def constant(self, replacement: str) -> bool:
        """Whether all tokens carry one vector; never wrongly so."""
        return replacement in ("zero", "mean")

    def noise(self, role: str) -> Noise:
        """Random numbers for every token, keyed by seed, ``role`` and sequence."""
        batch = self.batch
        return Noise(batch.seed, role, batch.names, batch.layout.lengths.tolist(), batch.work.subject.device)

    def values(self, replacement: str) -> Tensor:
        """What the tokens carry ``[T, d]``."""
        if replacement == "zero":
            return torch.zeros_like(self.target)
        if replacement == "mean":
            return self.batch.work.moments[self.hook].mean.to(self.target).expand_as(self.target)
        raise ValueError(f"unknown replacement {replacement}")


class CoderView(SiteView):
    """A batch as one coder sees it; see :class:`sae_bench.tasks.base.View`. Shares what its site has computed."""

    def __init__(self, site: SiteView, entry: Entry) -> None:
        super().__init__(site.batch, entry.hook_out)
        self.site, self.entry = site, entry
        self.task = ""  # whose keys :meth:`scores` are asked under

    @property
    def info(self) -> CoderInfo:
        """What the coder is."""
        return self.entry.coder.info

    @property
    def x(self) -> Tensor:
        """What the coder reads ``[T, d_in]``."""
        return self.batch.activations(self.entry.hook_in)

    @property
    def codes(self) -> Codes:
        """Latent activations of the T tokens; computed once for all coders that share an encoder."""
        coder = self.entry.coder
        if not isinstance(coder, Graded):
            return self.batch.codes_of(self.entry)
        whole = self.batch.codes_of(Entry(self.entry.key, self.entry.label, coder.widest))
        return self.once("codes", lambda: guarded(self.entry, lambda: coder.cut(whole, self.x)))

    @property
    def x_hat(self) -> Tensor:
        """Reconstruction ``[T, d_out]``; where that is the activation itself, no codes are made for it."""
        if self.entry.copies:
            return self.x
        x_hat = self.once("x_hat", lambda: self.decode(self.codes))
        if self.batch.block is not None:
            self.batch.block.decode(self.entry, x_hat)
        return x_hat

    def decode(self, codes: Codes) -> Tensor:
        """What the coder makes of ``codes`` ``[T, n_latents]``, for instance a part of its own: ``[T, d_out]``."""
        if codes.n_tokens != len(self.batch.layout.kept) or codes.n_latents != self.info.n_latents:
            raise ValueError(
                f"decode takes codes of {len(self.batch.layout.kept)} tokens and {self.info.n_latents} latents, not of "
                f"{codes.n_tokens} and {codes.n_latents}"
            )
        self.batch.work.counters["decode"] += len(self.batch.layout.tokens)
        self.batch.work.count_dense(self.entry, codes.n_tokens)
        out = guarded(self.entry, lambda: decode(self.entry.coder, codes, self.x))
        key = self.entry.key
        self.batch.check(
            self.kept & ~out.isfinite().all(1),
            lambda bad: CoderFailure("the reconstruction holds NaN or infinite numbers", key),
            owner=key,
        )
        return out

    def scores(self, values: Tensor, key: str) -> Scores:
        """What the model says with ``values`` ``[T, d_out]`` at the kept tokens; memoised under ``key``.

        A key belongs to one task and to one replacement: other values under it are refused, since what the first ones
        gave would be taken for theirs. Raises ValueError.
        """
        return scores_under(key, self, values)

    @property
    def partners(self) -> tuple[CoderView, ...]:
        """The other SAEs of the run on this batch (for a control: all SAEs), in the order of the run.

        Raises CoderFailure where one of them has failed.
        """
        others = [view for key, view in self.batch.saes.items() if key != self.entry.key]
        keys = {view.entry.key for view in others}
        self.batch.looked_at.setdefault((self.task, self.entry.key), set()).update(keys)
        for view in others:
            if (why := self.batch.failed.get(view.entry.key)) is not None:
                raise CoderFailure(why, view.entry.key)
        return tuple(others)

    @property
    def sizes(self) -> Tensor:
        """``|f| ||d||`` of every entry of the codes, float64 ``[entries]``."""
        return self.once("sizes", lambda: self.batch.work.sizes(self.entry, self.codes))

    def replaced(self, replacement: str) -> Scores:
        """What :meth:`loss` and :meth:`kl` sum, for every prediction; a copy is the clean pass."""
        if replacement != "spliced":
            return self.site.replaced(replacement)
        return self.batch.clean.unchanged if self.entry.copies else super().replaced(replacement)

    def constant(self, replacement: str) -> bool:
        """Without latents, and with nothing but codes to decode from, a reconstruction is the same for all tokens."""
        return self.info.n_latents == 0 and self.info.decode_needs == "nothing"

    def values(self, replacement: str) -> Tensor:
        """The reconstruction ``[T, d_out]``."""
        return self.x_hat
