"""What tasks see of a batch: a hook point of it, and what a coder makes of that. Each part is computed once, if at all.

A site is one hook point: the losses that do not depend on an SAE. A coder's view has codes, reconstruction, spliced
loss, and whatever else a task lets the model run on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.engine.asked import scores_under
from sae_bench.engine.batch import Batch
from sae_bench.engine.placed import Lazy
from sae_bench.engine.workspace import CoderFailure, Entry, guarded
from sae_bench.kernels.divergence import Scores
from sae_bench.randomness import Noise
from sae_bench.saes.decoding import decode
from sae_bench.saes.graded import Graded
from sae_bench.saes.protocol import CoderInfo, Codes
from sae_bench.units.folds import fold_of


class SiteView(Lazy):
    """A batch at one hook point; see :class:`sae_bench.tasks.base.Site`."""

    def __init__(self, batch: Batch, hook: str) -> None:
        super().__init__()
        self.batch, self.hook = batch, hook
        moments = batch.work.moments[hook]
        self.rms, self.top_channels = moments.rms, moments.top_channels
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
        return self.once(
            replacement,
            lambda: self.batch.scores(
                self.hook, self.values(replacement), replacement, constant=self.constant(replacement)
            ),
        )

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
