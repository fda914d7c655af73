"""Logits behind a change of one activation at one position: only the rest of the model, only the tokens behind it.

A causal model cannot look ahead, so a change at position p of a hook point leaves every key and value of the positions
before p alone. They are computed once a sequence; an ablation then runs the blocks behind the hook point on positions
p, p + 1, ... alone. This takes a back end that can do it (`SubjectModel.continuation`), and a self-test that finds the
logits of a full pass; elsewhere each ablation is a pass over the whole sequence, with the same result.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sae_bench.errors import ModelError, named
from sae_bench.models.edits import close
from sae_bench.models.subject import Capture, SubjectModel, Suffix, suffix_of

MAX_BYTES = 128 << 20  # logits, keys and values of one internal batch

# By model and hook point: the longest sequence that the self-test has seen, and whether it passed.
_TESTED: WeakKeyDictionary[SubjectModel, dict[str, tuple[int, bool]]] = WeakKeyDictionary()


class Continuation:
    """What follows a change of the activation at `hook`, for the sequences of one capture.

    `cached`: whether keys and values of the clean run are reused; they take, for all sequences of the capture, what a
    text generator's cache takes (select sequences with `capture.rows`). `counters`: ablations by kind,
    "ablation_cached" or "ablation_full" (passes over whole sequences), and clean runs, "continuation_cached" or
    "continuation_full". A row's result does not depend on the other rows beyond the rounding of matrix products.
    Raises ModelError if the capture has no activation `[batch, seq, d]` at `hook`.
    """

    def __init__(self, subject: SubjectModel, capture: Capture, hook: str, *, max_bytes: int = MAX_BYTES) -> None:
        x = capture.activations.get(hook)
        if x is None or x.ndim != 3 or x.shape[:2] != capture.tokens.shape:
            raise ModelError(
                f"changing {hook!r} needs its activations [batch, seq, d] in the capture, not "
                f"{'none' if x is None else list(x.shape)}; add it to the captured hooks, or name another hook point"
            )
        self.hook = hook
        reused = reuses(subject, hook, capture.tokens.shape[1])
        self._suffix: Suffix | None = suffix_of(subject, capture, hook) if reused else None
        self.cached = self._suffix is not None
        self.counters: Counter[str] = Counter()
        self._subject, self._capture, self._max_bytes = subject, capture, max_bytes
        self._clean: Tensor = x
        self._lengths: list[int] = capture.attention_mask.sum(1).tolist()

    def clean(self, sequences: Tensor, positions: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """Return what `ablated` does when nothing is changed, from the same computation."""
        groups = self._groups(sequences, positions, horizon)
        unchanged = self._clean[sequences.to(self._clean.device), positions.to(self._clean.device)]
        self._count(len(sequences), clean=True)
        return self._collect(groups, unchanged, horizon)

    def ablated(self, sequences: Tensor, positions: Tensor, activations: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """Return logits at `positions` and the tokens behind, with the activation there replaced.

        sequences, positions: int `[n]`, rows of the capture and real tokens of them; activations: `[n, d]`; horizon:
        number of tokens T, the changed one included. Returns logits `[n, T, vocab_size]`, at least float32 and 0 where
        a sequence has ended, and bool `[n, T]`, False there. Raises ModelError for what does not fit.
        """
        groups = self._groups(sequences, positions, horizon)
        activations = self._fitting(activations, len(sequences))
        self._count(len(sequences))
        return self._collect(groups, activations, horizon)

    def differences(
        self, sequences: Tensor, positions: Tensor, activations: Tensor, horizon: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the changes of the logits, ablated minus clean, in batches of bounded size.

        Arguments as for `ablated`. Each item is (rows int64 `[m]`, differences `[m, t, vocab_size]`, clean logits
        `[t, vocab_size]`), t being horizon or as many tokens as the sequence still has: rows of one item share sequence
        and position. Every row comes once.
        """
        activations = self._fitting(activations, len(sequences))
        for (sequence, position, steps), rows in self._groups(sequences, positions, horizon).items():
            # the clean run is a row of the first batch: alone it would cost more, and rounding would differ
            both = torch.cat([self._clean[sequence, position][None], activations[rows]])
            clean, done = None, 0
            for part in torch.split(both, self._batch_rows(position, steps)):
                logits = self._run(sequence, position, part, steps)
                if clean is None:
                    clean, logits = logits[:1].clone(), logits[1:]
                if len(logits):
                    yield rows[done : done + len(logits)], logits.sub_(clean), clean[0]
                done += len(logits)
            self._count(1, clean=True)
            self._count(len(rows))

    def _collect(
        self, groups: dict[tuple[int, int, int], Tensor], activations: Tensor, horizon: int
    ) -> tuple[Tensor, Tensor]:
        shape, device = (len(activations), horizon), self._clean.device
        valid = torch.zeros(shape, dtype=torch.bool, device=device)
        logits = torch.zeros(*shape, self._subject.vocab_size, dtype=self._logit_dtype, device=device)
        for (sequence, position, steps), rows in groups.items():
            valid[rows, :steps] = True
            for part in torch.split(rows, self._batch_rows(position, steps)):
                logits[part, :steps] = self._run(sequence, position, activations[part], steps)
        return logits, valid

    def _run(self, sequence: int, position: int, activations: Tensor, steps: int) -> Tensor:
        """Return logits `[n, steps, vocab_size]` of n activations at the same place; the caller owns the tensor."""
        if self._suffix:
            logits = self._suffix.logits(sequence, position, activations, steps)
        else:
            index = torch.full((len(activations),), sequence, device=self._clean.device)
            capture = self._capture.rows(index)
            changed = capture.activations[self.hook]
            changed[:, position] = activations
            logits = self._subject.resume(capture, self.hook, changed)[:, position : position + steps]
        return logits.to(self._logit_dtype)

    def _count(self, n: int, *, clean: bool = False) -> None:
        kind = "cached" if self._suffix else "full"
        self.counters[f"continuation_{kind}" if clean else f"ablation_{kind}"] += n

    def _groups(self, sequences: Tensor, positions: Tensor, horizon: int) -> dict[tuple[int, int, int], Tensor]:
        """Return rows by (sequence, position, number of tokens there are)."""
        n_sequences = len(self._lengths)
        if sequences.ndim != 1 or sequences.shape != positions.shape or horizon < 1:
            raise ModelError(
                "changes need one sequence and one position each and a horizon of 1 or more, not "
                f"{list(sequences.shape)}, {list(positions.shape)} and {horizon}"
            )
        groups: dict[tuple[int, int, int], list[int]] = {}
        for row, (sequence, position) in enumerate(zip(sequences.tolist(), positions.tolist(), strict=True)):
            if not 0 <= sequence < n_sequences or not 0 <= position < self._lengths[sequence]:
                raise ModelError(
                    f"change {row} is at position {position} of sequence {sequence}, which is no real token of the "
                    f"{n_sequences} sequences; count both from 0 and leave padding out"
                )
            steps = min(horizon, self._lengths[sequence] - position)
            groups.setdefault((sequence, position, steps), []).append(row)
        return {key: torch.tensor(rows, device=self._clean.device) for key, rows in groups.items()}

    def _fitting(self, activations: Tensor, n: int) -> Tensor:
        expected = (n, self._clean.shape[2])
        if activations.shape != expected:
            raise ModelError(
                f"the activations for {self.hook!r} must be {list(expected)}, one for each change, not "
                f"{list(activations.shape)}"
            )
        return activations.to(self._clean)

    def _batch_rows(self, position: int, steps: int) -> int:
        n_logits = (steps if self._suffix else self._clean.shape[1]) * self._subject.vocab_size
        n_kept = (position + steps) * self._suffix.kept_per_token if self._suffix else 0
        return max(1, self._max_bytes // ((n_logits + n_kept) * self._logit_dtype.itemsize))

    @property
    def _logit_dtype(self) -> torch.dtype:
        return torch.promote_types(self._subject.dtype, torch.float32)


def reuses(subject: SubjectModel, hook: str, length: int) -> bool:
    """Whether keys and values can be reused at `hook` for sequences of this length, by one test for a model and hook.

    A sequence longer than all before is tested again: attention windows and scaled rotary positions act from some
    length on. Warns where the test fails, but not where the back end does not offer to reuse them.
    """
    if not hasattr(subject, "continuation") or not subject.can_resume(hook):
        return False
    tested = _TESTED.setdefault(subject, {})
    longest, passed = tested.get(hook, (0, True))
    if passed and length > longest:
        passed, why = _tried(subject, hook, length)
        tested[hook] = (length, passed)
        if why:
            warnings.warn(
                f"ablations at {hook} of {subject.name} run over whole sequences, which takes several times as long: "
                f"keys and values of the clean run cannot be reused, since {why}",
                stacklevel=2,
            )
    return passed


def _tried(subject: SubjectModel, hook: str, length: int) -> tuple[bool, str | None]:
    """Compare with full splices after perturbations of random tokens, one near the start and one in the middle.

    Returns whether they agree, and else what stands in the way, None where the back end does not offer it at `hook`.

    The start with few tokens, because a model that scales rotary positions by the length it sees takes it for a short
    sequence.
    """
    counters = dict(subject.counters)
    tokens = torch.randint(subject.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(subject.device)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    capture = subject.capture(tokens, mask, [hook])
    x = capture.activations[hook]
    noise = torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(1)).to(x) * x.std()
    places = [(p, min(steps, length - p)) for p, steps in ((min(1, length - 1), 4), (length // 2, 16))]
    expected = []
    for position, steps in places:
        changed = x.clone()
        changed[0, position] += noise
        expected.append(subject.splice(tokens, mask, {hook: changed})[:, position : position + steps])
    subject.splice((tokens + 1) % subject.vocab_size, mask, {})  # no module still holds the state that we expect
    try:
        suffix = suffix_of(subject, capture, hook)
        if suffix is None:
            return False, None
        found = [suffix.logits(0, position, x[:, position] + noise, steps) for position, steps in places]
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, ModelError) as error:
        return False, named(error)  # the rest of the model keeps something else than keys and values
    finally:
        subject.counters.update(counters)
        subject.counters["selftest"] += 3 + len(places)
    if all(close(a, b) for a, b in zip(found, expected, strict=True)):
        return True, None
    return False, "the model's logits with them are not those of whole sequences"
