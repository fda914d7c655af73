"""Text in files: documents one at a time, none longer than a bound, whatever a few bytes are packed from."""

import csv
import gzip
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_bench.data.chats import Chats, messages_in
from sae_bench.data.csv_files import TABLES, csv_rows
from sae_bench.data.groups import label_of
from sae_bench.data.sources import Document, TextSource, decoded, quoted, reading
from sae_bench.errors import DataError, named
from sae_bench.files import LINE, MIB, lines, opened, regular, strict_json

MARKER = b"<|endoftext|>"
RECORDS = (".jsonl.gz", ".jsonl", ".parquet")  # what a folder of data holds
TEXT_SUFFIXES = (*RECORDS, ".txt", *TABLES)


class Fields(NamedTuple):
    """The columns that are read: that of the text, and that of the group, if there is one; ``chats`` writes chats."""

    text: str
    group: str | None = None
    chats: Chats | None = None

    @property
    def names(self) -> list[str]:
        """The columns, each once."""
        return list(dict.fromkeys(name for name in (self.text, self.group) if name is not None))

    @property
    def notes(self) -> dict[str, Any]:
        """What details say of them."""
        return {"text_field": self.text} | ({} if self.group is None else {"group_field": self.group})


_MOST_EXPANSION = 200  # text shrinks to a tenth, and text that repeats itself to a hundredth


def open_texts(path: Path, suffix: str, fields: Fields) -> TextSource:
    """The documents of a file; `suffix` is one of `TEXT_SUFFIXES`. Raises DataError."""
    with reading(str(path)), opened(path, DataError) as file:
        if not file.read(1):
            raise DataError(f"{path} is empty; give a file with at least two documents.")
        if suffix == ".txt":
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                marked = view.find(MARKER) >= 0
            separator = f"the marker {MARKER.decode()}" if marked else "blank lines"
            return TextSource(
                str(path), "txt", map(Document, _txt(path, marked)), {"documents_separated_by": separator}
            )
    reader: Callable[[Path, Fields], Iterator[Document]] = {".parquet": _parquet, **dict.fromkeys(TABLES, _table)}.get(
        suffix, _jsonl
    )
    return TextSource(str(path), suffix[1:], reader(path, fields), fields.notes)


def _txt(path: Path, marked: bool) -> Iterator[str]:
    """Documents of a text file without surrounding line ends; Windows line ends become plain ones."""
    for offset, raw in _marked_blocks(path) if marked else _blank_line_blocks(path):
        text = decoded(raw, str(path), offset).replace("\r\n", "\n").strip("\n")
        if text and not text.isspace():
            yield text


def _marked_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    with opened(path, DataError) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        start = 0
        while start < len(view):
            stop = view.find(MARKER, start)
            stop = len(view) if stop < 0 else stop
            _check_length(path, start, stop - start)
            yield start, view[start:stop]
            start = stop + len(MARKER)


def _blank_line_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    with reading(str(path)), opened(path, DataError) as file:
        start, offset, block = 0, 0, list[bytes]()
        for line in lines(file, path, DataError):
            offset += len(line)
            if line.strip():
                _check_length(path, start, offset - start)
                block.append(line)
                continue
            if block:
                yield start, b"".join(block)
            start, block = offset, []
        if block:
            yield start, b"".join(block)


def _check_length(path: Path, start: int, length: int) -> None:
    if length > LINE:
        raise DataError(
            f"{path}: the document at byte {start} is longer than {LINE >> 20} MiB; separate documents by blank lines "
            f"or {MARKER.decode()}, and split what is longer"
        )


def _jsonl(path: Path, fields: Fields) -> Iterator[Document]:
    with reading(str(path)), opened(path, DataError) as file:
        offset = 0
        for number, line in enumerate(_lines(file, path), start=1):
            if line.strip():
                where = f"{path} line {number}"
                try:
                    row = strict_json(decoded(line, str(path), offset))
                except ValueError as error:
                    raise DataError(f"{where} is not JSON ({named(error)}); write one object a line.") from error
                if not isinstance(row, dict):
                    kind = type(row).__name__
                    raise DataError(f"{where} must be an object with the field {fields.text!r}, got {kind}.")
                yield document_of(row, fields, where)
            offset += len(line)


def _table(path: Path, fields: Fields) -> Iterator[Document]:
    """Rows count from 0, without the line of names, as in a data frame. An empty cell is an empty text."""
    delimiter = next(mark for suffix, mark in TABLES.items() if path.name.lower().endswith(suffix))
    with reading(str(path), csv.Error), opened(path, DataError) as file:
        for row, values in enumerate(csv_rows(_lines(file, path), str(path), delimiter, fields.names)):
            yield document_of(values, fields, f"{path} row {row}")


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    """Lines of a plain or gzipped file. A few bytes of gzip may stand for terabytes, which no text does."""
    if not path.name.lower().endswith(".gz"):
        yield from lines(file, path, DataError)
        return
    with gzip.GzipFile(fileobj=file) as unpacked:
        size = 0
        for line in lines(unpacked, path, DataError):
            size += len(line)
            if size > max(MIB, _MOST_EXPANSION * file.tell()):
                raise DataError(
                    f"{path} unpacks to more than {_MOST_EXPANSION} times its size, which no text does; it is damaged "
                    "or malicious"
                )
            yield line


def _parquet(path: Path, fields: Fields) -> Iterator[Document]:
    import pyarrow as pa

    row = 0
    with (
        reading(str(path), pa.ArrowException),
        open_parquet(path, fields.text) as file,
    ):
        check_fields(file.schema_arrow.names, fields, str(path))
        check_expansion(file, path)
        for batch in file.iter_batches(batch_size=256, columns=fields.names):
            columns = [batch.column(name) for name in fields.names]
            for values in zip(*columns, strict=True):  # one at a time: of a dictionary many rows may be one long text
                found = {name: value.as_py() for name, value in zip(fields.names, values, strict=True)}
                yield document_of(found, fields, f"{path} row {row}")
                row += 1


def open_parquet(path: Path, text_field: str) -> Any:
    """A parquet file; texts of which many rows share one are read as places in a dictionary. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(regular(path, DataError)) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
    plain = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    shared = [text_field] if kinds.get(text_field) in plain else []
    return pq.ParquetFile(regular(path, DataError), read_dictionary=shared)


def check_expansion(file: Any, path: Path) -> None:
    """Refuse a parquet file whose columns unpack to far more than they take. Raises DataError."""
    for group in range(file.metadata.num_row_groups):
        of_group = file.metadata.row_group(group)
        for place in range(of_group.num_columns):
            column = of_group.column(place)
            if column.total_uncompressed_size > max(LINE, _MOST_EXPANSION * column.total_compressed_size):
                raise DataError(
                    f"{path}: the column {column.path_in_schema[:80]!r} unpacks to {column.total_uncompressed_size} "
                    "bytes, which no text does; it is damaged or malicious"
                )


def check_fields(names: Iterable[str], fields: Fields, where: str) -> None:
    """Raise DataError where no column is called as one of `fields`."""
    found = list(names)
    if fields.text not in found:
        raise DataError(f"{where} has no field {fields.text!r} (found: {quoted(found)}); name the field of the text.")
    if fields.group is not None and fields.group not in found:
        raise DataError(
            f"{where} has no field {fields.group!r} (found: {quoted(found)}); name the field of the group, or leave "
            "--group-field out."
        )


def document_of(row: Mapping[str, Any], fields: Fields, where: str) -> Document:
    """The text of a row and its label. Raises DataError."""
    check_fields(row, fields, where)
    text = string_of(row[fields.text], f"{where}, field {fields.text!r},", fields.chats)
    if fields.group is None:
        return Document(text)
    return Document(text, label_of(row[fields.group], f"{where}, field {fields.group!r},"))


def string_of(value: Any, where: str, chats: Chats | None = None) -> str:
    """The value, if it is a text, or a chat that ``chats`` can write. Raises DataError."""
    if not isinstance(value, str):
        if chats is not None and (messages := messages_in(value)) is not None:
            return chats.text(messages, where)
        remedy = "token ids come as .npy or .safetensors" if isinstance(value, list) else "remove the row or convert it"
        raise DataError(f"{where} must be a string, got {type(value).__name__}; {remedy}.")
    return value
