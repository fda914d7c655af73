"""Transcoders of circuit-tracer: ``layer_N.safetensors``, a file a layer, and ``config.yaml``.

Tensors: ``W_enc [n_latents, d]``, ``W_dec [n_latents, d_out]`` (in files of 2025 also ``[d_out, n_latents]``),
``b_enc``, ``b_dec``, ``W_skip [d_out, d]`` with a skip connection. ReLU, a JumpReLU where there is
``activation_function.threshold``, or ``activation: topk`` in the configuration, which keeps negative latents among the
k largest. Hook points are TransformerLens names within a block: ``mlp.hook_in`` comes after the gain of the norm,
``ln2.hook_normalized`` before it.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, shown, take
from sae_bench.saes.hook_names import is_lens_name
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Flag, Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

CONFIG = "config.yaml"
TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec")
THRESHOLD = "activation_function.threshold"
VARIANTS = ("circuit_tracer:rows", "circuit_tracer:columns")
_FILE = re.compile(r"layer_(\d{1,4})\.safetensors")


def matches(source: Source) -> bool:
    """Whether the folder or file has this layout."""
    if source.main is not None:
        return _FILE.fullmatch(source.main.name) is not None and source.keys() >= set(TENSORS)
    return any(map(_FILE.fullmatch, source.names))


def read(source: Source, told: Told) -> Reading:
    """What is in the file, or in the folder for the layer that was told. Raises CoderError."""
    config = source.config(CONFIG) if source.file(CONFIG).is_file() else Config(source.file(CONFIG), {})
    _check_kind(config)
    layer, name = _chosen(source, told)
    tensors = take(source.tensors(name), TENSORS, source.file(name), optional=[THRESHOLD, "W_skip", "k"])
    if tensors["W_enc"].ndim != 2 or tensors["W_dec"].ndim != 2:
        raise CoderError(f"{source.file(name)}: W_enc and W_dec must have two axes each")
    stored_k = tensors.pop("k", None)
    rule, questions = _rule(config, THRESHOLD in tensors, stored_k, told)
    hook_in, hook_out = (_hook(config, key, layer, told) for key in ("feature_input_hook", "feature_output_hook"))
    return Reading(
        weights=Weights(
            W_enc=tensors["W_enc"].T,
            W_dec=_decoder(source.file(name), tensors, told),
            b_dec=tensors["b_dec"],
            b_enc=tensors["b_enc"],
            threshold=_threshold(source.file(name), tensors.get(THRESHOLD)),
            W_skip=tensors.get("W_skip"),
        ),
        rule=rule,
        files=(CONFIG, name) if config.values else (name,),
        hook_in=hook_in,
        hook_out=hook_out,
        architecture=f"{rule.activation} transcoder",
        name=f"{_set_name(source)}/layer_{layer}",
        model=config.optional("model_name", str),
        declared_l0=rule.k,
        questions=(*_questions(config), *questions),
    )


def _set_name(source: Source) -> str:
    words = [word for word in source.words if not word.endswith(".safetensors")]
    return words[-1] if words else source.folder.resolve().name


def _check_kind(config: Config) -> None:
    if config.get("model_kind") == "cross_layer_transcoder":
        raise CoderError(
            f"{config.where('model_kind')} is cross_layer_transcoder: its latents write to several layers, whose "
            "inputs depend on what is written before, so no hook point has a reconstruction that could be measured"
        )
    config.choice("model_kind", ("transcoder_set",), "transcoder_set")


def _chosen(source: Source, told: Told) -> tuple[int, str]:
    """Layer and file. Raises CoderError."""
    if source.main is not None:
        match = _FILE.fullmatch(source.main.name)
        if match is None and told.layer is None:
            raise CoderError(
                f"{source.main}: the name of the file says no layer, as layer_12.safetensors does; give --layer"
            )
        if match is not None and told.layer not in (None, int(match[1])):
            raise CoderError(f"{source.main} is the file of layer {int(match[1])}, but --layer is {told.layer}")
        return int(match[1]) if match else int(told.layer or 0), source.main.name
    found = {int(match[1]): match[0] for match in map(_FILE.fullmatch, source.names) if match}
    listed = ", ".join(map(str, sorted(found)))
    if not found:
        raise CoderError(f"{source.folder} holds no file such as layer_12.safetensors")
    if told.layer is not None and told.layer not in found:
        raise CoderError(f"{source.folder} has the layers {listed}, but --layer is {told.layer}")
    if told.layer is None and len(found) > 1:
        raise CoderError(
            f"{source.folder} holds the transcoders of {len(found)} layers ({listed}): give --layer, or a file"
        )
    layer = told.layer if told.layer is not None else next(iter(found))
    return layer, found[layer]


def _rule(
    config: Config, has_threshold: bool, stored: Tensor | None, told: Told
) -> tuple[Nonlinearity, list[Question]]:
    """The activation function, and what is open of it. Raises CoderError."""
    default = "topk" if stored is not None else "jumprelu" if has_threshold else "relu"
    named = default
    if config.get("activation") is not None:
        named = config.choice("activation", ("relu", "jumprelu", "jump_relu", "topk")).replace("jump_relu", "jumprelu")
    if has_threshold != (named == "jumprelu"):
        there = "are" if has_threshold else "are no"
        raise CoderError(
            f"{config.where('activation')}: of {named}, but there {there} thresholds in the file of weights"
        )
    if named == "relu":
        return Nonlinearity("relu", apply_b_dec_to_input=False), []
    if named == "jumprelu":
        return Nonlinearity("jumprelu", apply_b_dec_to_input=False), []
    k = told.k
    if k is None and config.get("k") is not None:
        k = config.integer("k")
    if k is None and stored is not None and stored.numel() == 1 and not stored.is_floating_point():
        k = int(stored)
    open_questions = [] if k is not None else [Question("the files do not say how many latents TopK keeps", ("k",))]
    return Nonlinearity("topk", k=k or 1, apply_b_dec_to_input=False, keep_negative=True), open_questions


def _decoder(file: Path, tensors: dict[str, Tensor], told: Told) -> Tensor:
    """``[n_latents, d_out]``, by the shape, or by what was told of a square one. Raises CoderError."""
    decoder, m, d_out = tensors["W_dec"], len(tensors["W_enc"]), tensors["b_dec"].numel()
    if told.format in VARIANTS:
        return decoder if told.format == VARIANTS[0] else decoder.T.contiguous()
    if m == d_out and decoder.shape[0] == decoder.shape[1]:
        raise CoderError(
            f"{file}: W_dec is square ({m}), so its shape does not say whether rows or columns are the directions of "
            f"latents; settle it with --format {' or --format '.join(VARIANTS)}"
        )
    return decoder.T.contiguous() if tuple(decoder.shape) == (d_out, m) else decoder


def _threshold(file: Path, threshold: Tensor | None) -> Tensor | None:
    """The thresholds, which the library applies without a relu. Raises CoderError."""
    if threshold is not None and threshold.is_floating_point() and bool((threshold < 0).any()):
        raise CoderError(f"{file}: {THRESHOLD} holds negative numbers, under which negative latents would fire")
    return threshold


def _hook(config: Config, key: str, layer: int, told: Told) -> str | None:
    """The hook point under ``key`` in the block. Raises CoderError."""
    written = config.optional(key, str)
    if not written:
        return None
    within = written.replace("{layer}", str(layer))
    name = within if within.startswith("blocks.") else f"blocks.{layer}.{within}"
    if is_lens_name(name) and name.startswith(f"blocks.{layer}."):
        return name
    if (told.hook_in if key == "feature_input_hook" else told.hook_out) is None:
        flag = "--hook-in" if key == "feature_input_hook" else "--hook-out"
        raise CoderError(
            f"{config.where(key)} must be a name such as mlp.hook_in, but it is {shown(written)}; give {flag}"
        )
    return None


def _questions(config: Config) -> list[Question]:
    needed: tuple[tuple[str, Flag], ...] = (("feature_input_hook", "hook_in"), ("feature_output_hook", "hook_out"))
    return [
        Question(f"{config.where(key)} is missing, which says the hook point", (flag,))
        for key, flag in needed
        if not config.get(key)
    ]
