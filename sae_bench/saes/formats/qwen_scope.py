"""Qwen Scope: ``layerN.sae.pt`` with ``W_enc [n_latents, d]``, ``W_dec [d, n_latents]``, ``b_enc``, ``b_dec``.

The matrices are transposed against SAELens' of the same names. TopK, without subtracting ``b_dec``; k is only in the
name of the repository (``SAE-Res-Qwen3-1.7B-Base-W32K-L0_50``). Files with these four tensors of any origin end here,
and are refused where they cannot be Qwen's.
"""

from __future__ import annotations

import re

from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes import bare
from sae_bench.saes.config import take
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

_REPOSITORY = re.compile(r"SAE-Res-(.+)-W\d+K-L0_\d+")
_SETTLE = (
    "if it is ReLU and subtracts b_dec, --format connor_rob reads it; otherwise write it in sae-bench's own layout, "
    "which says all of this (see docs/saes.md)"
)


def matches(source: Source) -> bool:
    """Whether the file has the four tensors of this layout (and of others, which are refused when read)."""
    return bare.keys(source) == bare.MATRICES


def read(source: Source, told: Told) -> Reading:
    """What is in the file. Raises CoderError."""
    tensors = take(bare.tensors(source, "an SAE of Qwen Scope"), sorted(bare.MATRICES), source.path)
    _check_orientation(source, tensors, told)
    W_enc, W_dec = bare.linear(tensors, "W_enc", "W_dec", source.path)
    layer = re.match(r"layer_?(\d{1,4})(?!\d)", source.path.name)
    hook, assumptions, questions = bare.residual_stream(int(layer[1]) if layer else None, told, "Qwen Scope")
    k, model = _promised(source)
    if k is None and told.k is None:
        questions += (
            Question("only the name of Qwen's repository (...-L0_50) says how many latents are kept", ("k",)),
        )
    if model is not None:
        assumptions += (f"the model is {model}, after the name of the repository",)
    return Reading(
        weights=Weights(W_enc=W_enc, W_dec=W_dec, b_enc=tensors["b_enc"], b_dec=tensors["b_dec"]),
        rule=Nonlinearity("topk", k=k, apply_b_dec_to_input=False),
        files=(source.path.name,),
        hook_in=hook,
        model=model,
        declared_l0=k if told.k is None else told.k,
        assumptions=(*assumptions, "b_dec is not subtracted from the input, as in all SAEs of Qwen Scope"),
        questions=questions,
    )


def _promised(source: Source) -> tuple[int | None, str | None]:
    """How many latents are kept, and the model, in the name of the repository or a folder."""
    for word in reversed(source.words):
        if found := re.search(r"(?:^|[-_])L0[-_](\d{1,6})(?!\d)", word):
            named = _REPOSITORY.fullmatch(word)
            return int(found[1]), f"Qwen/{named[1]}" if named else None
    return None, None


def _check_orientation(source: Source, tensors: dict[str, Tensor], told: Told) -> None:
    """Refuse what is not, or cannot be seen to be, [n_latents, d_in]. Raises CoderError."""
    shape = tuple(tensors["W_enc"].shape)
    n_latents, d_in = tensors["b_enc"].numel(), tensors["b_dec"].numel()
    if shape == (d_in, n_latents) != (n_latents, d_in):
        raise CoderError(
            f"{source.path}: W_enc {list(shape)} is [d_in, n_latents], so the file is not of Qwen Scope, and without a "
            f"configuration nothing says whether b_dec is subtracted or which latents are kept; {_SETTLE}"
        )
    if n_latents == d_in and told.format is None:
        raise CoderError(
            f"{source.path}: W_enc {list(shape)} is square, so nothing shows which axis holds the latents; if the "
            f"file is of Qwen Scope, give --format qwen_scope; {_SETTLE}"
        )
