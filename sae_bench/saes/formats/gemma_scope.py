"""Gemma Scope (Lieberum et al. 2024): one ``params.npz`` an SAE, and nothing beside it.

Arrays: ``W_enc [d, n_latents]``, ``W_dec [n_latents, d]``, ``b_enc``, ``b_dec``, ``threshold``; a JumpReLU that does
not subtract ``b_dec``. Site and layer stand only in the path of the release,
``google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71``: residual stream, MLP, attention and transcoders have
files that look alike. Transcoders read the input of the MLP after its norm, but before the norm's gain.
"""

from __future__ import annotations

import dataclasses
import math
import re

from torch import Tensor

from sae_bench.saes.config import take
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

WEIGHTS = "params.npz"
TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
CONTEXT = 1024  # tokens
_RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)(?![\w-])")
# hook points of a site: what is read, and what is written where that is another
_SITES = {
    "res": ("blocks.{}.hook_resid_post", None),
    "mlp": ("blocks.{}.hook_mlp_out", None),
    "att": ("blocks.{}.attn.hook_z", None),
    "transcoders": ("blocks.{}.ln2.hook_normalized", "blocks.{}.hook_mlp_out"),
}


@dataclasses.dataclass(frozen=True)
class _Place:
    """What the words of a path say."""

    site: str | None = None  # "embedding", or one of _SITES
    layer: int | None = None
    model: str | None = None
    l0: float | None = None
    name: str | None = None


def matches(source: Source) -> bool:
    """Whether the folder or file has this layout."""
    if source.main is not None and source.main.suffix == ".npz":
        return source.keys() >= set(TENSORS)
    return source.has(WEIGHTS)


def read(source: Source, told: Told) -> Reading:
    """What is in the folder or file. Raises CoderError."""
    file = source.main.name if source.main else WEIGHTS
    tensors = take(source.tensors(file), TENSORS, source.file(file))
    place = _place(source)
    layer = told.layer if told.layer is not None else place.layer
    hook_in, hook_out = _hooks(place.site, layer)
    transcoder = place.site == "transcoders"
    scale = _embedding_scale(place.site, tensors["b_dec"])
    tensors["W_dec"] = tensors["W_dec"].contiguous()  # numpy may store an array by columns
    tensors["b_dec"] = tensors["b_dec"] / scale if scale != 1 else tensors["b_dec"]
    return Reading(
        weights=Weights(**tensors),
        rule=Nonlinearity("jumprelu", apply_b_dec_to_input=False, input_scale=1 / scale, output_scale=scale),
        files=(file,),
        hook_in=hook_in,
        hook_out=hook_out,
        architecture="jumprelu transcoder" if transcoder else "jumprelu",
        name=place.name,
        model=place.model,
        prepend_bos=True,
        context_size=CONTEXT,
        declared_l0=place.l0,
        assumptions=_assumptions(place, told),
        questions=_questions(place, layer),
    )


def _embedding_scale(site: str | None, b_dec: Tensor) -> float:
    """What W_enc is divided by and W_dec multiplied with, and b_dec is not: hook_embed has this factor in Gemma."""
    return math.sqrt(b_dec.numel()) if site == "embedding" and b_dec.numel() else 1.0


def _place(source: Source) -> _Place:
    path = "/".join(word for word in source.words if word != WEIGHTS)
    release = _RELEASE.search(path)
    layer = re.search(r"(?:^|/)layer_(\d{1,4})(?:/|$)", path)
    l0 = re.search(r"(?:^|/)average_l0_(\d{1,7})(?:/|$)", path)
    site = release[3] if release else None
    if re.search(r"(?:^|/)embedding/width_", path):
        site = "embedding"
    start = re.search(r"(?:^|/)((?:layer_\d+|embedding)/.*)$", path)
    below = start[1] if start else None
    return _Place(
        site=site,
        layer=int(layer[1]) if layer else None,
        model=f"google/gemma-2-{release[1]}{'-it' if release[2] == 'it' else ''}" if release else None,
        l0=float(l0[1]) if l0 else None,
        name=f"{release[0]}/{below}" if release and below else below,
    )


def _hooks(site: str | None, layer: int | None) -> tuple[str | None, str | None]:
    if site == "embedding":
        return "hook_embed", None
    if site is None or layer is None:
        return None, None
    hook_in, hook_out = _SITES[site]
    return hook_in.format(layer), hook_out and hook_out.format(layer)


def _questions(place: _Place, layer: int | None) -> tuple[Question, ...]:
    if place.site == "embedding":
        return ()
    if place.site is None:
        what = (
            "the files of Gemma Scope do not say site or layer, and the path does not hold the names of the release "
            "(google/gemma-scope-2b-pt-res/layer_20/...)"
        )
        return (Question(f"{what}; of a transcoder give --hook-out too", ("hook_in",)),)
    if layer is not None:
        return ()
    what = f"the path says the site ({place.site}), but no layer_N"
    asked = (Question(what, ("layer", "hook_in")),)
    return (*asked, Question(what, ("layer", "hook_out"))) if place.site == "transcoders" else asked


def _assumptions(place: _Place, told: Told) -> tuple[str, ...]:
    said = ["a JumpReLU that does not subtract b_dec: the convention of Gemma Scope, whose files do not say it"]
    said.append(f"trained on sequences of {CONTEXT} tokens that start with BOS, as the registry of SAELens has it")
    if place.site is not None:
        said.append(f"site {place.site}, by the path of the release")
    if place.site == "embedding":
        said.append(
            "trained on embeddings without the factor sqrt(d) that hook_embed has in Gemma, so W_enc is divided by it, "
            "W_dec multiplied with it, and b_dec left as it is: the convention of SAELens"
        )
    if place.site is None and told.hook_out is None:
        said.append("an autoencoder, since no --hook-out was given; the files of a transcoder look the same")
    return tuple(said)
