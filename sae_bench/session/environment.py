"""With what a run measures: see :mod:`sae_bench.results.environment`, which reads it."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

import torch

from sae_bench.models.subject import SubjectModel
from sae_bench.models.tokenizer_identity import tokenizer_kind

PACKAGES = (
    *("sae-bench-suite", "torch", "transformers", "tokenizers"),
    *("numpy", "scipy", "scikit-learn", "safetensors"),
)
OF_BACKEND = {"tl": ("transformer-lens",)}
_GROUPS = ("tasks", "formats", "controls", "units", "streams", "backends")


@cache
def versions(backend: str) -> dict[str, str]:
    """Installed versions of what numbers depend on: also of packages that register something here."""
    found = {}
    for name in (*PACKAGES, *OF_BACKEND.get(backend, ()), *_registering()):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def _registering() -> list[str]:
    points = [point for group in _GROUPS for point in entry_points(group=f"sae_bench.{group}")]
    return sorted({point.dist.name for point in points if point.dist})


def machine() -> str:
    """The system and the kind of its processors."""
    return f"{platform.system()} {platform.machine()}"


def environment(subject: SubjectModel, tokenizer: Any) -> dict[str, str]:
    """What device, attention and tokenizer are called; of what there is."""
    config = getattr(subject.model, "config", None)
    found = {
        "device name": torch.cuda.get_device_name(subject.device) if subject.device.type == "cuda" else None,
        "attention": getattr(config, "_attn_implementation", None),
        "tokenizer": tokenizer_kind(tokenizer),
    }
    return {name: str(value) for name, value in found.items() if value}
