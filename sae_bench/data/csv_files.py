"""Rows of tables in text: comma- and tab-separated values, as spreadsheets and data frames write them."""

import csv
import re
from collections.abc import Iterable, Iterator

from sae_bench.data.sources import decoded, quoted
from sae_bench.errors import DataError
from sae_bench.files import LINE

TABLES = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}  # suffixes, and what stands between cells
_LONE_RETURN = re.compile(rb"(?<=\r)(?!\n)")


def csv_rows(
    lines: Iterable[bytes], where: str, delimiter: str, needed: Iterable[str] = (), optional: Iterable[str] = ()
) -> Iterator[dict[str, str]]:
    """The rows of a table by the names in its first line; cells may be quoted, and hold line ends and delimiters then.

    Of ``needed`` columns the first line must have each once, of ``optional`` ones at most once. ``where`` is the file,
    for sentences. Raises DataError, and csv.Error for broken quoting.
    """
    csv.field_size_limit(max(LINE, csv.field_size_limit()))  # a cell is a document
    reader = csv.reader(_texts(lines, where), delimiter=delimiter, strict=True)
    header = next(reader, [])
    for name in (*needed, *(name for name in optional if name in header)):
        if header.count(name) != 1:
            problem = "several columns" if name in header else "no column"
            raise DataError(
                f"{where} has {problem} {name!r} (found: {quoted(header)}): the first line of a table must name each "
                "column that is read, once."
            )
    for row, values in enumerate(filter(None, reader)):
        if len(values) != len(header):
            raise DataError(
                f"{where} row {row} has {len(values)} columns and the header {len(header)}; put texts with commas or "
                "line ends in quotation marks."
            )
        yield dict(zip(header, values, strict=True))


def _texts(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines as text, without a mark of the byte order; a carriage return alone ends a line too."""
    offset = 0
    for line in lines:
        for part in _LONE_RETURN.split(line):
            yield decoded(part, name, offset)
            offset += len(part)
