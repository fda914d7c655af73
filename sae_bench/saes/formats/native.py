"""The layout of sae-bench itself: ``sae_bench.json`` and ``weights.safetensors``.

``sae_bench.json``::

    {"format": "sae-bench", "format_version": 1, "name": "my-sae",
     "activation": "relu" | "topk" | "abstopk" | "jumprelu" | "gated",
     "k": 32,                                  # topk and abstopk only
     "apply_b_dec_to_input": true,             # default true: the encoder sees x - b_dec
     "normalize_activations": "none",          # or "layer_norm", "constant_norm_rescale"
     "rescale_acts_by_decoder_norm": false,
     "d_in": 768, "d_out": 768, "n_latents": 24576,
     "hook_in": "blocks.8.hook_resid_post", "hook_out": "blocks.8.hook_resid_post",
     "model": "gpt2", "prepend_bos": true, "context_size": 128, "notes": "free text",
     "prefix_widths": [1024, 4096],            # Matryoshka: nested dictionaries that can stand alone
     "training_architecture": "batchtopk"}     # how it was trained, where that is not its activation

Tensors: ``W_enc [d_in, n_latents]``, ``W_dec [n_latents, d_out]``, ``b_dec [d_out]``; ``b_enc [n_latents]`` except for
gated; ``threshold`` (jumprelu; BatchTopK is a jumprelu with one threshold); ``b_gate, b_mag, r_mag`` (gated);
``W_skip [d_out, d_in]`` for a transcoder with a skip connection.
"""

from __future__ import annotations

from typing import get_args

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, listed, shown, take
from sae_bench.saes.linear import SELECTS_K, Activation, Nonlinearity, Normalisation
from sae_bench.saes.reading import Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG, WEIGHTS = "sae_bench.json", "weights.safetensors"

TENSORS: dict[Activation, list[str]] = {
    "relu": ["W_enc", "W_dec", "b_dec", "b_enc"],
    "topk": ["W_enc", "W_dec", "b_dec", "b_enc"],
    "abstopk": ["W_enc", "W_dec", "b_dec", "b_enc"],
    "jumprelu": ["W_enc", "W_dec", "b_dec", "b_enc", "threshold"],
    "gated": ["W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"],
}
_KEYS = {
    *("format", "format_version", "name", "activation", "k", "apply_b_dec_to_input", "normalize_activations"),
    *("rescale_acts_by_decoder_norm", "d_in", "d_out", "n_latents", "hook_in", "hook_out", "model", "prepend_bos"),
    *("context_size", "prefix_widths", "notes", "training_architecture"),
}


def matches(source: Source) -> bool:
    """Whether the folder has this layout."""
    return source.has(CONFIG)


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    config = source.config(CONFIG)
    rule = _rule(config)
    hook_in = config.get("hook_in")
    if not isinstance(hook_in, str):
        raise CoderError(
            f"{config.where('hook_in')} must name a hook point such as blocks.8.hook_resid_post, but it is "
            f"{shown(hook_in)}"
        )
    d_in, trained = config.integer("d_in"), config.optional("training_architecture", str) or ""
    tensors = take(source.tensors(WEIGHTS), TENSORS[rule.activation], source.file(WEIGHTS), optional=["W_skip"])
    return Reading(
        weights=Weights(**tensors),
        rule=rule,
        files=(CONFIG, WEIGHTS),
        hook_in=hook_in,
        hook_out=config.optional("hook_out", str),
        architecture=trained,
        inference=rule.activation if trained else "",
        name=config.optional("name", str),
        n_latents=config.integer("n_latents"),
        d_in=d_in,
        d_out=config.integer("d_out") if "d_out" in config.values else d_in,
        model=config.optional("model", str),
        prepend_bos=config.optional("prepend_bos", bool),
        context_size=config.optional("context_size", int),
        prefix_widths=config.integers("prefix_widths"),
        declared_l0=rule.k,
        extra={"notes": config.optional("notes", str) or ""},
    )


def _rule(config: Config) -> Nonlinearity:
    unknown = set(config.values) - _KEYS
    if unknown:
        raise CoderError(
            f"{config.file} has unknown fields: {listed(unknown)}; docs/saes.md lists the fields of this layout"
        )
    if (version := config.get("format_version")) != 1:
        raise CoderError(
            f"{config.file}: format_version must be 1, but it is {shown(version)}; is this file from a newer sae-bench?"
        )
    named = config.choice("activation", tuple(TENSORS))
    activation = next(name for name in TENSORS if name == named)
    return Nonlinearity(
        activation=activation,
        k=config.integer("k") if activation in SELECTS_K else None,
        apply_b_dec_to_input=config.flag("apply_b_dec_to_input", True),
        by_decoder_norm="latents" if config.flag("rescale_acts_by_decoder_norm", False) else "no",
        normalise=normalisation(config),
    )


def normalisation(config: Config) -> Normalisation:
    """``normalize_activations`` of the configuration. Raises CoderError."""
    named = config.choice("normalize_activations", get_args(Normalisation), "none")
    chosen: Normalisation = next(name for name in get_args(Normalisation) if name == named)
    return chosen
