"""Token streams: texts or token ids to evaluation and calibration units.

A **unit** is a row of what is measured: a document, a sequence of a packed stream, or a row of ids that came so.
What an interval resamples is its **group**: what a label says that it belongs to, of a packed sequence the document
that holds most of it, else the unit itself with its copies. Some groups are set aside for calibration (the mean of mean
ablation); which ones depends on nothing but the group's name (of a document its own ids) and the seed. So a smaller run
sees a part of what a larger one sees, adding documents moves no other document to the other side, and equal texts are
always on the same side: no text is in both, and no group.

Texts are read one at a time and only the ids are kept, 4 bytes a token.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sae_bench.data.groups import Grouping, is_calibration, largest, name_of
from sae_bench.data.outcome import check_sides, of_side
from sae_bench.data.packing import Packer
from sae_bench.data.readers import open_source
from sae_bench.data.rows import LEAST, RowOptions, Unit, read_rows, warn_of_cuts, warn_of_packing
from sae_bench.data.sides import NO_IDS, Most, Side
from sae_bench.data.sources import Document, RowSource, TextSource
from sae_bench.data.tokens import TokenSet
from sae_bench.errors import DataError, UsageError
from sae_bench.settings import TEXT_FIELD

if TYPE_CHECKING:
    from torch import Tensor

COUNTED = ("documents_read", "documents_skipped_as_too_short", "tokens_left_over", "units_beyond_a_limit")
OF_ROWS = ("rows_read", "rows_cut", "ids_cut", "padding_left_out", "rows_of_several_texts")


@dataclass(frozen=True)
class DataOptions:
    """How a source becomes units; raises `DataError` for values that cannot work.

    `text_field` is the column of the text, `split` the part of a data set that has several (ignored elsewhere).
    `group_field` is the column (of ids the tensor) that says what a text or row belongs to, `groups` says it of texts
    in memory and of rows. `context` is the number of tokens in a sequence, BOS included. With `packed`, documents of
    one side are joined by EOS (or BOS) into one stream that is cut into sequences of exactly `context`, and the unit is
    the sequence; otherwise the unit is the document, and a document longer than `context` becomes several sequences of
    one unit. `prepend_bos` starts every sequence with BOS, also where a text already begins with one, and never with
    two.

    `calibration_share` of the groups are set aside. `limit` and `calibration_limit` are the most units kept on each
    side, `tokens` and `calibration_tokens` the most tokens, `sequences` and `calibration_sequences` too, as those of so
    many sequences of `context` (None: all); how tokens are spread says :mod:`sae_bench.data.sides`.
    `mean_from_evaluation` sets nothing aside: calibration is the evaluation set. `rows` is for ids that came tokenised,
    on which `text_field`, `split`, `context`, `packed` and `prepend_bos` do not act.
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
    tokens: int | None = None
    calibration_tokens: int | None = None
    sequences: int | None = None
    calibration_sequences: int | None = None
    group_field: str | None = None
    groups: Any = None
    mean_from_evaluation: bool = False
    rows: RowOptions = field(default_factory=RowOptions)

    def __post_init__(self) -> None:
        least = LEAST + self.prepend_bos
        if self.context < least:
            raise DataError(f"context must be at least {least} tokens, got {self.context}; give a longer one.")
        if not 0.0 <= self.calibration_share < 1.0:
            share = self.calibration_share
            raise DataError(f"calibration_share must be at least 0 and below 1, got {share}; 0.2 is usual.")
        for name in (
            "limit",
            "calibration_limit",
            "tokens",
            "calibration_tokens",
            "sequences",
            "calibration_sequences",
        ):
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
    opened = open_source(source, options.text_field, options.split, options.group_field, options.groups)
    counts: Counter[str] = Counter()
    if isinstance(opened, TextSource):
        _check_flags(opened, options)
    packers, divisible = list[Packer](), isinstance(opened, TextSource) and not options.packed
    if isinstance(opened, RowSource):
        unit, bos, separator = "row", None, None
        room = min(opened.shape[1], options.rows.longest or opened.shape[1])
    else:
        unit = "sequence" if options.packed else "document"
        bos, separator = _added(opened, tokenizer, vocab_size, options)
        room = options.context - (bos is not None)

    def side(limit: int | None, tokens: int | None, sequences: int | None) -> Side:
        packer = None if separator is None else Packer(room, separator, counts)
        packers.extend([packer] if packer else [])
        most = Most.of(limit, tokens, sequences, room + (bos is not None))
        return Side(most, room, bos, seed=options.seed, divisible=divisible, packer=packer)

    evaluation = calibration = side(options.limit, options.tokens, options.sequences)
    if not options.mean_from_evaluation:
        calibration = side(options.calibration_limit, options.calibration_tokens, options.calibration_sequences)
    grouping = Grouping()

    def enough() -> bool:
        return evaluation.full and calibration.full

    def passed_over(document: Document) -> bool:
        if document.group is None:
            return False
        group = name_of(document.group)
        aside = is_calibration(Unit(NO_IDS, group=group), options.calibration_share, options.seed)
        return (calibration if aside else evaluation).passes_over(group, len(document.text))

    units = (
        read_rows(opened, vocab_size, options.rows, counts)
        if isinstance(opened, RowSource)
        else _documents(opened, tokenizer, vocab_size, {bos, separator}, counts, passed_over, enough)
    )
    units = _long_enough(units, counts) if divisible else units
    whole = _distribute(units, evaluation, calibration, options, counts, grouping)
    counts["tokens_left_over"] = sum(packer.left for packer in packers) if whole else 0
    if isinstance(opened, RowSource):
        warn_of_cuts(opened.name, counts, options.rows)
        warn_of_packing(opened, counts)
    measured = evaluation.finish()
    set_aside = measured if calibration is evaluation else calibration.finish()
    check_sides(opened.name, unit, (measured, set_aside), (evaluation, calibration), counts, bool(grouping.labels))
    details = {"how": opened.how, "unit": unit, **opened.notes, "read_to_the_end": whole}
    details |= {name: counts[name] for name in (*COUNTED, *(OF_ROWS if unit == "row" else ()))}
    for name, one, tokens in (("evaluation", evaluation, measured), ("calibration", calibration, set_aside)):
        details |= {f"{name}_{what}": value for what, value in of_side(one, tokens).items()}
    if grouping.labels or options.packed:
        details["group"] = "label" if grouping.labels else "document that holds most of the sequence"
        details["largest_groups"] = largest(measured, grouping.labels)
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


def _added(opened: TextSource, tokenizer: Any, vocab_size: int, options: DataOptions) -> tuple[int | None, int | None]:
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


def _documents(
    opened: TextSource,
    tokenizer: Any,
    vocab_size: int,
    added: set[int | None],
    counts: "Counter[str]",
    passed_over: Callable[[Document], bool],
    enough: Callable[[], bool],
) -> Iterator[Unit]:
    """Ids of each text, less the ids at its start that are to be added anyway, with its label.

    A text whose label says that it cannot be taken is ``passed_over``: making ids is what costs most.
    """
    for number, (text, group) in enumerate(opened.documents, start=1):
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
        start = next((place for place, token in enumerate(found) if token not in added), len(found))
        ids = np.asarray(found[start:], dtype=np.int64)
        counts["documents_read"] += 1
        if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
            position = int(np.argmax((ids < 0) | (ids >= vocab_size)))
            raise DataError(
                f"Token ids must be below the vocabulary size {vocab_size}: the tokenizer gives {ids[position]} in "
                f"document {number}, position {start + position}, of {opened.name}; use the language model's tokenizer."
            )
        yield Unit(ids.astype(np.int32), group=group)


def _long_enough(documents: Iterator[Unit], counts: "Counter[str]") -> Iterator[Unit]:
    for document in documents:
        if len(document.ids) >= LEAST:
            yield document
        else:
            counts["documents_skipped_as_too_short"] += 1


def _distribute(
    units: Iterator[Unit],
    evaluation: Side,
    calibration: Side,
    options: DataOptions,
    counts: "Counter[str]",
    grouping: Grouping,
) -> bool:
    """Offer units to their sides until both are full; True if the source was read to its end."""
    for read in units:
        unit = grouping.named(read)
        aside = calibration is evaluation or is_calibration(unit, options.calibration_share, options.seed)
        (calibration if aside else evaluation).offer(unit, counts)
        if evaluation.full and calibration.full:
            break
    return not (evaluation.full and calibration.full)
