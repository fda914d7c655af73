"""Files: written so that a reader never sees half of one, and their digest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_bench.errors import ResultError


def at_home(path: str | Path) -> Path:
    """A path in which ``~`` is the home folder; it stays as it is where there is no such home folder."""
    return Path(os.path.expanduser(path))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence that names ``path``. Raises ResultError."""
    try:
        yield
    except OSError as error:
        raise ResultError(
            f"cannot write {path}: {error.strerror or error}; make room or give another folder with --out"
        ) from error


def write_atomically(file: Path, content: bytes) -> None:
    """Write to a temporary file in the same folder, then rename. Raises ResultError."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")  # of this call alone, on whatever machine
    with writing(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def sha256(*files: Path) -> str:
    """Digest of the contents of files, in this order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
