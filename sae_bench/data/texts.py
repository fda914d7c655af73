"""Texts as ids: what a tokenizer makes of each document, without what is added to every sequence anyway."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sae_bench.data.chats import Chats
from sae_bench.data.rows import LEAST, Unit
from sae_bench.data.sources import Document, TextSource
from sae_bench.errors import DataError

if TYPE_CHECKING:
    from sae_bench.data.documents import DataOptions


def added(opened: TextSource, tokenizer: Any, vocab_size: int, options: "DataOptions") -> tuple[int | None, int | None]:
    """The BOS that stands before every sequence, and what separates packed documents. Raises DataError."""
    if tokenizer is None:
        raise DataError(f"{opened.name} holds text, which needs a tokenizer; give the one of the language model.")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if options.prepend_bos and bos is None:
        raise DataError("The tokenizer has no BOS token to start sequences with; give --bos no (prepend_bos=False).")
    separator = None
    if options.packed:
        separator = bos if eos is None else eos
        if separator is None:
            raise DataError("Packing needs an EOS or BOS token between documents, and the tokenizer has neither.")
    bos = bos if options.prepend_bos else None
    most = max((token for token in (bos, separator) if token is not None), default=0)
    if most >= vocab_size:
        raise DataError(f"The tokenizer's BOS or EOS id {most} is not below the vocabulary size {vocab_size}.")
    return bos, separator


class Added(NamedTuple):
    """Ids that do not stand at the start of a text, as they are added there anyway, or ``--bos`` says that none is."""

    to_texts: set[int | None]
    chats: Chats

    @property
    def ids(self) -> set[int | None]:
        """Those of what was read so far."""
        return self.to_texts | self.chats.begins_with


def documents(
    opened: TextSource,
    tokenizer: Any,
    vocab_size: int,
    added: Added,
    counts: Counter[str],
    passed_over: Callable[[Document], bool],
    enough: Callable[[], bool],
) -> Iterator[Unit]:
    """Ids of each text, less the ids at its start that are to be added anyway, with its label.

    A text whose label says that it cannot be taken is ``passed_over``: making ids is what costs most.
    """
    for number, (text, group, source) in enumerate(opened.documents, start=1):
        if passed_over(Document(text, group)):
            counts["documents_read"] += 1
            counts["units_beyond_a_limit"] += 1
            if enough():
                return
            continue
        try:
            # verbose: what is longer than the model takes is cut up here, so its warning would mislead.
            found = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except (
            Exception
        ) as error:  # half of a surrogate pair, a word that has no id: tokenizers raise whatever they like
            raise DataError(f"Document {number} of {opened.name} cannot be tokenised: {error}.") from error
        known = added.ids
        start = next((place for place, token in enumerate(found) if token not in known), len(found))
        ids = np.asarray(found[start:], dtype=np.int64)
        counts["documents_read"] += 1
        if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
            position = int(np.argmax((ids < 0) | (ids >= vocab_size)))
            raise DataError(
                f"Token ids must be below the vocabulary size {vocab_size}: the tokenizer gives {ids[position]} in "
                f"document {number}, position {start + position}, of {opened.name}; use the language model's tokenizer."
            )
        yield Unit(ids.astype(np.int32), group=group, source=source)


def long_enough(read: Iterator[Unit], counts: Counter[str]) -> Iterator[Unit]:
    """Documents of at least :data:`LEAST` ids; others are counted."""
    for document in read:
        if len(document.ids) >= LEAST:
            yield document
        else:
            counts["documents_skipped_as_too_short"] += 1
