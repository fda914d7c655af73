"""The contract of :class:`~sae_bench.saes.protocol.SparseCoder` as a test that anybody can run on a coder."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench.saes.protocol import Codes, SparseCoder


def check(coder: SparseCoder, x: Tensor, *, rtol: float = 1e-4) -> list[str]:
    """What ``coder`` breaks of the contract on activations ``x`` ``[tokens, d_in]``; empty when it conforms.

    Give at least three typical tokens. ``rtol`` is relative to the largest entry of what is compared.
    """
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
    for i in range(min(len(x), 3)):
        alone = coder.encode(x[i : i + 1])
        if not _close(alone.dense()[0], codes.dense()[i], rtol):
            problems.append(f"encode of token {i} alone differs from encode of it among others: rows are not independent")
            break
    out = coder.decode(codes, x)
    if out.shape != (len(x), coder.info.d_out):
        return [*problems, f"decode returns {list(out.shape)}, not {[len(x), coder.info.d_out]}"]
    if not bool(out.isfinite().all()):
        problems.append("decode returns numbers that are not finite")
    return problems + _check_decoder(coder, codes, x, out, rtol)


def _check_codes(codes: Codes, coder: SparseCoder, n_tokens: int) -> list[str]:
    info = coder.info
    if codes.n_latents != info.n_latents or len(codes.indptr) != n_tokens + 1:
        return [f"encode returns {len(codes.indptr) - 1} rows of {codes.n_latents} latents"]
    if int(codes.indptr[0]) != 0 or int(codes.indptr[-1]) != len(codes.indices) or bool((codes.indptr.diff() < 0).any()):
        return ["indptr does not run from 0 to the number of entries"]
    if len(codes.indices) != len(codes.values):
        return ["indices and values differ in length"]
    problems = []
    if len(codes.indices) and not 0 <= int(codes.indices.min()) <= int(codes.indices.max()) < info.n_latents:
        problems.append("indices lie outside the dictionary")
    if bool((codes.values == 0).any()) or not bool(codes.values.isfinite().all()):
        problems.append("values are zero or not finite")
    if not info.signed and bool((codes.values < 0).any()):
        problems.append("values are negative, but info.signed is false")
    return problems


def _check_decoder(coder: SparseCoder, codes: Codes, x: Tensor, out: Tensor, rtol: float) -> list[str]:
    problems = []
    doubled = coder.decode(codes._replace(values=2 * codes.values), x)
    nothing = coder.decode(codes._replace(values=codes.values * 0), x)
    if not _close(doubled - nothing, 2 * (out - nothing), rtol):
        problems.append("decode is not affine in the codes")
    used = codes.indices.unique()[:8]
    if len(used) and not coder.info.decode_needs_x:
        unit = Codes(
            torch.arange(len(used) + 1, device=used.device), used, codes.values.new_ones(len(used)), codes.n_latents
        )
        zero = unit._replace(values=unit.values * 0)
        if not _close(coder.decode(unit) - coder.decode(zero), coder.decoder_rows(used), rtol):
            problems.append("decoder_rows disagrees with decode")
    if out.requires_grad:
        problems.append("decode returns a tensor that carries a gradient")
    return problems


def _close(a: Tensor, b: Tensor, rtol: float) -> bool:
    scale = float(max(a.abs().max(), b.abs().max())) if a.numel() else 0.0
    return bool(((a.double() - b.double()).abs() <= rtol * scale + 1e-12).all())
