"""api.openai.com: a plain model, and one that thinks.

Follows the API reference of chat completions (fields of a reply; ``completion_tokens_details``) and, word by word,
bodies that people have reported: ``max_tokens`` refused (vscode-copilot-release issue 8065, griptape ComfyUI-Griptape
issue 312), ``temperature`` refused (gabrii/Cursor-Azure-GPT-5 issue 33, johny-b/llmcomp issue 69), requests per day
(MSU-AI-Agents/fall-2025-course issue 76, feder-cr/invisible_playwright_mcp issue 109). Limits per minute have the
same form with "RPM" and the headers ``x-ratelimit-*`` of the guide to rate limits. An empty reply with
``finish_reason`` "length" where thoughts have eaten the limit is what the guide to reasoning describes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.builders.judge_server import Response, Sent
from tests.judge_servers.base import Stub, words

KNOWN = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "response_format"),
    *("stream", "stream_options", "reasoning_effort", "service_tier", "store", "metadata", "user", "verbosity", "n"),
)


def refusal(message: str, code: str | None, param: str | None = None, status: int = 400) -> Response:
    """An error in the form of this API."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Response(status, {"error": error})


def limited(kind: str, wait: str, **headers: str) -> Response:
    """The reply to a request beyond a limit, ``kind`` as "requests per day (RPD): Limit 200, Used 200"."""
    message = (
        f"Rate limit reached for gpt-4o-mini in organization org-0 on {kind}, Requested 1. Please try again in {wait}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    error = {"message": message, "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    return Response(429, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


PER_MINUTE = limited(
    "requests per min (RPM): Limit 500, Used 500",
    "120ms",
    x_ratelimit_limit_requests="500",
    x_ratelimit_remaining_requests="0",
    x_ratelimit_reset_requests="120ms",
    retry_after_ms="20",
)
PER_DAY = limited("requests per day (RPD): Limit 200, Used 200", "7m12s", x_ratelimit_remaining_requests="0")
NO_QUOTA = Response(
    429,
    {
        "error": {
            "message": "You exceeded your current quota, please check your plan and billing details. For more "
            "information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        }
    },
)
BROKEN = Response(
    500,
    {
        "error": {
            "message": "The server had an error while processing your request. Sorry about that!",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    },
)


class OpenAI(Stub):
    """A model without thoughts."""

    models: ClassVar[tuple[str, ...]] = ("gpt-4o-mini",)
    served: ClassVar[str] = "gpt-4o-mini-2024-07-18"
    fingerprint: ClassVar[str | None] = "fp_44709d6fcb"
    failures: ClassVar[tuple[Any, ...]] = (PER_MINUTE, BROKEN)
    counts_thoughts: ClassVar[bool] = True

    def stranger(self, sent: Sent) -> Response:
        if not sent.bearer:
            message = "You didn't provide an API key. You need to provide your API key in an Authorization header."
            return refusal(message, None, status=401)
        message = (
            f"Incorrect API key provided: {sent.bearer}. You can find your API key at https://platform.openai.com."
        )
        return refusal(message, "invalid_api_key", status=401)

    def missing(self, sent: Sent) -> Response:
        name = sent.body.get("model")
        return refusal(
            f"The model `{name}` does not exist or you do not have access to it.", "model_not_found", None, 404
        )

    def lost(self, sent: Sent) -> Response:
        return refusal(f"Invalid URL (POST {sent.path})", None, status=404)

    def take(self, sent: Sent) -> Response | None:
        for name in sent.body:
            if name not in KNOWN:
                return refusal(f"Unrecognized request argument supplied: {name}", None)
        asked = sent.body.get("response_format", {})
        if asked.get("type") == "json_object" and "json" not in words(sent.body["messages"]).lower():
            message = (
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )
            return refusal(message, None, "messages")
        inner = asked.get("json_schema", {})
        if inner.get("strict") and (place := _loose(inner["schema"])) is not None:
            message = (
                f"Invalid schema for response_format '{inner.get('name')}': In context={place}, "
                "'additionalProperties' is required to be supplied and to be false."
            )
            return refusal(message, None, "response_format")
        return None


class Reasoning(OpenAI):
    """A model of the gpt-5 or o series: thinks before it speaks, and takes neither ``max_tokens`` nor a temperature."""

    models: ClassVar[tuple[str, ...]] = ("gpt-5-mini",)
    served: ClassVar[str] = "gpt-5-mini-2025-08-07"
    fingerprint: ClassVar[str | None] = None

    def take(self, sent: Sent) -> Response | None:
        if "max_tokens" in sent.body:
            message = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                "instead."
            )
            return refusal(message, "unsupported_parameter", "max_tokens")
        if (given := sent.body.get("temperature", 1)) != 1:
            message = (
                f"Unsupported value: 'temperature' does not support {given} with this model. Only the default (1) "
                "value is supported."
            )
            return refusal(message, "unsupported_value", "temperature")
        return super().take(sent)


def _loose(schema: Any, place: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Where an object of a schema lets further properties in; strict mode takes none."""
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return place
    inner = [((*place, name), one) for name, one in schema.get("properties", {}).items()]
    inner += [((*place, "items"), schema.get("items"))]
    return next((found for where, one in inner if (found := _loose(one, where)) is not None), None)
