"""One try over the network. With the scrubber, the only place that knows the key."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol
from urllib.parse import parse_qsl

from sae_bench.errors import UsageError
from sae_bench.judge.echo import Echo
from sae_bench.judge.errors import JudgeError
from sae_bench.judge.options import DEFAULT_URL, JudgeOptions
from sae_bench.judge.outcomes import Outcome, classify
from sae_bench.judge.secrets import Quiet, Scrubber
from sae_bench.judge.words import short


class Sender(Protocol):
    """What takes one request to a judge and brings what became of it; ``has_key``: whether a key goes with it."""

    has_key: bool

    async def send(self, body: dict[str, Any]) -> Outcome:
        """Try once. Never raises for what the judge or the way to it does."""

    async def close(self) -> None:
        """Close what is open."""


class Transport:
    """A connection to the endpoint. The key is read from the environment when it is made and shown by nothing.

    Raises UsageError where a key is needed and there is none, JudgeError where the client library is not installed or
    the way to the endpoint (proxy, certificates) is set up wrongly.
    """

    def __init__(self, options: JudgeOptions, scrub: Scrubber) -> None:
        try:
            import httpx
            from openai import AsyncOpenAI

            from sae_bench.judge import network
            from sae_bench.judge.wire import Wire
        except ImportError as error:
            raise JudgeError("the judge needs the package openai; install it: pip install openai") from error
        secret = options.secret
        if not secret and options.url == DEFAULT_URL and not options.headers:
            raise UsageError(
                f"there is no key for {options.url}: put it into the environment variable {options.api_key_env}, name "
                "another one with --judge-key-env, or give the address of another endpoint with --judge-base-url"
            )
        if not (secret.isascii() and secret.isprintable()):
            raise UsageError(f"the key in {options.api_key_env} has a character that no key has; copy it again")
        self.has_key = bool(secret)
        self._timeout = options.timeout
        self._scrub = scrub
        self._way = network.route(options.url)
        connections = Wire(network.transport(options.url, self._way), scrub, _headers(options, secret))
        self._quiet = Quiet(scrub)
        self._quiet.watch(True)
        address, _, query = options.url.partition("?")
        self._client = AsyncOpenAI(
            api_key=secret or "none",
            base_url=address,
            default_query=dict(parse_qsl(query)),
            timeout=options.timeout,
            max_retries=0,
            # no redirect is followed: the key goes to the address that was given and nowhere else
            http_client=httpx.AsyncClient(
                transport=connections, timeout=options.timeout, follow_redirects=False, trust_env=False
            ),
        )

    async def send(self, body: dict[str, Any]) -> Outcome:
        """Try once, within the time limit. Never raises for what the endpoint or the network does."""
        import httpx
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        echo = Echo(body["messages"])
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._client.post("/chat/completions", cast_to=httpx.Response, body=body)
            return classify(200, reply.headers, reply.text, self._scrub, echo)
        except APIStatusError as error:
            return classify(error.status_code, error.response.headers, error.response.text, self._scrub, echo)
        except (APITimeoutError, TimeoutError):
            through = f" through the proxy of {self._way.name}" if self._way.proxy else ""
            reason = f"no whole reply within {self._timeout:g} s{through}; --judge-timeout gives more time"
            return Outcome("transient", reason=reason, billed=True)
        except APIConnectionError as error:
            return self._failure(error.__cause__ or error)

    def _failure(self, cause: BaseException) -> Outcome:
        from sae_bench.judge import network

        return network.failure(cause, self._way, short(self._scrub.text(f"{cause}")) or type(cause).__name__)

    async def close(self) -> None:
        """Close the connections."""
        try:
            await self._client.close()
        finally:
            self._quiet.watch(False)


def _headers(options: JudgeOptions, secret: str) -> dict[str, str | None]:
    """Headers over those of the client, None for one that is left out.

    Where the address has an api-version, the key is in the header that Azure reads, and in no other.
    """
    own: dict[str, str | None] = {"authorization": None, "api-key": secret} if "?" in options.url and secret else {}
    return own | {name.lower(): value for name, value in options.headers.items()}
