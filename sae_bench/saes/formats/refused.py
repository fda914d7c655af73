"""Layouts that are recognised and refused, with the reason: what they hold cannot be measured as an SAE on one place.

``conf.yaml`` + ``latest_ckpt.safetensors``: temporal SAEs. ``W_enc_*.safetensors``: cross-layer transcoders.
``config.json`` with ``num_encoder_layers`` + ``model.safetensors``, or a ``.pt`` whose ``W_enc`` and ``W_dec`` have
three axes: crosscoders.
"""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.source import TORCH_SUFFIXES, Source
from sae_bench.settings import Told

_TEMPORAL = ("conf.yaml", "latest_ckpt.safetensors")
_CROSSCODER = ("config.json", "model.safetensors")


def matches(source: Source) -> bool:
    """Whether the folder or file has one of these layouts."""
    return _reason(source) is not None


def read(source: Source, told: Told) -> NoReturn:
    """Raises CoderError with the reason."""
    reason = _reason(source) or "has none of the layouts that --format refused stands for; leave it out"
    raise CoderError(f"{source.path} {reason}")


def _reason(source: Source) -> str | None:
    if source.has(*_TEMPORAL):
        return (
            "holds a temporal SAE (conf.yaml and latest_ckpt.safetensors): the latents of a token need the sequence "
            "before it, so tokens cannot be measured one by one"
        )
    if source.main is None and any(n.startswith("W_enc_") and n.endswith(".safetensors") for n in source.names):
        return (
            "holds a cross-layer transcoder (W_enc_*.safetensors): its decoder writes to several layers, so no single "
            "hook point has a reconstruction; transcoders of one layer can be measured"
        )
    if source.has(*_CROSSCODER) and "num_encoder_layers" in source.config(_CROSSCODER[0]).values:
        return _crosscoder("config.json with num_encoder_layers")
    if source.main is not None and source.main.suffix in TORCH_SUFFIXES and {"W_enc", "W_dec"} <= source.keys():
        tensors = [source.content()[name] for name in ("W_enc", "W_dec")]
        if all(isinstance(tensor, Tensor) and tensor.ndim == 3 for tensor in tensors):
            return _crosscoder("W_enc and W_dec with three axes")
    return None


def _crosscoder(sign: str) -> str:
    return (
        f"holds a crosscoder ({sign}): it reads and writes several layers or models at once, so no single hook point "
        "has a reconstruction"
    )
