"""The demo world: a tiny language model, SAEs trained on it, and text whose attributes are known by construction.

A demonstration and a regression base, not a scientific claim. Importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from sae_bench.demo.grammar import Span
from sae_bench.demo.world import (
    ATTRIBUTE_MEANINGS,
    ATTRIBUTES,
    KINDS,
    DemoDocument,
    document,
    documents,
    token_labels,
)
from sae_bench.errors import CoderError

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_MEANINGS",
    "DEFAULT_SAE",
    "HOOK",
    "KINDS",
    "MODEL_PATH",
    "SAE_NAMES",
    "DemoDocument",
    "Span",
    "document",
    "documents",
    "sae_path",
    "token_labels",
]

_DATA = Path(__file__).parent / "data"

MODEL_PATH: Path = _DATA / "model"
SAE_NAMES: tuple[str, ...] = ("topk_k16", "topk_k32", "relu", "gated", "jumprelu", "topk_k32_undertrained")
DEFAULT_SAE: str = "topk_k32"
HOOK: str = "blocks.2.hook_resid_post"


def sae_path(name: str) -> Path:
    """Folder of a demo SAE; CoderError when there is none of that name."""
    if name in SAE_NAMES:
        return _DATA / "saes" / name
    close = difflib.get_close_matches(name, SAE_NAMES, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise CoderError(f"the demo has no SAE named {name!r}; it has {', '.join(SAE_NAMES)}{hint}")
