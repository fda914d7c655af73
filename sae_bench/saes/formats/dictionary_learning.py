"""dictionary_learning (Marks et al.): ``ae.pt`` and ``config.json`` in a folder, ``checkpoints/ae_STEP.pt`` below it.

``config.json`` is ``{"trainer": {dict_class, activation_dim, dict_size, k, layer, lm_name, submodule_name, ...},
"buffer": {io, ctx_len, ...}}``. A backup of a training run lies at ``ae.pt`` too, and holds ``{step, ae, optimizer,
config, norm_factor}``: its biases and threshold are still in units of normalised activations. A file alone is
recognised by its tensors, as far as they differ between the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes import bare
from sae_bench.saes.config import Config, listed, take
from sae_bench.saes.formats.deepseek import TENSORS as NEW
from sae_bench.saes.formats.dictionary_learning_files import CONFIG, WEIGHTS, Found, config_near, find, hook
from sae_bench.saes.linear import Activation, Nonlinearity
from sae_bench.saes.reading import Question, Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
_GATED = ("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias")
_BUFFERS = ("k", "threshold")  # which early versions of the library did not store


@dataclass(frozen=True)
class _Class:
    """A class of the library: its tensors, and how it computes."""

    activation: Activation
    tensors: tuple[str, ...]
    b_dec: str = "b_dec"
    subtracts_b_dec: bool = True
    optional: tuple[str, ...] = ()


_CLASSES = {
    "AutoEncoder": _Class("relu", (*_LINEAR, "bias"), "bias"),
    "AutoEncoderNew": _Class("relu", tuple(NEW), "decoder.bias", subtracts_b_dec=False),
    "GatedAutoEncoder": _Class("gated", _GATED, "decoder_bias"),
    "JumpReluAutoEncoder": _Class("jumprelu", (*_MATRICES, "threshold"), subtracts_b_dec=False),
    "AutoEncoderTopK": _Class("topk", (*_LINEAR, "b_dec"), optional=_BUFFERS),
    "BatchTopKSAE": _Class("jumprelu", (*_LINEAR, "b_dec"), optional=_BUFFERS),
    "MatryoshkaBatchTopKSAE": _Class("jumprelu", (*_MATRICES, "group_sizes"), optional=_BUFFERS),
}
VARIANTS = tuple(f"dictionary_learning:{name}" for name in _CLASSES)
_ALIKE = "AutoEncoderTopK or BatchTopKSAE"
_RESCALED = (
    "the latents are those of the stored weights: the library's from_pretrained divides decoder directions by their "
    "norms and multiplies the latents with them, unless it is told otherwise"
)


def matches(source: Source) -> bool:
    """Whether the folder or file has this layout."""
    if source.main is None:
        return source.has(CONFIG, WEIGHTS)
    keys = bare.keys(source)
    if keys == set(NEW):
        return config_near(source) is not None
    return keys >= {"ae", "norm_factor"} or _recognised(keys) is not None


def read(source: Source, told: Told) -> Reading:
    """What is in the files. Raises CoderError."""
    found = find(source)
    file, trainer = source.folder / found.files[0], found.trainer
    kind, warnings = _kind(file, found, told)
    made = _CLASSES["AutoEncoderTopK" if kind == _ALIKE else kind]
    tensors = take(found.tensors, made.tensors, file, optional=made.optional)
    k = _k(file, tensors, trainer)
    hook_in, assumptions, questions = hook(found, told)
    assumptions += (_RESCALED,) if kind == "AutoEncoder" else ()
    if trainer is None and kind != _ALIKE:
        assumptions += (f"the file is of the class {kind}, whose tensors it has",)
    if found.factor != 1:
        assumptions += (f"biases and threshold are multiplied by norm_factor={found.factor:g}, as in a backup's",)
    sizes = trainer.values if trainer else {}
    return Reading(
        weights=_weights(file, made, tensors, found.factor),
        rule=Nonlinearity(
            made.activation,
            k=k if made.activation == "topk" else None,
            apply_b_dec_to_input=made.subtracts_b_dec,
        ),
        files=found.files,
        hook_in=hook_in,
        architecture=kind if kind != _ALIKE else "topk" if told.threshold is None else "jumprelu",
        inference="jumprelu" if "BatchTopK" in kind and made.activation == "jumprelu" else "",
        name=source.folder.name if source.main and source.name == "ae" else None,
        n_latents=trainer.integer("dict_size") if trainer and "dict_size" in sizes else None,
        d_in=trainer.integer("activation_dim") if trainer and "activation_dim" in sizes else None,
        model=trainer.optional("lm_name", str) if trainer else None,
        context_size=found.buffer.optional("ctx_len", int),
        prefix_widths=_prefix_widths(file, tensors, trainer),
        declared_l0=trainer.number("target_l0") if trainer and sizes.get("target_l0") is not None else k,
        assumptions=assumptions,
        warnings=warnings,
        questions=(*_open(kind, made, k, tensors), *questions),
        extra={"step": found.step} if isinstance(found.step, int) else {},
    )


def _recognised(keys: Set[str]) -> str | None:
    """The class whose tensors these are; two of them have the same."""
    found = [name for name, made in _CLASSES.items() if set(made.tensors) <= keys <= {*made.tensors, *made.optional}]
    return _ALIKE if len(found) > 1 else next(iter(found), None)


def _kind(file: Path, found: Found, told: Told) -> tuple[str, tuple[str, ...]]:
    """The class: as told (``dictionary_learning:BatchTopKSAE``), declared, or recognised. Raises CoderError."""
    told_kind = (told.format or "").partition(":")[2]
    declared = found.trainer.get("dict_class") if found.trainer else None
    if told_kind:
        differs = found.trainer is not None and declared != told_kind
        return told_kind, ((f"the configuration says {declared}, and it is read as {told_kind}",) if differs else ())
    if found.trainer is not None:
        otherwise = "for a class that computes like one of these, give --format dictionary_learning:CLASS"
        return found.trainer.choice("dict_class", tuple(_CLASSES), otherwise=otherwise), ()
    kind = _recognised(found.tensors.keys())
    if kind is None:
        named = listed(found.tensors, 10) or "no tensors"
        raise CoderError(f"{file} holds {named}, which is no class of dictionary_learning")
    return kind, ()


def _k(file: Path, tensors: Mapping[str, Tensor], trainer: Config | None) -> int | None:
    """How many latents training kept of a token, as stored and as declared, which must agree. Raises CoderError."""
    declared = trainer.integer("k") if trainer and trainer.get("k") is not None else None
    if "k" not in tensors:
        return declared
    stored = Config(file, {"k": tensors["k"].item() if tensors["k"].numel() == 1 else list(tensors["k"].shape)})
    k = stored.integer("k")
    if declared not in (None, k):
        raise CoderError(f"{file} was trained with k={k}, but {trainer and trainer.where('k')} is {declared}")
    return k


def _open(kind: str, made: _Class, k: int | None, tensors: Mapping[str, Tensor]) -> tuple[Question, ...]:
    """What the files leave open of the activation function."""
    threshold = tensors.get("threshold")
    if kind == _ALIKE:
        value = threshold.item() if threshold is not None and threshold.numel() == 1 else None
        stored = f"k={k} and threshold={value} are stored"
        asked = (
            f"its tensors are those of {_ALIKE}, which keep other latents, and there is no configuration ({stored}); "
            "name the class as --format dictionary_learning:CLASS to use what is stored"
        )
        return (Question(asked, ("k", "threshold")),)
    if made.activation == "topk" and k is None:
        return (
            Question("neither its tensors nor its configuration say how many latents are kept", ("k", "threshold")),
        )
    if made.optional and made.activation == "jumprelu":
        if threshold is None:
            return (Question("it has no threshold, without which its latents depend on the batch", ("threshold",)),)
        if threshold.is_floating_point() and bool((threshold < 0).any()):
            asked = "training was too short to estimate its threshold: every positive latent would be active"
            return (Question(asked, ("threshold",)),)
    return ()


def _weights(file: Path, made: _Class, tensors: Mapping[str, Tensor], factor: float) -> Weights:
    """The tensors, biases and threshold of a backup in units of the activations. Raises CoderError."""

    def scaled(name: str) -> Tensor | None:
        tensor = tensors.get(name)
        if tensor is None or factor == 1:
            return tensor
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * factor

    if "W_enc" in tensors:
        W_enc, W_dec = tensors["W_enc"], tensors["W_dec"]
    else:
        W_enc, W_dec = bare.linear(tensors, "encoder.weight", "decoder.weight", file)
    b_dec = scaled(made.b_dec)
    assert b_dec is not None
    return Weights(
        W_enc=W_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        b_enc=scaled("b_enc" if "b_enc" in tensors else "encoder.bias"),
        threshold=scaled("threshold") if made.activation == "jumprelu" else None,
        b_gate=scaled("gate_bias"),
        b_mag=scaled("mag_bias"),
        r_mag=tensors.get("r_mag"),
    )


def _prefix_widths(file: Path, tensors: Mapping[str, Tensor], trainer: Config | None) -> tuple[int, ...]:
    """Widths of the nested dictionaries of a Matryoshka SAE. Raises CoderError."""
    if "group_sizes" not in tensors:
        return ()
    n_latents = tensors["b_enc"].numel()
    stored = tensors["group_sizes"].flatten()
    sizes = (
        Config(file, {"group_sizes": stored.tolist()}).integers("group_sizes") if stored.numel() <= n_latents else ()
    )
    declared = trainer.integers("group_sizes") if trainer else ()
    if sum(sizes) != n_latents or declared not in ((), sizes):
        raise CoderError(f"{file}: group_sizes must add up to {n_latents} latents and be those of its configuration")
    return tuple(sum(sizes[: i + 1]) for i in range(len(sizes) - 1))
