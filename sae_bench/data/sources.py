"""What an opened source is, and one sentence for whatever goes wrong while it is read."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sae_bench.errors import DataError, named


@dataclass(frozen=True)
class TextSource:
    """Texts, one document each, read as the iterator is advanced."""

    name: str
    how: str
    texts: Iterator[str]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowSource:
    """Token ids `[sequences, length]`, read by slicing `rows[start:stop]`; the dtype is an integer one.

    `attention` is of the same shape and is read in the same way: 1 where an id is real, 0 where it is padding.
    """

    name: str
    how: str
    rows: Any
    shape: tuple[int, int]
    attention: Any = None
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
