"""Which tokens count: the one place that knows what ``--mask`` means."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sae_bench.data.tokens import TokenSet

Mask = Literal["special", "first", "none"]


def inside(ids: npt.NDArray[Any], mask: Mask, special: Collection[int]) -> npt.NDArray[np.bool_]:
    """Whether each of ``ids`` ``[length]``, one sequence as the language model reads it, counts: bool ``[length]``.

    "special" leaves out ``special`` ids, and position 0 whatever stands there: without a BOS token it is the attention
    sink, also where a sequence goes on in the middle of a document. "first" leaves out position 0 alone.
    """
    kept = np.ones(len(ids), dtype=bool)
    if mask != "none":
        kept[:1] = False
    if mask == "special" and special:
        kept &= ~np.isin(ids, sorted(special))
    return kept


def begins_bare(tokens: TokenSet, special: Collection[int]) -> bool:
    """Whether a sequence begins with another token than a special one, so that its position 0 is left out as such."""
    return not np.isin(tokens.ids[tokens.offsets[:-1]], sorted(special)).all()
