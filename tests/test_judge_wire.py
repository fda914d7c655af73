"""Replies that never end, grow or lead elsewhere, and ways that are set up wrongly: bounded, and one sentence."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sae_bench.judge import Completion, Judge, JudgeError, JudgeOptions, Patience
from tests.builders.judge_asks import FAST, ask, echo
from tests.builders.judge_server import Server
from tests.builders.marks import slow_but_each
from tests.builders.raw_server import CERTIFICATES, Raw, Respond, head, replying, saying

KEY = "sk-3f9a51c07be2468dQzXw"
ONCE = Patience(attempts=1, base=0.001, longest=0.001)
PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and no proxy or certificates but those of a test."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in [*PROXIES, *map(str.upper, PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR"]:
        monkeypatch.delenv(name, raising=False)


def asked(url: str, patience: Patience = FAST, timeout: float = 10.0) -> Completion:
    with Judge(JudgeOptions("m", url, cache=None, timeout=timeout), patience) as judge:
        return judge.complete([ask("x")])[0]


def refusal(url: str, patience: Patience = FAST, timeout: float = 10.0) -> str:
    with pytest.raises(JudgeError) as found:
        asked(url, patience, timeout)
    said = str(found.value)
    assert said.isprintable()
    assert KEY not in said
    return said


# ---------------------------------------------------------------- size


def endless(first: bytes, piece: bytes) -> Respond:
    """Never stops sending."""

    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(piece)

    return respond


def bomb(wbits: int) -> bytes:
    """100 MiB of spaces."""
    pack = zlib.compressobj(9, wbits=wbits)
    return b"".join(pack.compress(b" " * (1 << 20)) for _ in range(100)) + pack.flush()


LONG: dict[str, Callable[[], Respond]] = {
    "spaces without end": lambda: endless(head(), b" " * 65536),
    "chunks without end": lambda: endless(head(Transfer_Encoding="chunked"), b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "an error without end": lambda: endless(head("500 No"), b"x" * 65536),
    "events without end": lambda: endless(head(), b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n' * 1000),
    "a gzip bomb": lambda: replying(bomb(31), Content_Encoding="gzip"),
    "a bomb by another name": lambda: replying(bomb(15), Content_Encoding="deflate"),
    "a bomb in an error": lambda: replying(bomb(31), "400 No", Content_Encoding="GZip"),
    "one byte too many": lambda: replying(json.dumps(saying("x")).ljust((1 << 20) + 1)),
}


@pytest.mark.parametrize("name", slow_but_each(3, LONG))
def test_a_reply_of_more_than_1_mib_is_given_up(name: str) -> None:
    """A bomb of 3 MB took 3 GB."""
    respond = LONG[name]()
    tracemalloc.start()
    try:
        with Raw(respond) as server:
            done = asked(server.url, ONCE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.status == "transport_failed"
    assert "longer than 1 MiB" in (done.reason or "")
    assert peak < 32 << 20


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "identity", ""])
def test_a_reply_that_is_packed_although_nobody_asked_is_read(coding: str) -> None:
    text = json.dumps(saying("fine")).encode()
    packed = {"deflate": zlib.compress(text), "identity": text, "": text}.get(coding, gzip.compress(text))
    with Raw(replying(packed, Content_Encoding=coding)) as server:
        assert asked(server.url).text == "fine"
        assert b"accept-encoding: identity" in server.requests[0].lower()
        assert server.requests[0].lower().count(b"accept-encoding") == 1


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "\x1b[31m"])
def test_other_packings_are_refused(coding: str) -> None:
    with Raw(replying(b"\x1f\x8b" + b"x" * 50, Content_Encoding=coding)) as server:
        done = asked(server.url, ONCE)
    assert done.status == "transport_failed"
    assert (done.reason or "").isprintable()


@pytest.mark.parametrize("content", [b"{}", gzip.compress(b"x" * 999, mtime=0)[:20], b""], ids=["text", "cut", "empty"])
def test_what_only_says_that_it_is_packed_is_a_fault(content: bytes) -> None:
    with Raw(replying(content, Content_Encoding="gzip")) as server, contextlib.suppress(JudgeError):
        assert asked(server.url, ONCE).status == "transport_failed"


# ---------------------------------------------------------------- time


def dripping(first: bytes, piece: bytes, seconds: float = 0.05) -> Respond:
    """A little now and then: each wait is short, and there is no end."""

    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(piece)
            time.sleep(seconds)

    return respond


SLOW: dict[str, Respond] = {
    "a body, byte by byte": dripping(head(), b" "),
    "chunks": dripping(head(Transfer_Encoding="chunked"), b"1\r\n \r\n"),
    "headers": dripping(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "a header, byte by byte": dripping(b"HTTP/1.1 200 OK\r\nX-A: ", b"b"),
    "comments in a stream": dripping(head(Content_Type="text/event-stream"), b": wait\n\n"),
    "informational replies": dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_reply_that_drips_ends_at_the_time_limit(name: str) -> None:
    """A limit between two bytes never ends one that comes byte by byte."""
    with Raw(SLOW[name]) as server:
        started = time.monotonic()
        done = asked(server.url, ONCE, timeout=0.6)
        took = time.monotonic() - started
    assert done.status == "transport_failed"
    assert 0.5 < took < 5
    assert "no whole reply within 0.6 s" in (done.reason or "")


# ---------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_and_the_key_stays(status: int) -> None:
    with Server(echo) as other:
        with Raw(replying("", f"{status} Moved", Location=f"{other.url}/chat/completions")) as server:
            said = refusal(server.url)
            assert len(server.requests) == 1
        assert other.n == other.connections == 0
    assert f"a redirect to {other.url}" in said
    assert "no redirect is followed" in said


@pytest.mark.parametrize(
    "where",
    [
        "",
        "/v2/chat/completions",
        "http://[bad",
        "//other/x",
        "javascript:1",
        "http://h:99999999/x",
        "\x1b[2J\t",
        "http://é/",
    ],
)
def test_odd_redirects_are_one_sentence(where: str) -> None:
    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 307 Moved\r\nConnection: close\r\nLocation: " + where.encode() + b"\r\n\r\n")

    with Raw(respond) as server, pytest.raises(JudgeError) as found:
        asked(server.url, ONCE)
    assert str(found.value).isprintable()


# ---------------------------------------------------------------- proxies


MALFORMED = [
    "http://[bad",
    "foo://proxy:1",
    "http://",
    "http://proxy:port",
    "socks4://proxy:1",
    "://",
    "http://user:pw@",
]


@pytest.mark.parametrize("proxy", MALFORMED)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
def test_a_malformed_proxy_is_one_sentence_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, proxy: str, name: str
) -> None:
    monkeypatch.setenv(name, proxy)
    said = refusal("http://judge.example/v1")
    assert said.startswith(name.upper())
    assert f"correct or unset {name.upper()}, or name judge.example in NO_PROXY" in said
    assert "pw" not in said


def test_a_socks_proxy_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:pw@127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socksio", None)
    said = refusal("http://judge.example/v1")
    assert "ALL_PROXY names a SOCKS proxy" in said
    assert "pip install socksio" in said
    assert "pw" not in said


@pytest.fixture(name="closed_port")
def _closed_port() -> Iterator[int]:
    """A port that nobody listens on and nobody else gets: another test at the same time may open a server."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_nobody_runs_is_named_and_not_the_endpoint_blamed(
    monkeypatch: pytest.MonkeyPatch, scheme: str, closed_port: int
) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:pw@127.0.0.1:{closed_port}")
    said = refusal(f"{scheme}://unreached.example/v1")
    assert f"the proxy does not answer; correct or unset {scheme.upper()}_PROXY" in said
    assert "start the server" not in said
    assert "pw" not in said


@pytest.mark.parametrize(
    ("scheme", "status", "says"),
    [
        ("http", "407 Proxy Authentication Required", "http://name:password@host:port"),
        ("https", "407 Proxy Authentication Required", "http://name:password@host:port"),
        ("https", "403 Forbidden", "does not pass this on"),
        ("https", "502 Bad Gateway", "does not pass this on"),
    ],
)
def test_a_proxy_that_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, scheme: str, status: str, says: str
) -> None:
    with Raw(replying("<html>no</html>", status)) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://127.0.0.1:{proxy.port}")
        said = refusal(f"{scheme}://judge.example/v1")
        sent = b"".join(proxy.requests)
    assert says in said
    assert scheme == "http" or KEY.encode() not in sent, "the key is for the endpoint, inside TLS"


def test_a_proxy_that_works_is_used_and_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw(replying(saying("through"))) as proxy, Server(echo) as server:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
        assert asked("http://judge.example/v1").text == "through"
        assert proxy.requests[0].startswith(b"POST http://judge.example/v1/chat/completions")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert asked(server.url).text == "reply to x"
        assert len(proxy.requests) == 1


# ---------------------------------------------------------------- certificates


@pytest.mark.parametrize(
    ("certificate", "trusted", "says"),
    [
        ("trusted", None, ["self-signed", "SSL_CERT_FILE"]),
        ("trusted", "other", ["certificate", "SSL_CERT_FILE"]),
        ("expired", "expired", ["expired", "clock"]),
        ("other", "other", ["mismatch", "by the name that the certificate is for"]),
    ],
)
def test_a_certificate_that_is_not_trusted_is_one_sentence_at_once(
    monkeypatch: pytest.MonkeyPatch, certificate: str, trusted: str | None, says: list[str]
) -> None:
    if trusted is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / f"{trusted}.pem"))
    with Raw(replying(saying("secret")), certificate) as server:
        said = refusal(server.url)
        assert not server.requests, "nothing is said to a stranger"
    assert "cannot be reached (certificate: " in said
    for words in says:
        assert words in said


def test_a_certificate_that_is_named_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "trusted.pem"))
    with Raw(replying(saying("fine")), "trusted") as server:
        assert asked(server.url).text == "fine"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("kind", ["missing", "no certificates", "a folder"])
def test_certificates_that_cannot_be_read_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / "no certificates").write_text("nothing")
    (tmp_path / "a folder").mkdir()
    monkeypatch.setenv(name, str(tmp_path / kind))
    with Raw(replying(saying("fine")), "trusted") as server:
        said = refusal(server.url)
    assert name in said or (name, kind) == ("SSL_CERT_DIR", "a folder")
    if name == "SSL_CERT_FILE":
        assert f"SSL_CERT_FILE is {tmp_path / kind}, and no certificates can be read there" in said
    with Server(echo) as server_without_tls:
        assert asked(server_without_tls.url).text == "reply to x", "no certificate is needed there"


def test_tls_where_there_is_none_says_so() -> None:
    with Server(echo) as server:
        assert "give its address with http:" in refusal(server.url.replace("http:", "https:"))


def test_no_tls_where_there_is_some_is_one_sentence() -> None:
    with Raw(replying(saying("x")), "trusted") as server, pytest.raises(JudgeError) as found:
        asked(server.url.replace("https:", "http:"), Patience(attempts=2, base=0.001, longest=0.001, in_a_row=1))
    assert str(found.value).isprintable()
