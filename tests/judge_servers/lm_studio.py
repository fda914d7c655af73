"""LM Studio: serves what is loaded, whatever was asked for, and words errors as plain strings.

Follows the documents "OpenAI compatibility endpoints" and "Structured output" of LM Studio (only ``json_schema`` and
``text``) and threads of its bug tracker: "'response_format.type' must be 'json_schema' or 'text'" as a string under
``error`` (LoadShine/tada issue 16, lmstudio-bug-tracker issues 189 and 307), the one loaded model that answers to any
name (issue 619, with the field ``model`` of the reply), several models and a name that none has (gitbutler issue
8706), no model at all (issue 1730), a model that was unloaded (issue 1492).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from tests.builders.judge_server import Reply, Response, Sent
from tests.judge_servers.base import Stub

NONE_LOADED = Response(
    404,
    {
        "error": {
            "message": "No models loaded. Please load a model in the developer page or use the 'lms load' command.",
            "type": "invalid_request_error",
            "param": "model",
            "code": None,
        }
    },
)
UNLOADED = Response(400, {"error": "Model is unloaded."})
CRASHED = Response(500, {"error": "The model has crashed without additional information. (Exit code: null)"})


class LMStudio(Stub):
    """``loaded`` are the models in memory. With one of them, it answers to every name."""

    served: ClassVar[str] = "qwen2.5-7b-instruct"
    failures: ClassVar[tuple[Any, ...]] = (CRASHED,)
    loaded: tuple[str, ...] = ("qwen2.5-7b-instruct",)

    def admit(self, sent: Sent) -> Response | None:
        if sent.path != f"{self.path}/chat/completions":
            return Response(200, {"error": f"Unexpected endpoint or method. (POST {sent.path})"})
        if not self.loaded:
            return NONE_LOADED
        return self.missing(sent) if len(self.loaded) > 1 and sent.body.get("model") not in self.loaded else None

    def missing(self, sent: Sent) -> Response:
        listed = "\n".join(self.loaded)
        message = (
            f'Model "{sent.body.get("model")}" not found. Please specify a valid model.\n\nYour models:\n\n{listed}'
        )
        error = {"message": message, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
        return Response(404, {"error": error})

    def take(self, sent: Sent) -> Response | None:
        if sent.body.get("response_format", {}).get("type", "text") not in ("json_schema", "text"):
            return Response(400, {"error": "'response_format.type' must be 'json_schema' or 'text'"})
        return None

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        answered = body["model"] if body["model"] in self.loaded and len(self.loaded) > 1 else self.model
        found = self.completion(body, replace(said, refusal=None)) | {"model": answered, "system_fingerprint": answered}
        message = found["choices"][0]["message"]
        del message["refusal"]
        message["tool_calls"] = []
        if self.thinks:
            message["reasoning_content"] = "They ask about a neuron. Let me look."
        return Response(200, found | {"stats": {}})
