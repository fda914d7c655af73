"""Completions in one SQLite file: a row each, committed as soon as it arrives, shared by any number of processes.

What is stored is the reply as it came. It is read and judged afterwards, so that a better parser costs nothing.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from sae_bench.files import check_kind, strict_json
from sae_bench.judge.errors import KEPT, JudgeError
from sae_bench.judge.records import Completion
from sae_bench.judge.secrets import NO_KEY, Scrubber
from sae_bench.judge.served import NOBODY, Served

LAYOUT = "2"
_BEFORE = "1"  # whose replies answer other prompts, and say nothing of who judged: they stay, and are not read

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS completions (
    key TEXT NOT NULL, served TEXT NOT NULL, endpoint TEXT, asked TEXT, request TEXT, status TEXT NOT NULL,
    text TEXT NOT NULL, finish_reason TEXT, model TEXT, fingerprint TEXT, provider TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, reasoning_tokens INTEGER, raw TEXT, reason TEXT, format TEXT, source TEXT NOT NULL,
    latency REAL, tries INTEGER NOT NULL, created REAL NOT NULL, PRIMARY KEY (key, served)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_judge ON completions (endpoint, asked, served, created);
CREATE TABLE IF NOT EXISTS judges (
    endpoint TEXT NOT NULL, asked TEXT NOT NULL, served TEXT NOT NULL, takes TEXT NOT NULL, said TEXT NOT NULL,
    created REAL NOT NULL, PRIMARY KEY (endpoint, asked)
) WITHOUT ROWID;
"""
_FIELDS = tuple(one.name for one in fields(Completion) if one.name != "cached")
_COLUMNS = (
    "key",
    "served",
    "endpoint",
    "asked",
    "request",
    *_FIELDS,
    "format",
    "source",
    "latency",
    "tries",
    "created",
)
_PATIENCE = 30.0  # seconds that another process may hold the file
_PIECE = 500  # keys of one query: SQLite bounds the parameters of a statement

# the first complete reply stays; one that was not gives way to the next, and is counted
_STORE = f"""
INSERT INTO completions ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})
ON CONFLICT (key, served) DO UPDATE SET
{", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:] if name != "tries")}, tries = tries + 1
WHERE status != 'ok' OR (excluded.source = 'again' AND excluded.status = 'ok')
"""

Source = Literal["live", "again", "batch", "import"]


@dataclass(frozen=True)
class Row:
    """A completion on its way into the cache, or out of it.

    Attributes:
        key: of the request.
        completion: what came.
        request: all that the key digests, as canonical JSON; None where only the key is known.
        format: what was asked for as ``response_format``.
        source: how it came; ``again`` replaces a complete reply, which could not be read.
        latency: seconds that the try took, or None.
        tries: how often it was asked.
        served: who gave it, with everything that the endpoint says.
    """

    key: str
    completion: Completion
    request: str | None = None
    format: str | None = None
    source: Source = "live"
    latency: float | None = None
    tries: int = 1
    served: Served = NOBODY


@dataclass(frozen=True)
class Known:
    """Who answered last for a model behind an endpoint, what the endpoint takes, and its reply to the first question.

    ``takes`` and ``said`` are empty where nobody has asked a first question.
    """

    served: Served
    takes: dict[str, Any] = field(default_factory=dict)
    said: str = ""


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
            if layout != LAYOUT and (read_only or layout != _BEFORE):
                raise JudgeError(
                    f"the cache {self._path} has layout {layout}, but this version of sae-bench reads layout {LAYOUT}; "
                    "give another file, or the version of sae-bench that wrote it"
                )
        elif read_only:
            raise JudgeError(f"the cache {self._path} is empty; give the file of another, or allow requests")
        if not read_only:
            with self._writing():
                self._make()

    def _make(self) -> None:
        """Make the tables that are lacking. Of several processes, one puts those of an older layout aside."""
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = self._db.execute("SELECT value FROM about WHERE name = 'layout'").fetchone() if tables else None
        if found == (_BEFORE,) and "completions" in tables:
            self._db.execute(f"ALTER TABLE completions RENAME TO completions_{_BEFORE}")
        for statement in _TABLES.split(";"):
            self._db.execute(statement)
        about = (("layout", LAYOUT), ("opened", str(time.time())))
        self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about)

    def read(self, keys: Iterable[str], judge: Served = NOBODY, fingerprints: bool = True) -> dict[str, Completion]:
        """The completions of :meth:`kept`, each with ``cached`` set. Raises JudgeError."""
        return {key: replace(row.completion, cached=True) for key, row in self.kept(keys, judge, fingerprints).items()}

    def kept(self, keys: Iterable[str], judge: Served = NOBODY, fingerprints: bool = True) -> dict[str, Row]:
        """What one judge has said, by key; ``fingerprints`` says whether another one is another judge.

        Of several replies to one question a complete one is given. A reply of a batch that names nobody is taken for
        that of the judge: it was carried there and back by hand. Raises JudgeError.
        """
        wanted = list(keys)
        found: dict[str, Row] = {}
        with self._lock, self._refusing("read"):
            for start in range(0, len(wanted), _PIECE):
                piece = wanted[start : start + _PIECE]
                marks = ",".join("?" * len(piece))
                columns = ", ".join(_FIELDS)
                query = f"SELECT key, served, source, tries, {columns} FROM completions WHERE key IN ({marks})"
                for name, served, source, tries, *values in self._db.execute(f"{query} ORDER BY created", piece):
                    whole = name in found and found[name].completion.status == "ok"
                    own = Served.read(served).judge(fingerprints)
                    if whole or (own != judge and (source, own) != ("batch", NOBODY)):
                        continue
                    stored = self._scrub.record(Completion(**dict(zip(_FIELDS, values, strict=True))))
                    found[name] = Row(name, stored, tries=tries, served=Served.read(served))
        return found

    def store(self, rows: Iterable[Row]) -> None:
        """Commit ``rows``: all or, where the cache cannot take them, none. Complete replies that are there stay.

        Raises JudgeError, for instance where the disk is full.
        """
        values = [_values(self._scrub.record(row), self._scrub.record(row.completion)) for row in rows]
        with self._writing():
            self._db.executemany(_STORE, values)

    def note(self, endpoint: str, asked: str, known: Known) -> None:
        """Remember who answers now, and what the endpoint takes. Raises JudgeError."""
        takes = json.dumps(known.takes)
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO judges VALUES (?, ?, ?, ?, ?, ?)",
                (endpoint, asked, known.served.text, takes, self._scrub.text(known.said), time.time()),
            )

    def last(self, endpoint: str, asked: str) -> Known | None:
        """Who answered last for this model behind this endpoint; else who answered a batch. Raises JudgeError."""
        with self._lock, self._refusing("read"):
            own = self._db.execute(
                "SELECT served, takes, said, created FROM judges WHERE endpoint = ? AND asked = ?", (endpoint, asked)
            ).fetchone()
            # two queries, each answered by the index alone: replies are long, and there may be many
            query = "SELECT served, max(created) FROM completions WHERE {} GROUP BY served"
            own_rows = self._db.execute(query.format("endpoint = ? AND asked = ?"), (endpoint, asked)).fetchall()
            by_hand = self._db.execute(query.format("endpoint IS NULL")).fetchall()
            row = max(own_rows + by_hand, key=lambda found: found[1], default=None)
        if own is not None and (row is None or row[0] == own[0] or own[3] >= row[1]):
            return Known(Served.read(own[0]), strict_json(own[1]), own[2])
        return None if row is None else Known(Served.read(row[0]))

    def judges(self) -> list[tuple[str, str, Known]]:
        """Endpoint, asked model and who answered last, of all that were asked a first question. Raises JudgeError."""
        with self._lock, self._refusing("read"):
            query = "SELECT endpoint, asked, served, takes, said FROM judges ORDER BY endpoint, asked"
            found = self._db.execute(query).fetchall()
        return [
            (at, asked, Known(Served.read(served), strict_json(takes), said))
            for at, asked, served, takes, said in found
        ]

    def rows(self) -> Iterator[Row]:
        """Every complete reply whose request is known, in the order of keys. Raises JudgeError."""
        columns = ("key", "served", "request", "format", "source", "latency", "tries", *_FIELDS)
        known = "status = 'ok' AND request IS NOT NULL"
        query = f"SELECT {', '.join(columns)} FROM completions WHERE {known} ORDER BY key, served"
        with self._lock, self._refusing("read"):
            for key, served, request, form, source, latency, tries, *values in self._db.execute(query):
                completion = self._scrub.record(Completion(**dict(zip(_FIELDS, values, strict=True))))
                yield Row(key, completion, request, form, source, latency, tries, Served.read(served))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All of it or nothing."""
        with self._lock, self._refusing("written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
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
    about = strict_json(row.request) if row.request is not None else {}
    head = (row.key, row.served.text, about.get("endpoint"), about.get("model"), row.request)
    completion = tuple(getattr(it, name) for name in _FIELDS)
    return (*head, *completion, row.format, row.source, row.latency, row.tries, time.time())


def _open_to_write(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("it is no file")  # SQLite would wait for what comes out of a pipe
        path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path or ":memory:", timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    _log_ahead(db)
    db.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; a power cut may lose the last rows
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
                db.close()
                raise
            time.sleep(0.02)


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
        return "it is damaged or no cache: give another file (sae-bench judge import FILE reads an exported one)"
    return "give a file in a folder that can be written"
