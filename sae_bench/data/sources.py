"""What an opened source is, and one sentence for whatever goes wrong while it is read."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sae_bench.errors import DataError


@dataclass(frozen=True)
class TextSource:
    """Texts, one document each, read as the iterator is advanced."""

    name: str
    how: str
    texts: Iterator[str]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowSource:
    """Token ids `[sequences, length]`, read by slicing `rows[start:stop]`; the dtype is an integer one."""

    name: str
    how: str
    rows: Any
    shape: tuple[int, int]
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
        raise DataError(f"{name} cannot be read ({first_line(error)}); check that it is whole.") from error


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    said = getattr(error, "strerror", None) or str(error)  # str() of an OSError repeats the whole path
    lines = str(said).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200].strip().rstrip('.')}" if lines else type(error).__name__


def quoted(names: Iterable[Any]) -> str:
    """Names in a list for a message."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "") if listed else "none"
