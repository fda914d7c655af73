"""The contract of :class:`~sae_bench.saes.protocol.SparseCoder` as a test that anybody can run on a coder."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.decoding import decode, remembers, shown
from sae_bench.saes.protocol import Codes, SparseCoder

NOT_AFFINE = "decode is not affine in the codes"
_TOKENS_ALONE = 8
_LATENTS = 16


@torch.enable_grad()
def check(coder: SparseCoder, x: Tensor, *, rtol: float = 1e-4) -> list[str]:
    """What ``coder`` breaks of the contract on activations ``x`` ``[tokens, d_in]``; empty when it conforms.

    Give at least three typical tokens. ``rtol`` is relative to the largest entry of what is compared. Raises CoderError
    for what is no coder yet, such as a module with dense ``encode`` and ``decode``.
    """
    if not isinstance(coder, SparseCoder):
        raise CoderError(
            f"{type(coder).__name__} is no SparseCoder: check what sae_bench.saes.wrap.as_coder(..., hook=..., "
            f"d_in={x.shape[-1]}) makes of a module with dense encode and decode"
        )
    problems: list[str] = []
    state = torch.get_rng_state()
    codes = coder.encode(x)
    if not torch.equal(state, torch.get_rng_state()):
        problems.append("encode uses the global random state")
    problems += _check_codes(codes, coder, len(x))
    if problems:
        return problems
    if codes.values.requires_grad:
        problems.append("encode returns values that carry a gradient")
        codes = codes._replace(values=codes.values.detach())
    for i in range(min(len(x), _TOKENS_ALONE)):
        alone = coder.encode(x[i : i + 1])
        among = codes.select(torch.arange(len(x), device=codes.indptr.device) == i)
        if not _close(alone.dense(), among.dense(), rtol):
            problems.append(
                f"encode of token {i} alone differs from encode of it among others: rows are not independent"
            )
            break
    state = torch.get_rng_state()
    out = coder.decode(codes, shown(coder.info, x))
    if not torch.equal(state, torch.get_rng_state()):
        problems.append("decode uses the global random state")
    if not isinstance(out, Tensor) or out.shape != (len(x), coder.info.d_out):
        what = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        return [*problems, f"decode returns {what}, not {[len(x), coder.info.d_out]}"]
    if out.requires_grad:
        problems.append("decode returns a tensor that carries a gradient")
    if not bool(out.isfinite().all()):
        return [*problems, "decode returns numbers that are not finite"]
    if (remembered := remembers(coder, x)) is not None:
        return [*problems, remembered]
    return problems + check_affine(coder, codes, x, rtol) + _check_rows(coder, codes, rtol)


def _check_codes(codes: Codes, coder: SparseCoder, n_tokens: int) -> list[str]:
    info = coder.info
    if type(codes) is not Codes:
        return [f"encode returns a {type(codes).__name__}, not Codes"]
    if codes.n_latents != info.n_latents or len(codes.indptr) != n_tokens + 1:
        return [f"encode returns {len(codes.indptr) - 1} rows of {codes.n_latents} latents"]
    if codes.indptr.dtype != torch.int64 or codes.indices.dtype != torch.int64:
        return ["indptr and indices are not int64"]
    if (
        int(codes.indptr[0]) != 0
        or int(codes.indptr[-1]) != len(codes.indices)
        or bool((codes.indptr.diff() < 0).any())
    ):
        return ["indptr does not run from 0 to the number of entries"]
    if len(codes.indices) != len(codes.values):
        return ["indices and values differ in length"]
    if len(codes.indices) and not 0 <= int(codes.indices.min()) <= int(codes.indices.max()) < info.n_latents:
        return ["indices lie outside the dictionary"]
    problems = []
    entries = codes.token_of_entry() * info.n_latents + codes.indices
    if len(torch.unique(entries)) != len(entries):
        problems.append("a latent appears twice in a token")
    if bool((codes.values == 0).any()) or not bool(codes.values.isfinite().all()):
        problems.append("values are zero or not finite")
    if not info.signed and bool((codes.values < 0).any()):
        problems.append("values are negative, but info.signed is false")
    return problems


def check_affine(coder: SparseCoder, codes: Codes, x: Tensor, rtol: float) -> list[str]:
    """Parts that add up to the codes, one of them doubled: a relu after the decoder passes either test alone."""
    half = torch.arange(len(codes.values), device=codes.values.device) % 2
    nothing = decode(coder, codes._replace(values=codes.values * 0), x)
    parts = [decode(coder, codes._replace(values=codes.values * share), x) - nothing for share in (half, 1 - half)]
    both = decode(coder, codes._replace(values=codes.values * (2 - half)), x) - nothing
    rounding = 32 * torch.finfo(both.dtype).eps * float(nothing.detach().abs().max()) if nothing.numel() else 0.0
    adds_up = _close(parts[0] + parts[1], decode(coder, codes, x) - nothing, rtol, rounding)
    doubles = _close(parts[0] + 2 * parts[1], both, rtol, rounding)
    return [] if adds_up and doubles else [NOT_AFFINE]


def _check_rows(coder: SparseCoder, codes: Codes, rtol: float) -> list[str]:
    """Directions of latents that fired and of others, both spread over the dictionary."""
    if coder.info.decode_needs != "nothing" or codes.n_latents == 0:
        return []
    fired = torch.unique(codes.indices)
    everywhere = torch.arange(0, codes.n_latents, -(-codes.n_latents // _LATENTS), device=fired.device)
    latents = torch.unique(torch.cat([fired[:: max(1, len(fired) // _LATENTS)], everywhere]))
    unit = Codes(
        torch.arange(len(latents) + 1, device=latents.device),
        latents,
        codes.values.new_ones(len(latents)),
        codes.n_latents,
    )
    nothing = coder.decode(unit._replace(values=unit.values * 0))
    rows = coder.decoder_rows(latents)
    rounding = 32 * torch.finfo(nothing.dtype).eps * float(nothing.detach().abs().max())
    problems = ["decoder_rows returns a tensor that carries a gradient"] if rows.requires_grad else []
    if not _close(coder.decode(unit) - nothing, rows, rtol, rounding):
        problems.append("decoder_rows disagrees with decode")
    return problems


def _close(a: Tensor, b: Tensor, rtol: float, rounding: float = 0.0) -> bool:
    if a.shape != b.shape or not bool(a.isfinite().all() and b.isfinite().all()):
        return False
    a, b = a.detach().double(), b.detach().double()
    scale = float(max(a.abs().max(), b.abs().max())) if a.numel() else 0.0
    return bool(((a - b).abs() <= rtol * scale + rounding + 1e-12).all())
