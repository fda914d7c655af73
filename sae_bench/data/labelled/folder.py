"""Probe sets in a folder of the user: `<set>/{train,test}.{parquet,jsonl,csv}` with the columns `text` and `label`.

A column `spans` may say where in the text the label is (:mod:`sae_bench.data.labelled.spans`).
Nothing is repaired here: whatever is wrong with a set is one `DataError` that names the set, the file and the row.
Rows of parquet and csv files count from 0 as in a data frame, the header of a csv file not included; lines of a jsonl
file count from 1.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sae_bench.data.csv_files import csv_rows
from sae_bench.data.labelled.build import Draft, SetBuilder
from sae_bench.data.labelled.encode import PARTS, Encoder, LabelledOptions, PartName
from sae_bench.data.labelled.entries import NAME
from sae_bench.data.labelled.spans import Spans, checked
from sae_bench.data.sources import quoted, reading
from sae_bench.data.text_files import check_expansion, open_parquet
from sae_bench.errors import DataError, named
from sae_bench.files import GIB, lines, opened, strict_json
from sae_bench.registry import choose

SUFFIXES = (".parquet", ".jsonl", ".csv")
COLUMNS = ("text", "label")
SPANS = "spans"  # a column that may be there: where in the text the label is
LABELS: dict[Any, bool] = {0: False, 1: True, "0": False, "1": True}  # False and True are equal to 0 and 1
LAYOUT = "<set>/train.parquet and <set>/test.parquet (or .jsonl, .csv)"


def load_folder(folder: Path, encoder: Encoder, options: LabelledOptions) -> list[Draft]:
    """The sets of `folder` that `options.names` chooses, in the order of their names. Raises `DataError`."""
    with reading(str(folder)):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; give one that holds {LAYOUT}.")
        inside = sorted(item.name for item in folder.iterdir() if item.is_dir() and item.name[0] not in "._")
        is_set = any((folder / f"{part}{suffix}").exists() for part in PARTS for suffix in SUFFIXES)
    if not inside:
        hint = "give the folder above it" if is_set else f"give a folder that holds {LAYOUT}"
        raise DataError(f"{folder} holds no probe set; {hint}.")
    wrong = next((name for name in inside if not re.fullmatch(NAME, name)), None)
    if wrong is not None:
        raise DataError(
            f"{folder}: the name of a probe set may hold letters, digits, '-', '_' and '.', got {wrong[:80]!r}; rename "
            "the folder."
        )
    chosen = choose(options.names, dict.fromkeys(inside), "probe set")
    return [_load_set(folder / name, encoder, options) for name in chosen]


def _load_set(folder: Path, encoder: Encoder, options: LabelledOptions) -> Draft:
    name = folder.name
    files = {part: _file_of(folder, part) for part in PARTS}
    builder = SetBuilder(name, encoder, options, where=lambda part, row: _place(files[part], row))
    for part, file in files.items():
        for row, values in _rows(file):
            text, label, spans = _example(values, f"Probe set {name!r}: {_place(file, row)}")
            builder.add(part, text, label, row, spans)
    return builder.finish(str(folder), files=[file.name for file in files.values()])


def _file_of(folder: Path, part: PartName) -> Path:
    with reading(str(folder)):
        found = [path for suffix in SUFFIXES if (path := folder / f"{part}{suffix}").exists()]
        inside = sorted(item.name for item in folder.iterdir())
        regular = all(path.is_file() for path in found)
    where = f"Probe set {folder.name!r}: {folder}"
    if not found:
        wanted = " or ".join(f"{part}{suffix}" for suffix in SUFFIXES)
        raise DataError(f"{where} has no {part} part (found: {quoted(inside)}); it needs {wanted}.")
    if len(found) > 1:
        raise DataError(f"{where} has both {found[0].name} and {found[1].name}; keep one of them.")
    if not regular:
        raise DataError(f"{where}/{found[0].name} is not a regular file; write the examples to a file.")
    return found[0]


def _place(file: Path, row: int | None) -> str:
    kind = "line" if file.suffix == ".jsonl" else "row"
    return str(file) if row is None else f"{file} {kind} {row}"


def _example(values: Mapping[str, Any], where: str) -> tuple[str, bool, Spans | None]:
    missing = [name for name in COLUMNS if name not in values]
    if missing:
        raise DataError(f"{where} has no column {missing[0]!r} (found: {quoted(values)}); it needs 'text' and 'label'.")
    text, label = (values[name] for name in COLUMNS)
    if not isinstance(text, str):
        raise DataError(f"{where}: the text must be a string, got {type(text).__name__}; remove the row or convert it.")
    if not isinstance(label, bool | int | float | str) or label not in LABELS:
        raise DataError(f"{where}: the label must be 0 or 1, got {str(label)[:40]!r}; remove the row or correct it.")
    return text, LABELS[label], checked(values.get(SPANS), text, where)


def _rows(file: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    return {".parquet": _parquet, ".jsonl": _jsonl, ".csv": _csv}[file.suffix](file)


def _parquet(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow as pa

    row = 0
    where = f"Probe set {file.parent.name!r}: {file}"
    with reading(where, pa.ArrowException), open_parquet(file, "text") as table:
        check_expansion(table, file)
        names = table.schema_arrow.names
        for name in COLUMNS:
            if names.count(name) != 1:
                problem = "no column" if name not in names else "several columns"
                raise DataError(
                    f"{where} has {problem} {name!r} (found: {quoted(names)}); it needs 'text' and 'label'."
                )
        if names.count(SPANS) > 1:
            raise DataError(f"{where} has several columns {SPANS!r} (found: {quoted(names)}); keep one.")
        read = [*COLUMNS, *(name for name in (SPANS,) if name in names)]
        for batch in table.iter_batches(batch_size=256, columns=read):
            for values in zip(*(batch.column(name) for name in read), strict=True):
                yield row, {name: value.as_py() for name, value in zip(read, values, strict=True)}
                row += 1


def _jsonl(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    where = f"Probe set {file.parent.name!r}: {file}"
    with reading(where), opened(file, DataError) as stream:
        for number, line in enumerate(lines(stream, file, DataError), start=1):
            if not line.strip():
                continue
            try:
                values = strict_json(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{where} line {number} is not UTF-8; save the file as UTF-8.") from error
            except ValueError as error:
                reason = named(error)
                raise DataError(f"{where} line {number} is not JSON ({reason}); write one object a line.") from error
            if not isinstance(values, dict):
                kind = type(values).__name__
                raise DataError(f"{where} line {number} must be an object with 'text' and 'label', got {kind}.")
            yield number, values


def _csv(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    where = f"Probe set {file.parent.name!r}: {file}"
    with reading(where, csv.Error), opened(file, DataError, GIB) as raw:
        yield from enumerate(csv_rows(lines(raw, file, DataError), where, ",", COLUMNS, (SPANS,)))
