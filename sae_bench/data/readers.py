"""Where text and token ids come from: files, folders, the Hugging Face hub, the demo, memory.

`open_source` decides what a source is and returns it opened. Texts are an iterator that reads on demand, so a
caller that stops early has read no more than it took; token ids are read in blocks of rows. Everything here is
untrusted input: nothing is unpickled, no code that comes with data is run, and whatever cannot be read becomes one
`DataError` that names the file and the place in it.
"""

import dataclasses
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sae_bench.data.chats import Chats, messages_in
from sae_bench.data.csv_files import TABLES
from sae_bench.data.groups import labels_given
from sae_bench.data.ids import open_npy, open_safetensors, row_source
from sae_bench.data.sources import Document, RowSource, TextSource, quoted, reading
from sae_bench.data.splits import of_split
from sae_bench.data.text_files import RECORDS, TEXT_SUFFIXES, Fields, check_fields, document_of, open_texts, string_of
from sae_bench.errors import DataError, UsageError, named
from sae_bench.files import below, read_json, regular

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
DEMO_DOCUMENTS = 2000
DEMO_GROUP = "kind"  # by which its texts can be grouped: news, code, ...
# What nobody means as a hub id, although `data/text.csv` has the form of one.
NO_DATA = ("dataset_info.json", "dataset_infos.json", "README.txt", "LICENSE.txt")  # lie beside files of data
FILE_SUFFIXES = (*TEXT_SUFFIXES, ".npy", ".npz", ".safetensors", ".json", ".gz", ".zst", ".zip", ".pt")


def open_source(
    source: Any,
    text_field: str,
    split: str | None,
    group_field: str | None = None,
    groups: Any = None,
    chats: Chats | None = None,
) -> TextSource | RowSource:
    """Open whatever `load_corpus` accepts; raises DataError for anything else, UsageError for flags that cannot act.

    `group_field` is the column (of ids the tensor) that says what each text or row belongs to, `groups` says it of
    texts in memory and of rows. `chats` writes what is a list of messages instead of a text; without it such a list is
    refused.
    """
    if groups is not None and group_field is not None:
        raise UsageError(f"groups and group_field={group_field!r} both say what texts belong to: give one of them")
    opened = _opened(source, Fields(text_field, group_field, chats), split)
    if group_field is not None and "group_field" not in opened.notes:
        what = "whose texts have no fields"
        if isinstance(opened, RowSource):
            what = "which holds ids alone: give a .safetensors file with that tensor beside them, or groups= in Python"
        raise UsageError(f"--group-field {group_field} cannot act on {opened.name}, {what}")
    return opened if groups is None else _grouped(opened, labels_given(groups))


def hub_name(source: str) -> str | None:
    """The id of the data set on the hub that a text means, without its configuration; None where it means none."""
    is_id = HUB_ID.fullmatch(source) is not None and not source.lower().endswith(FILE_SUFFIXES)
    return source.partition(":")[0] if is_id else None


def _grouped(opened: TextSource | RowSource, labels: list[str]) -> TextSource | RowSource:
    """The source with a label for each of its texts or rows. Raises UsageError, DataError."""
    size = opened.size if isinstance(opened, TextSource) else opened.shape[0]
    if size is None:
        raise UsageError(
            f"groups cannot act on {opened.name}: it goes with a list of texts or with rows of ids; of a file or data "
            "set name the column that says what each text belongs to (group_field)"
        )
    if len(labels) != size:
        what = "texts" if isinstance(opened, TextSource) else "rows"
        raise DataError(f"groups must hold a label for each of the {size} {what} of {opened.name}, got {len(labels)}.")
    if isinstance(opened, TextSource):
        both = zip(opened.documents, labels, strict=True)
        return dataclasses.replace(opened, documents=(one._replace(group=label) for one, label in both))
    return dataclasses.replace(opened, labels=lambda where: labels[where])


def _opened(source: Any, fields: Fields, split: str | None) -> TextSource | RowSource:
    if isinstance(source, str | Path):
        return _open_named(source, fields, split)
    torch = sys.modules.get("torch")  # a tensor can only come from somebody who has imported torch already
    if torch is not None and isinstance(source, torch.Tensor):
        if source.is_floating_point() or source.is_complex():
            raise DataError(f"Token ids must be integers, got a tensor of {source.dtype}; give a tensor of int64 ids.")
        return row_source(source.detach().cpu().numpy(), "the given tensor", "tensor")
    if isinstance(source, np.ndarray):
        return row_source(source, "the given array", "array")
    if not isinstance(source, list | tuple):
        kind = type(source).__name__
        raise DataError(f"Data must be a path, a hub id, 'demo', a list of texts or an array of ids, got {kind}.")
    if not source:
        raise DataError("The given list of texts is empty; give at least two documents.")
    if any(isinstance(item, str) or (item and messages_in(item) is not None) for item in source):
        chats = fields.chats
        texts = (string_of(text, f"text {row} of the given list", chats) for row, text in enumerate(source))
        return TextSource("the given texts", "list of texts", map(Document, texts), size=len(source))
    try:
        array = np.asarray(source)
    except (ValueError, TypeError) as error:
        raise DataError(
            "A list must hold texts or equally long rows of token ids (shorter ones padded on the right), and this one "
            "holds neither."
        ) from error
    return row_source(array, "the given list", "list of rows")


def _open_named(source: str | Path, fields: Fields, split: str | None) -> TextSource | RowSource:
    if source == "demo":
        from sae_bench.demo import document

        part: Any = split or "eval"
        if part not in ("train", "eval"):
            raise DataError(f"The demo has the splits train and eval, not {part!r}.")
        if fields.group not in (None, DEMO_GROUP):
            raise DataError(f"The texts of the demo have the field {DEMO_GROUP!r} to group by, not {fields.group!r}.")
        made = (document(index, split=part) for index in range(DEMO_DOCUMENTS))
        notes: dict[str, Any] = {} if split is None else {"split": split}
        if fields.group is None:
            return TextSource("demo", "demo", (Document(one.text, None, one.kind) for one in made), notes)
        notes["group_field"] = fields.group
        return TextSource("demo", "demo", (Document(one.text, one.kind, one.kind) for one in made), notes)
    shown = str(source) if len(str(source)) < 200 else f"{str(source)[:80]!r}..."
    path = Path(source).expanduser()
    with reading(shown):
        is_folder, is_there = path.is_dir(), path.exists()
    if is_folder:
        return _open_folder(path, fields, split)
    if is_there:
        return _open_file(path, fields)
    if isinstance(source, str) and hub_name(source):
        return _open_hub(source, fields, split)
    raise DataError(
        f"There is no file or folder {shown}: give a path that exists, a hub id such as org/name, or 'demo'."
    )


def _open_file(path: Path, fields: Fields) -> TextSource | RowSource:
    regular(path, DataError)
    name = path.name.lower()
    if name.endswith(".npy"):
        return open_npy(path)
    if name.endswith(".safetensors"):
        return open_safetensors(path, fields.group)
    for suffix in TEXT_SUFFIXES:
        if name.endswith(suffix):
            return open_texts(path, suffix, fields)
    known = ", ".join((*TEXT_SUFFIXES, ".npy", ".safetensors"))
    raise DataError(f"{path} has a suffix that is not known here; convert it to one of {known}.")


def _open_folder(path: Path, fields: Fields, split: str | None) -> TextSource:
    with reading(str(path)):
        next(path.iterdir(), None)  # rglob passes over a folder that may not be listed
        is_saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if is_saved:
        import datasets

        _check_saved(path)
        with reading(str(path), datasets.exceptions.DatasetsError, KeyError, TypeError):
            data = datasets.load_from_disk(str(path))
        return TextSource(str(path), "folder of datasets.save_to_disk", *_dataset_texts(data, str(path), fields, split))
    with reading(str(path)):
        inside = sorted(item.relative_to(path) for item in path.rglob("*") if item.is_file())
    shown = [name for name in inside if name.name[0] not in "._" and name.name not in NO_DATA]
    files = [name for name in shown if name.name.lower().endswith(RECORDS)]
    files = files or [name for name in shown if name.name.lower().endswith(tuple(TABLES))]
    others = [name for name in shown if name not in files and name.name.lower().endswith(FILE_SUFFIXES)]
    files = of_split(files, split, str(path))
    if not files:
        wanted = "" if split is None else f" of the split {split!r}"
        raise DataError(
            f"{path} holds no .parquet, .jsonl or .jsonl.gz file{wanted}, and no table in .csv or .tsv; "
            "give a folder that does."
        )
    sources = (_open_file(path / name, fields) for name in files)
    texts = (one for opened in sources if isinstance(opened, TextSource) for one in opened.documents)
    notes: dict[str, Any] = {**fields.notes, "files": [name.as_posix() for name in files]}
    notes |= {} if split is None else {"split": split}
    if others:
        notes["files_left_out"] = [name.as_posix() for name in others]
        share = f"{len(others)} of {len(others) + len(files)} files of data in {path}"
        warnings.warn(
            f"{share} are left out, such as {others[0]}: .parquet, .jsonl and .jsonl.gz are read", stacklevel=2
        )
    return TextSource(str(path), "folder of files", texts, notes)


def _check_saved(path: Path) -> None:
    """Refuse a folder of `datasets.save_to_disk` whose state names files that do not lie in it. Raises DataError."""
    for state in sorted(path.rglob("state.json")):
        content = read_json(state, DataError)
        named_files = content.get("_data_files") if isinstance(content, dict) else None
        for one in named_files if isinstance(named_files, list) else ():
            name = one.get("filename") if isinstance(one, dict) else None
            if not below(state.parent, name):
                raise DataError(f"{state} names the file {str(name)[:80]!r}, which is not in its folder")
            regular(state.parent / str(name), DataError)


def _open_hub(source: str, fields: Fields, split: str | None) -> TextSource:
    import datasets

    name, _, config = source.partition(":")
    with _hub_errors(source):
        data = datasets.load_dataset(name, config or None, streaming=True)
    texts, notes = _dataset_texts(data, source, fields, split)
    return TextSource(source, "hub, streamed", _guarded(texts, source), notes)


def _guarded(texts: Iterator[Document], source: str) -> Iterator[Document]:
    with _hub_errors(source):
        yield from texts


@contextmanager
def _hub_errors(source: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the errors of datasets, huggingface_hub, httpx and fsspec have no common base
        raise DataError(
            f"{source} is no path here and could not be loaded from the hub ({named(error, file=False)}): "
            "give a local file, or download the data set once while online."
        ) from error


def _dataset_texts(
    data: Any, name: str, fields: Fields, split: str | None
) -> tuple[Iterator[Document], dict[str, Any]]:
    """Texts and notes of a `Dataset`, an `IterableDataset` or a dict of them; a dict of several needs `split`."""
    notes: dict[str, Any] = {**fields.notes}
    if isinstance(data, dict):
        if split is None and len(data) == 1:
            split = next(iter(data))
        if split not in data:
            asked = "choose its split" if split is None else f"it has no split {split!r}"
            raise DataError(f"{name} has the splits {quoted(data)}: {asked}; set `split` to one of them.")
        data = data[split]
        notes["split"] = split
    elif split is not None and str(data.split) == split:
        notes["split"] = split
    if data.column_names is not None:  # a stream may not know its columns before its first row
        check_fields(data.column_names, fields, name)
        data = data.select_columns(fields.names)
    return (document_of(values, fields, f"{name} row {row}") for row, values in enumerate(data)), notes
