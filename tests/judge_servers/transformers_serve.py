"""``transformers serve``: names models with their revision, takes a schema and does not follow it.

Follows ``transformers/cli/serving`` of transformers 5.24 (422 for fields that it does not know, 400 where it is
pinned to another model, ``response_format`` among the fields that are ignored with a warning, "@main" behind the name
in a reply) and what the server itself answers in ``tests/test_judge_real_server.py``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.builders.judge_server import Reply, Response, Sent
from tests.judge_servers.base import Stub, streamed

KNOWN = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stream", "stop"),
    *(
        "response_format",
        "stream_options",
        "reasoning_effort",
        "user",
        "n",
        "generation_config",
        "chat_template_kwargs",
    ),
)
CRASHED = Response(500, "Internal Server Error", kind="text/plain; charset=utf-8")


class TransformersServe(Stub):
    """Pinned to one model."""

    models: ClassVar[tuple[str, ...]] = ("Qwen/Qwen3-8B",)
    served: ClassVar[str] = "Qwen/Qwen3-8B@main"
    failures: ClassVar[tuple[Any, ...]] = (CRASHED,)

    def admit(self, sent: Sent) -> Response | None:
        if sent.path != f"{self.path}/chat/completions":
            return self.lost(sent)
        return None if sent.body.get("model") in self.models else self.missing(sent)

    def missing(self, sent: Sent) -> Response:
        detail = f"Server is pinned to '{self.models[0]}'; requested '{sent.body.get('model')}'."
        return Response(400, {"detail": detail})

    def take(self, sent: Sent) -> Response | None:
        extra = {name for name in sent.body if name not in KNOWN}
        return Response(422, {"detail": f"Unexpected fields in the request: {extra}"}) if extra else None

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        found = self.completion(body, said)
        del found["choices"][0]["message"]["refusal"]
        if self.thinks:
            found["choices"][0]["message"]["reasoning_content"] = "They ask about a neuron. Let me look."
        return streamed(found | {"system_fingerprint": ""}) if body.get("stream") else Response(200, found)
