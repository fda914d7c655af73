"""What an opened source is, and one sentence for whatever goes wrong while it is read."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sae_bench.errors import DataError, named


class Document(NamedTuple):
    """A text, with the label of its group and the kind of text that it is (``source``), where that is known."""

    text: str
    group: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class TextSource:
    """Texts, one document each, read as the iterator is advanced; ``size`` is how many there are, if that is known."""

    name: str
    how: str
    documents: Iterator[Document]
    notes: dict[str, Any] = field(default_factory=dict)
    size: int | None = None

    @property
    def texts(self) -> Iterator[str]:
        """The texts alone."""
        return (document.text for document in self.documents)


@dataclass(frozen=True)
class RowSource:
    """Token ids `[sequences, length]`, read by slicing `rows[start:stop]`; the dtype is an integer one.

    `attention` is of the same shape and is read in the same way: 1 where an id is real, 0 where it is padding.
    `labels` gives the labels of the groups of a slice of rows; None where nobody says what rows belong to.
    """

    name: str
    how: str
    rows: Any
    shape: tuple[int, int]
    attention: Any = None
    labels: Callable[[slice], list[str]] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@contextmanager
def reading(name: str, *also: type[Exception]) -> Iterator[None]:
    """Turn what goes wrong while reading `name` into one `DataError`; `also`: further classes that mean bad data."""
    bad_data: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, *also)
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{name} cannot be read: permission denied; change its access rights or copy it.") from error
    except bad_data as error:
        raise DataError(f"{name} cannot be read ({named(error, file=False)}); check that it is whole.") from error


def quoted(names: Iterable[Any]) -> str:
    """Names in a list for a message."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "") if listed else "none"


def decoded(raw: bytes, name: str, offset: int) -> str:
    """UTF-8 that stands at ``offset`` of a file, without the mark of the byte order at its start. Raises DataError."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
        raise DataError(f"{name} is not UTF-8: {where} cannot be decoded; save the text as UTF-8.") from error
    return text.removeprefix("\ufeff") if offset == 0 else text
