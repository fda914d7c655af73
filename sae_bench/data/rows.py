"""Rows of token ids that came tokenised: what of a row is padding, where it is cut, and which rows are refused.

A row is padded on the right, as most programs do it, or says by an attention mask what of it is real. Without a mask
padding is told by its id and its place: a run of the padding id at the end of a row that is longer than any run of it
inside a row. So a padding id that is a word of the text, or the EOS between packed documents, is no padding where it
ends a row by chance.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sae_bench.data.roles import Roles
from sae_bench.data.sources import RowSource
from sae_bench.data.tokens import IntArray
from sae_bench.errors import DataError, UsageError

Block = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]
LEAST = 2  # ids of a unit: below this it has no prediction beside the one that BOS makes
AT_ONCE = 256  # rows
LOOKED_AT = 1 << 26  # ids that are looked through for padding ids inside rows, at most
RUN = 4  # equal ids in a row that look like padding where it is not known
SHARE = 0.05  # of the rows that end or begin with such a run
REMEDY = "give an attention_mask beside the ids (.safetensors)"


@dataclass(frozen=True)
class RowOptions:
    """What is known of rows beside their ids.

    ``roles`` tells padding; ``longest`` is the most ids of a row that are read (None: all), ``limited_by`` says who
    wants that. ``context`` is what the user asked for, and ``flags`` what else he gave that cannot act on rows: both
    are refused then.
    """

    roles: Roles = field(default_factory=Roles)
    longest: int | None = None
    limited_by: str = "the limit"
    context: int | None = None
    flags: tuple[str, ...] = ()


class Unit(NamedTuple):
    """The ids of a unit; ``padded_end``: the last one is an end of text that padding is made of, and no target.

    ``group`` is the label of what it belongs to as it is read, later its name (:mod:`sae_bench.data.groups`); None for
    a unit that stands alone. ``source`` is the kind of text that it is, where that is known.
    """

    ids: IntArray
    padded_end: bool = False
    group: str | None = None
    source: str | None = None


def read_rows(opened: RowSource, vocab_size: int, options: RowOptions, counts: Counter[str]) -> Iterator[Unit]:
    """Rows without their padding, cut to what is read; what was left out is added to ``counts``.

    Raises UsageError for flags that cannot act, DataError for rows that are padded on the left or hold other ids.
    """
    _check_flags(opened, options)
    padding = None if opened.attention is not None else _Padding(opened, options.roles)
    longest = options.longest or opened.shape[1]
    for start in range(0, opened.shape[0], AT_ONCE):
        where = slice(start, min(start + AT_ONCE, opened.shape[0]))
        block = np.asarray(opened.rows[where])
        labels = [None] * len(block) if opened.labels is None else opened.labels(where)
        if padding is None:
            begin, stop = _attended(np.asarray(opened.attention[where]), opened.name, start)
            ends = np.zeros(len(block), dtype=bool)
        else:
            begin, (stop, ends) = np.zeros(len(block), dtype=np.int64), padding.ends(block)
            padding.check_starts(block, stop, start)
        _check_ids(block, begin, stop, vocab_size, opened.name, start)
        counts["rows_of_several_texts"] += _several_texts(block, begin, stop, options.roles)
        for row, first, last, end, group in zip(
            block, begin.tolist(), stop.tolist(), ends.tolist(), labels, strict=True
        ):
            counts["rows_read"] += 1
            counts["padding_left_out"] += len(row) - (last - first)
            if last - first < LEAST:
                counts["documents_skipped_as_too_short"] += 1
                continue
            counts["rows_cut"] += last - first > longest
            counts["ids_cut"] += max(last - first - longest, 0)
            ids = row[first : min(last, first + longest)].astype(np.int32)
            yield Unit(ids, end and last - first <= longest, group)


def warn_of_cuts(name: str, counts: Counter[str], options: RowOptions) -> None:
    """Say that rows were longer than what is read."""
    if counts["rows_cut"]:
        warnings.warn(
            f"{counts['rows_cut']} of {counts['rows_read']} rows of {name} are longer than the {options.longest} "
            f"tokens of {options.limited_by}: they were cut, and {counts['ids_cut']} ids are not measured",
            stacklevel=2,
        )


def warn_of_packing(opened: RowSource, counts: Counter[str]) -> None:
    """Say that rows look packed, so that they are no independent samples, where nobody has said what they belong to.

    Which document a row continues cannot be told from its ids: rows of a packed text are shuffled as often as not, and
    many begin with a BOS that begins no document. A guess would be a number of groups that looks right.
    """
    several, read = counts["rows_of_several_texts"], counts["rows_read"]
    if opened.labels is None and several >= max(LEAST, SHARE * read):
        warnings.warn(
            f"{several} of {read} rows of {opened.name} hold the end or begin of a text inside, as packed rows do: "
            "rows that share a document are taken as independent, so intervals may be far too narrow; say what each "
            "row belongs to (--group-field with a tensor beside the ids, groups= in Python)",
            stacklevel=2,
        )


def _several_texts(block: Block, begin: Counts, stop: Counts, roles: Roles) -> int:
    """How many rows hold ids of a text on both sides of a BOS or EOS."""
    column = np.arange(block.shape[1])
    plain = (column >= begin[:, None]) & (column < stop[:, None]) & ~np.isin(block, sorted(roles.special))
    texts = (np.diff(np.pad(plain, ((0, 0), (1, 1))).astype(np.int8), axis=1) == 1).sum(1)
    return int((texts > 1).sum())


def _check_flags(opened: RowSource, options: RowOptions) -> None:
    if options.flags:
        raise UsageError(
            f"{options.flags[0]} cannot act on rows of token ids, which are read as they are ({opened.name}): leave it "
            "out, or give text"
        )
    if options.context is not None and options.context > opened.shape[1]:
        raise UsageError(
            f"--context {options.context} cannot act: the rows of {opened.name} hold {opened.shape[1]} ids; leave it "
            "out, or give longer rows"
        )


def _check_ids(block: Block, begin: Counts, stop: Counts, vocab_size: int, name: str, start: int) -> None:
    column = np.arange(block.shape[1])
    real = (column >= begin[:, None]) & (column < stop[:, None])
    wrong = np.argwhere(real & ((block < 0) | (block >= vocab_size)))
    if len(wrong):
        row, position = wrong[0]
        raise DataError(
            f"Token ids must be at least 0 and below the vocabulary size {vocab_size}: {name} has "
            f"{block[row, position]} in row {start + row}, position {position}; tokenise for this language model."
        )


def _attended(mask: Block, name: str, start: int) -> tuple[Counts, Counts]:
    """Where the real ids of every row begin and stop, by its attention mask. Raises DataError."""
    changes = np.diff(np.pad(mask != 0, ((0, 0), (1, 1))).astype(np.int8), axis=1) == 1
    wrong = np.flatnonzero(((mask != 0) & (mask != 1)).any(1) | (changes.sum(1) > 1))
    if len(wrong):
        raise DataError(
            f"An attention mask must be 1 at one unbroken run of ids and 0 at the padding around it: that of row "
            f"{start + wrong[0]} of {name} is not; give one row a document."
        )
    begin = np.where(mask.any(1), np.argmax(mask != 0, axis=1), 0)
    return begin, begin + mask.astype(np.int64).sum(1)


class _Padding:
    """What rows of one source are padded with."""

    def __init__(self, opened: RowSource, roles: Roles) -> None:
        self._name, self._roles, self._read = opened.name, roles, 0
        self._unknown: dict[str, Counter[int]] = {"end": Counter(), "begin": Counter()}
        self._said = False
        ids = sorted(roles.eos - {roles.pad})
        most = _longest_inside(opened, ids if roles.pad is None else [roles.pad, *ids])
        # A single EOS ends a text, unless it is what rows are padded with.
        self._most = {token: n if token == roles.pad else max(n, 1) for token, n in most.items()}
        if roles.pad is not None and roles.pad not in roles.special and most[roles.pad] > 1:
            warnings.warn(
                f"the padding id {roles.pad} stands up to {most[roles.pad]} times in a row inside rows of "
                f"{opened.name} and is scored there like any other token; if it is padding, {REMEDY} or split the rows",
                stacklevel=2,
            )

    def ends(self, block: Block) -> tuple[Counts, npt.NDArray[np.bool_]]:
        """How many ids of every row are left without its padding, and whether the last of them is a padded end.

        Of a run of EOS the first stays: it ends the text. Whether it does or is padding, nobody knows: no target.
        """
        stop = np.full(len(block), block.shape[1], dtype=np.int64)
        ended = np.zeros(len(block), dtype=bool)
        for token, most in self._most.items():
            run = _trailing(block, stop, token)
            padded = run > most
            is_end = token in self._roles.eos
            stop = np.where(padded, stop - run + is_end, stop)
            ended = (padded & is_end) | (ended & ~padded)
        self._look(block, stop)
        return stop, ended

    def check_starts(self, block: Block, stop: Counts, start: int) -> None:
        """Refuse rows that are padded on the left: every token would stand at another position. Raises DataError."""
        for token, most in self._most.items():
            run = _leading(block, stop, token)
            single = (run == 1) & (token in self._roles.special)  # that begins a text, also where it is the padding
            wrong = np.flatnonzero((run > most) & ~single & (stop >= LEAST))
            if len(wrong):
                times = f"{run[wrong[0]]} times" if run[wrong[0]] > 1 else "once"
                raise DataError(
                    f"Rows of token ids must be padded on the right: row {start + wrong[0]} of {self._name} begins "
                    f"with the padding id {token} {times}; move the padding to the end, or {REMEDY}."
                )

    def _look(self, block: Block, stop: Counts) -> None:
        """Say once that rows seem to be padded with an id that is not known as padding."""
        if self._roles.pad is not None or self._said:
            return
        self._read += len(block)
        whole = stop == block.shape[1]
        runs = {"end": (_trailing(block, stop, block[:, -1:]), block[:, -1])}
        runs["begin"] = (_leading(block, stop, block[:, :1]), block[:, 0])
        for side, (run, token) in runs.items():
            self._unknown[side].update(token[whole & (run >= RUN)].tolist())
            most = self._unknown[side].most_common(1)
            if most and most[0][1] >= max(LEAST, SHARE * self._read):
                self._said = True
                warnings.warn(
                    f"{most[0][1]} rows of {self._name} {side} with the id {most[0][0]} {RUN} times or more, which "
                    f"neither the tokenizer nor the model names as padding, so it is measured as text; if it is "
                    f"padding, {REMEDY}",
                    stacklevel=2,
                )


def _longest_inside(opened: RowSource, tokens: list[int]) -> dict[int, int]:
    """The longest run of each of ``tokens`` that touches neither end of its row."""
    found = dict.fromkeys(tokens, 0)
    rows = min(opened.shape[0], max(1, LOOKED_AT // opened.shape[1]))
    for start in range(0, rows, AT_ONCE):
        block = np.asarray(opened.rows[start : min(start + AT_ONCE, rows)])
        for token in tokens:
            if not (here := block == token).any():
                continue
            edges = np.diff(np.pad(here, ((0, 0), (1, 1))).astype(np.int8), axis=1)
            begin, stop = np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]
            within = (begin > 0) & (stop < block.shape[1])
            found[token] = max(found[token], int((stop - begin)[within].max(initial=0)))
    return found


def _trailing(block: Block, stop: Counts, token: int | Block) -> Counts:
    """How often ``token`` stands at the end of the first ``stop`` ids of every row."""
    other = (block != token) & (np.arange(block.shape[1]) < stop[:, None])
    last = np.where(other.any(1), block.shape[1] - np.argmax(other[:, ::-1], axis=1), 0)
    return np.asarray(stop - last, dtype=np.int64)


def _leading(block: Block, stop: Counts, token: int | Block) -> Counts:
    """How often ``token`` stands at the beginning of the first ``stop`` ids of every row."""
    other = (block != token) & (np.arange(block.shape[1]) < stop[:, None])
    return np.asarray(np.where(other.any(1), np.argmax(other, axis=1), stop), dtype=np.int64)
