"""The way to the endpoint: a proxy, the certificates that are trusted, and one sentence for what is wrong with either.

Imported when a connection is needed: it imports httpx.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from sae_bench.judge.errors import PROXY_PASSWORD, JudgeError
from sae_bench.judge.outcomes import Kind, Outcome
from sae_bench.judge.words import short

_SCHEMES = ("http", "https", "socks5", "socks5h")
_AT_ONCE = httpx.Limits(max_connections=1024, max_keepalive_connections=100)


@dataclass(frozen=True)
class Route:
    """The proxy to an endpoint, None for none; ``name`` is the variable that gives it, ``host`` the endpoint's."""

    proxy: str | None
    name: str
    host: str

    @property
    def advice(self) -> str:
        """What to do about a proxy that does not help."""
        return f"correct or unset {self.name}, or name {self.host} in NO_PROXY"


def route(url: str) -> Route:
    """The way to ``url``, by the variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY. Raises JudgeError."""
    parts, found = urlsplit(url), getproxies()
    own = parts.scheme if found.get(parts.scheme) else "all"
    given = found.get(own, "").strip()
    way = Route(None, f"{own.upper()}_PROXY", parts.hostname or "")
    if not given or proxy_bypass(parts.netloc):
        return way
    given = given if "://" in given else f"http://{given}"
    try:
        proxy = urlsplit(given)
        fine = bool(proxy.hostname) and (proxy.port is None or proxy.port > 0) and bool(httpx.URL(given).host)
    except (ValueError, httpx.InvalidURL):
        fine = False
    if not fine:  # never shown: it may hold a password
        raise JudgeError(f"{way.name} is no address such as http://proxy:3128; {way.advice}")
    if proxy.scheme not in _SCHEMES:
        raise JudgeError(
            f"{way.name} names a proxy of the kind {proxy.scheme!r}, not {', '.join(_SCHEMES)}; {way.advice}"
        )
    if proxy.scheme.startswith("socks") and find_spec("socksio") is None:
        raise JudgeError(
            f"{way.name} names a SOCKS proxy, and that needs the package socksio; pip install socksio, or {way.advice}"
        )
    return Route(given, way.name, way.host)


def transport(url: str, way: Route) -> httpx.AsyncHTTPTransport:
    """Connections to ``url``. Raises JudgeError where the certificates that are trusted cannot be read."""
    secure = url.startswith("https:") or (way.proxy or "").startswith("https:")
    # a connection without TLS needs no authorities; a context without any trusts nobody
    context = _certificates(*_given()) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own = httpx.Proxy(way.proxy, ssl_context=context if way.proxy.startswith("https:") else None) if way.proxy else None
    return httpx.AsyncHTTPTransport(verify=context, proxy=own, limits=_AT_ONCE)


def _given() -> tuple[str | None, str | None]:
    return os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None


@cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The authorities that are trusted, read once: each client would read all of them again. Raises JudgeError."""
    try:
        if folder is not None and file is None and not os.path.isdir(folder):
            raise NotADirectoryError(20, "there is no such folder")
        return httpx.create_ssl_context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        name, path = ("SSL_CERT_FILE", file) if file is not None else ("SSL_CERT_DIR", folder)
        why = short(error.strerror or str(error)) if isinstance(error, OSError) else short(str(error))
        raise JudgeError(
            f"{name} is {path}, and no certificates can be read there ({why}); correct or unset {name}"
        ) from error


def failure(error: BaseException, way: Route, reason: str) -> Outcome:
    """What a connection that failed means; ``reason`` is what it said, free of keys."""
    chain = list(_causes(error))
    kinds = {type(one).__name__ for one in chain}
    refused = next((one for one in chain if isinstance(one, ssl.SSLCertVerificationError)), None)
    if refused is not None:
        return Outcome("fatal", reason=f"certificate: {refused.verify_message}", cure=_certificate(refused, way.host))
    if "ConnectError" in kinds and any(isinstance(one, ssl.SSLError) for one in chain):
        cure = (
            "what listens there speaks no TLS that we know: if it is a server without TLS, give its address with http:"
        )
        return Outcome("fatal", reason=reason, cure=cure)
    if "ProxyError" in kinds:
        kind: Kind = "transient" if any(f"{status}" in reason for status in (429, 500, 502, 503, 504)) else "fatal"
        return Outcome(kind, reason=f"the proxy says {reason}", cure=through(way, reason), foreign=True)
    unreached = bool({"ConnectError", "ConnectTimeout"} & kinds)  # nothing was sent
    if unreached and way.proxy is not None:
        cure = f"the proxy does not answer; {way.advice}"
        return Outcome("transient", reason=reason, foreign=True, cure=cure)
    return Outcome("transient", reason=reason, billed=not unreached, foreign=unreached)


def through(way: Route, reason: str) -> str:
    """What to do about a proxy that refuses."""
    if "407" in reason:
        return PROXY_PASSWORD
    return f"the proxy does not pass this on; {way.advice}"


def _certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    said = error.verify_message.lower()
    if "self-signed" in said or "self signed" in said or "issuer" in said:
        return (
            f"if you trust {host}, put its certificate, or that of who signed it, into a file and name the file in the "
            "variable SSL_CERT_FILE"
        )
    if "expired" in said or "not yet valid" in said:
        return f"see whether the clock of this machine is right, else {host} must renew it"
    if "mismatch" in said or "doesn't match" in said:
        return "give the address by the name that the certificate is for"
    return "name a file with the certificates that you trust in the environment variable SSL_CERT_FILE"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what is behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
