"""openrouter.ai: hands requests on to providers, which take different parameters.

Follows the guides to provider routing and errors (``provider`` in the request, ``metadata.raw`` and ``provider_name``
in an error, errors inside HTTP 200, ``finish_reason`` "error", comment lines ": OPENROUTER PROCESSING" in streams)
and bodies that people have reported: "No endpoints found ..." with status 404 (routstr-core issue 554; the words for
parameters are those of many public tests), a provider's error in ``metadata.raw`` (go-openrouter pull 21,
open-webui/computer issue 293), free requests per day with the headers inside the body (openclaude issue 936). That a
provider that is not in ``provider.order`` may serve when fallbacks are allowed is the guide's; which one serves is
ours: they take turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.builders.judge_server import Reply, Response, Sent
from tests.judge_servers.base import Stub, streamed

COMMENT = ": OPENROUTER PROCESSING"
ROUTES = "To learn more about provider routing, visit: https://openrouter.ai/docs/guides/routing/provider-selection"
# what the model's providers take beside messages and a length limit
PROVIDERS: dict[str, tuple[str, ...]] = {
    "Together": ("temperature", "seed", "response_format", "stream", "stream_options", "reasoning"),
    "DeepInfra": ("temperature", "seed", "response_format", "stream", "stream_options"),
    "Groq": ("temperature", "seed", "stream", "stream_options"),
}
ALWAYS = ("model", "messages", "max_tokens", "max_completion_tokens", "provider", "usage", "transforms", "user")


def refusal(status: int, message: str, metadata: dict[str, Any] | None = None, http: int | None = None) -> Response:
    """An error in the form of this API; ``http`` where it comes with another status, often 200."""
    error: dict[str, Any] = {"message": message, "code": status}
    if metadata is not None:
        error["metadata"] = metadata
    return Response(http or status, {"error": error, "user_id": "user_0"})


UPSTREAM = refusal(
    429,
    "Provider returned error",
    {"raw": "the model is temporarily rate-limited upstream. Please retry shortly", "provider_name": "Together"},
)
INSIDE_200 = refusal(
    502,
    "Provider returned error",
    {"raw": json.dumps({"error": {"message": "upstream connect error"}}), "provider_name": "Together"},
    http=200,
)
PER_DAY = refusal(
    429,
    "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
    {
        "headers": {
            "X-RateLimit-Limit": "50",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "1790640000000",
        },
        "provider_name": None,
    },
)
NO_CREDIT = refusal(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits")


class OpenRouter(Stub):
    """One model with several providers, each with what it ``takes``; ``streams`` where it always answers in events."""

    path: ClassVar[str] = "/api/v1"
    models: ClassVar[tuple[str, ...]] = ("meta-llama/llama-3.3-70b-instruct",)
    served: ClassVar[str] = "meta-llama/llama-3.3-70b-instruct"
    failures: ClassVar[tuple[Any, ...]] = (UPSTREAM, INSIDE_200)
    takes: Mapping[str, tuple[str, ...]] = PROVIDERS
    streams: bool = False

    def stranger(self, sent: Sent) -> Response:
        return refusal(401, "No auth credentials found" if not sent.bearer else "User not found.")

    def missing(self, sent: Sent) -> Response:
        return refusal(404, f"No endpoints found for {sent.body.get('model')}.")

    def take(self, sent: Sent) -> Response | None:
        if self._able(sent.body):
            return None
        return refusal(404, f"No endpoints found that can handle the requested parameters. {ROUTES}")

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        able = self._able(body)
        found = {**self.completion(body, said), "provider": able[sum(self.answered.values()) % len(able)]}
        found["id"] = "gen-1"
        found["choices"][0] |= {"native_finish_reason": said.finish_reason}
        found["choices"][0]["message"] |= {"reasoning": None}
        found["usage"] |= {"cost": 0.00001, "is_byok": False}
        return streamed(found, [COMMENT]) if self.streams or body.get("stream") else Response(200, found)

    def _able(self, body: dict[str, Any]) -> list[str]:
        """The providers that may serve a request: those that take all of it, where a schema or the user demands "
        "that."""
        wishes = body.get("provider", {})
        only = wishes.get("only") or (wishes.get("order") if wishes.get("allow_fallbacks") is False else None)
        found = [name for name in self.takes if only is None or name.lower() in [one.lower() for one in only]]
        needed = [name for name in body if name not in ALWAYS]
        if not wishes.get("require_parameters"):
            needed = [name for name in needed if name == "response_format"]
        return [name for name in found if set(needed) <= set(self.takes[name])]
