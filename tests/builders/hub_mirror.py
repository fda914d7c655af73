"""A small hub on this machine: folders as repositories, with the few requests of huggingface_hub; and its cache.

Also an address that takes connections and never answers, as a network does that swallows what is sent.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

KINDS = {"models": "model", "datasets": "dataset"}


def commit_of(folder: Path) -> str:
    """The commit of a folder: of its content."""
    digest = hashlib.sha1(usedforsecurity=False)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


def cached(cache: Path, kind: str, name: str, folder: Path) -> Path:
    """The folder as a snapshot in a cache of the hub."""
    place = cache / f"{kind}s--{name.replace('/', '--')}"
    commit = commit_of(folder)
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots").mkdir()
    (place / "snapshots" / commit).symlink_to(folder)
    return place / "snapshots" / commit


class _Hub(BaseHTTPRequestHandler):
    """Answers for the repositories of its server."""

    server: _Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if path == "/":
            self._send(b"", {})
        elif parts[0] == "api" and parts[1] in KINDS:
            self._api(KINDS[parts[1]], parts[2:])
        else:
            kind, parts = ("dataset", parts[1:]) if parts[0] == "datasets" else ("model", parts)
            self._file(kind, parts)

    def _api(self, kind: str, parts: list[str]) -> None:
        name, rest = "/".join(parts[:2]), parts[2:]
        folder = self.server.repositories.get((kind, name))
        if folder is None:
            self._missing("RepoNotFound")
            return
        files = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*")) if f.is_file()}
        found: Any = [
            {"type": "file", "oid": _etag(f), "size": f.stat().st_size, "path": path} for path, f in files.items()
        ]
        if rest[:1] != ["tree"]:
            siblings = [{"rfilename": path} for path in files]
            found = {"_id": "1", "id": name, "sha": commit_of(folder), "siblings": siblings, "tags": []}
        self._send(json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _file(self, kind: str, parts: list[str]) -> None:
        folder = self.server.repositories.get((kind, "/".join(parts[:2])))
        file = None if folder is None else folder / "/".join(parts[4:])
        if file is None or folder is None or not file.is_file():
            self._missing("EntryNotFound")
            return
        self._send(file.read_bytes(), {"X-Repo-Commit": commit_of(folder), "ETag": f'"{_etag(file)}"'})

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    def __init__(self, repositories: dict[tuple[str, str], Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Hub)
        self.repositories = repositories
        self.asked: list[str] = []


@contextmanager
def serving(repositories: dict[tuple[str, str], Path]) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub with these repositories by kind and id, and the requests that it was sent."""
    server = _Server(repositories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def hole() -> Iterator[tuple[str, list[Any]]]:
    """An address that takes connections and never answers, and the connections that were made."""
    taken: list[Any] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)

        def take() -> None:
            while True:
                try:
                    taken.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", taken
    for connection in taken:
        connection.close()


def refused() -> str:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}"
