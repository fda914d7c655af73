"""Probe sets of the Hugging Face hub, streamed.

Entries of one source are read together, in one pass over the first rows of each split. No number of rows read depends
on the limits, so a smaller run chooses from the same texts as a larger one. What cannot be used becomes a reason, not
an error: no network, a gated set, a missing column. Texts that occur in both parts are left out of the train part, a
text with both labels is left out of its part, and both are counted in the notes.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from sae_bench.data.labelled.build import Draft, SetBuilder
from sae_bench.data.labelled.encode import Encoder, LabelledOptions, PartName, Unusable, side_of
from sae_bench.data.labelled.entries import HubSet
from sae_bench.data.labelled.rules import labelled
from sae_bench.errors import DataError, named

# Classes of exceptions, by name, that mean that nobody answered: requests, httpx, huggingface_hub, the operating system
UNREACHABLE = frozenset(
    {"ConnectionError", "ConnectError", "ConnectTimeout", "NetworkError", "OfflineModeIsEnabled", "TimeoutException"}
    | {"TimeoutError", "ReadTimeout", "LocalEntryNotFoundError"}
)
FAILURES = 2  # connections lost before the rest is left alone, once the hub has answered
CHARACTERS = 32  # a text is cut to so many characters a token of the context before it is tokenised


class Unreachable(Unusable):
    """The hub does not answer."""


def load_hub(
    entries: Iterable[HubSet], encoder: Encoder, options: LabelledOptions
) -> tuple[list[Draft], dict[str, str]]:
    """The sets that can be had, and why the others cannot. Raises `DataError` only for a tokenizer that does not fit.

    Once the hub cannot be reached, the remaining sets are not tried; in offline mode, where trying is fast, they are,
    since they may be in the cache.
    """
    drafts: list[Draft] = []
    skipped: dict[str, str] = {}
    unreachable, failures, answered = "", 0, False
    for _, group in groupby(sorted(entries, key=_source), key=_source):
        members = list(group)
        if unreachable:
            skipped |= {entry.name: f"{entry.dataset} was not tried, since {unreachable}." for entry in members}
            continue
        try:
            found, refused = _read_together(members, encoder, options)
        except Unusable as error:
            skipped |= {entry.name: f"{error}." for entry in members}
            if not isinstance(error, Unreachable):
                answered = True
            elif not _offline():
                failures += 1
                if failures >= FAILURES or not answered:
                    unreachable = "the Hugging Face hub did not answer before"
            continue
        answered = True
        drafts += found
        skipped |= refused
    return drafts, skipped


def _source(entry: HubSet) -> tuple[Any, ...]:
    """What entries that are read together have in common."""
    place = (entry.dataset, entry.configs, entry.folder or "", entry.revision)
    return *place, entry.train or "", entry.test or "", entry.split or "", entry.rows


def _read_together(
    entries: list[HubSet], encoder: Encoder, options: LabelledOptions
) -> tuple[list[Draft], dict[str, str]]:
    builders = {entry.name: SetBuilder(entry.name, encoder, options, balanced=entry.balanced) for entry in entries}
    refused: dict[str, str] = {}
    first = entries[0]
    most = CHARACTERS * options.context
    for part, row in _rows_of_parts(first):
        for entry in entries:
            if entry.name in refused:
                continue
            try:
                for example in labelled(entry, row):
                    side = side_of(example.group) if part is None else part
                    builders[entry.name].add(side, example.text[:most], example.label)
            except Unusable as error:
                refused[entry.name] = f"{entry.dataset}: {error}."
    drafts: list[Draft] = []
    for entry in entries:
        if entry.name not in refused:
            try:
                drafts.append(_finish(entry, builders[entry.name]))
            except Unusable as error:
                refused[entry.name] = f"{entry.dataset}: {error}."
    return drafts, refused


def _finish(entry: HubSet, builder: SetBuilder) -> Draft:
    configs = f" ({', '.join(entry.configs)})" if entry.configs else ""
    notes: dict[str, Any] = {"licence": entry.licence, "paper": entry.source, "rows_looked_at_at_most": entry.rows}
    notes |= {"note": entry.note} if entry.note else {}
    notes |= {"uncertain": True} if entry.uncertain else {}
    return builder.finish(f"hub: {entry.dataset}{configs} at {entry.revision}", **notes)


def _rows_of_parts(entry: HubSet) -> Iterator[tuple[PartName | None, Mapping[str, Any]]]:
    """Rows with their part; None where the text decides."""
    parts: dict[PartName | None, str] = {None: entry.split} if entry.split else {}
    if entry.train and entry.test:
        parts = {"train": entry.train, "test": entry.test}
    for part, split in parts.items():
        with _hub_errors(entry.dataset):
            for row in _first_rows(entry, split):
                yield part, row


def _first_rows(entry: HubSet, split: str) -> Iterator[Mapping[str, Any]]:
    """The first `entry.rows` rows, one of each configuration in turn."""
    streams = [iter(open_rows(entry, config, split)) for config in entry.configs or (None,)]
    taken = 0
    while streams:
        for stream in list(streams):
            row = next(stream, None)
            if row is None:
                streams.remove(stream)
                continue
            yield row
            taken += 1
            if taken == entry.rows:
                return


def open_rows(entry: HubSet, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    """The rows of one split, streamed; `entry.dataset` may also be a local folder."""
    import datasets

    where = {"data_dir": entry.folder, "revision": entry.revision}
    rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
        entry.dataset, config, split=split, streaming=True, **where
    )
    return rows


@contextmanager
def _hub_errors(dataset: str) -> Iterator[None]:
    """Turn what goes wrong while `dataset` is read into `Unusable`, in one sentence."""
    try:
        yield
    except (DataError, Unusable):
        raise
    except Exception as error:  # the errors of datasets, huggingface_hub, httpx and fsspec have no common base
        reason = named(error, file=False)
        if _nobody_answered(error):
            raise Unreachable(f"The Hugging Face hub cannot be reached ({reason})") from error
        raise Unusable(f"{dataset} could not be loaded ({reason})") from error


def _nobody_answered(error: BaseException | None) -> bool:
    while error is not None:
        if any(kind.__name__ in UNREACHABLE for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


def _offline() -> bool:
    import datasets

    return bool(datasets.config.HF_HUB_OFFLINE)
