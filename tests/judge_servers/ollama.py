"""Ollama: takes any key and any parameter, cuts prompts that are too long, and thinks where the model can.

Follows the document "OpenAI compatibility" of Ollama (which fields are read; all others are ignored) and threads: a
model that is not there (QAnything issue 555), ``system_fingerprint`` "fp_ollama" (in every reply that people show),
thoughts in ``reasoning`` with empty content where they ate the limit (ollama issue 15288), a prompt beyond
``num_ctx`` that is cut without a word: empty content, "length", one token out and ``num_ctx`` - 1 in (oh-my-pi issue
2774).
"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.builders.judge_server import Reply, Response, Sent
from tests.judge_servers.base import Stub, tokens, words


def refusal(status: int, message: str) -> Response:
    """An error in the form of this server."""
    return Response(status, {"error": {"message": message, "type": "api_error", "param": None, "code": None}})


BUSY = refusal(503, "server busy, please try again.  maximum pending requests exceeded")
ENDED = refusal(500, "llama runner process has terminated: exit status 2")


class Ollama(Stub):
    """A model that was pulled."""

    models: ClassVar[tuple[str, ...]] = ("llama3.1:8b", "qwen3:8b")
    served: ClassVar[str] = "llama3.1:8b"
    fingerprint: ClassVar[str | None] = "fp_ollama"
    failures: ClassVar[tuple[Any, ...]] = (BUSY, ENDED)

    def admit(self, sent: Sent) -> Response | None:
        if sent.path != f"{self.path}/chat/completions":
            return Response(404, "404 page not found", kind="text/plain")
        return None if sent.body.get("model") in self.models else self.missing(sent)

    def missing(self, sent: Sent) -> Response:
        return refusal(404, f'model "{sent.body.get("model")}" not found, try pulling it first')

    def take(self, sent: Sent) -> Response | None:
        return None

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        if tokens(words(body["messages"])) >= self.context:
            found = self.completion(body, Reply("", None, "length"))
            found["usage"] = {"prompt_tokens": self.context - 1, "completion_tokens": 1, "total_tokens": self.context}
            return Response(200, found)
        found = self.completion(body, said)
        del found["choices"][0]["message"]["refusal"]
        if self.thinks:
            found["choices"][0]["message"]["reasoning"] = "They ask about a neuron. Let me look."
        return Response(200, found)
