"""Azure OpenAI: the deployment is in the path, the version in the query, the key in a header of its own.

Follows the REST reference (path, ``api-version``, ``api-key``, ``prompt_filter_results``) and bodies that people have
reported: DeploymentNotFound (chatboxai/chatbox issue 861), the content filter (openai-dotnet issue 55, compl-ai issue
20), call rates with "Please retry after" (jasonacox/TinyLLM issue 17, with 86400 seconds). "Resource not found" for a
path or a version that is not there is what the reference's examples run into; its body is known from messages only.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from tests.builders.judge_server import Reply, Response, Sent
from tests.judge_servers.base import Stub

VERSIONS = ("2024-06-01", "2024-10-21", "2025-01-01-preview")
KINDS = ("hate", "self_harm", "sexual", "violence")
SAFE: dict[str, Any] = {kind: {"filtered": False, "severity": "safe"} for kind in KINDS}


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the form of this API."""
    return Response(status, {"error": {"code": code, "message": message}}, headers or {})


def too_many(seconds: int, said: str) -> Response:
    """The reply beyond a call rate; ``said`` is what the header says, which tests keep short."""
    message = (
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded "
        f"call rate limit of your current OpenAI S0 pricing tier. Please retry after {seconds} seconds. Please go "
        "here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
    )
    return refusal(429, "429", message, {"Retry-After": said})


PER_MINUTE = too_many(1, "0.02")
PER_DAY = too_many(86400, "86400")
BROKEN = refusal(500, "InternalServerError", "The server had an error while processing your request. Sorry about that!")

FILTERED = Response(  # what the content filter answers in place of the model
    400,
    {
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
            "policy. Please modify your prompt and retry. To learn more about our content filtering policies please "
            "read our documentation: https://go.microsoft.com/fwlink/?linkid=2198766",
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": SAFE | {"violence": {"filtered": True, "severity": "medium"}},
            },
        }
    },
)


class Azure(Stub):
    """One deployment of one model."""

    path: ClassVar[str] = "/openai/deployments/judge"
    served: ClassVar[str] = "gpt-4o-mini-2024-07-18"
    fingerprint: ClassVar[str | None] = "fp_5154047bf2"
    failures: ClassVar[tuple[Any, ...]] = (PER_MINUTE, BROKEN)
    versions: tuple[str, ...] = VERSIONS
    deployment: str = "judge"

    def admit(self, sent: Sent) -> Response | None:
        parts = re.fullmatch(r"/openai/deployments/([^/]+)/chat/completions", sent.path)
        if parts is None or sent.query.get("api-version") not in self.versions:
            return refusal(404, "404", "Resource not found")
        if self.key is not None and sent.headers.get("api-key") != self.key:
            message = (
                "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid "
                "key for an active subscription and use a correct regional API endpoint for your resource."
            )
            return refusal(401, "401", message)
        if parts.group(1) != self.deployment:
            message = (
                "The API deployment for this resource does not exist. If you created the deployment within the last 5 "
                "minutes, please wait a moment and try again."
            )
            return refusal(404, "DeploymentNotFound", message)
        return None

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        found = self.completion(body, said)
        found["choices"][0]["content_filter_results"] = SAFE
        results = SAFE | {"jailbreak": {"filtered": False, "detected": False}}
        return Response(
            200, found | {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": results}]}
        )
