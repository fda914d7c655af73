"""Token streams: texts or token ids to evaluation and calibration units.

A **unit** is what an interval resamples: a document, a sequence of a packed stream, or a row of ids that came
tokenised. Some units are set aside for calibration (the mean of mean ablation); which ones depends on nothing but
the unit's own ids and the seed. So a smaller run sees a prefix of what a larger one sees, adding documents moves no
other document to the other side, and equal texts are always on the same side: no text is in both.

Texts are read one at a time and only the ids are kept, 4 bytes a token.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sae_bench.data.readers import open_source
from sae_bench.data.rows import RowOptions, Unit, read_rows, warn_of_cuts
from sae_bench.data.sources import RowSource, TextSource
from sae_bench.data.tokens import IntArray, TokenSet
from sae_bench.errors import DataError, UsageError
from sae_bench.settings import TEXT_FIELD

if TYPE_CHECKING:
    from torch import Tensor

MINIMUM_IDS = 2  # below this a unit has no prediction beside the one that BOS makes
COUNTED = ("documents_read", "documents_skipped_as_too_short", "tokens_left_over", "units_beyond_a_limit")
OF_ROWS = ("rows_read", "rows_cut", "ids_cut", "padding_left_out")


@dataclass(frozen=True)
class DataOptions:
    """How a source becomes units; raises `DataError` for values that cannot work.

    `text_field` is the column of the text, `split` the part of a data set that has several (ignored elsewhere).
    `context` is the number of tokens in a sequence, BOS included. With `packed`, documents are joined by EOS (or BOS)
    into one stream that is cut into sequences of exactly `context`, and the unit is the sequence; otherwise the unit
    is the document, and a document longer than `context` becomes several sequences of one unit. `prepend_bos` starts
    every sequence with BOS, also where a text already begins with one, and never with two.

    `calibration_share` of the units are set aside, `limit` and `calibration_limit` are the most units kept on each
    side (None: all). `mean_from_evaluation` sets nothing aside: calibration is the evaluation set. `rows` is for ids
    that came tokenised, on which `text_field`, `split`, `context`, `packed` and `prepend_bos` do not act.
    """

    text_field: str = "text"
    split: str | None = None
    context: int = 128
    packed: bool = False
    prepend_bos: bool = True
    calibration_share: float = 0.2
    seed: int = 0
    limit: int | None = None
    calibration_limit: int | None = 256
    mean_from_evaluation: bool = False
    rows: RowOptions = field(default_factory=RowOptions)

    def __post_init__(self) -> None:
        least = MINIMUM_IDS + self.prepend_bos
        if self.context < least:
            raise DataError(f"context must be at least {least} tokens, got {self.context}; give a longer one.")
        if not 0.0 <= self.calibration_share < 1.0:
            share = self.calibration_share
            raise DataError(f"calibration_share must be at least 0 and below 1, got {share}; 0.2 is usual.")
        for name in ("limit", "calibration_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} must be at least 1, got {value}; leave it out to take every unit.")


@dataclass(frozen=True, eq=False)
class Corpus:
    """What is measured and what the mean comes from; `details` says how it was read and is plain JSON."""

    evaluation: TokenSet
    calibration: TokenSet
    source: str
    details: dict[str, Any]


def load_corpus(
    source: "str | Path | AnySequence[str] | npt.NDArray[Any] | Tensor",
    *,
    tokenizer: Any | None,
    vocab_size: int,
    options: DataOptions,
) -> Corpus:
    """Read `source` until both sides have the units they may have, and return them.

    `source` is a file (.txt, .jsonl, .jsonl.gz, .parquet; ids in .npy or .safetensors), a folder (written by
    `datasets.save_to_disk`, or holding .parquet/.jsonl files), a hub id (`org/name` or `org/name:configuration`),
    `"demo"`, a list of texts, or integer ids `[sequences, length]` in an array or tensor.

    Ids that come tokenised are used as they are, one row a unit: no BOS is added, padding on the right is left out
    (see :mod:`sae_bench.data.rows`), what is longer than `options.rows.longest` is cut with a warning, and no
    `tokenizer` is needed. For texts, `tokenizer` is a Hugging Face tokenizer; one without a BOS needs
    `prepend_bos=False`. `vocab_size` is the number of ids that the language model knows.

    Raises `DataError` for data that cannot be read or used, and when either side would be empty; `UsageError` for
    flags that cannot act on ids.
    """
    opened = open_source(source, options.text_field, options.split)
    counts: Counter[str] = Counter()
    if isinstance(opened, TextSource):
        _check_flags(opened, options)
    if isinstance(opened, RowSource):
        unit, room, bos = "row", opened.shape[1], None
        units = read_rows(opened, vocab_size, options.rows, counts)
    else:
        unit = "sequence" if options.packed else "document"
        texts, bos = _text_units(opened, tokenizer, vocab_size, options, counts)
        units = map(Unit, texts)
        room = options.context - (bos is not None)
    evaluation = _Side(options.limit, room, bos)
    calibration = evaluation if options.mean_from_evaluation else _Side(options.calibration_limit, room, bos)
    whole = _distribute(units, evaluation, calibration, options, counts)
    warn_of_cuts(opened.name, counts, options.rows)
    _check_sides(opened.name, unit, (evaluation, calibration), room, counts)
    measured = evaluation.finish()
    set_aside = measured if calibration is evaluation else calibration.finish()
    details = {"how": opened.how, "unit": unit, **opened.notes, "read_to_the_end": whole}
    details |= {name: counts[name] for name in (*COUNTED, *(OF_ROWS if unit == "row" else ()))}
    for name, side, tokens in (("evaluation", evaluation, measured), ("calibration", calibration, set_aside)):
        details[f"{name}_units"] = tokens.n_units
        details[f"{name}_tokens"] = tokens.n_tokens
        details[f"{name}_units_of_several_sequences"] = side.several
        details[f"{name}_duplicates"] = side.duplicates
        details[f"{name}_fewer_units_than_asked"] = side.limit is not None and tokens.n_units < side.limit
    return Corpus(measured, set_aside, opened.name, details)


def _check_flags(opened: TextSource, options: DataOptions) -> None:
    """Refuse flags that would say something about the text and cannot act on it. Raises UsageError."""
    if options.split is not None and "split" not in opened.notes:
        raise UsageError(
            f"--split {options.split} cannot act on {opened.name}, which has no splits: leave it out, or give the data "
            "set that has them"
        )
    if options.text_field != TEXT_FIELD and "text_field" not in opened.notes:
        raise UsageError(f"--text-field {options.text_field} cannot act on {opened.name}, whose texts have no fields")


def _text_units(
    opened: TextSource, tokenizer: Any, vocab_size: int, options: DataOptions, counts: "Counter[str]"
) -> tuple[Iterator[IntArray], int | None]:
    """The ids of each unit without the BOS that is to be added, and that BOS."""
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
    added = {token for token in (bos, separator) if token is not None}
    if any(token >= vocab_size for token in added):
        raise DataError(f"The tokenizer's BOS or EOS id {max(added)} is not below the vocabulary size {vocab_size}.")
    texts = _documents(opened, tokenizer, vocab_size, added, counts)
    if separator is None:
        return _long_enough(texts, counts), bos
    return _packed(texts, options.context - (bos is not None), separator, counts), bos


def _documents(
    opened: TextSource, tokenizer: Any, vocab_size: int, added: set[int], counts: "Counter[str]"
) -> Iterator[IntArray]:
    """Ids of each text, less the ids at its start that are to be added anyway."""
    for number, text in enumerate(opened.texts, start=1):
        try:
            # verbose: what is longer than the model takes is cut up here, so its warning would mislead.
            found = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except (
            Exception
        ) as error:  # half of a surrogate pair, a word that has no id: tokenizers raise whatever they like
            raise DataError(f"Document {number} of {opened.name} cannot be tokenised: {error}.") from error
        start = next((place for place, token in enumerate(found) if token not in added), len(found))
        ids = np.asarray(found[start:], dtype=np.int64)
        counts["documents_read"] += 1
        if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
            position = int(np.argmax((ids < 0) | (ids >= vocab_size)))
            raise DataError(
                f"Token ids must be below the vocabulary size {vocab_size}: the tokenizer gives {ids[position]} in "
                f"document {number}, position {start + position}, of {opened.name}; use the language model's tokenizer."
            )
        yield ids.astype(np.int32)


def _long_enough(documents: Iterator[IntArray], counts: "Counter[str]") -> Iterator[IntArray]:
    for ids in documents:
        if len(ids) >= MINIMUM_IDS:
            yield ids
        else:
            counts["documents_skipped_as_too_short"] += 1


def _packed(documents: Iterator[IntArray], room: int, separator: int, counts: "Counter[str]") -> Iterator[IntArray]:
    """Documents joined by `separator`, in pieces of exactly `room` ids; a last incomplete piece is left over."""
    pending, between = np.empty(0, np.int32), np.empty(0, np.int32)
    for document in documents:
        own = np.flatnonzero(document != separator)
        ids = document[: own[-1] + 1] if len(own) else document[:0]  # a text may end in a separator of its own
        if not len(ids):
            counts["documents_skipped_as_too_short"] += 1
            continue
        pending, between = np.concatenate([pending, between, ids]), np.array([separator], np.int32)
        while len(pending) >= room:
            yield pending[:room]
            pending = pending[room:]
    counts["tokens_left_over"] = len(pending)


class _Side:
    """A growing `TokenSet` of at most `limit` units."""

    def __init__(self, limit: int | None, room: int, bos: int | None) -> None:
        self.limit, self.room = limit, room
        self.start = np.array([] if bos is None else [bos], dtype=np.int32)
        self.ids, self.offsets, self.units = array("i"), array("q", [0]), array("i")
        self.unit_ids: list[str] = []
        self.padded_ends: set[int] = set()
        self.seen: Counter[str] = Counter()
        self.several = self.duplicates = 0

    @property
    def full(self) -> bool:
        return self.limit is not None and len(self.unit_ids) >= self.limit

    def add(self, ids: IntArray, padded_end: bool) -> None:
        """Append one unit, cut into sequences of `room` ids with BOS before each."""
        for begin in range(0, len(ids), self.room):
            self.ids.frombytes(np.concatenate([self.start, ids[begin : begin + self.room]]).tobytes())
            self.offsets.append(len(self.ids))
            self.units.append(len(self.unit_ids))
        if padded_end:
            self.padded_ends.add(len(self.units) - 1)
        name = hashlib.blake2b(ids.astype("<i4").tobytes()).hexdigest()[:16]
        self.seen[name] += 1
        copies = self.seen[name]
        self.unit_ids.append(name if copies == 1 else f"{name}#{copies}")
        self.several += len(ids) > self.room
        self.duplicates += copies > 1

    def finish(self) -> TokenSet:
        """The set, which shares this object's memory; nothing may be added afterwards."""
        ids, units = np.frombuffer(self.ids, dtype=np.int32), np.frombuffer(self.units, dtype=np.int32)
        offsets = np.frombuffer(self.offsets, dtype=np.int64)
        return TokenSet(ids, offsets, units, tuple(self.unit_ids), frozenset(self.padded_ends))


def _is_calibration(ids: IntArray, options: DataOptions) -> bool:
    """A keyed hash of the content alone decides: equal content, equal side."""
    key, content = str(options.seed).encode()[:64], ids.astype("<i4").tobytes()
    digest = hashlib.blake2b(content, digest_size=8, key=key, person=b"calibration").digest()
    return int.from_bytes(digest, "little") < options.calibration_share * 2.0**64


def _distribute(
    units: Iterator[Unit], evaluation: _Side, calibration: _Side, options: DataOptions, counts: "Counter[str]"
) -> bool:
    """Put units on their sides until both are full; True if the source was read to its end."""
    for unit in units:
        side = calibration if calibration is evaluation or _is_calibration(unit.ids, options) else evaluation
        if side.full:
            counts["units_beyond_a_limit"] += 1
            continue
        side.add(*unit)
        if evaluation.full and calibration.full:
            return False
    return True


def _check_sides(name: str, unit: str, sides: tuple[_Side, _Side], room: int, counts: "Counter[str]") -> None:
    """Refuse a side without units, with what was read and what would be needed."""
    evaluation, calibration = (len(side.unit_ids) for side in sides)
    if evaluation and calibration:
        return
    if evaluation or calibration:
        empty = "calibration" if evaluation else "evaluation"
        raise DataError(
            f"No {empty} unit is left: all {evaluation + calibration} of {name} (each a {unit}) are on the other side; "
            "give more documents, or take the mean from the evaluation units (--mean-from evaluation)."
        )
    read = counts["documents_read"]
    if unit == "sequence" and read:
        tokens = counts["tokens_left_over"]
        raise DataError(
            f"{name} has {tokens} tokens and one sequence needs {room}: give more text or a shorter context."
        )
    if unit == "row":
        raise DataError(f"{name} holds {counts['rows_read']} rows of less than {MINIMUM_IDS} ids beside padding.")
    what = f"only documents of less than {MINIMUM_IDS} tokens ({read} of them)" if read else "no document"
    raise DataError(f"{name} holds {what}; give text to measure on.")
