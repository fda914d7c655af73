"""Who takes part in a run, and what all of its batches share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from sae_bench.engine.loss import chunk_elements
from sae_bench.errors import named
from sae_bench.kernels.transfer import free_bytes
from sae_bench.models.subject import SubjectModel, is_bottleneck
from sae_bench.modules import evaluating
from sae_bench.saes.calibration import Moments
from sae_bench.saes.control_coders import ChannelCoder, OtherDecoder
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import Codes, SparseCoder
from sae_bench.saes.wrap import DenseCoder

T = TypeVar("T")
NORM_ROWS = 256  # a tile that stays in the cache


class CoderFailure(Exception):
    """A coder raised, or returned numbers that are not finite. The others go on; ``key`` says which one it was."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Entry:
    """One coder of a run. ``key`` is unique in the run; ``label`` is what a person calls it."""

    key: str
    label: str
    coder: SparseCoder

    @property
    def hook_in(self) -> str:
        """Hook point that the coder reads."""
        return self.coder.info.hooks_in[0]

    @property
    def hook_out(self) -> str:
        """Hook point whose activation the coder predicts, and where it is spliced."""
        return self.coder.info.hooks_out[0]

    @property
    def encoder(self) -> SparseCoder:
        """The coder whose codes these are: another decoder shares the codes of its SAE."""
        return self.coder.sae if isinstance(self.coder, OtherDecoder) else self.coder

    @property
    def copies(self) -> bool:
        """Whether the reconstruction is the activation itself, by definition: nothing is run to score it."""
        return isinstance(self.coder, ChannelCoder) and self.coder.copies


@dataclass
class Workspace:
    """What all batches of a run share.

    ``counters``: sequences by kind of pass ("prefix", "suffix_clean", "encode", "decode" and so on), and what encoding
    took: "encode_tokens", "code_entries" (not zero), "code_bytes" (all codes, as kept in memory) and "dense_elements"
    (numbers in arrays ``[tokens, n_latents]``, which only the wrapper of dense modules makes); "uncertified_tokens" of
    a coder that selects in bfloat16 were selected once more in its own precision. None depends on how sequences are put
    into batches, but for "suffix_..." where sequences of a batch carry the same, as ablated ones do, and for encoding
    where nothing waits: then a control that takes a part of a batch encodes it again.

    ``waits``: whether the host may wait for the device within a batch. It costs nothing on a CPU. Without it what a
    batch has found is read later, all together, and logits of replaced activations are made for some positions at a
    time; figures are the same but for the rounding of that product.
    """

    subject: SubjectModel
    hooks: tuple[str, ...]
    moments: dict[str, Moments]
    counters: Counter[str] = field(default_factory=Counter)
    waits: bool = True
    _norms: dict[str, Tensor] = field(default_factory=dict)

    def fresh(self) -> Workspace:
        """The same model, hook points and moments with counters of its own, for batches that are read as they go."""
        return Workspace(self.subject, self.hooks, self.moments)

    @cached_property
    def chunk(self) -> int:
        """How many logits are scored at once."""
        return chunk_elements(free_bytes(self.subject.device))

    def prepare(self) -> None:
        """Have what a batch without ``waits`` would else make the host wait for.

        That is what it needs of calibration, and the self-tests of the model at hook points. A back end that can do
        without waiting has an attribute ``waits``.
        """
        for hook in self.hooks:
            is_bottleneck(self.subject, hook)
            self.subject.can_resume(hook)
            _ = self.moments[hook].far, self.moments[hook].top_channels
        _ = getattr(self.subject, "head", None)
        if hasattr(self.subject, "waits"):
            self.subject.waits = self.waits

    def encode(self, entry: Entry, x: Tensor) -> Codes:
        """Codes of ``x`` ``[T, d_in]``, counted. Raises CoderFailure."""

        def compute() -> Codes:
            coder = entry.encoder
            certifies = coder if isinstance(coder, LinearCoder) and coder.select_in != "exact" else None
            before = certifies.uncertified if certifies else 0
            with evaluating(coder):
                codes = coder.encode(x)
            if certifies:
                self.counters["uncertified_tokens"] += certifies.uncertified - before
            pointers = len(x) * codes.indptr.itemsize  # one a token, however tokens are put into batches
            self.counters["encode_tokens"] += len(x)
            self.counters["code_entries"] += len(codes.indices)
            self.counters["code_bytes"] += codes.indices.nbytes + codes.values.nbytes + pointers
            self.count_dense(entry, len(x))
            return codes

        return guarded(entry, compute)

    def count_dense(self, entry: Entry, n_tokens: int) -> None:
        """Count an array ``[n_tokens, n_latents]`` if this coder makes one; 0 also stands in the counters."""
        n_latents = entry.encoder.info.n_latents if isinstance(entry.encoder, DenseCoder) else 0
        self.counters["dense_elements"] += n_tokens * n_latents

    def sizes(self, entry: Entry, codes: Codes) -> Tensor:
        """``|f| ||d||`` of every entry of a coder's codes, float64 ``[entries]``. Raises CoderFailure.

        All directions are measured when the first are asked for, in tiles: which latents are active is known to the
        device alone, and a run that was killed goes on to the same bits.
        """
        if entry.key not in self._norms:
            device, n = codes.values.device, codes.n_latents
            tiles = [
                guarded(entry, partial(_norms, entry.coder, torch.arange(a, min(a + NORM_ROWS, n), device=device)))
                for a in range(0, n, NORM_ROWS)
            ]
            self._norms[entry.key] = torch.cat([codes.values.new_zeros(0, dtype=torch.float64), *tiles])
        return codes.values.double().abs() * self._norms[entry.key][codes.indices]


def _norms(coder: SparseCoder, latents: Tensor) -> Tensor:
    rows = coder.decoder_rows(latents)
    if rows.ndim != 2 or len(rows) != len(latents):
        raise ValueError(f"decoder_rows of {len(latents)} latents returned an array of shape {list(rows.shape)}")
    norms: Tensor = rows.double().norm(dim=1)
    return norms


def guarded(entry: Entry, call: Callable[[], T]) -> T:
    """The result of a coder's own code; whatever it raises becomes a CoderFailure."""
    try:
        return call()
    except Exception as error:
        raise CoderFailure(named(error), entry.key) from error
