"""The lazy view of a batch: what no task asks for is not computed; what two tasks ask for is computed once.

Three layers, each memoised: the batch (one pass of the model up to the deepest hook point), a site (one hook point: the
losses that do not depend on an SAE), and a coder's view (codes, reconstruction, spliced loss, and whatever else a task
lets the model run on).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from sae_bench.engine import rest
from sae_bench.engine.loss import Clean, clean_scores, score
from sae_bench.engine.rest import Logits
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace, guarded
from sae_bench.errors import ModelError
from sae_bench.kernels.divergence import Scores
from sae_bench.models.subject import Capture
from sae_bench.randomness import Noise
from sae_bench.saes.decoding import decode
from sae_bench.saes.graded import Graded
from sae_bench.saes.protocol import CoderInfo, Codes

T = TypeVar("T")


def _by_sequence(values: Tensor, at: Tensor) -> Tensor:
    """Float64 sums of ``something[at]`` over each row of ``at``; deterministic, unlike scattered additions on a GPU."""
    return torch.segment_reduce(values.double(), "sum", lengths=at.sum(1), unsafe=True)


class _Lazy:
    """Values that are computed when first asked for."""

    def __init__(self) -> None:
        self._memo: dict[Any, Any] = {}

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value

    def known(self, key: Any) -> Any:
        """What was computed under ``key``, None if nothing was."""
        return self._memo.get(key)


REPLACEMENTS = ("clean", "zero", "mean", "spliced")  # what has a name of its own; see Site.loss


class _Asked(NamedTuple):
    """What the model was run on under a key, and what came of it."""

    mark: Tensor
    scores: Scores


class Batch(_Lazy):
    """Some sequences: ``tokens`` int64 ``[batch, seq]``, ``attention``, ``keep`` and ``target`` bool ``[batch, seq]``.

    ``keep`` says which tokens count, ``target`` which may be predicted (None: all).
    ``names`` of the sequences key what is drawn at random, with ``seed``. ``saes`` are the views of the SAEs of the run
    on this batch, by their keys, and ``failed`` says which of them failed before.
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
        super().__init__()
        self.work, self.names, self.seed = work, names, seed
        self.saes: Mapping[str, CoderView] = {}
        self.failed: Mapping[str, str] = {}
        self.tokens, self.attention, self.keep = tokens, attention, keep & attention
        self.kept = self.keep[attention]
        self.first = (torch.arange(tokens.shape[1], device=tokens.device) == 0).expand_as(tokens)[attention]
        successor = torch.zeros_like(attention)
        successor[:, :-1] = (attention if target is None else attention & target)[:, 1:]
        self.predicts = self.keep & successor
        self.targets = tokens.roll(-1, dims=1)[self.predicts]

    @property
    def capture(self) -> Capture:
        """The model's activations at all hook points of the run."""

        def compute() -> Capture:
            self.work.counters["prefix"] += len(self.tokens)
            captured = self.work.subject.capture(self.tokens, self.attention, self.work.hooks)
            for hook, x in captured.activations.items():
                if not bool(x[self.attention].isfinite().all()):
                    raise ModelError(
                        f"the model gives activations that are not finite at {hook} in {self.work.subject.dtype}; "
                        "use --dtype float32"
                    )
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
        return self.once(("x", hook), lambda: self.capture.activations[hook][self.attention])

    def sum(self, values: Tensor, where: Tensor) -> Tensor:
        """Float64 sums over the tokens ``where`` of each sequence: ``[T, ...]`` to ``[batch, ...]``."""
        mask = where if values.ndim == 1 else where.unsqueeze(1)
        return _by_sequence(torch.where(mask, values, 0), self.attention)

    def sum_predictions(self, values: Tensor) -> Tensor:
        """Float64 sums over the predictions of each sequence: ``[predictions]`` to ``[batch]``."""
        return _by_sequence(values, self.predicts)

    @property
    def clean(self) -> Clean:
        """What the clean model says at the predicting positions."""

        def compute() -> Clean:
            hook = self.work.hooks[-1]
            logits = self.logits(hook, self.capture.activations[hook], "clean")
            return clean_scores(logits, self.predicts, self.targets)

        return self.once("clean", compute)

    def codes_of(self, entry: Entry) -> Codes:
        """Latent activations of the T tokens by an encoder, computed once. Raises CoderFailure."""

        def compute() -> Codes:
            self.work.counters["encode"] += len(self.tokens)
            return self.work.encode(entry, self.activations(entry.hook_in))

        return self.once(("codes", id(entry.encoder)), compute)

    def scores(self, hook: str, values: Tensor, kind: str) -> Scores:
        """CE, KL and agreement of every prediction with ``values`` ``[T, d]`` at the kept tokens."""
        full = self.capture.activations[hook].clone()
        full[self.keep] = values[self.kept].to(full.dtype)
        return score(self.logits(hook, full, kind), self.predicts, self.targets, self.clean)

    def logits(self, hook: str, activation: Tensor, kind: str) -> Logits:
        """Logits of the rest of the model when ``hook`` carries ``activation`` ``[batch, seq, d]``."""
        found, passed = rest.logits(self.work.subject, self.capture, hook, activation)
        self.work.counters[f"suffix_{kind}"] += passed
        if not self.work.subject.can_resume(hook):
            self.work.counters["full_instead_of_suffix"] += passed
        return found


class SiteView(_Lazy):
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
        return self.batch.predicts.sum(1).double()

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
        return self.once(replacement, lambda: self.batch.scores(self.hook, self.values(replacement), replacement))

    def noise(self, role: str) -> Noise:
        """Random numbers for every token, keyed by seed, ``role`` and sequence."""
        batch = self.batch
        return Noise(batch.seed, role, batch.names, batch.attention.sum(1).tolist(), batch.tokens.device)

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
        return self.x if self.entry.copies else self.once("x_hat", lambda: self.decode(self.codes))

    def decode(self, codes: Codes) -> Tensor:
        """What the coder makes of ``codes`` ``[T, n_latents]``, for instance a part of its own: ``[T, d_out]``."""
        if codes.n_tokens != len(self.kept) or codes.n_latents != self.info.n_latents:
            raise ValueError(
                f"decode takes codes of {len(self.kept)} tokens and {self.info.n_latents} latents, not of "
                f"{codes.n_tokens} and {codes.n_latents}"
            )
        self.batch.work.counters["decode"] += len(self.batch.tokens)
        self.batch.work.count_dense(self.entry, codes.n_tokens)
        out = guarded(self.entry, lambda: decode(self.entry.coder, codes, self.x))
        if not bool(out[self.kept].isfinite().all()):
            raise CoderFailure("the reconstruction holds NaN or infinite numbers", self.entry.key)
        return out

    def scores(self, values: Tensor, key: str) -> Scores:
        """What the model says with ``values`` ``[T, d_out]`` at the kept tokens; memoised under ``key``.

        A key belongs to one task and to one replacement: other values under it are refused, since what the first ones
        gave would be taken for theirs. Raises ValueError.
        """
        if key in REPLACEMENTS:
            raise ValueError(f"the key {key!r} is taken: replaced({key!r}) has its scores")
        if values.shape != self.target.shape:
            raise ValueError(f"scores takes values {list(self.target.shape)}, not {list(values.shape)}")
        mark = _mark(values, self.kept)
        if not bool(mark.isfinite().all()):
            raise ValueError(f"the values under the key {key!r} are NaN or infinite at kept tokens")
        asked = self.once(
            ("scores", self.task, key), lambda: _Asked(mark, self.batch.scores(self.hook, values, "replaced"))
        )
        if not torch.equal(asked.mark, mark):
            raise ValueError(f"the key {key!r} was used for other values in this batch; a key names one replacement")
        return asked.scores

    @property
    def partners(self) -> tuple[CoderView, ...]:
        """The other SAEs of the run on this batch (for a control: all SAEs), in the order of the run.

        Raises CoderFailure where one of them has failed.
        """
        others = [view for key, view in self.batch.saes.items() if key != self.entry.key]
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

    def values(self, replacement: str) -> Tensor:
        """The reconstruction ``[T, d_out]``."""
        return self.x_hat


def _mark(values: Tensor, kept: Tensor) -> Tensor:
    """Three sums ``[3]`` by which replacements are told apart without keeping them."""
    x = values[kept].double()
    place = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=torch.float64)
    order = torch.arange(1, len(x) + 1, device=x.device, dtype=torch.float64)
    return torch.stack([x.sum(), x.square().sum(), (x @ place) @ order])
