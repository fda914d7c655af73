"""Llama Scope (He et al. 2024): ``hyperparams.json`` and ``checkpoints/final.safetensors``.

Tensors of ``torch.nn.Linear``: ``encoder.weight [n_latents, d]``, ``decoder.weight [d, n_latents]``, and their biases.
Activations are scaled by ``f = sqrt(d) / dataset_average_activation_norm`` before the encoder, with the norm of the
output back behind the decoder. ``jump_relu_threshold`` is in the units of raw activations: the library folds both
factors into the weights, then makes decoder directions unit vectors (with ``sparsity_include_decoder_norm``), then
applies it. So ``f_in x W + b``, times the norm of the decoder direction as stored, must exceed ``f_out`` times the
threshold; without the norms, ``f_in`` times it. Latents are those of scaled activations, as in SAELens.
"""

from __future__ import annotations

import re

import torch

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, take
from sae_bench.saes.formats.lm_saes import hook_point, scale_of
from sae_bench.saes.linear import Activation, Nonlinearity
from sae_bench.saes.reading import Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
VARIANTS = ("llama_scope:topk", "llama_scope:jumprelu")


def matches(source: Source) -> bool:
    """Whether the folder has this layout."""
    return source.has(CONFIG, WEIGHTS)


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    config = source.config(CONFIG)
    d = config.integer("d_model")
    hook_in = hook_point(config, "hook_point_in", told.hook_in)
    hook_out = hook_point(config, "hook_point_out", told.hook_out)
    transcoder = config.get("hook_point_in") != config.get("hook_point_out")
    factor_in, factor_out = _factors(config, d, told)
    by_norm = config.flag("sparsity_include_decoder_norm", True)
    minus_bias = config.flag("apply_decoder_bias_to_pre_encoder", False)
    if minus_bias and factor_in != factor_out:
        raise CoderError(
            f"{config.where('apply_decoder_bias_to_pre_encoder')}: the decoder's bias is in units of the output, which "
            "here are not those of the input"
        )
    activation, threshold = _activation(config, told)
    trained = _trained(source, config, activation)
    weights = _weights(source, config)
    if threshold is not None:
        scaled = torch.tensor(threshold * (factor_out if by_norm else factor_in), dtype=torch.float64)
        weights = Weights(**dict(weights.items()), threshold=scaled)
    return Reading(
        weights=weights,
        rule=Nonlinearity(
            activation,
            k=config.integer("top_k") if activation == "topk" else None,
            apply_b_dec_to_input=minus_bias,
            by_decoder_norm="selection" if by_norm else "no",
            input_scale=factor_in,
            output_scale=1 / factor_out,
        ),
        files=(CONFIG, WEIGHTS),
        hook_in=hook_in,
        hook_out=hook_out if transcoder else None,
        architecture=f"{trained} transcoder" if transcoder else trained,
        inference=activation if activation != trained else "",
        n_latents=config.integer("d_sae"),
        d_in=d,
        d_out=d,
        model=_model(source),
        declared_l0=config.integer("top_k") if activation == "topk" else None,
        assumptions=_assumptions(threshold, trained),
    )


def _factors(config: Config, d: int, told: Told) -> tuple[float, float]:
    """What activations are multiplied with before the encoder, and divided by behind the decoder. Raises CoderError."""
    otherwise = "norms of a token or of a batch are not supported"
    mode = config.choice("norm_activation", ("dataset-wise", "inference"), "dataset-wise", otherwise)
    if told.norm_factor is not None:
        factor = told.norm_factor if told.norm_factor > 0 else 1.0  # what is not positive is refused with the rule
        return factor, factor
    if mode == "inference":
        return 1.0, 1.0
    norms = config.section("dataset_average_activation_norm")
    found = {side: norms.number(side) for side in ("in", "out")}
    wrong = next((side for side, norm in found.items() if not norm > 0), None)
    if wrong is not None:
        raise CoderError(f"{norms.where(wrong)} must be a positive number, but it is {found[wrong]}")
    return scale_of(found["in"], d), scale_of(found["out"], d)


def _activation(config: Config, told: Told) -> tuple[Activation, float | None]:
    """The activation function at inference, and the threshold of a JumpReLU. Raises CoderError."""
    named = config.choice("act_fn", ("jumprelu", "topk", "relu"))
    threshold = config.number("jump_relu_threshold", 0.0)
    if threshold < 0:
        raise CoderError(f"{config.where('jump_relu_threshold')} must not be negative, but it is {threshold}")
    if named == "topk" and threshold > 0:
        if told.format not in VARIANTS:
            raise CoderError(
                f"{config.where('act_fn')} is topk, but there is a jump_relu_threshold too, by which the library "
                f"replaces TopK at inference; say which you mean with --format {' or --format '.join(VARIANTS)}"
            )
        named = told.format.partition(":")[2]
    if named == "jumprelu":
        return "jumprelu", threshold
    return ("topk" if named == "topk" else "relu"), None


def _weights(source: Source, config: Config) -> Weights:
    """The tensors without a threshold. Raises CoderError."""
    if config.flag("use_glu_encoder", False):
        raise CoderError(f"{config.where('use_glu_encoder')}: an encoder with a gated linear unit is not supported")
    has_bias = config.flag("use_decoder_bias", True)
    names = ["encoder.weight", "encoder.bias", "decoder.weight", *(["decoder.bias"] if has_bias else [])]
    found = take(source.tensors(WEIGHTS), names, source.file(WEIGHTS))
    encoder, decoder = found["encoder.weight"], found["decoder.weight"]
    if encoder.ndim != 2 or decoder.ndim != 2:
        raise CoderError(f"{source.file(WEIGHTS)}: encoder.weight and decoder.weight must have two axes each")
    return Weights(
        W_enc=encoder.T,
        W_dec=decoder.T.contiguous(),
        b_dec=found["decoder.bias"] if has_bias else torch.zeros(len(decoder)),
        b_enc=found["encoder.bias"],
    )


def _model(source: Source) -> str | None:
    """Of the release (folders like ``Llama3_1-8B-Base-L3R-8x``)."""
    named = any(re.match(r"Llama3_1-8B-Base-L", word) for word in source.words)
    return "meta-llama/Llama-3.1-8B" if named else None


def _trained(source: Source, config: Config, activation: Activation) -> str:
    """TopK where the files or the name of the release say so: the library makes a JumpReLU of it for inference."""
    return "topk" if config.get("act_fn") == "topk" or (activation == "jumprelu" and _model(source)) else activation


def _assumptions(threshold: float | None, trained: str) -> tuple[str, ...]:
    if threshold is None:
        return ()
    said = ("jump_relu_threshold is in the units of raw activations: the convention of the library",)
    return (*said, "trained as TopK, as all SAEs of the release Llama Scope") if trained == "topk" else said
