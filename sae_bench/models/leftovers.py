"""Tensors that a checkpoint holds and the model has no place for.

transformers drops them with a note at most. Then another model is measured than the one that was trained, unless they
are of the few kinds that change no logit; each of these is listed here with its reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sae_bench.errors import ModelError
from sae_bench.files import regular
from sae_bench.models.weight_files import Stored

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_INV_FREQ_TOLERANCE = 0.01  # bfloat16 keeps 0.004 of a number, and float16 less of small ones
_NEVER_PLAIN = re.compile(r"[IU]\d+|F[468]_.*|F8.*|BOOL")


@dataclass(frozen=True)
class Context:
    """What a rule may look at: the model, all leftover names, and what the files say of tensors."""

    model: nn.Module
    names: frozenset[str]
    stored: Mapping[str, Stored]

    @property
    def config(self) -> Any:
        """The configuration of the part that reads text."""
        return self.model.config.get_text_config()  # type: ignore[union-attr, operator]

    @property
    def layers(self) -> float:
        """How many blocks the model has; infinitely many where its configuration does not count them."""
        return getattr(self.config, "num_hidden_layers", None) or math.inf


@dataclass(frozen=True)
class Harmless:
    """A kind of tensor that changes no logit: of which model types (none: of all), its names, why, and a check."""

    types: tuple[str, ...]
    names: str
    reason: str
    holds: Callable[[str, Context], bool] = lambda name, context: True


def _is_mask(name: str, context: Context) -> bool:
    """A scalar, or a square of positions; a trained bias is a vector. Files without a header are taken by the name."""
    stored = context.stored.get(name)
    if stored is None:
        return True
    *ahead, rows, columns = (1, 1, *stored.shape)
    return rows == columns and all(size == 1 for size in ahead)


def _is_computed_rotation(name: str, context: Context) -> bool:
    """The frequencies of the file are those that the model computes from its configuration."""
    stored = context.stored.get(name)
    modules = [module for module in context.model.modules() if hasattr(module, "inv_freq")]
    if stored is None or not modules or not name.endswith("inv_freq"):
        return True
    if any(getattr(module, "rope_type", "default") != "default" for module in modules):
        return True  # the files may hold the frequencies before they were scaled
    from safetensors import safe_open

    with safe_open(str(regular(stored.file, ModelError)), framework="pt") as file:
        theirs = file.get_tensor(name).double()
    ours = [module.inv_freq.detach().double().cpu() for module in modules]  # type: ignore[operator]
    alike = [each for each in ours if each.shape == theirs.shape]
    return any(torch.allclose(each, theirs, rtol=_INV_FREQ_TOLERANCE, atol=1e-6) for each in alike)


def _predicts_further_tokens(name: str, context: Context) -> bool:
    """A layer behind the last one that joins a hidden state with the embedding of the next token."""
    found = _LAYER.search(name)
    if found is None or int(found[1]) < context.layers:
        return False
    start = name[: found.end()]
    return any(each.startswith(start) and ".eh_proj." in each for each in {*context.names, *context.stored})


_ENCODERS = (
    "visual|vision_tower|vision_model|vision_encoder|vision_tokenizer|vision_embed_tokens|embed_vision|audio_tower|"
    "audio_encoder|audio_tokenizer|embed_audio|multi_modal_projector|mm_projector|talker|token2wav|code2wav"
)

HARMLESS = (
    Harmless(
        ("gpt2", "gpt_neo", "gptj", "gpt_neox", "gpt_neox_japanese", "gpt_bigcode", "codegen"),
        r"(.*\.)?(attn|attention|crossattention)\.(attention\.)?(bias|masked_bias|causal_mask)",
        "which positions attention may look at, computed from the length",
        _is_mask,
    ),
    Harmless(
        ("gptj", "codegen"),
        r"(.*\.)?attn\.embed_positions",
        "sines and cosines of positions, computed from the configuration",
    ),
    Harmless(
        ("xglm",),
        r"(model\.)?embed_positions\.weights",
        "sines and cosines of positions, computed from the configuration",
    ),
    Harmless(
        (),
        r"(.*\.)?(inv_freq|cos_cached|sin_cached)|rope\.freqs",
        "frequencies of the rotary embedding, computed from the configuration",
        _is_computed_rotation,
    ),
    Harmless((), r"(.*\.)?position_ids", "the numbers from 0 to the longest context"),
    Harmless((), r"(model\.)?(decoder|encoder)\.version", "the version of the file's layout"),
    Harmless((), r"(.*\.)?_extra_state", "state of training in 8 bits"),
    Harmless((), r"(.*\.)?mtp(_\w+)?\..*", "layers that predict further tokens, which no logit passes"),
    Harmless(
        (),
        r"(.*\.)?layers\.\d+\..*",
        "layers that predict further tokens, which no logit passes",
        _predicts_further_tokens,
    ),
    Harmless((), rf"(model\.)?({_ENCODERS})\..*", "encoders and decoders of images and sound, which no text passes"),
    Harmless((), r"v_head\..*", "the value head of reinforcement learning, which no logit passes"),
)


def check_leftovers(model: nn.Module, reported: Iterable[str], stored: Mapping[str, Stored], source: str) -> None:
    """Raise ModelError where the files hold tensors that the model has no place for, but for those in `HARMLESS`.

    `reported` are the unexpected keys that transformers told of; those that it leaves out of its report are found by
    their names in `stored`.
    """
    names = frozenset(reported) | _unreported(model, stored)
    context = Context(model, names, stored)
    left = sorted(name for name in names if not any(_applies(kind, name, context) for kind in HARMLESS))
    if left:
        raise ModelError(
            f"the weights of model {source!r} hold {len(left)} tensors that its config.json has no place for (first "
            f"{left[0]}), so the model that would be measured is not the one that they were trained in; correct "
            "config.json (number of layers, biases, rotary frequencies), or remove them from the file if they change "
            "nothing"
        )


def check_stored_types(model: nn.Module, stored: Mapping[str, Stored], source: str) -> None:
    """Raise ModelError where parameters are stored as integers or in 8 bits, and no scale is applied to them."""
    parameters = dict(model.named_parameters())
    for name, tensor in stored.items():
        if _NEVER_PLAIN.fullmatch(tensor.dtype) and name in parameters and parameters[name].is_floating_point():
            raise ModelError(
                f"the weights of model {source!r} are quantised ({name} is stored as {tensor.dtype}), but its "
                "config.json has no quantization_config; give the model as it was before quantisation"
            )


def _applies(kind: Harmless, name: str, context: Context) -> bool:
    known = not kind.types or context.config.model_type in kind.types
    return known and re.fullmatch(kind.names, name) is not None and kind.holds(name, context)


def _unreported(model: nn.Module, stored: Iterable[str]) -> set[str]:
    """The tensors that transformers drops without a report: names that it ignores, and that stand for no parameter."""
    ignored = [r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"]
    ignored += getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    layers = Context(model, frozenset(), {}).layers
    placed = set(model.state_dict())
    joined = {name.partition(".experts.")[0] for name in placed if ".experts." in name}  # many experts are one tensor
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def is_placed(name: str) -> bool:
        found = _LAYER.search(name)
        if found and int(found[1]) < layers and not any(re.search(p, name) for p in ignored if "layers" not in p):
            return True
        names = {name, prefix + name, name.removeprefix(prefix)}
        return bool(names & placed) or bool({each.partition(".experts.")[0] for each in names} & joined)

    return {name for name in stored if any(re.search(p, name) for p in ignored) and not is_placed(name)}
