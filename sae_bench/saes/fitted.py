"""Controls whose decoder is fitted to calibration text by least squares: no straw men.

``random_fit`` is the control ``random`` with such a decoder: what a dictionary that nobody trained explains once its
directions are written as well as they can be. ``permuted_fit`` has the codes of ``permuted``, which are those of the
SAE itself: the order of latents changes nothing for a decoder that is fitted. It says what the SAE's encoder allows,
as far as so much text can tell, and is no control that an SAE has to beat. With few tokens a latent it explains less
than the decoder that was trained.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sae_bench.kernels.ridge import Ridge
from sae_bench.saes.calibration import Calibration, NoControl, shared_by
from sae_bench.saes.control_coders import FittedDecoder, written
from sae_bench.saes.controls import dtype_of, info_of, untrained
from sae_bench.saes.decoding import shown
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import CoderInfo, SparseCoder
from sae_bench.saes.weights import Weights

MAX_FITTED_LATENTS = 16_384
TOKENS_A_LATENT = 4  # calibration tokens, of fewer a decoder would be fitted to their noise
FITTED_ON = "calibration_tokens"  # in the provenance of a control whose decoder was fitted
MOST_ENTRIES = 1 << 24  # of the codes that are kept for a fit: 270 MB


def too_few(n_latents: int, l0: float, n_tokens: int) -> str | None:
    """Why no decoder of so many latents is fitted on so many calibration tokens, None where one is."""
    if n_latents > MAX_FITTED_LATENTS:
        return f"a decoder of at most {MAX_FITTED_LATENTS} latents is fitted, and the SAE has {n_latents}"
    least, kept = TOKENS_A_LATENT * n_latents, tokens_of(l0, n_tokens)
    if kept < least:
        held = f", of which {kept} are held at an L0 of {l0:.4g}" if kept < n_tokens else ""
        return (
            f"fitting a decoder of {n_latents} latents takes {least} calibration tokens ({TOKENS_A_LATENT} a latent), "
            f"and there are {n_tokens}{held}"
        )
    return None


def tokens_of(l0: float, n_tokens: int) -> int:
    """On how many of the calibration tokens a decoder is fitted."""
    return min(n_tokens, int(MOST_ENTRIES // max(l0, 1.0)))


@shared_by("l0", "width")
def random_fit(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """The codes of ``random``, of a dictionary of at most 16,384 latents, with a decoder by ridge."""
    n = max(1, min(sae.info.n_latents, MAX_FITTED_LATENTS))
    _check(n, calibration.l0, calibration)
    tied = untrained(sae, calibration, seed, n, "random_fit")
    decoder, bias, tokens = _fitted(tied, calibration, n)
    old, dtype = tied.base.weights, dtype_of(calibration)
    weights = Weights(W_enc=old.W_enc, W_dec=decoder.to(dtype), b_dec=bias.to(dtype), b_enc=old.b_enc)
    return tied.over(LinearCoder(_on(tied.info, tokens), weights, tied.base.rule, dtype=dtype))


def permuted_fit(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """The SAE's own codes with a decoder by ridge: the best that is linear in them, on calibration text."""
    n, dtype = sae.info.n_latents, dtype_of(calibration)
    _check(n, calibration.l0, calibration)
    decoder, bias, tokens = _fitted(sae, calibration, n)
    info = _on(info_of(sae, "permuted_fit", n, sae.info.signed, sae.info.decode_needs), tokens)
    return FittedDecoder(info, sae, decoder.to(dtype), bias.to(dtype))


def _on(info: CoderInfo, tokens: int) -> CoderInfo:
    return replace(info, provenance={**info.provenance, FITTED_ON: tokens})


def _check(n: int, l0: float, calibration: Calibration) -> None:
    if (why := too_few(n, l0, calibration.n_tokens)) is not None:
        raise NoControl(why)


def _fitted(coder: SparseCoder, calibration: Calibration, n: int) -> tuple[Tensor, Tensor, int]:
    """Decoder and bias, float64, and on how many tokens; beside what the coder adds for the activation (a skip)."""
    ridge = Ridge(n, calibration.targets.mean)
    for x, y in calibration.pairs(coder.info, tokens_of(calibration.l0, calibration.n_tokens)):
        codes = coder.encode(x)
        beside = written(coder, codes, shown(coder.info, x))
        if beside is None:
            ridge.add(codes.indptr, codes.indices, codes.values, y)
        else:
            base, scale = beside
            values = codes.values * scale[codes.token_of_entry()].to(codes.values)
            ridge.add(codes.indptr, codes.indices, values, y.double() - base)
    decoder, bias = ridge.solve()
    if not bool(torch.isfinite(decoder).all()) or not math.isfinite(float(bias.sum())):
        raise NoControl("the fit of its decoder has no finite solution")
    return decoder, bias, ridge.n_tokens
