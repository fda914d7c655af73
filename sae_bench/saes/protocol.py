"""What sae-bench needs of an SAE: three methods and one record.

Anything with these members can be evaluated: also a transcoder, PCA, or a coder that computes on another machine.
Weights, activation function and thresholds are invisible to tasks on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from sae_bench.errors import CoderError

Needs = Literal["nothing", "scale", "skip"]


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
        tokens = torch.arange(self.n_tokens, device=self.indptr.device)
        return torch.repeat_interleave(tokens, self.counts(), output_size=len(self.indices))

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


class TokenScale(NamedTuple):
    """What the scale of every token's activation ``[tokens, 1]`` is: by it a reconstruction gets its size back.

    ``mean`` and ``std`` (divided by d_in - 1) over the numbers of a token, ``norm`` its Euclidean length. The direction
    of an activation cannot be told from them.
    """

    mean: Tensor
    std: Tensor
    norm: Tensor

    @staticmethod
    def of(x: Tensor) -> TokenScale:
        """The scale of ``x`` ``[tokens, d_in]``, in its dtype, but at least in float32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        std = x.std(1, keepdim=True) if x.shape[1] > 1 else x.new_full((len(x), 1), torch.nan)
        return TokenScale(x.mean(1, keepdim=True), std, x.norm(dim=1, keepdim=True))


@dataclass(frozen=True)
class CoderInfo:
    """What there is to know about a coder before it runs.

    ``hooks_in`` and ``hooks_out`` are hook points in TransformerLens names ("blocks.8.hook_resid_post") or
    ``module.path:in|out``; they are equal for autoencoders. ``decode_needs`` is what decode is given of the activation
    beside the codes: "nothing"; the "scale" of each token (:class:`TokenScale`), to undo a normalisation by token; or
    all of it, for the "skip" connection of a transcoder. ``prefix_widths``: the widths of the nested dictionaries of a
    Matryoshka SAE, ascending, without the whole. ``provenance`` holds files, digests, every assumption and warning.
    Raises CoderError for a skip at the hook point that it reads, and for ``decode_needs_x=True``, which does not say
    what is needed.
    """

    name: str
    n_latents: int
    d_in: int
    d_out: int
    hooks_in: tuple[str, ...]
    hooks_out: tuple[str, ...]
    architecture: str = "unknown"
    decode_needs: Needs = "nothing"
    signed: bool = False
    prefix_widths: tuple[int, ...] = ()
    model: str | None = None
    prepend_bos: bool | None = None
    context_size: int | None = None
    format: str = "object"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    decode_needs_x: InitVar[bool] = False

    def __post_init__(self, decode_needs_x: bool) -> None:
        if decode_needs_x:
            raise CoderError(
                f"{self.name}: decode_needs_x=True does not say what decode needs of the activation: say "
                'decode_needs="scale" (mean, std and norm of each token) or, for a transcoder, decode_needs="skip"'
            )
        if self.decode_needs not in get_args(Needs):
            known = ", ".join(get_args(Needs))
            raise CoderError(f"{self.name}: decode_needs must be one of {known}, but it is {self.decode_needs!r}")
        if self.decode_needs == "skip" and not self.is_transcoder:
            raise CoderError(skips_itself(self.name, self.hooks_in[0], self.hooks_out[0]))

    @property
    def is_transcoder(self) -> bool:
        """Whether the coder reads one hook point and predicts another."""
        return self.hooks_in != self.hooks_out


def skips_itself(name: str, hook_in: str, hook_out: str) -> str:
    """Why a coder is refused whose skip connection hands the activation over that it should reconstruct."""
    place = f"{hook_in}, which it reads" if hook_in == hook_out else f"{hook_out}, which is the same as {hook_in}"
    return (
        f"{name} has a skip connection to {place}: that could hand over the activation without any latent; a skip "
        "belongs to a transcoder, whose hook_out (--hook-out) is another place"
    )


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

    def decode(self, codes: Codes, x: Any = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``; ``x`` is what ``info.decode_needs`` says, and None by default."""
        ...

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]`` of the latents in ``latents`` (int64)."""
        ...
