"""What runs keep for later ones: what the language model makes of a text where no SAE plays a part.

A file for every thing that is kept, in a folder of the user's, named by the digest of all that decides its bits: code,
model, text, batches, machine. It holds that description and its own digest besides, so that neither a file that is
damaged nor one that came under another's name becomes part of a figure. Nothing here ever fails a run: what cannot be
read is measured, what cannot be written is not kept. The folder takes at most ``MOST_BYTES``; what was not used for
longest goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sae_bench.engine.checkpoint import read_arrays, write_arrays
from sae_bench.engine.rows import Arrays
from sae_bench.errors import ResultError
from sae_bench.files import GIB

MOST_BYTES = 2 * GIB  # of all files together
_LEFT_BEHIND = 3600.0  # seconds after which the temporary file of a process that was killed is removed
_OTHERS_WRITE = 0o022


class Kept:
    """The files of one folder, as one run sees them: ``about`` is what decides the bits of all that it measures.

    ``reads`` False: nothing is taken, but what is measured is kept. ``most``: bytes of all files of the folder.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], *, reads: bool = True, most: int = MOST_BYTES) -> None:
        self._folder, self._about, self._reads, self._most = folder, dict(about), reads, most
        self._written = 0  # bytes that this run has kept: more than the bound would only drive one another out

    def load(self, what: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]] | None:
        """The arrays that an earlier run kept as ``what``, and what stood beside them; None where there are none."""
        if not self._reads or not self._is_ours():
            return None
        said, file = self._named(what)
        try:
            arrays, beside = read_arrays(file, check=True, most=self._most)
            if beside["about"] != said:
                return None
            found: dict[str, Any] = beside["rest"]
        except (ResultError, OSError, KeyError, TypeError, RecursionError, MemoryError):
            return None
        with suppress(OSError):  # a folder that is only read
            os.utime(file)  # it was used now
        return arrays, found

    def save(self, what: Mapping[str, Any], arrays: Arrays, rest: Mapping[str, Any]) -> None:
        """Keep arrays as ``what``, if there is room for them."""
        size = sum(array.nbytes for array in arrays.values())
        if self._written + size > self._most:
            return
        said, file = self._named(what)
        with suppress(ResultError, OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_ours():
                write_arrays(file, arrays, {"about": said, "rest": dict(rest)})
                self._written += size
                self._make_room()

    def _named(self, what: Mapping[str, Any]) -> tuple[str, Path]:
        """What is meant, as text, and the file of it."""
        said = json.dumps({**self._about, **what}, sort_keys=True)
        return said, self._folder / f"{hashlib.sha256(said.encode()).hexdigest()[:40]}.safetensors"

    def _is_ours(self) -> bool:
        """Whether nobody else can have written there: numbers come out of it."""
        try:
            found = self._folder.stat()
        except OSError:
            return False
        return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & _OTHERS_WRITE)

    def _make_room(self) -> None:
        """Remove what was not used for longest until the rest fits; another process may do the same at once."""
        files = []
        for file in self._folder.iterdir():
            with suppress(OSError):
                found = file.stat()
                if file.suffix == ".tmp" and time.time() - found.st_mtime > _LEFT_BEHIND:
                    file.unlink()
                elif file.suffix in (".safetensors", ".tmp"):
                    files.append((found.st_mtime, found.st_size, file))
        over = sum(size for _, size, _ in files) - self._most
        for _, size, file in sorted(files, key=lambda one: one[:2]):
            if over <= 0:
                return
            over -= size
            if file.suffix != ".tmp":  # that somebody is writing
                with suppress(OSError):
                    file.unlink()
