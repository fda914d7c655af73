"""A vLLM server: one model, its chat template, structured output by a back end that does not know every schema.

Follows vLLM's ``protocol.py`` (fields of a reply, among them ``reasoning_content``, later ``reasoning``, and
``prompt_logprobs``) and threads: "System role not supported" with status 400 (vllm pull 2964, chat-ui issue 1386),
the context (vllm issues 19464 and 20409), a schema that xgrammar cannot compile (vllm issue 26421; club-3090 issue 45
shows it as a 500), guided generation that ends in "Internal Server Error" (vllm issues 8429 and 13260). Errors were
flat objects until 2025 and stand under ``error`` since; both forms are here. Parameters that it does not know it
ignores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from tests.builders.judge_server import Reply, Response, Sent
from tests.judge_servers.base import Stub, tokens, words

LOADING = Response(503, "", kind="text/plain")
CRASHED = Response(500, "Internal Server Error", kind="text/plain; charset=utf-8")


class VLLM(Stub):
    """``schema`` is the status (400 or 500) of the refusal of a schema, None where every one compiles.

    ``system``: whether the chat template knows that role; ``flat``: whether errors are flat; ``thoughts``: their field.
    """

    models: ClassVar[tuple[str, ...]] = ("Qwen/Qwen3-8B",)
    served: ClassVar[str] = "Qwen/Qwen3-8B"
    failures: ClassVar[tuple[Any, ...]] = (LOADING, CRASHED)
    schema: int | None = None
    system: bool = True
    flat: bool = False
    thoughts: str = "reasoning_content"

    def refusal(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        error = {"message": message, "type": kind, "param": param, "code": status}
        return Response(status, {"object": "error", **error} if self.flat else {"error": error})

    def stranger(self, sent: Sent) -> Response:
        return Response(401, {"error": "Unauthorized"})

    def missing(self, sent: Sent) -> Response:
        return self.refusal(404, f"The model `{sent.body.get('model')}` does not exist.", "NotFoundError", "model")

    def take(self, sent: Sent) -> Response | None:
        body = sent.body
        if not self.system and any(message["role"] == "system" for message in body["messages"]):
            return self.refusal(400, "System role not supported")
        limit = body.get("max_completion_tokens", body.get("max_tokens", 0))
        came = tokens(words(body["messages"]))
        if came + limit > self.context:
            message = (
                f"This model's maximum context length is {self.context} tokens. However, you requested {came + limit} "
                f"tokens ({came} in the messages, {limit} in the completion). Please reduce the length of the messages "
                "or completion."
            )
            return self.refusal(400, message)
        if self.schema is not None and body.get("response_format", {}).get("type") == "json_schema":
            message = "The provided JSON schema contains features not supported by xgrammar."
            return self.refusal(400, message) if self.schema == 400 else CRASHED
        return None

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        found = self.completion(body, replace(said, text=said.text or None))
        choice = found["choices"][0]
        choice |= {"stop_reason": None, "token_ids": None}
        choice["message"] |= {"annotations": None, "audio": None, "function_call": None, "tool_calls": []}
        choice["message"] |= {self.thoughts: "They ask about a neuron. Let me look." if self.thinks else None}
        return Response(200, found | {"prompt_logprobs": None, "kv_transfer_params": None, "service_tier": None})
