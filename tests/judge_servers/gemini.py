"""The Gemini API's endpoint for OpenAI clients: errors are lists, unknown names are refused, quotas name a day.

Follows the document "OpenAI compatibility" of the Gemini API (address, fields) and bodies that people have reported:
"Unknown name" for ``seed`` in a list (ChatterUI issue 227, mcpchecker pull 188), for ``additionalProperties``
(claude-code-router issue 187, in schemas of tools; for a response schema the place is a guess), quotas with
``quotaId`` and ``retryDelay`` (gemini-cli issue 8437).
"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.builders.judge_server import Response, Sent
from tests.judge_servers.base import Stub

KNOWN = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "stream"),
    *("stream_options", "response_format", "reasoning_effort", "tools", "tool_choice", "extra_body"),
)
GOOGLE = "type.googleapis.com/google.rpc"


def refusal(status: int, name: str, message: str, details: list[dict[str, Any]] | None = None) -> Response:
    """An error in the form of this API: a list of one."""
    error: dict[str, Any] = {"code": status, "message": message, "status": name}
    return Response(status, [{"error": error | ({"details": details} if details else {})}])


def exhausted(quota: str, delay: str) -> Response:
    """The reply beyond a quota, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier."""
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        f"error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. Please retry in {delay}."
    )
    violation = {"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests"}
    violation |= {"quotaId": quota, "quotaValue": "20"}
    details = [{"@type": f"{GOOGLE}.QuotaFailure", "violations": [violation]}]
    details.append({"@type": f"{GOOGLE}.RetryInfo", "retryDelay": delay})
    return refusal(429, "RESOURCE_EXHAUSTED", message, details)


PER_MINUTE = exhausted("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "0.02s")
PER_DAY = exhausted("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "45s")
OVERLOADED = refusal(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")


class Gemini(Stub):
    """A model of the 2.5 series, which thinks."""

    path: ClassVar[str] = "/v1beta/openai"
    models: ClassVar[tuple[str, ...]] = ("gemini-2.5-flash",)
    served: ClassVar[str] = "gemini-2.5-flash"
    failures: ClassVar[tuple[Any, ...]] = (PER_MINUTE, OVERLOADED)

    def stranger(self, sent: Sent) -> Response:
        details = [{"@type": f"{GOOGLE}.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
        return refusal(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", details)

    def missing(self, sent: Sent) -> Response:
        name = sent.body.get("model")
        return refusal(404, "NOT_FOUND", f"models/{name} is not found for API version v1main, or is not supported.")

    def take(self, sent: Sent) -> Response | None:
        places = [f'"{name}"' for name in sent.body if name not in KNOWN]
        schema = sent.body.get("response_format", {}).get("json_schema", {}).get("schema")
        places += [
            f"\"additionalProperties\" at '{at}'" for at in _further(schema, "generation_config.response_schema")
        ]
        if not places:
            return None
        found = [f"Invalid JSON payload received. Unknown name {place}: Cannot find field." for place in places]
        violations = [{"description": one} for one in found]
        details = [{"@type": f"{GOOGLE}.BadRequest", "fieldViolations": violations}]
        return refusal(400, "INVALID_ARGUMENT", "\n".join(found), details)


def _further(schema: Any, place: str) -> list[str]:
    """Where a schema speaks of further properties."""
    if not isinstance(schema, dict):
        return []
    found = [place] if "additionalProperties" in schema else []
    for number, one in enumerate(schema.get("properties", {}).values()):
        found += _further(one, f"{place}.properties[{number}].value")
    return found + _further(schema.get("items"), f"{place}.items")
