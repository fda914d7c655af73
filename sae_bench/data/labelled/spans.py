"""Where in a text a label is: stretches of characters, and the tokens that lie in them.

A token has the label where it shares a character that is no white space with a span. A byte-level token that holds a
part of a character counts as holding the character, since that is what the tokenizer's offsets say of it. A space that
a tokenizer puts before a text is no part of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sae_bench.data.tokens import IntArray
from sae_bench.errors import DataError, named
from sae_bench.files import strict_json

Spans = tuple[tuple[int, int], ...]
FORM = "a list of [start, end) character pairs"
SPACES = " ▁Ġ"  # how tokenizers write a space
_SHOWN = 40  # characters of what is wrong


def checked(values: Any, text: str, where: str) -> Spans | None:
    """The spans of a row, None where it says nothing of them: null, or an empty cell of a table.

    ``values`` is a list of pairs or that list as JSON. They may overlap. Raises `DataError`.
    """
    if isinstance(values, str):
        if not values.strip():
            return None
        try:
            values = strict_json(values)
        except ValueError as error:
            raise DataError(
                f"{where}: the spans must be {FORM} as JSON, got {values[:_SHOWN]!r} ({named(error)}); correct them."
            ) from error
    if values is None:
        return None
    if not isinstance(values, list):
        raise DataError(f"{where}: the spans must be {FORM}, got {str(values)[:_SHOWN]!r}; correct them.")
    return tuple(_span(value, text, where) for value in values)


def _span(value: Any, text: str, where: str) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(end) is int for end in value):
        raise DataError(f"{where}: a span must be two whole numbers, got {str(value)[:_SHOWN]!r}; correct it.")
    start, stop = value
    shown = f"the span {f'[{start}, {stop})':.60}"
    if start >= stop:
        raise DataError(f"{where}: {shown} must end behind its start; correct it.")
    if start < 0 or stop > len(text):
        raise DataError(
            f"{where}: {shown} must lie in the text, which has {len(text)} characters (not bytes); correct it."
        )
    if text[start:stop].isspace():
        raise DataError(f"{where}: {shown} holds nothing but white space, by which no token has a label; remove it.")
    return start, stop


class Offsets(NamedTuple):
    """The characters ``[start, end)`` of each token of a text, ``[tokens]``, and which characters are white space."""

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    blank: npt.NDArray[np.bool_]

    @staticmethod
    def of(text: str, found: Sequence[tuple[int, int]], tokens: Sequence[str] = ()) -> "Offsets":
        """Those of a text, from what a tokenizer says of its ``tokens``.

        A space that the tokenizer puts before a text is a token without characters, though tokenizers give it those of
        the token behind it.
        """
        pairs = np.asarray(found, dtype=np.int64).reshape(-1, 2)
        for place, token in enumerate(tokens):
            start, end = pairs[place]
            if not str(token).strip(SPACES) and not any(char in SPACES for char in text[start:end]):
                pairs[place] = start
        return Offsets(pairs[:, 0], pairs[:, 1], np.array([char.isspace() for char in text], dtype=bool))

    def places(self, spans: Spans, n_tokens: int) -> IntArray:
        """Which of the first ``n_tokens`` tokens have a label that lies in ``spans``, ascending."""
        inside = np.zeros(len(self.blank) + 1, dtype=np.int64)  # at i + 1: whether character i has the label
        for start, end in spans:
            inside[start + 1 : end + 1] = 1
        inside[1:][self.blank] = 0
        total = inside.cumsum()  # of the characters before each
        return np.flatnonzero(total[self.end[:n_tokens]] > total[self.start[:n_tokens]]).astype(np.int32)
