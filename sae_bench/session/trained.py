"""What an SAE says of its training and a run does otherwise, as far as it concerns tokens that the run scores.

A field of a configuration is no alarm by itself: tokens that training left out matter where they are scored, and
positions that it never saw where there are any. So each is counted on the very tokens of the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sae_bench.data.mask import Mask, inside
from sae_bench.data.tokens import TokenSet
from sae_bench.saes.protocol import CoderInfo

SHOWN = 8  # ids


@dataclass(frozen=True)
class Scored:
    """Tokens as the language model reads them: ``ids`` and ``positions`` ``[tokens]``, and which of them are scored.

    ``special`` are the ids that the mask "special" leaves out, ``all_special`` all of the tokenizer. ``n_sequences``
    and how many of them begin ``with_bos`` (None: nobody knows which id that is).
    """

    ids: npt.NDArray[Any]
    positions: npt.NDArray[Any]
    kept: npt.NDArray[np.bool_]
    special: frozenset[int]
    all_special: frozenset[int]
    n_sequences: int
    with_bos: int | None

    @staticmethod
    def of(
        sequences: Sequence[npt.NDArray[Any]], mask: Mask, special: frozenset[int], tokenizer: Any, bos: int | None
    ) -> Scored:
        """Of whole sequences of ids."""
        nothing = [np.zeros(0, dtype=np.int64)]
        kept = [inside(ids, mask, special) for ids in sequences]
        known = getattr(tokenizer, "all_special_ids", None) or ()
        return Scored(
            np.concatenate([*nothing, *sequences]),
            np.concatenate([*nothing, *(np.arange(len(ids)) for ids in sequences)]),
            np.concatenate([np.zeros(0, dtype=bool), *kept]),
            special,
            special | {int(i) for i in known},
            len(sequences),
            None if bos is None else sum(int(ids[0]) == bos for ids in sequences if len(ids)),
        )


def says_something(info: CoderInfo) -> bool:
    """Whether an SAE says anything of its training that can differ."""
    return info.context_size is not None or info.prepend_bos is not None or bool(_metadata(info))


def differences(info: CoderInfo, scored: Scored) -> Iterator[str]:
    """A sentence for each thing in which tokens of the run are others than those of training."""
    yield from _excluded(info, scored)
    yield from _slice(info, scored)
    yield from _context(info, scored)
    yield from _bos(info, scored)


def _metadata(info: CoderInfo) -> dict[str, Any]:
    found = info.provenance.get("metadata")
    wanted = ("exclude_special_tokens", "seqpos_slice")
    return {key: found[key] for key in wanted if found.get(key)} if isinstance(found, dict) else {}


def _counted(which: npt.NDArray[np.bool_], scored: Scored) -> str | None:
    """How many of the scored tokens are such; None where none is."""
    n = int((which & scored.kept).sum())
    return f"{n} of the {int(scored.kept.sum())} tokens that are scored" if n else None


def _excluded(info: CoderInfo, scored: Scored) -> Iterator[str]:
    told = _metadata(info).get("exclude_special_tokens")
    if told is None:
        return
    listed = isinstance(told, list) and all(type(one) is int for one in told)
    ids = frozenset(told) if listed else scored.all_special
    which = np.isin(scored.ids, sorted(ids))
    if (share := _counted(which, scored)) is not None:
        there = sorted(map(int, set(scored.ids[which & scored.kept])))
        names = ", ".join(map(str, there[:SHOWN])) + (", ..." if len(there) > SHOWN else "")
        remedy = "--mask special leaves them out" if set(there) <= scored.special else "no --mask leaves them out"
        yield f"trained without the tokens {names} (exclude_special_tokens), and {share} are such; {remedy}"


def _slice(info: CoderInfo, scored: Scored) -> Iterator[str]:
    told = _metadata(info).get("seqpos_slice")
    whole = isinstance(told, list) and 1 <= len(told) <= 3 and all(one is None or type(one) is int for one in told)
    if not isinstance(told, list) or not whole or told[2:] == [0]:
        return
    length = info.context_size or int(scored.positions.max(initial=-1)) + 1
    seen = range(*slice(*told).indices(length))
    share = _counted(~np.isin(scored.positions, np.array(seen, dtype=np.int64)), scored)
    if share is not None:
        yield f"trained on the positions {told} of every context alone (seqpos_slice), and {share} stand elsewhere"


def _context(info: CoderInfo, scored: Scored) -> Iterator[str]:
    if info.context_size is None or _metadata(info).get("seqpos_slice"):
        return
    share = _counted(scored.positions >= info.context_size, scored)
    if share is not None:
        yield f"trained on contexts of {info.context_size} tokens, and {share} stand behind so many; see --context"


def _bos(info: CoderInfo, scored: Scored) -> Iterator[str]:
    if info.prepend_bos is None or scored.with_bos is None:
        return
    other = scored.n_sequences - scored.with_bos if info.prepend_bos else scored.with_bos
    if other:
        was, are = ("with", "without") if info.prepend_bos else ("without", "with")
        yield (
            f"trained {was} a BOS token before the text (prepend_bos), and {other} of {scored.n_sequences} sequences "
            f"begin {are} it; see --bos"
        )


def warn(infos: Sequence[CoderInfo], tokens: TokenSet, mask: Mask, special: frozenset[int], tokenizer: Any) -> None:
    """Say of each SAE where the tokens that are scored are others than those that it was trained on."""
    if not (telling := [info for info in infos if says_something(info)]):
        return
    bos = getattr(tokenizer, "bos_token_id", None)
    scored = Scored.of([sequence.ids for sequence in tokens], mask, special, tokenizer, bos)
    for info in telling:
        for sentence in differences(info, scored):
            warnings.warn(f"{info.name}: {sentence}", stacklevel=2)
