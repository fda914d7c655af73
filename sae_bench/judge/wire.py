"""One exchange over HTTP: what comes back is bounded in size, free of the key, and only what is read of it.

Imported when a connection is needed: it imports httpx.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from sae_bench.judge.outcomes import REDIRECT
from sae_bench.judge.secrets import Scrubber
from sae_bench.judge.words import short

MOST_BYTES = 1 << 20  # of a reply, before and after it is unpacked
_HEADERS = ("retry-after", "retry-after-ms")
_PACKED = ("gzip", "x-gzip", "deflate")


class Wire(httpx.AsyncBaseTransport):
    """Sends by ``inner``, with ``headers`` over those of the client, and reads replies as they come, up to 1 MiB.

    No encoding is asked for; gzip and deflate, which some servers send all the same, are unpacked up to the limit.
    Cookies and all other headers that nobody here reads are dropped. Raises httpx.DecodingError for a reply that is too
    long or packed in another way.
    """

    def __init__(
        self, inner: httpx.AsyncBaseTransport, scrub: Scrubber, headers: Mapping[str, str | None] | None = None
    ) -> None:
        self._inner, self._scrub, self._headers = inner, scrub, headers or {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The reply, read to its end."""
        request.headers["Accept-Encoding"] = "identity"
        for name, value in self._headers.items():
            request.headers.pop(name, None)
            if value is not None:
                request.headers[name] = value
        response = await self._inner.handle_async_request(request)
        try:
            content = await _content(response)
        finally:
            await response.aclose()
        found = response.headers
        headers = {name: found[name] for name in _HEADERS if name in found}
        if "location" in found:
            headers[REDIRECT] = _elsewhere(found["location"])
        headers = {name: self._scrub.text(value) for name, value in headers.items()}
        clean = self._scrub.text(content.decode("utf-8-sig", "replace")).encode()
        headers["content-type"] = "application/json"
        return httpx.Response(response.status_code, headers=headers, content=clean, request=request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def _elsewhere(location: str) -> str:
    """Where a redirect points, without what may be a secret in it (user, password, query)."""
    try:
        parts = urlsplit(location)
        host = f"{parts.hostname}:{parts.port}" if parts.port is not None else parts.hostname or ""
    except ValueError:
        return "no address"
    shown = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    return short(shown).encode("ascii", "replace").decode() or "nowhere"


async def _content(response: httpx.Response) -> bytes:
    """At most 1 MiB. Raises DecodingError, with the rest unread."""
    coding = response.headers.get("content-encoding", "").strip().lower() or "identity"
    if coding != "identity" and coding not in _PACKED:
        raise httpx.DecodingError(f"the reply is packed as {coding[:40]!r}, which was not asked for")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if coding in _PACKED else None
    found = bytearray()
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for piece in response.stream:
        try:
            found += piece if unpack is None else unpack.decompress(piece, MOST_BYTES + 1 - len(found))
        except zlib.error as error:
            raise httpx.DecodingError(f"the reply says that it is packed as {coding}, and is not") from error
        if len(found) > MOST_BYTES:
            raise httpx.DecodingError("the reply is longer than 1 MiB")
    return bytes(found)
