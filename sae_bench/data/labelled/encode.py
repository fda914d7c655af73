"""Labelled texts to token ids, and the keyed hashes that decide where a text goes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from sae_bench.data.labelled.spans import Offsets, Spans
from sae_bench.data.mask import Mask, inside
from sae_bench.data.tokens import IntArray
from sae_bench.errors import DataError

PartName = Literal["train", "test", "shifted"]
PARTS: tuple[PartName, PartName] = ("train", "test")
SHIFTED: PartName = "shifted"  # a test part of another kind of text, which few sets have
Keep = Literal["start", "end"]
LEAST: dict[PartName, int] = {"train": 4, "test": 2, "shifted": 2}
RECENT_TEXTS = 4096  # sets of one source share texts, which are then tokenised once


class Unusable(Exception):
    """Why a set of the suite cannot be used, in one sentence without a full stop; becomes `Suite.skipped`."""


class BadText(Exception):
    """Why one text cannot be an example."""


def keyed(purpose: str, *parts: str) -> int:
    """A number from 0 to 2**64 - 1 that depends on `purpose` (at most 16 bytes) and `parts` alone."""
    content = "\0".join(parts).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "little")


def side_of(content: str) -> PartName:
    """The part in which `content` is wherever the source names no parts: a quarter of all is `test`."""
    return "test" if keyed("side", content) < 2**62 else "train"


@dataclass(frozen=True)
class LabelledOptions:
    """How labelled texts become examples; raises `DataError` for values that cannot work.

    `context` is the most tokens a text may have, BOS included; `prepend_bos` starts every text with BOS, and never
    with two. `train_limit` and `test_limit` are the most examples of a part (None: all). `names` chooses sets:
    "all" (the default suite), or comma-separated names and globs. Of `mask` and `special_ids` a text must leave a token
    that counts. `shifted` loads test parts of another kind of text too, where sets have them.
    """

    context: int
    prepend_bos: bool
    seed: int = 0
    train_limit: int | None = 1024
    test_limit: int | None = 512
    names: str = "all"
    mask: Mask = "none"
    special_ids: frozenset[int] = frozenset()
    shifted: bool = False

    def __post_init__(self) -> None:
        least = 1 + self.prepend_bos
        if self.context < least:
            raise DataError(f"context must be at least {least} tokens, got {self.context}; give a longer one.")
        for part in PARTS:
            limit, fewest = self.limit(part), 2 * LEAST[part]
            if limit is not None and limit < fewest:
                raise DataError(f"{part}_limit must be at least {fewest} examples, got {limit}; give a higher one.")

    def limit(self, part: PartName) -> int | None:
        """The most examples of a part, or None."""
        return self.train_limit if part == "train" else self.test_limit


@dataclass(frozen=True, eq=False)
class Encoded:
    """A text as the language model reads it: `ids` without the BOS, and `unit`, 16 hex digits that name them."""

    unit: str
    ids: IntArray
    truncated: bool


class Encoder:
    """Texts to token ids without the BOS that is to be added, cut to what a sequence has room for.

    Raises `DataError` if the tokenizer is missing, has no BOS although one is asked for, or does not fit the language
    model, which knows `vocab_size` ids.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, options: LabelledOptions) -> None:
        if tokenizer is None:
            raise DataError("Labelled texts need a tokenizer; give the one of the language model.")
        bos = tokenizer.bos_token_id if options.prepend_bos else None
        if options.prepend_bos and bos is None:
            raise DataError("The tokenizer has no BOS token to start texts with; give --bos no (prepend_bos=False).")
        if bos is not None and bos >= vocab_size:
            raise DataError(f"The tokenizer's BOS id {bos} is not below the vocabulary size {vocab_size}.")
        self.bos: int | None = bos
        self.room = options.context - (bos is not None)
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._mask, self._special = options.mask, options.special_ids
        self.encode: Callable[..., Encoded] = lru_cache(RECENT_TEXTS)(self._encode)
        self._offsets = lru_cache(RECENT_TEXTS)(self._read_offsets)

    @property
    def locates(self) -> bool:
        """Whether the tokenizer says which characters each of its tokens has, so that spans can be found again."""
        return bool(getattr(self._tokenizer, "is_fast", False))

    def places(self, text: str, spans: Spans) -> IntArray:
        """Which of the tokens that :meth:`encode` gives of ``text`` have a label that lies in ``spans``, ascending.

        What lies behind the cut has no token. For tokenizers that say where their tokens are.
        """
        if not spans:
            return np.zeros(0, dtype=np.int32)
        return self._offsets(text).places(spans, len(self.encode(text).ids))

    def _read_offsets(self, text: str) -> Offsets:
        """Where the tokens of a text are, without those that are BOS already."""
        found = self._tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        ids, offsets = found["input_ids"], found["offset_mapping"]
        start = next((place for place, token in enumerate(ids) if token != self.bos), len(ids))
        named = getattr(self._tokenizer, "convert_ids_to_tokens", None)
        return Offsets.of(text, offsets[start:], [] if named is None else named(list(ids[start:])))

    def _encode(self, text: str, keep: Keep = "start") -> Encoded:
        """The ids of one text, of which a long one keeps its start or its end.

        Raises `BadText` if it gives none, or none that counts.
        """
        if not text.strip():
            raise BadText("is empty")
        try:
            # verbose: what is longer than the model takes is cut here, so its warning would mislead.
            found = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except (
            Exception
        ) as error:  # half of a surrogate pair, a word that has no id: tokenizers raise whatever they like
            raise BadText(f"cannot be tokenised ({error})") from error
        start = next((place for place, token in enumerate(found) if token != self.bos), len(found))
        ids = np.asarray(found[start:], dtype=np.int64)
        if not len(ids):
            raise BadText("gives no tokens")
        if ids.min() < 0 or ids.max() >= self._vocab_size:
            wrong = ids[(ids < 0) | (ids >= self._vocab_size)][0]
            raise DataError(
                f"Token ids must be below the vocabulary size {self._vocab_size}: the tokenizer gives {wrong} in a "
                f"labelled text that begins {text[:40]!r}; use the language model's tokenizer."
            )
        cut = (ids[: self.room] if keep == "start" else ids[max(0, len(ids) - self.room) :]).astype(np.int32)
        read = cut if self.bos is None else np.concatenate([[self.bos], cut])
        if not inside(read, self._mask, self._special).any():
            raise BadText("has no token that counts: all are special, or at position 0 (--mask)")
        return Encoded(hashlib.blake2b(cut.astype("<i4").tobytes()).hexdigest()[:16], cut, len(ids) > self.room)
