"""Calling decode: it gets the codes, and of the activation what the coder declares and no more.

Whatever of the activation reached decode beside the codes would be reconstruction without a feature. So nobody else
hands activations over, and what a coder remembers of those it has encoded is looked for (:func:`remembers`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.modules import evaluating
from sae_bench.saes.protocol import CoderInfo, Codes, SparseCoder, TokenScale, indptr_of

MEMORY = "decode does not follow from its codes"
OFF = 0.02  # share of a token's length: bfloat16 sums of another order differ by less, another activation by more


def shown(info: CoderInfo, x: Tensor) -> Tensor | TokenScale | None:
    """What a coder with this record is given of the activations ``x`` ``[tokens, d_in]`` when it decodes."""
    if info.decode_needs == "skip":
        return x
    return TokenScale.of(x) if info.decode_needs == "scale" else None


def decode(coder: SparseCoder, codes: Codes, x: Tensor) -> Tensor:
    """What ``coder`` makes of the codes of ``x`` ``[tokens, d_in]``: ``[tokens, d_out]``. Raises CoderError."""
    with evaluating(coder):
        out = coder.decode(codes, shown(coder.info, x))
    wanted = [codes.n_tokens, coder.info.d_out]
    if not isinstance(out, Tensor) or list(out.shape) != wanted:
        what = str(list(out.shape)) if isinstance(out, Tensor) else type(out).__name__
        raise CoderError(
            f"{coder.info.name}: decode returns {what}, not {wanted}; beside the codes it is given of the activation "
            f"what decode_needs={coder.info.decode_needs!r} says"
        )
    return out


def remembers(coder: SparseCoder, x: Tensor, share: float = OFF) -> str | None:
    """Why decode gives something else than its codes stand for; None where it does not.

    The codes of ``x`` ``[tokens, d_in]`` are decoded at once, and again in reverse, tokens and entries, after other
    tokens were encoded: a coder that hands over what it has read gives other numbers then. ``share`` is by how much of
    its length, or of that of a usual one, a token may differ.
    """
    if len(x) < 2:
        return None
    codes = coder.encode(x)
    at_once = decode(coder, codes, x)
    coder.encode(x.roll(1, 0) / 2)
    again = decode(coder, _reversed(codes), x.flip(0)).flip(0)
    a, b = at_once.detach().double(), again.detach().double()
    length = torch.maximum(a.norm(dim=1), b.norm(dim=1))
    length = length.clamp(min=float(length.median()))
    if not bool(length.isfinite().all()) or bool(((a - b).norm(dim=1) <= share * length + 1e-12).all()):
        return None  # what is not finite is told elsewhere
    return f"{MEMORY}: the same codes in another order, after other tokens were encoded, give another reconstruction"


def skip_share(coder: SparseCoder, x: Tensor) -> float | None:
    """Share of the variance of the reconstruction of ``x`` ``[tokens, d_in]`` that a skip connection carries.

    With y the reconstruction and s what decode makes of the tokens with no latent active, both centred over the tokens:
    sum(s . y) / sum(|y|^2). The latents carry the rest, so that it is no share between 0 and 1 where both work against
    each other. None without a skip, or where the reconstruction does not vary.
    """
    if coder.info.decode_needs != "skip" or len(x) < 2:
        return None
    codes = coder.encode(x)
    nothing = codes._replace(indptr=codes.indptr * 0, indices=codes.indices[:0], values=codes.values[:0])
    whole, skipped = (decode(coder, part, x).double() for part in (codes, nothing))
    y = whole - whole.mean(0)
    variance = float(y.square().sum())
    return float(((skipped - skipped.mean(0)) * y).sum()) / variance if 0 < variance < float("inf") else None


def _reversed(codes: Codes) -> Codes:
    """The same tokens and entries in the opposite order."""
    counts = codes.counts().flip(0)
    return Codes(indptr_of(counts), codes.indices.flip(0), codes.values.flip(0), codes.n_latents)
