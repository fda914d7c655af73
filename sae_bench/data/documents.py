"""Token streams: texts or token ids to evaluation and calibration units.

A **unit** is a row of what is measured: a document, a sequence of a packed stream, or a row of ids that came so.
What an interval resamples is its **group**: what a label says that it belongs to, of a packed sequence the document
that holds most of it, else the unit itself with its copies. Some groups are set aside for calibration (the mean of mean
ablation); which ones depends on nothing but the group's name (of a document its own ids) and the seed. So a smaller run
sees a part of what a larger one sees, adding documents moves no other document to the other side, and equal texts are
always on the same side: no text is in both, and no group. Where that leaves a side without any, the group that is
nearest to it is moved there, with a warning: two documents that differ are enough for a run.

Texts are read one at a time and only the ids are kept, 4 bytes a token.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from sae_bench.data.chats import Chats
from sae_bench.data.groups import Grouping, Split, largest, name_of
from sae_bench.data.outcome import check_sides, of_side
from sae_bench.data.packing import Packer
from sae_bench.data.readers import open_source
from sae_bench.data.rows import LEAST, RowOptions, Unit, read_rows, warn_of_cuts, warn_of_packing
from sae_bench.data.sides import NO_IDS, Most, Side
from sae_bench.data.sources import Document, RowSource, TextSource
from sae_bench.data.texts import Added, added, documents, long_enough
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

    `source` is a file (.txt, .jsonl, .jsonl.gz, .parquet, .csv, .tsv; ids in .npy or .safetensors), a folder (written
    by `datasets.save_to_disk`, or holding .parquet/.jsonl files), a hub id (`org/name` or `org/name:configuration`),
    `"demo"`, a list of texts, or integer ids `[sequences, length]` in an array or tensor.

    Ids that come tokenised are used as they are, one row a unit: no BOS is added, padding on the right is left out
    (see :mod:`sae_bench.data.rows`), what is longer than `options.rows.longest` is cut with a warning, and no
    `tokenizer` is needed. For texts, `tokenizer` is a Hugging Face tokenizer; one without a BOS needs
    `prepend_bos=False`. A chat, a list of messages in the place of a text, is written with its chat template
    (:mod:`sae_bench.data.chats`). `vocab_size` is the number of ids that the language model knows.

    Raises `DataError` for data that cannot be read or used, and when either side would be empty; `UsageError` for
    flags that cannot act on ids.
    """
    split = Split(options.calibration_share, options.seed)
    found = _read(source, tokenizer, vocab_size, options, split)
    if not options.mean_from_evaluation and (moved := split.to_move()) is not None:
        side = "calibration" if split.seen[True] else "evaluation"
        warnings.warn(
            f"all of the few groups of {found.opened.name} fall on the {side} side, so one is moved to the other",
            stacklevel=2,
        )
        found = _read(source, tokenizer, vocab_size, options, Split(options.calibration_share, options.seed, moved))
    return _corpus(found, options)


@dataclass(frozen=True, eq=False)
class _Read:
    """A source that was read: its sides (the same twice where nothing is set aside), and what was seen on the way."""

    opened: TextSource | RowSource
    unit: str
    evaluation: Side
    calibration: Side
    counts: "Counter[str]"
    grouping: Grouping
    whole: bool
    chats: Chats


def _read(source: Any, tokenizer: Any, vocab_size: int, options: DataOptions, split: Split) -> _Read:
    """Read until both sides have what they may have."""
    chats = Chats(tokenizer)
    opened = open_source(source, options.text_field, options.split, options.group_field, options.groups, chats)
    counts: Counter[str] = Counter()
    if isinstance(opened, TextSource):
        _check_flags(opened, options)
    packers, divisible = list[Packer](), isinstance(opened, TextSource) and not options.packed
    if isinstance(opened, RowSource):
        unit, bos, separator = "row", None, None
        room = min(opened.shape[1], options.rows.longest or opened.shape[1])
    else:
        unit = "sequence" if options.packed else "document"
        bos, separator = added(opened, tokenizer, vocab_size, options)
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
        aside = split.aside(Unit(NO_IDS, group=group))
        return (calibration if aside else evaluation).passes_over(group, len(document.text))

    units = (
        read_rows(opened, vocab_size, options.rows, counts)
        if isinstance(opened, RowSource)
        else documents(opened, tokenizer, vocab_size, Added({bos, separator}, chats), counts, passed_over, enough)
    )
    units = long_enough(units, counts) if divisible else units
    whole = _distribute(units, evaluation, calibration, split, counts, grouping)
    counts["tokens_left_over"] = sum(packer.left for packer in packers) if whole else 0
    return _Read(opened, unit, evaluation, calibration, counts, grouping, whole, chats)


def _corpus(found: _Read, options: DataOptions) -> Corpus:
    """What was read, with what is to be said of it. Raises DataError where a side is empty."""
    opened, unit, counts, grouping = found.opened, found.unit, found.counts, found.grouping
    evaluation, calibration = found.evaluation, found.calibration
    if isinstance(opened, RowSource):
        warn_of_cuts(opened.name, counts, options.rows)
        warn_of_packing(opened, counts)
    measured = evaluation.finish()
    set_aside = measured if calibration is evaluation else calibration.finish()
    check_sides(opened.name, unit, (measured, set_aside), (evaluation, calibration), counts, bool(grouping.labels))
    details = {"how": opened.how, "unit": unit, **opened.notes, **found.chats.notes, "read_to_the_end": found.whole}
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


def _distribute(
    units: Iterator[Unit],
    evaluation: Side,
    calibration: Side,
    split: Split,
    counts: "Counter[str]",
    grouping: Grouping,
) -> bool:
    """Offer units to their sides until both are full; True if the source was read to its end."""
    for read in units:
        unit = grouping.named(read)
        aside = calibration is evaluation or split.aside(unit)
        (calibration if aside else evaluation).offer(unit, counts)
        if evaluation.full and calibration.full:
            break
    return not (evaluation.full and calibration.full)
