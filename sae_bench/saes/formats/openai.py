"""OpenAI's sparse_autoencoder on GPT-2 small (Gao et al. 2024): one ``.pt`` file a layer.

``encoder.weight [n_latents, d]``, ``decoder.weight [d, n_latents]``, ``latent_bias``, ``pre_bias`` (subtracted from the
input and added back), ``activation`` ("ReLU" or "TopK") and ``activation_state_dict`` {k, postact_fn}. TopK SAEs, and
only they, read activations whose mean and standard deviation were taken out, which no flag says. The place in the model
is in the path: ``.../resid_post_mlp_v5_32k/autoencoders/8.pt``.
"""

from __future__ import annotations

import re
from typing import Any

from sae_bench.saes import bare
from sae_bench.saes.config import Config, take
from sae_bench.saes.hook_names import OPENAI_LOCATIONS
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

_TENSORS = ["pre_bias", "latent_bias", "encoder.weight", "decoder.weight"]
_STATISTICS = ["stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"]


def matches(source: Source) -> bool:
    """Whether the file has this layout."""
    return bare.keys(source) >= {"pre_bias", "latent_bias"}


def read(source: Source, told: Told) -> Reading:
    """What is in the file. Raises CoderError."""
    found = bare.tensors(source, "an SAE of OpenAI")
    found = {name: tensor for name, tensor in found.items() if not name.startswith("activation.")}
    tensors = take(found, _TENSORS, source.path, optional=_STATISTICS)
    W_enc, W_dec = bare.linear(tensors, "encoder.weight", "decoder.weight", source.path)
    rule, questions = _rule(source, told)
    hook, asked = _hook(source, told)
    assumptions = ["the model is gpt2, as for all SAEs of OpenAI"]
    if rule.normalise == "layer_norm":
        assumptions.append("every token is normalised before the encoder, as for all TopK SAEs of OpenAI")
    return Reading(
        weights=Weights(W_enc=W_enc, W_dec=W_dec, b_enc=tensors["latent_bias"], b_dec=tensors["pre_bias"]),
        rule=rule,
        files=(source.path.name,),
        hook_in=hook,
        name=f"{_location(source) or 'openai'}-{source.name}",
        model="gpt2",
        declared_l0=rule.k,
        assumptions=tuple(assumptions),
        questions=(*questions, *asked),
    )


def _rule(source: Source, told: Told) -> tuple[Nonlinearity, tuple[Question, ...]]:
    content: dict[Any, Any] = source.content()
    config = Config(source.path, content)
    if config.choice("activation", ("ReLU", "TopK")) == "ReLU":
        return Nonlinearity("relu"), ()
    state = config.section("activation_state_dict")
    negative = state.choice("postact_fn", ("ReLU", "Identity")) == "Identity"
    k = state.integer("k") if state.get("k") is not None else told.k
    questions = () if k is not None else (Question(f"{state.where('k')} is missing", ("k", "threshold")),)
    return Nonlinearity("topk", k=k, normalise="layer_norm", keep_negative=negative), questions


def _location(source: Source) -> str | None:
    """The one word for a place in the model that the path has."""
    words = {re.sub(r"_v\d.*", "", word) for word in source.words}
    named = [location for location in OPENAI_LOCATIONS if location in words]
    return named[0] if len(named) == 1 else None


def _hook(source: Source, told: Told) -> tuple[str | None, tuple[Question, ...]]:
    """The place that the path names, at the layer that is the file's name."""
    location, layer = _location(source), told.layer
    if location is None:
        listed = ", ".join(OPENAI_LOCATIONS)
        return None, (Question(f"the path does not name one place in the model ({listed})", ("hook_in",)),)
    if layer is None and re.fullmatch(r"\d{1,4}", source.path.stem):
        layer = int(source.path.stem)
    if layer is None:
        return None, (Question("the name of the file does not say which layer the SAE reads", ("layer", "hook_in")),)
    return f"blocks.{layer}.{OPENAI_LOCATIONS[location]}", ()
