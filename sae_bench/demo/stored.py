"""What of the demo world is measured or written once and lies in files: losses of checkpoints, and minimal pairs.

``scripts/demo/make_model.py`` and ``scripts/demo/make_pairs.py`` make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sae_bench.errors import DataError
from sae_bench.files import read_bytes, read_text, strict_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Pair:
    """Two prompts, of equally many tokens, that differ in one attribute; ``a`` and ``b`` are texts.

    ``attribute`` is the label of the demo world that a has, or its text will have, and b has not. ``positions`` are the
    tokens in which they differ, counted as the model reads them: BOS is token 0. ``answer_a`` and ``answer_b`` are the
    single tokens, with the space before them, that are expected behind a and behind b; ``family`` is the kind of pair.
    """

    family: str
    attribute: str
    a: str
    b: str
    answer_a: str
    answer_b: str
    positions: tuple[int, ...]


@cache
def pairs() -> tuple[Pair, ...]:
    """The 40 minimal pairs, eight of each of five families, in the order of the file."""
    lines = read_text(_DATA / "pairs.jsonl", DataError).splitlines()
    rows = [strict_json(line) for line in lines]
    return tuple(Pair(**{**row, "positions": tuple(row["positions"])}) for row in rows)


@dataclass(frozen=True, eq=False)
class Ladder:
    """Losses of checkpoints of the demo model on ``documents(2000)``, the last of them the model that ships.

    The checkpoints are those of a second run of the recipe, which ends near that model: see the demo's README.

    ``steps`` and ``training_tokens`` ``[checkpoints]`` say how long each was trained, in optimiser steps and in tokens
    that it predicted. ``ce`` ``[checkpoints, documents]`` is the sum of nats over all predictions of a document, of
    which there are ``predictions`` ``[documents]``: every token of the text, the first from BOS. Weights were rounded
    to float16 and computed with in float32, as those of the model are.
    """

    steps: npt.NDArray[np.int64]
    training_tokens: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    ce: npt.NDArray[np.float64]

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """Nats per predicted token over all documents, of each checkpoint."""
        found: npt.NDArray[np.float64] = self.ce.sum(1) / self.predictions.sum()
        return found


def ladder() -> Ladder:
    """The stored losses of the model's checkpoints."""
    from safetensors.numpy import load

    return Ladder(**load(read_bytes(_DATA / "ladder.safetensors", DataError)))
