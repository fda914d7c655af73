"""What readers of single ``.pt`` files share: such a file has tensors and a name, and often nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.reading import Question
from sae_bench.saes.source import TORCH_SUFFIXES, Source
from sae_bench.settings import Told

MATRICES = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})
_RELEASED = re.compile(r"(?:(.+)-SAE|.*)-l(\d{1,4})(?:\.\w+)?")  # Llama-3.1-8B-Instruct-SAE-l19.pth


def keys(source: Source) -> frozenset[str]:
    """Names in the ``.pt`` file that the user pointed at; none if it is anything else. Raises CoderError."""
    return source.keys() if source.main is not None and source.main.suffix in TORCH_SUFFIXES else frozenset()


def tensors(source: Source, layout: str) -> dict[str, Tensor]:
    """The tensors of the ``.pt`` file. Raises CoderError if there is none."""
    if source.main is None:
        raise CoderError(f"{source.path}: {layout} is a single file of weights, so give the file, not its folder")
    return source.tensors()


def linear(found: Mapping[str, Tensor], encoder: str, decoder: str, file: Path) -> tuple[Tensor, Tensor]:
    """``W_enc`` and ``W_dec`` of two ``torch.nn.Linear``, which store [out, in]. Raises CoderError."""
    for name in (encoder, decoder):
        if found[name].ndim != 2:
            raise CoderError(f"{file}: {name} must be a matrix, but it has the shape {list(found[name].shape)}")
    return found[encoder].T, found[decoder].T.contiguous()  # decoding reads rows, which must lie together


def released(source: Source, owner: str, family: str) -> tuple[str | None, tuple[str, ...], int | None]:
    """Model, what is assumed of it, and layer, in a name such as ``Llama-3.1-8B-Instruct-SAE-l19.pth``.

    The name is that of the file or else of its folders; the model is one of ``owner``'s ``family`` on the hub, or None.
    """
    for word in reversed(source.words):
        match = _RELEASED.fullmatch(word)
        if match and (match[1] or word == source.path.name):  # a folder "-l2" without "SAE" may be anything
            if match[1] is None or not match[1].startswith(family):
                return None, (), int(match[2])
            model = f"{owner}/{match[1]}"
            return model, (f"the model is {model}, after the name of the file",), int(match[2])
    return None, (), None


def residual_stream(
    layer: int | None, told: Told, layout: str
) -> tuple[str | None, tuple[str, ...], tuple[Question, ...]]:
    """Hook point after a block, with what is assumed and asked, for layouts that keep at most the layer."""
    layer = layer if told.layer is None else told.layer
    if layer is None:
        asked = "neither the file nor its name says which layer the SAE reads"
        return None, (), (Question(asked, ("layer", "hook_in")),)
    assumed = f"the SAE reads the residual stream after block {layer}, as the SAEs of {layout} do"
    return f"blocks.{layer}.hook_resid_post", () if told.hook_in else (assumed,), ()
