"""Completions in one SQLite file: a row each, committed as soon as it arrives, shared by any number of processes.

What is stored is the reply as it came. It is read and judged afterwards, so that a better parser costs nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sae_bench.files import check_kind
from sae_bench.judge.errors import KEPT, JudgeError
from sae_bench.judge.records import Completion
from sae_bench.judge.secrets import NO_KEY, Scrubber

LAYOUT = "1"

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS completions (
    key TEXT PRIMARY KEY, request TEXT, status TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT, model TEXT,
    fingerprint TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, raw TEXT, reason TEXT,
    format TEXT, source TEXT NOT NULL, latency REAL, created REAL NOT NULL
) WITHOUT ROWID;
"""
_NOT_KEPT = ("cached", "provider", "reasoning_tokens")
_FIELDS = tuple(field.name for field in fields(Completion) if field.name not in _NOT_KEPT)
_PIECE = 500  # keys of one query: SQLite bounds the parameters of a statement


@dataclass(frozen=True)
class Row:
    """A completion on its way into the cache.

    Attributes:
        key: of the request.
        completion: what came.
        request: all that the key digests, as canonical JSON; None where only the key is known.
        format: ``response_format`` that the endpoint took.
        source: how it came.
        latency: seconds that the try took, or None.
    """

    key: str
    completion: Completion
    request: str | None = None
    format: str | None = None
    source: Literal["live", "batch"] = "live"
    latency: float | None = None


class Cache:
    """An open cache. Safe to use from several threads and processes; opening it proves that it can be written.

    ``path`` None keeps everything in memory; ``read_only`` never writes a byte; ``scrub`` frees all that is written or
    read of the key. Raises JudgeError.
    """

    def __init__(self, path: Path | None, read_only: bool = False, scrub: Scrubber = NO_KEY) -> None:
        self._path = path
        self._scrub = scrub
        self._lock = threading.Lock()
        if read_only and (path is None or not path.is_file()):
            raise JudgeError(f"there is no cache of completions at {path}; give the file of one, or allow requests")
        if path is not None and os.path.exists(path) and not path.is_dir():
            check_kind(path, os.stat(path), JudgeError)  # a pipe would be waited for
        with self._refusing("opened"):
            self._db = _open_to_read(path) if read_only and path is not None else _open_to_write(path)
            try:
                self._prepare(read_only)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, read_only: bool) -> None:
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "about" not in tables:
            raise JudgeError(f"{self._path} is a database, but not a cache of completions; give another file")
        if tables:
            found = self._db.execute("SELECT value FROM about WHERE name = 'layout'").fetchone()
            layout = found[0] if found else "unknown"
            if layout != LAYOUT:
                raise JudgeError(
                    f"the cache {self._path} has layout {layout}, but this version of sae-bench reads layout {LAYOUT}; "
                    "give another file, or the version of sae-bench that wrote it"
                )
        elif read_only:
            raise JudgeError(f"the cache {self._path} is empty; give the file of another, or allow requests")
        if not read_only:
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
            about = (("layout", LAYOUT), ("opened", str(time.time())))
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about)

    def read(self, keys: Iterable[str]) -> dict[str, Completion]:
        """The completions that are there, by key, each with ``cached`` set. Raises JudgeError."""
        wanted = list(keys)
        found: dict[str, Completion] = {}
        with self._lock, self._refusing("read"):
            for start in range(0, len(wanted), _PIECE):
                piece = wanted[start : start + _PIECE]
                marks = ",".join("?" * len(piece))
                rows = self._db.execute(
                    f"SELECT key, {', '.join(_FIELDS)} FROM completions WHERE key IN ({marks})", piece
                )
                for name, *values in rows:
                    stored = Completion(**dict(zip(_FIELDS, values, strict=True)), cached=True)
                    found[name] = self._scrub.record(stored)
        return found

    def store(self, rows: Iterable[Row]) -> None:
        """Commit ``rows``: all of them or, where the cache cannot take them, none. What is there already stays.

        Raises JudgeError, for instance where the disk is full.
        """
        values = [_values(self._scrub.record(row), self._scrub.record(row.completion)) for row in rows]
        marks = ",".join("?" * 15)
        with self._lock, self._refusing("written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(f"INSERT OR IGNORE INTO completions VALUES ({marks})", values)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file; what is committed stays."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _refusing(self, verb: str) -> Iterator[None]:
        """One sentence for whatever SQLite or the file system refuses."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JudgeError(
                f"the cache {self._path} cannot be {verb} ({error}); {_cure(str(error))}; {KEPT}"
            ) from error


def _values(row: Row, it: Completion) -> tuple[Any, ...]:
    reply = (it.status, it.text, it.finish_reason, it.model, it.fingerprint, it.prompt_tokens, it.completion_tokens)
    about = (it.raw, it.reason, row.format, row.source, row.latency, time.time())
    return (row.key, row.request, *reply, *about)


def _open_to_write(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("it is no file")  # SQLite would wait for what comes out of a pipe
        path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path or ":memory:", timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; a power cut may lose the last rows
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, also where the folder cannot be written."""
    address = path.absolute().as_uri() + "?mode=ro"
    db = sqlite3.connect(address, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        db.close()
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:  # rows that a frozen reading would miss
            raise
        frozen = address + "&immutable=1"
        db = sqlite3.connect(frozen, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
    return db


def _cure(refusal: str) -> str:
    if "full" in refusal:
        return "make room on the disk"
    if "locked" in refusal:
        return "another process holds it: wait for it or give another file"
    if "not a database" in refusal or "malformed" in refusal:
        return "it is damaged or no cache: give another file"
    return "give a file in a folder that can be written"
