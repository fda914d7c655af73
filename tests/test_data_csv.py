"""Texts in tables of comma- and tab-separated values, whatever wrote them."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from sae_bench.data.readers import open_source
from sae_bench.errors import DataError

TEXTS = [
    "plain",
    "with, a comma",
    'with "quotes"',
    "two\nlines",
    "dos\r\nlines",
    "tab\there",
    "",
    " spaces ",
    "ümläut 中",
    "x" * 200_000,
]


def rows(path: Path, field: str = "text", group: str | None = None) -> list[Any]:
    return [*open_source(path, field, None, group).documents]  # type: ignore[union-attr]


def table(delimiter: str = ",", end: str = "\r\n") -> str:
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end)
    writer.writerow(["id", "text", "source"])
    writer.writerows([number, text, f"s{number % 2}"] for number, text in enumerate(TEXTS))
    return made.getvalue()


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "dos"])
@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv", ".csv.gz", ".tsv.gz"])
def test_cells_come_as_they_were_written(suffix: str, end: str, mark: str, tmp_path: Path) -> None:
    content = (mark + table("\t" if "tsv" in suffix else ",", end)).encode()
    file = tmp_path / f"a{suffix}"
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    assert [one.text for one in rows(file)] == TEXTS
    assert [one.group for one in rows(file, group="source")] == [f"s{n % 2}" for n in range(len(TEXTS))]
    assert [one.text for one in rows(file, "id")] == [str(n) for n in range(len(TEXTS))]


def test_it_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"text": TEXTS, "id": range(len(TEXTS))}).to_csv(tmp_path / "a.csv", index=False)
    assert [one.text for one in rows(tmp_path / "a.csv")] == TEXTS


def test_lines_that_end_in_a_carriage_return_alone_and_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,n\ra,1\r"b\rc",2\r\r\r\n\nd,3')
    assert [one.text for one in rows(tmp_path / "a.csv")] == ["a", "b\rc", "d"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"body,n\na,1\n", r"a\.csv has no column 'text' \(found: 'body', 'n'\)"),
        (b"text;n\na;1\n", r"has no column 'text' \(found: 'text;n'\)"),
        (b"text,text\na,b\n", "has several columns 'text'"),
        (b"text,n\na,1\nb, c,2\n", r"a\.csv row 1 has 3 columns and the header 2; put texts with commas"),
        (b"text,n\na\n", "row 0 has 1 columns and the header 2"),
        (b'text\n"never closed\nb\n', "unexpected end of data"),
        (b'text\n"a"b\n', "expected after"),
        (b"text\nok\n\xff\xfe\n", r"is not UTF-8: byte 0xff at offset 8 cannot be decoded"),
        ("text\na\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        rows(tmp_path / "a.csv")


def test_a_group_that_is_an_empty_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,source\na,x\nb,\n")
    with pytest.raises(DataError, match=r"row 1, field 'source', must be a printable text and not empty"):
        rows(tmp_path / "a.csv", group="source")


def test_a_few_bytes_of_gzip_are_no_terabyte_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\n" + b"a\n" * 20_000_000, 9))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        rows(tmp_path / "a.csv.gz")


def test_a_folder_of_tables_is_read_where_there_is_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.csv").write_text(f"text\nof {name}\n")
    assert [one.text for one in rows(tmp_path)] == ["of a", "of b"]
    (tmp_path / "c.jsonl").write_text('{"text": "of c"}\n')
    with pytest.warns(UserWarning, match=r"2 of 3 files of data .* are left out, such as a\.csv"):
        assert [one.text for one in rows(tmp_path)] == ["of c"]
