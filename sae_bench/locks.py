"""Locks between processes: on a file, and released by the kernel when their holder ends, however it ends.

The file says who holds the lock, so that whoever waits can say so. Its holder removes it, so a lock counts only if the
locked file is still the one under its name.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sae_bench.errors import ResultError
from sae_bench.files import read_json, writing

_POLL = 0.1  # seconds between two tries
_SHOWN = 500  # bytes of what a holder says of itself
_RACES = 100  # times that the file may vanish while it is being locked
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # some network file systems


@contextmanager
def held(file: Path, waiting: Callable[[str], None] = lambda holder: None) -> Iterator[bool]:
    """Hold the lock on ``file``, whose folder is made; yields whether it had to wait for another holder.

    ``waiting`` is called once, with who holds the lock, if that is not this call. The file is gone afterwards, and so
    are the folders that were made for it if nothing else is in them. Where the file system has no locks a warning says
    so. Raises ResultError for a file that cannot be written.
    """
    waited = False
    with writing(file):
        made = [folder for folder in file.parents if not folder.exists()]
        while (descriptor := _taken(file)) is None:
            if not waited:
                waiting(_holder(file))
            waited = True
            time.sleep(_POLL)
    try:
        yield waited
    finally:
        with suppress(OSError):
            file.unlink()  # while it is locked: who waits for it sees that, and makes it anew
        os.close(descriptor)  # which gives the lock back
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _taken(file: Path) -> int | None:
    """A descriptor that holds the lock, or None if another one does. Raises OSError."""
    for _ in range(_RACES):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the last holder removes the folder just now
            continue
        try:
            if not _lock(descriptor, file):
                os.close(descriptor)
                return None
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                _sign(descriptor)
                return descriptor
            os.close(descriptor)
        except FileNotFoundError:
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))


def _sign(descriptor: int) -> None:
    """Write into the locked file who holds it."""
    me = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(me).encode())


def _lock(descriptor: int, file: Path) -> bool:
    """Lock an open file; False if it is locked already. Raises OSError."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # behind what the file holds, which others may read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warnings.warn(
                f"{file.parent} is on a file system without locks: let no two runs write there at once", stacklevel=2
            )
            return True
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK):
            return False
        raise
    return True


def _holder(file: Path) -> str:
    """Who holds the lock, in words."""
    try:
        said = read_json(file, most=_SHOWN)
        return f"process {int(said['process'])} on {said['host']!s}, since {said['since']!s}"
    except (ResultError, ValueError, KeyError, TypeError):
        return "another process"
