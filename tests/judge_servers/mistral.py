"""api.mistral.ai: refuses every field that it does not know, ``seed`` among them (its own is ``random_seed``).

Follows Mistral's API specification of chat completions (fields) and bodies that people have reported:
``extra_forbidden`` as a list under ``detail`` (openclaude issue 739), or under ``message`` (editor-code-assistant/eca
issue 231), the rate limit with code 1300 (raycast/extensions issue 31107, cline issue 9085), a key that is wrong
(OmniRoute issue 7638).
"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.builders.judge_server import Response, Sent
from tests.judge_servers.base import Stub

KNOWN = (
    *("model", "messages", "max_tokens", "temperature", "top_p", "stream", "stop", "random_seed", "response_format"),
    *("tools", "tool_choice", "presence_penalty", "frequency_penalty", "n", "prediction", "safe_prompt", "prompt_mode"),
)
RATE = Response(
    429, {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": "1300"}
)
OVERLOADED = Response(503, {"object": "error", "message": "Service unavailable.", "type": "internal_server_error"})


class Mistral(Stub):
    """``nested`` where the list of faults stands under ``message``."""

    models: ClassVar[tuple[str, ...]] = ("mistral-small-latest",)
    served: ClassVar[str] = "mistral-small-latest"
    failures: ClassVar[tuple[Any, ...]] = (RATE, OVERLOADED)
    nested: bool = False

    def stranger(self, sent: Sent) -> Response:
        return Response(401, {"detail": "Unauthorized"})

    def missing(self, sent: Sent) -> Response:
        message = f"Invalid model: {sent.body.get('model')}"
        return Response(400, {"object": "error", "message": message, "type": "invalid_model", "code": "1500"})

    def lost(self, sent: Sent) -> Response:
        return Response(404, {"message": "no Route matched with those values"})

    def take(self, sent: Sent) -> Response | None:
        extra = [name for name in sent.body if name not in KNOWN]
        if not extra:
            return None
        detail = [
            {
                "type": "extra_forbidden",
                "loc": ["body", name],
                "msg": "Extra inputs are not permitted",
                "input": sent.body[name],
            }
            for name in extra
        ]
        if not self.nested:
            return Response(422, {"detail": detail})
        error = {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": None}
        return Response(422, error | {"code": None})
