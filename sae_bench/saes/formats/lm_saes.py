"""Language-Model-SAEs of OpenMOSS since 2025: ``config.json`` with ``sae_type``, and ``sae_weights.safetensors``.

Tensors: ``W_E [d, n_latents]``, ``W_D [n_latents, d]``, ``b_E``, ``b_D``; in early files those of ``torch.nn.Linear``
(``encoder.weight [n_latents, d]``, ``decoder.weight [d, n_latents]`` and their biases). ``log_jumprelu_threshold`` of a
JumpReLU, and ``dataset_average_activation_norm.HOOK``. With ``norm_activation: dataset-wise`` activations are scaled to
the norm sqrt(d) before the encoder, and back by the norm of the other hook point behind the decoder; the threshold is
in the scaled units. With ``sparsity_include_decoder_norm`` latents are selected by their size times the decoder's norm.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, shown, take
from sae_bench.saes.hook_names import from_module, is_lens_name
from sae_bench.saes.linear import Activation, Nonlinearity
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG = "config.json"
WEIGHTS = ("sae_weights.safetensors", "sae_weights.pt")
_SHARDED = "sae_weights.dcp"
_NORM = "dataset_average_activation_norm."
_OTHER_KINDS = {
    "crosscoder": "it reads several hook points at once, and sae-bench measures one",
    "clt": "its latents write to several layers, so there is no hook point at which a reconstruction could be measured",
    "lorsa": "it replaces an attention layer and needs whole sequences, and sae-bench encodes tokens one by one",
    "molt": "its latents are matrices, not directions",
}


def matches(source: Source) -> bool:
    """Whether the folder has this layout."""
    weights = any(source.has(name) for name in WEIGHTS) or (source.path / _SHARDED).exists()
    return source.has(CONFIG) and weights and "sae_type" in source.config(CONFIG).values


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    config = source.config(CONFIG)
    _check_kind(source, config)
    d = config.integer("d_model")
    hook_in = hook_point(config, "hook_point_in", told.hook_in)
    hook_out = hook_point(config, "hook_point_out", told.hook_out)
    transcoder = config.get("hook_point_in") != config.get("hook_point_out")
    name, tensors = _tensors(source)
    norms = {key.removeprefix(_NORM): tensors.pop(key) for key in list(tensors) if key.startswith(_NORM)}
    scale_in, scale_out, questions = _scales(config, norms, d, told)
    act_fn = config.choice("act_fn", ("relu", "topk", "jumprelu", "batchtopk"), "relu").lower()
    activation: Activation = "relu" if act_fn == "relu" else "jumprelu" if act_fn == "jumprelu" else "topk"
    if act_fn == "batchtopk":
        what = "BatchTopK keeps latents by the batch, so an SAE of it needs one threshold instead, which no file has"
        questions = (*questions, Question(what, ("threshold",)))
    weights = _weights(config, tensors, source, activation)
    return Reading(
        weights=weights,
        rule=Nonlinearity(
            activation,
            k=config.integer("top_k") if activation == "topk" else None,
            apply_b_dec_to_input=config.flag("apply_decoder_bias_to_pre_encoder", False),
            by_decoder_norm="selection" if config.flag("sparsity_include_decoder_norm", True) else "no",
            input_scale=scale_in,
            output_scale=scale_out,
        ),
        files=(CONFIG, name),
        hook_in=hook_in,
        hook_out=hook_out if transcoder else None,
        architecture=f"{act_fn} transcoder" if transcoder else act_fn,
        n_latents=_n_latents(config, d),
        d_in=d,
        d_out=d,
        declared_l0=config.integer("top_k") if act_fn == "topk" else None,
        questions=questions,
    )


def hook_point(config: Config, key: str, told: str | None) -> str | None:
    """The hook point under ``key``; None if it is no name of one, and the user told another. Raises CoderError."""
    if told is not None and not isinstance(config.get(key), str):
        return None
    written = config.text(key)
    name = written if is_lens_name(written) else from_module(written)
    if name is None and told is None:
        flag = "--hook-in" if key.endswith("_in") else "--hook-out"
        raise CoderError(f"{config.where(key)} must be a TransformerLens name, but it is {shown(written)}; give {flag}")
    return name


def scale_of(norm: float, d: int) -> float:
    """What brings activations of an average norm to sqrt(d)."""
    return math.sqrt(d) / norm


def _n_latents(config: Config, d: int) -> int:
    width = d * config.number("expansion_factor")
    if not 1 <= width < 2**40:
        raise CoderError(f"{config.where('expansion_factor')} times d_model is {width}, which is no number of latents")
    return int(width)


def _check_kind(source: Source, config: Config) -> None:
    """Refuse what is no linear coder of one hook point. Raises CoderError."""
    kind = config.text("sae_type")
    if kind in _OTHER_KINDS:
        raise CoderError(f"{source.path} is a {kind}: {_OTHER_KINDS[kind]}")
    config.choice("sae_type", ("sae",))
    if config.flag("use_glu_encoder", False):
        raise CoderError(f"{config.where('use_glu_encoder')}: an encoder with a gated linear unit is not supported")


def _tensors(source: Source) -> tuple[str, dict[str, Any]]:
    """The name of the file of weights and what is in it. Raises CoderError."""
    name = next((name for name in WEIGHTS if source.file(name).is_file()), None)
    if name is None and source.file(_SHARDED).exists():
        raise CoderError(
            f"{source.file(_SHARDED)} is a checkpoint in shards; load it with Language-Model-SAEs and save it again "
            "without a device mesh, as sae_weights.safetensors"
        )
    name = name or WEIGHTS[0]
    found: Any = source.content(name).get("sae") if name.endswith(".pt") else source.tensors(name)
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise CoderError(f"{source.file(name)} must hold tensors by name under 'sae'")
    return name, {str(key): tensor for key, tensor in found.items()}


def _scales(config: Config, norms: dict[str, Tensor], d: int, told: Told) -> tuple[float, float, tuple[Question, ...]]:
    """Factors before the encoder and behind the decoder, and what is open of them. Raises CoderError."""
    otherwise = "norms of a token or of a batch are not supported"
    mode = config.choice("norm_activation", ("dataset-wise", "inference"), "dataset-wise", otherwise)
    if mode == "inference" or told.norm_factor is not None:
        return 1.0, 1.0, ()
    factors = []
    for key in ("hook_point_in", "hook_point_out"):
        norm = norms.get(str(config.get(key)))
        value = float(norm) if norm is not None and norm.numel() == 1 and not norm.is_complex() else 0.0
        if not (math.isfinite(value) and value > 0):
            place = shown(config.get(key))
            what = f"the files lack a positive average norm of {place}, which norm_activation=dataset-wise needs"
            if config.get("hook_point_in") != config.get("hook_point_out"):
                raise CoderError(f"{config.file}: {what}, and a transcoder needs one for each of its hook points")
            return 1.0, 1.0, (Question(what, ("norm_factor",)),)
        factors.append(scale_of(value, d))
    return factors[0], 1 / factors[1], ()


def _weights(config: Config, tensors: dict[str, Tensor], source: Source, activation: Activation) -> Weights:
    linear = "encoder.weight" in tensors
    names = ["encoder.weight", "encoder.bias", "decoder.weight"] if linear else ["W_E", "b_E", "W_D"]
    if config.flag("use_decoder_bias", True):
        names.append("decoder.bias" if linear else "b_D")
    threshold = "log_jumprelu_threshold" if linear else "activation_function.log_jumprelu_threshold"
    if activation == "jumprelu":
        names.append(threshold)
    found = take(tensors, names, source.folder)
    encoder, decoder = found[names[0]], found[names[2]]
    if encoder.ndim != 2 or decoder.ndim != 2:
        raise CoderError(f"{source.folder}: {names[0]} and {names[2]} must have two axes each")
    log_threshold = found.get(threshold)
    if log_threshold is not None:  # upcast first: the exponential of two bytes would be coarse
        log_threshold = log_threshold.to(torch.promote_types(log_threshold.dtype, torch.float32))
    return Weights(
        W_enc=encoder.T if linear else encoder,
        W_dec=(decoder.T if linear else decoder).contiguous(),
        b_dec=found[names[3]] if config.flag("use_decoder_bias", True) else torch.zeros(encoder.shape[int(linear)]),
        b_enc=found[names[1]],
        threshold=None if log_threshold is None else log_threshold.exp(),
    )
