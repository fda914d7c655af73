"""llama-server of llama.cpp: answers 503 while it loads, names models by their files, makes grammars of schemas.

Follows ``tools/server`` of llama.cpp (``format_error_response`` with code, message and type; "Loading model" with
``unavailable_error``; ``timings``; a fingerprint that is the build) and threads: a prompt beyond the context
(llama.cpp pull 15780 and textgen issue 7257), a grammar that cannot be parsed (qwen-code issue 10435 with status 400;
before, 500 or none at all: llama.cpp issue 19051), a schema that cannot be turned into one (openclaw issue 107430).
"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.builders.judge_server import Reply, Response, Sent
from tests.judge_servers.base import Stub, tokens, words

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    500: "server_error",
    503: "unavailable_error",
}


def refusal(status: int, message: str, **more: Any) -> Response:
    """An error in the form of this server."""
    return Response(status, {"error": {"code": status, "message": message, "type": KINDS[status]} | more})


LOADING = refusal(503, "Loading model")
FAILED = refusal(500, "Compute error.")


class LlamaCpp(Stub):
    """``loads`` is how many requests come while the model is loaded; ``grammar`` the status of the refusal of a schema.

    None where all schemas can be parsed.
    """

    served: ClassVar[str] = "/models/Qwen2.5-7B-Instruct-Q4_K_M.gguf"
    fingerprint: ClassVar[str | None] = "b6400-3b15924d"
    failures: ClassVar[tuple[Any, ...]] = (LOADING, FAILED)
    loads: int = 0
    grammar: int | None = None

    def stranger(self, sent: Sent) -> Response:
        return refusal(401, "Invalid API Key")

    def lost(self, sent: Sent) -> Response:
        return refusal(404, "File Not Found")

    def admit(self, sent: Sent) -> Response | None:
        return LOADING if self.n <= self.loads else super().admit(sent)

    def take(self, sent: Sent) -> Response | None:
        came = tokens(words(sent.body["messages"]))
        if came >= self.context:
            message = (
                f"request ({came} tokens) exceeds the available context size ({self.context} tokens), try increasing it"
            )
            counts = {"n_prompt_tokens": came, "n_ctx": self.context}
            return refusal(400, message, **{"type": "exceed_context_size_error"} | counts)
        if self.grammar is not None and sent.body.get("response_format", {}).get("type") == "json_schema":
            return refusal(self.grammar, "Failed to initialize samplers: failed to parse grammar")
        return None

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        found = self.completion(body, said)
        message = found["choices"][0]["message"]
        del message["refusal"]
        if self.thinks:
            message["reasoning_content"] = "They ask about a neuron. Let me look."
        usage = found["usage"]
        timings = {"prompt_n": usage["prompt_tokens"], "prompt_ms": 12.5, "prompt_per_second": 800.0}
        timings |= {"predicted_n": usage["completion_tokens"], "predicted_ms": 30.0, "predicted_per_second": 50.0}
        return Response(200, found | {"timings": timings})
