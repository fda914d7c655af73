"""What sae-bench needs of an SAE: three methods and one record.

Anything with these members can be evaluated: also a transcoder, PCA, or a coder that computes on another machine.
Weights, activation function and thresholds are invisible to tasks on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Codes(NamedTuple):
    """Latent activations of some tokens, in compressed sparse rows.

    ``indptr`` int64 ``[tokens + 1]``; ``indices`` int64 ``[nonzeros]``, the latent of every entry; ``values``
    ``[nonzeros]``, never 0, negative only if the coder is ``signed``. Token ``i`` owns the entries
    ``indptr[i]:indptr[i + 1]``.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor
    n_latents: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens (rows)."""
        return len(self.indptr) - 1

    def counts(self) -> Tensor:
        """Number of active latents of every token, int64 ``[tokens]``."""
        return self.indptr.diff()

    def token_of_entry(self) -> Tensor:
        """The token of every entry, int64 ``[nonzeros]``."""
        return torch.repeat_interleave(torch.arange(self.n_tokens, device=self.indptr.device), self.counts())

    def select(self, tokens: Tensor) -> Codes:
        """The rows where ``tokens`` (bool ``[tokens]``) is true, in order."""
        kept = tokens[self.token_of_entry()]
        counts = self.counts()[tokens]
        return Codes(indptr_of(counts), self.indices[kept], self.values[kept], self.n_latents)

    def only(self, entries: Tensor) -> Codes:
        """A part of the same tokens' codes: the entries (bool ``[nonzeros]``) that are true, in order."""
        counts = self.counts().new_zeros(self.n_tokens).index_add_(0, self.token_of_entry(), entries.long())
        return Codes(indptr_of(counts), self.indices[entries], self.values[entries], self.n_latents)

    def dense(self) -> Tensor:
        """``[tokens, n_latents]``. For tests and small coders: this is the array that sae-bench never makes."""
        out = self.values.new_zeros(self.n_tokens, self.n_latents)
        return out.index_put_((self.token_of_entry(), self.indices), self.values, accumulate=True)


def indptr_of(counts: Tensor) -> Tensor:
    """Row pointers ``[tokens + 1]`` from the number of entries of every row."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def codes_from_dense(latents: Tensor) -> Codes:
    """The non-zero entries of ``[tokens, n_latents]``."""
    rows, columns = latents.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(latents))
    return Codes(indptr_of(counts), columns, latents[rows, columns], latents.shape[1])


@dataclass(frozen=True)
class CoderInfo:
    """What there is to know about a coder before it runs.

    ``hooks_in`` and ``hooks_out`` are hook points in TransformerLens names ("blocks.8.hook_resid_post") or
    ``module.path:in|out``; they are equal for autoencoders. ``decode_needs_x``: the reconstruction of a token needs its
    activation (per-token normalisation, skip connection). ``prefix_widths``: the widths of the nested dictionaries of a
    Matryoshka SAE, ascending, without the whole. ``provenance`` holds files, digests, every assumption and warning.
    """

    name: str
    n_latents: int
    d_in: int
    d_out: int
    hooks_in: tuple[str, ...]
    hooks_out: tuple[str, ...]
    architecture: str = "unknown"
    decode_needs_x: bool = False
    signed: bool = False
    prefix_widths: tuple[int, ...] = ()
    model: str | None = None
    prepend_bos: bool | None = None
    context_size: int | None = None
    format: str = "object"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_transcoder(self) -> bool:
        """Whether the coder reads one hook point and predicts another."""
        return self.hooks_in != self.hooks_out


@runtime_checkable
class HasPreActivations(Protocol):
    """A coder that also offers its dense pre-activations, which some tasks read as a declared variant."""

    def pre_activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Pre-activations of the latents ``start:stop`` ``[tokens, stop - start]``."""
        ...


@runtime_checkable
class SparseCoder(Protocol):
    """Contract, held by :func:`sae_bench.saes.conformance.check`.

    Rows are independent (``encode(x)[i] == encode(x[i:i + 1])``); ``decode`` is affine in the codes; ``decoder_rows``
    agrees with ``decode``; no gradient, no global random state; raw units of the model in and out.
    """

    @property
    def info(self) -> CoderInfo:
        """What the coder is."""
        ...

    def encode(self, x: Tensor) -> Codes:
        """Latent activations of ``x`` ``[tokens, d_in]``."""
        ...

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``. ``x`` is needed only where ``info.decode_needs_x``."""
        ...

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]`` of the latents in ``latents`` (int64)."""
        ...
