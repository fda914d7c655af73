"""Labelled sets of a world as files: texts, labels, and on which characters each label is."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Spans = Sequence[tuple[int, int]]


def write(folder: Path, part: str, rows: Iterable[tuple[str, Spans]]) -> None:
    """Write "train" or "test" of the set in ``folder``: a text has the label where it has a span of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label", "spans"))
        writer.writerows((text, int(bool(spans)), json.dumps(list(spans))) for text, spans in rows)


def of_words(texts: Sequence[str], has: NDArray[np.bool_]) -> Iterator[tuple[str, Spans]]:
    """Texts of words between single spaces, with the spans of those that have the label ``[texts, words]``."""
    for text, flags in zip(texts, has, strict=True):
        words = text.split(" ")
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        yield (
            text,
            [(int(end) - len(word), int(end)) for word, end, flag in zip(words, ends, flags, strict=True) if flag],
        )
