"""Files: what a user points at is opened with care, and what is written is never seen half.

A name may lead to a pipe, which would be waited for, to a device without an end, or to more than the memory holds. So
whoever reads a file asks here first: it must be a regular file (a link to one is), of at most so many bytes. JSON that
names a field twice says two things, and is refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sae_bench.errors import ResultError, SaeBenchError, UsageError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
TEXT = 16 * MIB  # bytes of a file that is read as a whole, unless its reader says otherwise
LINE = 64 * MIB  # bytes of a line, and of a document
LONGEST_PART, LONGEST_PATH = 255, 4096  # bytes of a name that file systems take
_ESCAPED = re.compile(r"\\.", re.DOTALL)  # in a string of JSON
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(code for code in range(256) if code not in b'[]{}"')
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def at_home(path: str | Path) -> Path:
    """A path in which ``~`` is the home folder; it stays as it is where there is no such home folder.

    Raises UsageError for what no file system takes.
    """
    return Path(os.path.expanduser(possible(path)))


def cache_folder() -> Path | None:
    """The folder of what this package keeps for a user between runs; None where there is no home folder.

    Below ``XDG_CACHE_HOME``, if that is set to an absolute path as it must be, else below ``~/.cache``.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    below = given if given.is_absolute() else Path(os.path.expanduser("~")) / ".cache"
    return below / "sae-bench" if below.is_absolute() else None


def possible(path: str | Path) -> str | Path:
    """The path, if a file can be called so: no zero byte in it, and neither it nor a part of it too long.

    Raises UsageError, before anything is measured or written.
    """
    text = str(path)
    if "\0" in text:
        raise UsageError(f"no file can be called {text[:80]!r}: it holds a zero byte")
    size = max(len(os.fsencode(part)) for part in text.split(os.sep))
    if size > LONGEST_PART or len(os.fsencode(text)) > LONGEST_PATH:
        raise UsageError(f"no file can be called {text[:60]!r}...: a name may have at most {LONGEST_PART} bytes")
    return path


def regular(path: Path, raises: type[SaeBenchError] = ResultError, most: int | None = None) -> Path:
    """The path, if it leads to a regular file of at most ``most`` bytes that can be opened. Raises ``raises``."""
    with opened(path, raises, most):
        return path


@contextmanager
def opened(path: Path, raises: type[SaeBenchError] = ResultError, most: int | None = None) -> Iterator[BinaryIO]:
    """A regular file of at most ``most`` bytes, opened for reading. Never waits for a pipe. Raises ``raises``.

    What goes wrong while it is read is the caller's.
    """
    try:
        check_kind(path, os.stat(path), raises, most)  # first, as opening alone may wait or act on a device
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise raises(f"{path} is missing, so it cannot be read") from error
    except (OSError, ValueError) as error:
        raise raises(f"{path} cannot be read: {_why(error)}") from error
    with open(number, "rb") as stream:
        check_kind(path, os.fstat(number), raises, most)  # again, of what was opened
        yield stream


def check_kind(path: Path, found: os.stat_result, raises: type[SaeBenchError], most: int | None = None) -> None:
    """Refuse what is no regular file, or too large. Raises ``raises``."""
    if (kind := _kind(found)) is not None:
        link = " (behind a link)" if os.path.islink(path) else ""
        raise raises(f"{path} cannot be read: it is {kind}{link}, not a regular file; give the file itself")
    if most is not None and found.st_size > most:
        raise raises(f"{path} cannot be read: it has {found.st_size} bytes, and such a file at most {most}")


def _kind(found: os.stat_result) -> str | None:
    """What a file is that is no regular one."""
    return next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), None)


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def read_bytes(path: Path, raises: type[SaeBenchError] = ResultError, most: int = TEXT) -> bytes:
    """The content of a regular file of at most ``most`` bytes. Raises ``raises``."""
    with opened(path, raises, most) as stream:
        try:
            content = stream.read(most + 1)
        except (OSError, MemoryError) as error:
            raise raises(f"{path} cannot be read: {_why(error) or 'out of memory'}") from error
    if len(content) > most:  # it grew, or its size is not known beforehand
        raise raises(f"{path} cannot be read: it has more than {most} bytes, which is the most for such a file")
    return content


def read_text(path: Path, raises: type[SaeBenchError] = ResultError, most: int = TEXT) -> str:
    """The text of a regular file of at most ``most`` bytes, line ends as ``\\n``. Raises ``raises``."""
    try:
        text = read_bytes(path, raises, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise raises(f"{path} is not valid text in UTF-8 ({error.reason} at byte {error.start})") from error
    return text.replace("\r\n", "\n")


class NotFinite(ValueError):
    """A number in JSON is NaN or infinite, which Python reads, but JSON does not have."""


def strict_json(text: str | bytes, *, finite: bool = False) -> Any:
    """The content of JSON in which no object has a key twice. Raises ValueError, also for what is nested too deeply.

    With ``finite`` numbers are looked at as they are read, and NotFinite is raised for one that is none: NaN, an
    infinity, or more than a float holds (``1e999``).
    """
    looked_at: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
    try:
        return json.loads(text, object_pairs_hook=_once, **looked_at)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:  # quicker than math.isfinite, and this is asked of every number
        raise NotFinite(f"{text[:80]!r} is not a finite number")
    return value


def json_levels(text: str, most: int) -> int:
    """How many levels valid JSON is nested, at most ``most`` + 1; without walking through it."""
    if "\\" in text:
        text = _ESCAPED.sub("", text)
    marks = text.encode("utf-8", "replace").translate(_SQUARE, _NO_MARKS)
    marks = marks.replace(b'""', b"")  # what was between other quotes still is
    brackets = b"".join(marks.split(b'"')[::2])  # those that stand in no string
    levels = 0
    while brackets and levels <= most:
        brackets, levels = brackets.replace(b"[]", b""), levels + 1
    return levels


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found


def read_json(path: Path, raises: type[SaeBenchError] = ResultError, most: int = TEXT) -> Any:
    """The content of a JSON file of at most ``most`` bytes, no key twice. Raises ``raises``."""
    text = read_text(path, raises, most)
    try:
        return strict_json(text)
    except ValueError as error:
        raise raises(f"{path} is not valid JSON ({error}); is it truncated?") from error


def lines(stream: Any, path: Path, raises: type[SaeBenchError], most: int = LINE) -> Iterator[bytes]:
    """The lines of an open file with their ends, none longer than ``most`` bytes. Raises ``raises``."""
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) > most:
            raise raises(
                f"{path} line {number} is longer than {most >> 20} MiB; give one document a line, and split what is "
                "longer"
            )
        yield line


def below(folder: Path, name: Any) -> bool:
    """Whether ``name``, from a file that we do not trust, is a path to something inside ``folder``."""
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name or ":" in name:
        return False
    return not name.startswith("/") and ".." not in name.split("/")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence that names ``path``. Raises ResultError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ResultError(f"cannot write {path}: {_why(error)}; make room or give another folder") from error


def check_place(file: Path) -> None:
    """That a file may be written there, as far as that can be seen without writing it. Raises ResultError.

    Nothing but a regular file is replaced: a device or a pipe is another's, and so is a stream such as /dev/stdout.
    """
    with writing(file):
        if os.path.lexists(file):
            kind = _kind(file.stat()) if file.exists() else None
            if file.is_symlink() and os.readlink(file).startswith("/proc/"):
                kind = "a stream"
            if kind is not None:
                raise ResultError(f"cannot write {file}: it is {kind}, not a regular file; give the name of a file")
        check_folder(file.parent)


def check_folder(folder: Path) -> None:
    """That files may be written below ``folder``, which may not be there yet. Raises ResultError."""
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    with writing(folder):
        if os.path.lexists(there) and not there.is_dir():
            raise ResultError(f"cannot write below {there}: it is no folder; give another")
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def write_atomically(file: Path, content: bytes | Sequence[bytes | memoryview]) -> None:
    """Write (content in one piece, or in several) to a file in the same folder, then rename it. Raises ResultError."""
    check_place(file)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")  # of this call alone, on whatever machine
    with writing(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.writelines([content] if isinstance(content, bytes) else content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def sha256(*files: Path, raises: type[SaeBenchError] = ResultError) -> str:
    """Digest of the contents of regular files, in this order. Raises ``raises``."""
    digest = hashlib.sha256()
    for file in files:
        with opened(file, raises) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
