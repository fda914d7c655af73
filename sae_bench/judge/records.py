"""What is asked, what came back, and the key that joins the two."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sae_bench.errors import UsageError
from sae_bench.judge.options import JudgeOptions

KEY_VERSION = 1
STORED_CHARACTERS = 65536  # of a text or a raw reply: what a model writes is not trusted to end

Status = Literal["ok", "refused", "truncated", "transport_failed", "budget", "missing"]

_ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Request:
    """One question to the judge.

    Attributes:
        messages: the conversation, each with ``role`` and ``content`` (text).
        schema: JSON schema of the reply, or None for free text.
        max_tokens: tokens of the reply at most.
        sample_index: 0, or which repetition of the same question this is.
        attempt: 0, or how often the task has asked again after a reply that it could not read.

    Raises UsageError for a request that cannot be sent.
    """

    messages: Sequence[Mapping[str, str]]
    schema: Mapping[str, Any] | None
    max_tokens: int
    sample_index: int = 0
    attempt: int = 0

    def __post_init__(self) -> None:
        if not self.messages:
            raise UsageError("a request needs at least one message")
        for message in self.messages:
            content = message.get("content")
            if set(message) != {"role", "content"} or message["role"] not in _ROLES or not isinstance(content, str):
                raise UsageError(
                    f"a message needs a role of {', '.join(_ROLES)} and a text as content: {message!r:.200}"
                )
            if not _encodable(content):
                raise UsageError(f"the content of a message is not valid Unicode (a lone surrogate): {content!r:.200}")
        for name, least in (("max_tokens", 1), ("sample_index", 0), ("attempt", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name} of a request must be a whole number of at least {least}, but is {value!r}")
        try:
            canonical(self.schema)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the schema of a request must be JSON: {error}") from error


@dataclass(frozen=True)
class Completion:
    """What became of one request.

    Attributes:
        status: ``ok``; ``refused`` by the model or a filter; ``truncated`` at the length limit; ``transport_failed``
            after every try; ``budget`` where a limit of the run forbade to send it; ``missing`` from the cache where
            only the cache may answer.
        text: what the model wrote, at most 65,536 characters.
        finish_reason: as the endpoint gave it.
        model: the model that the endpoint says it used.
        fingerprint: ``system_fingerprint``, where the endpoint gives one.
        prompt_tokens: tokens in, None where the endpoint counts none.
        completion_tokens: tokens out, None where the endpoint counts none.
        cached: no request was sent for it.
        raw: the reply as it came, at most 65,536 characters; None where there is none.
        reason: why the status is not ``ok``, in words.
        provider: who served it, where the endpoint hands requests on and says so.
        reasoning_tokens: tokens of thoughts among ``completion_tokens``, None where the endpoint counts none.
    """

    status: Status
    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached: bool = False
    raw: str | None = None
    reason: str | None = None
    provider: str | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True)
class Usage:
    """Totals of one judge, from when it was opened.

    Attributes:
        requests: distinct requests that were sent, each once however often it was tried.
        attempts: HTTP requests, retries included.
        prompt_tokens: tokens in, as the endpoint counted them.
        completion_tokens: tokens out, as the endpoint counted them.
        unreported: tries that may have been billed and gave no count (a connection lost, a reply cut off): the
            limits of the run take them at the most that they can have cost; the totals here leave them out.
        cached: distinct requests that the cache answered.
        cached_tokens: tokens in and out of those, paid for by an earlier run.
        reasoning_tokens: tokens of thoughts among ``completion_tokens``, as far as the endpoint counts them.
        cost: of the counted tokens, in the currency of the prices; None without both prices.
        models: names of the models that the endpoint says it used, sorted; also of cached completions.
        fingerprints: their ``system_fingerprint``, sorted.
        formats: what the endpoint took as ``response_format`` in this run: ``json_schema``, ``json_object``, ``none``.
    """

    requests: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unreported: int = 0
    cached: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    models: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """What a list of requests would take; made without a connection.

    Attributes:
        requests: distinct requests.
        cached: how many of them the cache has.
        to_send: how many are left.
        tokens_in: tokens in of those.
        tokens_in_low: 25 % less where tokens are guessed from characters, else the same.
        tokens_in_high: 25 % more where tokens are guessed from characters, else the same.
        tokens_out: tokens out at most: the length limits of the requests.
        cost: at most, from ``tokens_in_high`` and ``tokens_out``; None without both prices.
        counted: how tokens were counted, in words.
    """

    requests: int
    cached: int
    to_send: int
    tokens_in: int
    tokens_in_low: int
    tokens_in_high: int
    tokens_out: int
    cost: float | None
    counted: str


def canonical(value: Any) -> str:
    """The one way in which a value is written as JSON here. Raises TypeError or ValueError if it is not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def response_format(request: Request) -> dict[str, Any] | None:
    """The ``response_format`` that the request asks for, whatever the endpoint takes."""
    if request.schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": request.schema}}


def described(request: Request, options: JudgeOptions) -> dict[str, Any]:
    """All that is known to decide the reply before it comes: what the key digests, and the cache keeps beside it."""
    sampling: dict[str, Any] = {
        "temperature": None if options.temperature is None else float(options.temperature),
        "seed": options.seed,
        "max_tokens": request.max_tokens,
    }
    return {
        "v": KEY_VERSION,
        "endpoint": options.endpoint,
        "model": options.model,
        "messages": [dict(message) for message in request.messages],
        "sampling": sampling | ({"parameters": dict(options.params)} if options.params else {}),
        "response_format": response_format(request),
        "sample_index": request.sample_index,
        "attempt": request.attempt,
    }


def key(request: Request, options: JudgeOptions) -> str:
    """Hexadecimal SHA-256 of all that decides the reply; not of time limits, prices or concurrency."""
    return hashlib.sha256(canonical(described(request, options)).encode()).hexdigest()


def body(request: Request, options: JudgeOptions) -> dict[str, Any]:
    """The request as the protocol sends it. Repetitions differ in their seed, so that they are other draws."""
    sent: dict[str, Any] = {
        "model": options.model,
        "messages": [dict(message) for message in request.messages],
        "max_tokens": options.limit(request.max_tokens),
    }
    if options.temperature is not None:
        sent["temperature"] = float(options.temperature)
    if options.seed is not None:
        sent["seed"] = options.seed + request.sample_index
    if (asked := response_format(request)) is not None:
        sent["response_format"] = asked
    for name, value in options.params.items():
        if value is None:
            sent.pop(name, None)
        else:
            sent[name] = value
    return sent


def most_tokens_in(request: Request) -> int:
    """More tokens in than any tokenizer makes: a token holds at least a byte, a chat template adds a few."""
    asked = response_format(request)
    size = sum(len(message["content"].encode()) + 16 for message in request.messages) + 32
    return size + (0 if asked is None else len(canonical(asked)))


def guessed_tokens_in(request: Request) -> int:
    """Tokens in at four characters a token, the schema included."""
    asked = response_format(request)
    size = sum(len(message["content"]) + 16 for message in request.messages)
    return math.ceil((size + (0 if asked is None else len(canonical(asked)))) / 4)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
