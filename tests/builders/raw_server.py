"""A server that writes bytes as it likes: what no library for servers would send."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.builders.judge_server import completion

# certificates of our own for 127.0.0.1, for another name, and for 127.0.0.1 until 2020, each with its key; nobody
# trusts them
CERTIFICATES = Path(__file__).parent / "certificates"

Respond = Callable[[socket.socket, bytes], None]


class Raw:
    """Starts at once on a free port of this machine; a context manager. ``respond`` gets a connection and its request.

    With ``certificate`` over TLS. ``requests`` are all that came, with their bodies.
    """

    def __init__(self, respond: Respond, certificate: str | None = None) -> None:
        self.respond, self.requests, self.stopping = respond, list[bytes](), threading.Event()
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http{'' if self._context is None else 's'}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._socket.close()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection = plain if self._context is None else self._context.wrap_socket(plain, server_side=True)
            with connection:
                if request := _read(connection):
                    self.requests.append(request)
                    self.respond(connection, request)


def _read(connection: socket.socket) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(65536)
        if not piece:
            return found
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    length = next((int(row.split(b":")[1]) for row in head.lower().split(b"\r\n") if b"content-length" in row), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The first lines of a reply, after which the connection is closed."""
    rows = [f"HTTP/1.1 {status}", "Connection: close", *(f"{n.replace('_', '-')}: {v}" for n, v in headers.items())]
    return "\r\n".join([*rows, "", ""]).encode()


def saying(text: str) -> dict[str, Any]:
    """A completion."""
    return completion({"model": "m", "messages": []}, text)


def replying(content: bytes | str | dict[str, Any], status: str = "200 OK", **headers: str) -> Respond:
    """Always this reply, whole."""
    body = json.dumps(content) if isinstance(content, dict) else content
    sent = body.encode() if isinstance(body, str) else body
    return lambda connection, request: connection.sendall(head(status, **headers) + sent)
