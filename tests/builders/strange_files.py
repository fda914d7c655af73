"""Files that are not what their names say: pipes, devices, sockets, and more bytes than anybody meant."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

HUGE = 5 << 30  # bytes, none of which takes room on the disk


def pipe(path: Path) -> None:
    """A pipe that nobody writes to: to open it is to wait."""
    os.mkfifo(path)


def endless(path: Path) -> None:
    """A link to a device that gives zeros for ever."""
    path.symlink_to("/dev/zero")


def piped_link(path: Path) -> None:
    """A link to a pipe."""
    os.mkfifo(path.with_name(f"{path.name}.pipe"))
    path.symlink_to(path.with_name(f"{path.name}.pipe"))


def listening(path: Path) -> None:
    """A socket."""
    short = os.path.relpath(path)  # the name of a socket may have a hundred bytes
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(short)


def nowhere(path: Path) -> None:
    """A link to nothing."""
    path.symlink_to(path.with_name("nowhere at all"))


def circle(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path)


def huge(path: Path) -> None:
    """A file of zeros that is larger than anything that is read."""
    with path.open("wb") as file:
        file.truncate(HUGE)


STRANGE: dict[str, Callable[[Path], None]] = {
    one.__name__: one for one in (pipe, endless, piped_link, listening, nowhere, circle, huge)
}
