"""A server that speaks the chat-completions protocol over a real socket, and fails as real ones do, on request.

``Server`` answers through a function of the messages and injects faults; ``Oracle`` is such a function: it reads the
prompt and answers with a set accuracy, position bias, and rates of parse failures and refusals. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sae_bench.judge.endpoint import shared

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Reply:
    """What the model says."""

    text: str | None
    refusal: str | None = None
    finish_reason: str = "stop"


Answer = Callable[[Messages], str | Reply]


@dataclass(frozen=True)
class Fault:
    """Something other than a completion; ``kind`` is one of ``KINDS``."""

    kind: str
    status: int = 500
    retry_after: str | None = None
    error: dict[str, Any] = field(default_factory=lambda: {"message": "injected", "type": "server_error"})


@dataclass(frozen=True)
class Response:
    """What goes over the wire: JSON, or a text as it is."""

    status: int
    content: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else json.dumps(self.content)


@dataclass(frozen=True)
class Sent:
    """What came: path, query and headers (names in lower case) of a request, and its body."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


KINDS = ("status", "drop", "hang", "truncated", "html", "error_200", "choices_null", "choices_empty", "half_sent")
BUSY = Fault("status", 429, "0.02", {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"})
BROKEN = Fault("status", 500)
QUOTA = Fault("status", 429, None, {"message": "you have no quota", "code": "insufficient_quota"})
PASSING = (BUSY, BROKEN, *(Fault(kind) for kind in KINDS if kind not in ("status", "hang")))


def key_of(body: dict[str, Any]) -> str:
    """What is asked, whatever format the reply is asked in."""
    asked = {name: value for name, value in body.items() if name in ("model", "messages", "seed", "temperature")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def completion(body: dict[str, Any], said: str | Reply) -> dict[str, Any]:
    """What the protocol answers to a request, over a connection or in a batch."""
    reply = said if isinstance(said, Reply) else Reply(said)
    message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    size = sum(len(message["content"]) for message in body["messages"])
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}-2026",
        "system_fingerprint": "fp_test",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}],
        "usage": {"prompt_tokens": size // 4, "completion_tokens": 5, "total_tokens": size // 4 + 5},
    }


def at_random(
    rate: float, seed: int, faults: Sequence[Fault | Response] = PASSING
) -> Callable[[int, dict[str, Any]], Any]:
    """A fault in ``rate`` of the requests, decided by the content and by how often it came: not by timing."""
    seen: Counter[str] = Counter()

    def choose(_: int, body: dict[str, Any]) -> Fault | Response | None:
        key = key_of(body)
        seen[key] += 1
        draw = Random(f"{seed} {key} {seen[key]}")
        return draw.choice(list(faults)) if draw.random() < rate else None

    return choose


def in_order(faults: Iterable[Fault | None]) -> Callable[[int, dict[str, Any]], Any]:
    """One fault a request until they are used up."""
    left = iter(faults)
    return lambda n, body: next(left, None)


class Server(ThreadingHTTPServer):
    """Starts at once on a free port of this machine; a context manager.

    Args:
        answer: the model: messages to text or ``Reply``.
        fault: called with the number of the request, from 1, and its body; a ``Fault`` or None.
        formats: kinds of ``response_format`` that it takes; others are refused with status 400.
        hold: seconds that each answer takes.
        most: requests at once; more are turned away with 429.
        key: what the header must bear; None takes anything.
        shape: what is laid over a completion, from the body of the request.

    ``says`` is laid over every completion: another model, fingerprint or provider, also in the middle of a run.

    Counters: ``n`` requests, ``asked`` and ``answered`` by key, ``refused`` parameters, ``peak`` requests at once.

    An endpoint of another kind overrides ``admit``, ``take``, ``reply`` and ``named``.
    """

    daemon_threads = True
    disable_nagle_algorithm = True
    request_queue_size = 128

    def __init__(
        self,
        answer: Answer = lambda messages: "{}",
        fault: Callable[[int, dict[str, Any]], Fault | Response | None] = lambda n, body: None,
        formats: Sequence[str] = ("json_schema", "json_object"),
        hold: float = 0.0,
        most: int = 10_000,
        key: str | None = None,
        shape: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: {},
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.fault, self.formats, self.hold, self.most, self.key = answer, fault, formats, hold, most, key
        self.lock = threading.Lock()
        self.closed = threading.Condition(self.lock)
        self.connections = 0
        self.n = self.active = self.peak = self.refused = 0
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.says: dict[str, Any] = {}
        self.shape = shape
        self.heads: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def admit(self, sent: Sent) -> Response | None:
        """The refusal of a request to the wrong place or from the wrong person, or None."""
        if not sent.path.endswith("/chat/completions"):
            return Response(404, {"detail": "Not Found"})
        if self.key is not None and sent.bearer != self.key:
            message = f"Incorrect API key provided: {sent.bearer}"
            return Response(401, {"error": {"message": message, "code": "invalid_api_key"}})
        return None

    def take(self, sent: Sent) -> Response | None:
        """The refusal of a request with a parameter that the endpoint does not take, or None."""
        asked = sent.body.get("response_format", {}).get("type")
        if asked is None or asked in self.formats:
            return None
        message = f"Invalid parameter: 'response_format' of type '{asked}' is not supported"
        return Response(400, {"error": {"message": message}})

    def reply(self, body: dict[str, Any]) -> Response:
        """The answer to a request, which counts as paid for."""
        said = completion(body, self.answer(body["messages"]))
        return Response(200, said | self.shape(body) | self.says)

    def named(self, body: dict[str, Any]) -> str:
        """By what a request is counted."""
        return key_of(body)

    def wait_closed(self) -> bool:
        """Until no client is connected, so that every counter stands still."""
        with self.closed:
            return self.closed.wait_for(lambda: self.connections == 0, timeout=30)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        known, here = shared().endpoints, f"http://127.0.0.1:{self.server_address[1]}/"
        for url in [url for url in known if url.startswith(here)]:
            del known[url]  # another server may get this port, and take other parameters

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    server: Server

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def finish(self) -> None:
        with self.server.closed:
            self.server.connections -= 1
            self.server.closed.notify_all()
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.n += 1
            number = server.n
            server.times.append(time.monotonic())
            server.bodies.append(body)
            server.heads.append({name.lower(): value for name, value in self.headers.items()})
            server.paths.append(self.path)
            server.asked[server.named(body)] += 1
            server.active += 1
            server.peak = max(server.peak, server.active)
            crowded = server.active > server.most
            fault = BUSY if crowded else server.fault(number, body)
        if server.hold:
            server.stopping.wait(server.hold)
        with server.lock:
            server.active -= 1  # before the reply: its reader may send the next request at once
        self._respond(body, fault)

    def _respond(self, body: dict[str, Any], fault: Fault | Response | None) -> None:
        server = self.server
        address = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        sent = Sent(address.path, dict(parse_qsl(address.query)), headers, body)
        if (refusal := server.admit(sent)) is not None:
            self._send(refusal)
        elif isinstance(fault, Response):
            self._send(fault)
        elif fault is not None:
            self._inject(fault, body)
        elif (refusal := server.take(sent)) is not None:
            with server.lock:
                server.refused += 1
            self._send(refusal)
        else:
            with server.lock:
                server.answered[server.named(body)] += 1
            self._send(server.reply(body))

    def _inject(self, fault: Fault, body: dict[str, Any]) -> None:
        whole = self.server.reply(body).text
        if fault.kind == "status":
            again = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send(Response(fault.status, {"error": fault.error}, again))
        elif fault.kind == "hang":
            self.server.stopping.wait(30)
            self.close_connection = True
        elif fault.kind == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.kind == "half_sent":
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2].encode())
            self.close_connection = True
        elif fault.kind == "truncated":
            self._send(Response(200, whole[: len(whole) // 2]))
        elif fault.kind == "html":
            self._send(Response(200, "<html><body>Bad gateway</body></html>", kind="text/html"))
        elif fault.kind == "error_200":
            self._send(Response(200, {"error": fault.error}))
        else:
            choices = None if fault.kind == "choices_null" else []
            self._send(Response(200, {**json.loads(whole), "choices": choices}))

    def _send(self, response: Response) -> None:
        content = response.text.encode()
        self.send_response(response.status)
        self.send_header("Content-Type", response.kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


@dataclass(frozen=True)
class Oracle:
    """A judge of known quality, drawn anew for each prompt from ``seed`` and the prompt itself.

    Args:
        extract: reads the ids and their truth from the messages; None for a prompt that asks for no verdicts.
        accuracy: how often a verdict is right.
        position_bias: how often a verdict depends on its place alone: yes in the first half, no in the second.
        parse_failure: how often the reply is no JSON.
        refusal: how often it refuses.
        explain: the reply to prompts that ask for no verdicts.
    """

    extract: Callable[[Messages], Sequence[tuple[str, bool]] | None]
    accuracy: float = 1.0
    position_bias: float = 0.0
    parse_failure: float = 0.0
    refusal: float = 0.0
    seed: int = 0
    explain: Callable[[Messages], str] = lambda messages: json.dumps({"explanation": "fires on nothing in particular"})

    def __call__(self, messages: Messages) -> Reply:
        draw = Random(f"{self.seed} {json.dumps(messages)}")
        if draw.random() < self.refusal:
            return Reply(None, refusal="I cannot help with that.")
        if draw.random() < self.parse_failure:
            return Reply("Windows one and three, I should say.")
        asked = self.extract(messages)
        if asked is None:
            return Reply(self.explain(messages))
        answers = []
        for place, (name, truth) in enumerate(asked):
            by_place, right = draw.random() < self.position_bias, draw.random() < self.accuracy
            verdict = place < len(asked) / 2 if by_place else truth == right
            answers.append({"id": name, "p": draw.randint(70, 100) if verdict else draw.randint(0, 30)})
        return Reply(json.dumps({"answers": answers}))
