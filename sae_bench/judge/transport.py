"""One try over the network. The only place that knows the key."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from functools import cache
from typing import Any

from sae_bench.errors import UsageError
from sae_bench.judge.errors import JudgeError
from sae_bench.judge.options import DEFAULT_URL, JudgeOptions
from sae_bench.judge.outcomes import Outcome, classify, short

_SECRET = 8  # characters: shorter keys are placeholders of local servers, and would be words of replies


class Transport:
    """A connection to the endpoint. The key is read from the environment when it is made and shown by nothing.

    Raises UsageError where a key is needed and there is none, JudgeError where the client library is not installed.
    """

    def __init__(self, options: JudgeOptions) -> None:
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        except ImportError as error:
            raise JudgeError("the judge needs the package openai; install it: pip install openai") from error
        secret = os.environ.get(options.api_key_env, "").strip()
        if not secret and options.url == DEFAULT_URL:
            raise UsageError(
                f"there is no key for {options.url}: put it into the environment variable {options.api_key_env}, or "
                "give the address of another endpoint"
            )
        if not (secret.isascii() and secret.isprintable()):
            raise UsageError(f"the key in {options.api_key_env} has a character that no key has; copy it again")
        self.has_key = bool(secret)
        self._timeout = options.timeout
        self._client = AsyncOpenAI(
            api_key=secret or "none",
            base_url=options.url,
            timeout=options.timeout,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(verify=_certificates()),
        )

    async def send(self, body: dict[str, Any]) -> Outcome:
        """Try once. Never raises for what the endpoint or the network does."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._client.chat.completions.with_raw_response.create(**body)
            return classify(200, reply.headers, self._clean(reply.text))
        except APIStatusError as error:
            return classify(error.status_code, error.response.headers, self._clean(error.response.text))
        except (APITimeoutError, TimeoutError):
            return Outcome("transient", reason=f"no reply within {self._timeout:g} s", billed=True)
        except APIConnectionError as error:
            cause = error.__cause__ or error
            unreached = type(cause).__name__ == "ConnectError"  # nothing was sent
            reason = short(self._clean(f"{cause}")) or type(cause).__name__
            return Outcome("transient", reason=reason, billed=not unreached, foreign=unreached)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _clean(self, text: str) -> str:
        """``text`` without the key, which some endpoints repeat in their messages."""
        secret = self._client.api_key
        if len(secret) < _SECRET:
            return text
        return text.replace(secret, "[key]").replace(json.dumps(secret)[1:-1], "[key]")


@cache
def _certificates() -> ssl.SSLContext:
    """The authorities that are trusted, read once: each client would read all of them again."""
    from httpx import create_ssl_context

    return create_ssl_context()
