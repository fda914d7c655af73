"""The demo world: a tiny language model, SAEs trained on it, and text whose attributes are known by construction.

A demonstration and a regression base, not a scientific claim. Importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from sae_bench.demo.grammar import Span
from sae_bench.demo.stored import Ladder, Pair, ladder, pairs
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
    "MORE_SAES",
    "SAE_NAMES",
    "DemoDocument",
    "Ladder",
    "Pair",
    "Span",
    "document",
    "documents",
    "ladder",
    "pairs",
    "sae_path",
    "token_labels",
]

_DATA = Path(__file__).parent / "data"

MODEL_PATH: Path = _DATA / "model"
SAE_NAMES: tuple[str, ...] = ("topk_k16", "topk_k32", "relu", "gated", "jumprelu", "topk_k32_undertrained")
MORE_SAES: tuple[str, ...] = (
    "more/topk_k32_seed3",
    "more/topk_k32_seed4",
    "more/topk_k32_block1",
    "more/multi_topk_k32",
    "more/topk_k256",
)  # "demo/*" does not mean them: they are for what compares seeds, blocks, trainings
DEFAULT_SAE: str = "topk_k32"
HOOK: str = "blocks.2.hook_resid_post"  # of all but "more/topk_k32_block1"


def sae_path(name: str) -> Path:
    """Folder of a demo SAE; CoderError when there is none of that name."""
    names = (*SAE_NAMES, *MORE_SAES)
    if name in names:
        return _DATA / "saes" / name
    called = {one.rpartition("/")[2]: one for one in reversed(names)}
    close = difflib.get_close_matches(name.rpartition("/")[2], called, n=1, cutoff=0.5)
    hint = f"; did you mean {called[close[0]]!r}?" if close else ""
    raise CoderError(f"the demo has no SAE named {name!r}; it has {', '.join(names)}{hint}")
