"""Refusals of one thing in a request, in the words in which endpoints were reported to say it, each with its thread.

An endpoint of this file takes everything else, so a client that understands the words gets an answer from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

from tests.builders.judge_server import Response, Sent
from tests.judge_servers.base import Stub, streamed

Offends = Callable[[dict[str, Any]], bool]


def has(name: str) -> Offends:
    return lambda body: name in body


def asks_for(*kinds: str) -> Offends:
    return lambda body: body.get("response_format", {}).get("type") in kinds


def has_role(body: dict[str, Any]) -> bool:
    return any(message["role"] == "system" for message in body["messages"])


def is_strict(body: dict[str, Any]) -> bool:
    return "additionalProperties" in json.dumps(body.get("response_format", {}))


def said(message: str, status: int = 400, **more: Any) -> Response:
    """The common form."""
    return Response(status, {"error": {"message": message, "type": "invalid_request_error"} | more})


SCHEMA, JSON, FORMAT = asks_for("json_schema"), asks_for("json_schema", "json_object"), has("response_format")
SEED, HEAT = has("seed"), has("temperature")
# what a request loses at most where this offends: "a schema" is a format that names one
COSTS: dict[Offends, set[str]] = {SCHEMA: {"a schema"}, SEED: {"seed"}, HEAT: {"temperature"}}
COSTS |= {name: {"a schema", "response_format"} for name in (JSON, FORMAT)} | {has_role: {"system message"}}
DEPRECATED = {"type": "error", "error": {"message": "`temperature` is deprecated for this model."}}
TEMPERATURE = "Unsupported parameter: 'temperature' is not supported with this model."
# name with its thread: what offends, and what is answered
REFUSALS: dict[str, tuple[Offends, Response]] = {
    "DeepSeek, llm-exe 662": (
        SCHEMA,
        said("This response_format type is unavailable now", code="invalid_request_error"),
    ),
    "DeepSeek, browser-use 215": (
        SCHEMA,
        Response(
            422,
            "Failed to deserialize the JSON body into the target type: response_format: response_format.type "
            "`json_schema` is unavailable now at line 1 column 12440",
            kind="text/plain",
        ),
    ),
    "Groq, deep-research 127": (
        SCHEMA,
        said("'response_format.type' : value is not one of the allowed values ['text','json_object']"),
    ),
    "Groq, beeai-framework 1215": (
        is_strict,
        said(
            "invalid schema for response format: response_format/json_schema/reply: additionalProperties is not "
            "supported"
        ),
    ),
    "xAI, litellm 6610": (
        JSON,
        Response(
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "The response_format parameter is unsupported at the moment. Leave it unset.",
            },
        ),
    ),
    "OpenAI, multi-agent-llm 2": (
        SCHEMA,
        said(
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model. Learn "
            "more about supported models at the Structured Outputs guide: "
            "https://platform.openai.com/docs/guides/structured-outputs"
        ),
    ),
    "LiteLLM, eva 895": (
        SEED,
        said(
            "litellm.UnsupportedParamsError: anthropic does not support parameters: ['seed'], for model=claude. To "
            "drop these, set `litellm.drop_params=True` or for proxy:\n\n`litellm_settings:\n drop_params: true`\n"
        ),
    ),
    "LiteLLM with status 500, litellm 3923": (
        SEED,
        Response(
            500,
            {
                "error": {
                    "message": "ollama does not support parameters: {'seed': 0}, for model=llama3:latest. To drop "
                    "these, set `litellm.drop_params=True`\n\nNumber Retries = 1",
                    "type": None,
                    "param": None,
                    "code": 500,
                }
            },
        ),
    ),
    "Claude, picoclaw 2939": (HEAT, said("temperature is deprecated for this model.")),
    "Claude of Bedrock behind LiteLLM, Roo-Code 12162": (
        HEAT,
        said("litellm.BadRequestError: BedrockException - " + json.dumps({"message": json.dumps(DEPRECATED)})),
    ),
    "OpenAI behind OpenRouter, litellm 10957": (
        HEAT,
        Response(
            400,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 400,
                    "metadata": {
                        "raw": json.dumps({"error": {"message": TEMPERATURE, "param": "temperature"}}),
                        "provider_name": "OpenAI",
                    },
                }
            },
        ),
    ),
    "OpenAI behind a gateway of its own words, llm_wiki 670": (
        HEAT,
        Response(
            400,
            {
                "error": {
                    "cause": json.dumps({"error": {"message": TEMPERATURE}}),
                    "code": 400,
                    "message": "模型服务调用失败",
                },
                "requestId": "xxx",
                "result": None,
            },
        ),
    ),
    "o1-mini, BetterChatGPT-PLUS 90": (
        has_role,
        said(
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            param="messages[0].role",
            code="unsupported_value",
        ),
    ),
    "Mistral's template in vLLM, autogen 1037": (
        has_role,
        Response(
            400,
            {
                "object": "error",
                "message": "Conversation roles must alternate user/assistant/user/assistant/...",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            },
        ),
    ),
    "Mistral's template in llama.cpp, node-llama-cpp 263": (
        has_role,
        said("Only user and assistant roles are supported!", 500, code=500),
    ),
    "Qwen of DashScope, ragflow 5912": (
        lambda body: not body.get("stream"),
        Response(
            400,
            {
                "error": {
                    "code": "invalid_parameter_error",
                    "param": None,
                    "message": "This model only support stream mode, please enable the stream parameter to access "
                    "the model. ",
                    "type": "invalid_request_error",
                },
                "request_id": "7ed765de",
            },
        ),
    ),
    "a FastAPI server, transformers serve": (
        FORMAT,
        Response(422, {"detail": "Unexpected fields in the request: {'response_format'}"}),
    ),
    "a crash at a template, transformers serve": (
        has_role,
        Response(500, "Internal Server Error", kind="text/plain; charset=utf-8"),
    ),
}


class Worded(Stub):
    """Refuses what ``refusal`` names, by its words; streams where it is asked to."""

    served: ClassVar[str] = "m"
    refusal: str = ""

    def take(self, sent: Sent) -> Response | None:
        offends, response = REFUSALS[self.refusal]
        return response if offends(sent.body) else None

    def reply(self, body: dict[str, Any]) -> Response:
        found = super().reply(body)
        return streamed(found.content) if body.get("stream") else found
