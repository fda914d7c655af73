"""Opening the file of a cache, and what to do where SQLite refuses."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

_PATIENCE = 30.0  # seconds to wait for another process


def to_write(path: Path | None) -> sqlite3.Connection:
    """A connection to a file, made where there is none; None keeps all in memory. Raises OSError, sqlite3.Error."""
    if path is not None:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("it is no file")  # SQLite would wait for what comes out of a pipe
        path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path or ":memory:", timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _log_ahead(db)
        db.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; a power cut may lose the last rows
    except BaseException:
        db.close()
        raise
    return db


def _log_ahead(db: sqlite3.Connection) -> None:
    """Where several open a new file at once, SQLite lets one change its mode and does not wait for the others."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, also where the folder cannot be written."""
    address = path.absolute().as_uri() + "?mode=ro"
    db = sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        db.close()
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:  # rows that a frozen reading would miss
            raise
        frozen = address + "&immutable=1"
        db = sqlite3.connect(frozen, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    except BaseException:
        db.close()
        raise
    return db


def cure(refusal: str) -> str:
    """What to do about a refusal in these words."""
    if "full" in refusal:
        return "make room on the disk"
    if "locked" in refusal:
        return "another process holds it: wait for it or give another file"
    if "not a database" in refusal or "malformed" in refusal:
        return "it is damaged or no cache: give another file (sae-bench judge import FILE reads an exported one)"
    return "give a file in a folder that can be written"
