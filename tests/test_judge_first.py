"""The first question: what an endpoint refuses is dropped or replaced by itself, said, and asked for no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_bench.errors import UsageError
from sae_bench.judge import Judge, JudgeError, JudgeOptions, Patience, Request
from sae_bench.judge.abilities import FORMATS, ROOM, Abilities, merged
from tests.builders.judge_asks import FAST, options
from tests.builders.judge_server import BROKEN, Fault, Messages, Reply, Server, in_order
from tests.builders.marks import slow_but_each

SCHEMA = {"type": "object", "properties": {"p": {"type": "integer"}}, "additionalProperties": False}
Body = dict[str, Any]
Refuses = Callable[[Body], bool]


def ask(text: object = "who?", tokens: int = 50) -> Request:
    return Request([{"role": "system", "content": "rules"}, {"role": "user", "content": str(text)}], SCHEMA, tokens)


def echo(messages: Messages) -> str:
    return f"reply to {messages[-1]['content'].splitlines()[-1]}"


def bad(message: str, status: int = 400, **more: Any) -> Fault:
    return Fault("status", status, None, {"message": message} | more)


def schema_of(body: Body) -> Any:
    return body.get("response_format", {}).get("json_schema", {}).get("schema")


def has(name: str) -> Refuses:
    return lambda body: name in body


def form(*kinds: str) -> Refuses:
    return lambda body: body.get("response_format", {}).get("type") in kinds


def system(body: Body) -> bool:
    return any(message["role"] == "system" for message in body["messages"])


def strict(body: Body) -> bool:
    return schema_of(body) is not None and "additionalProperties" in schema_of(body)


BOTH = ("json_schema", "json_object")
# what each endpoint says, as its documents or users quote it, and what it refuses
REFUSALS: dict[str, tuple[Fault, Refuses, dict[str, Any]]] = {
    "OpenAI, temperature": (
        bad("Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
            "supported.", param="temperature", code="unsupported_value"),
        has("temperature"), {"dropped": ("temperature",)},
    ),
    "OpenAI, length": (
        bad("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead."),
        has("max_tokens"), {"long_name": True},
    ),
    "o1-mini, system": (
        bad("Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        system, {"system": False},
    ),
    "Mistral, seed": (
        Fault("status", 422, None, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra "
              "inputs are not permitted", "input": 0}]}),
        has("seed"), {"dropped": ("seed",)},
    ),
    "Gemini, seed": (
        bad('Invalid JSON payload received. Unknown name "seed": Cannot find field.'),
        has("seed"), {"dropped": ("seed",)},
    ),
    "Gemini, schema": (
        bad('Invalid JSON payload received. Unknown name "additionalProperties" at '
            "'generation_config.response_schema': Cannot find field."),
        strict, {"format": FORMATS[1]},
    ),
    "vLLM, schema": (bad("Internal error: failed to compile the grammar", 500), form(*BOTH), {"format": "none"}),
    "vLLM, schema in other words": (
        bad("guided_json is not supported by this backend", 500), form("json_schema"), {"format": "json_object"},
    ),
    "vLLM, system": (bad("System role not supported"), system, {"system": False}),
    "Mistral template": (
        bad("Conversation roles must alternate user/assistant/user/assistant/..."), system, {"system": False},
    ),
    "llama.cpp, grammar": (bad("failed to parse grammar"), form("json_schema"), {"format": "json_object"}),
    "LM Studio, json_object": (
        Fault("status", 400, None, {"message": "'response_format.type' must be 'json_schema' or 'text'"}),
        form("json_object"), {},
    ),
    "OpenRouter": (
        bad("No endpoints found that can handle the requested parameters.", 404), form("json_schema"),
        {"format": "json_object"},
    ),
    "only streams": (
        bad("This model only support stream mode, please enable the stream parameter to access the model."),
        lambda body: not body.get("stream"), {"stream": True},
    ),
    "no schema at all": (bad("response_format is not allowed"), form(*BOTH), {"format": "none"}),
    "unexplained, 400": (bad("Bad Request"), has("seed"), {"dropped": ("seed",)}),
    "unexplained, format": (bad("Bad Request"), form(*BOTH), {"format": "none"}),
    "unexplained, system": (bad("Bad Request"), system, {"system": False}),
    "unexplained, length": (bad("invalid"), has("max_tokens"), {"long_name": True}),
    "unexplained, 500": (bad("Internal Server Error", 500), form("json_schema"), {"format": "json_object"}),
    "a code alone": (bad("invalid_request_error", param="seed"), has("seed"), {"dropped": ("seed",)}),
    "no JSON": (Fault("html", 400), lambda body: False, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", slow_but_each(3, REFUSALS))
def test_what_is_refused_is_dropped_or_replaced_and_nothing_else(tmp_path: Path, name: str) -> None:
    fault, refuses, expected = REFUSALS[name]
    with Server(echo, lambda n, body: fault if refuses(body) else None) as server:
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.meet(ask()).text == "reply to who?"
            assert judge.known is not None
            assert Abilities(**judge.known.takes) == Abilities(**expected)
            first = server.n
            done = judge.complete([ask(i) for i in range(20)])
            assert [one.text for one in done] == [f"reply to {i}" for i in range(20)]
        assert server.n == first + 20, "what was found out is asked for no more"
        assert not any(refuses(body) for body in server.bodies[first:])


def test_several_refusals_one_after_another(tmp_path: Path) -> None:
    """gpt-5 behind a gateway without schemas, for instance."""
    chain = [
        REFUSALS[name][:2] for name in ("OpenAI, length", "OpenAI, temperature", "o1-mini, system", "vLLM, schema")
    ]

    def fault(n: int, body: Body) -> Fault | None:
        return next((said for said, refuses in chain if refuses(body)), None)

    with Server(echo, fault) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert judge.meet(ask()).status == "ok"
        assert judge.known is not None
        found = Abilities(**judge.known.takes)
        assert found == Abilities("none", ("temperature",), system=False, long_name=True)
        assert found.words["not taken"] == ["temperature"]
        assert server.bodies[-1]["messages"] == [{"role": "user", "content": "rules\n\nwho?"}]
        assert server.bodies[-1]["max_completion_tokens"] == 50


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (bad("no access", 403), "does not allow this key"),
        (bad("Incorrect API key", 401), "put a key into OPENAI_API_KEY"),
        (bad("The model `seed-oss` does not exist", 404, code="model_not_found"), "has no model 'm'"),
        (Fault("status", 404, None, {"detail": "Not Found"}), "does not speak the chat-completions protocol"),
        (bad("You have no credit", 402), "no credit left"),
        (bad("Bad Request"), "correct --judge-model"),
        (bad("this prompt is too long: maximum context length is 4096 tokens"), "longer context"),
    ],
)
def test_what_no_words_mend_is_one_sentence_after_few_requests(tmp_path: Path, fault: Fault, says: str) -> None:
    with Server(echo, lambda n, body: fault) as server, Judge(options(server, tmp_path), FAST) as judge:
        with pytest.raises(JudgeError, match=says):
            judge.meet(ask())
        assert server.n <= 8


def test_a_prompt_that_an_error_repeats_changes_nothing_of_how_others_are_asked(tmp_path: Path) -> None:
    """Texts speak of temperature and seeds, and some servers repeat them in their errors."""
    said = (
        "input: 'the temperature, a seed and the system role are not supported; use max_completion_tokens, stream only'"
    )

    def fault(n: int, body: Body) -> Fault | None:
        return bad(said) if body["messages"][-1]["content"] == "bad" else None

    with Server(echo, fault) as server, Judge(options(server, tmp_path, concurrency=1), FAST) as judge:
        judge.meet(ask())
        with pytest.raises(JudgeError, match="refused the request"):
            judge.complete([ask(1), ask("bad"), ask(2)])
        assert server.n == 3
        assert judge.complete([ask(3)])[0].status == "ok"
    names = [set(body) for body in server.bodies]
    assert names == [names[0]] * 4
    assert all(len(body["messages"]) == 2 for body in server.bodies)


def test_what_the_user_gives_is_never_dropped(tmp_path: Path) -> None:
    fault, refuses, _ = REFUSALS["OpenAI, temperature"]
    with Server(echo, lambda n, body: fault if refuses(body) else None) as server:
        given = options(server, tmp_path, params={"temperature": 0.7})
        with Judge(given, FAST) as judge, pytest.raises(JudgeError, match="leave out --judge-param temperature"):
            judge.meet(ask())
        with Judge(options(server, tmp_path, params={"temperature": None}), FAST) as judge:
            assert judge.meet(ask()).status == "ok"
        assert "temperature" not in server.bodies[-1]


def test_parameters_and_headers_reach_the_endpoint_and_no_other_place(tmp_path: Path) -> None:
    params = {"top_p": 0.5, "provider": {"order": ["A"]}, "seed": None}
    headers = {"X-Title": "sae-bench", "X-Token": "t0ken-0123456789"}
    with Server(echo) as server:
        with Judge(options(server, tmp_path, params=params, headers=headers, reply_tokens=700), FAST) as judge:
            judge.meet(ask())
            judge.complete([ask(1)])
            assert "t0ken" not in repr(judge.options)
        for body in server.bodies:
            assert (body["top_p"], body["provider"], body["max_tokens"]) == (0.5, {"order": ["A"]}, 700)
            assert "seed" not in body
        assert [head["x-token"] for head in server.heads] == ["t0ken-0123456789"] * 2
    assert b"t0ken" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_an_address_with_an_api_version_sends_the_key_as_azure_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key-0123456789")
    with Server(echo) as server:
        url = server.url.replace("/v1", "/openai/deployments/d/chat/completions?api-version=2024-10-21")
        given = JudgeOptions("m", url, "AZURE_OPENAI_API_KEY", cache=tmp_path / "judge.sqlite")
        with Judge(given, FAST) as judge:
            assert judge.meet(ask()).status == "ok"
        (head,) = server.heads
        assert head["api-key"] == "azure-key-0123456789"
        assert "authorization" not in head
        assert server.paths == ["/openai/deployments/d/chat/completions?api-version=2024-10-21"]
        assert given.place.endswith("/openai/deployments/d?api-version=2024-10-21")


@pytest.mark.parametrize(
    ("options_", "says"),
    [
        ({"params": {"max_tokens": 5}}, "give --reply-tokens"),
        ({"params": {"model": "x"}}, "give --judge-model"),
        ({"params": {"n": 2}}, "one reply"),
        ({"params": {"a b": 2}}, "NAME=VALUE"),
        ({"params": {"x": float("nan")}}, "is not JSON"),
        ({"headers": {"bad name": "value"}}, "NAME=VALUE"),
        ({"headers": {"Host": "other"}}, "belongs to the connection"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "a character that no header has"),
        ({"headers": {"X-A": ""}}, "is empty"),
        ({"reply_tokens": 0}, "--reply-tokens"),
        ({"base_url": "http://h/v1?key=hidden-0123"}, "api-version"),
        ({"base_url": "http://h/v1?api-version=a&code=hidden-0123"}, "api-version"),
        ({"base_url": "http://h/v1?api-version=../x"}, "letters, digits"),
        ({"fingerprint": "two"}, "--judge-fingerprint"),
    ],
)
def test_options_that_cannot_be_used_are_one_sentence(options_: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as refusal:
        JudgeOptions(**{"model": "m"} | options_)
    assert "hidden" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- thoughts and lengths


def thinking(needs: int) -> Callable[[Body], dict[str, Any]]:
    """A model whose thoughts need so many tokens before it says anything."""

    def reply(body: Body) -> dict[str, Any]:
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        cut = limit < needs
        message = {"role": "assistant", "content": "" if cut else "reply"}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}]}

    return reply


def test_a_model_that_thinks_gets_room_once_and_keeps_it(tmp_path: Path) -> None:
    with Server(shape=thinking(900)) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert judge.meet(ask()).text == "reply"
        assert [body["max_tokens"] for body in server.bodies] == [50, 50 + ROOM]
        assert {one.text for one in judge.complete([ask(i) for i in range(10)])} == {"reply"}
        assert server.n == 12, "no other reply is cut off first"


def test_a_reply_that_is_cut_off_with_room_too_is_truncated_after_two_tries(tmp_path: Path) -> None:
    with Server(shape=thinking(10**6)) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert judge.complete([ask()])[0].status == "truncated"
        assert server.n == 2
        assert judge.complete([ask()])[0].status == "truncated"
        assert server.n == 2, "once in a run"
    with Server(shape=thinking(500)) as server, Judge(options(server, tmp_path, reply_tokens=400), FAST) as judge:
        assert judge.complete([ask()])[0].status == "truncated"
        assert [body["max_tokens"] for body in server.bodies] == [400], "the user has said how long replies may be"


def test_room_that_the_context_does_not_hold_is_less(tmp_path: Path) -> None:
    """vLLM: a 4096-token context, and a reply that thinks."""
    long = bad("This model's maximum context length is 2048 tokens. However, you requested 4146 tokens")

    def fault(n: int, body: Body) -> Fault | None:
        return long if body["max_tokens"] > 2000 else None

    with Server(shape=thinking(900), fault=fault) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert judge.meet(ask()).text == "reply"
        assert [body["max_tokens"] for body in server.bodies] == [50, 50 + ROOM, 50 + ROOM // 4]


def test_the_budget_counts_the_room(tmp_path: Path) -> None:
    with Server(shape=thinking(10**6)) as server, Judge(options(server, tmp_path, max_tokens=2000), FAST) as judge:
        assert judge.complete([ask()])[0].status == "budget"
        assert server.n == 1


# ---------------------------------------------------------------- what failed is asked again


def test_only_complete_replies_are_replayed_by_the_next_run(tmp_path: Path) -> None:
    """A thinking model was cut off twelve times of twelve, and the mended server was never asked."""
    answers = {"cut": Reply('{"a', finish_reason="length"), "no": Reply(None, refusal="No."), "yes": Reply("yes")}
    asked = [ask(name) for name in answers]
    with Server(lambda messages: answers[messages[-1]["content"]]) as server:
        with Judge(options(server, tmp_path), FAST) as judge:
            assert [one.status for one in judge.complete(asked)] == ["truncated", "refused", "ok"]
        server.answer = lambda messages: "mended"
        n = server.n
        with Judge(options(server, tmp_path), FAST) as judge:
            assert [one.text for one in judge.complete(asked)] == ["mended", "mended", "yes"]
        assert server.n == n + 2
        with Judge(options(server, tmp_path, cache_only=True), FAST) as judge:
            assert [one.text for one in judge.complete(asked)] == ["mended", "mended", "yes"]


def test_what_could_not_be_read_is_asked_anew_and_a_worse_reply_does_not_replace_it(tmp_path: Path) -> None:
    with Server(lambda messages: "words") as server:
        with Judge(options(server, tmp_path), FAST) as judge:
            judge.complete([ask()])
        server.answer = lambda messages: "better"
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.complete([ask()])[0].text == "words"
            assert judge.complete([ask()], fresh=True)[0].text == "better"
            n = server.n
            assert judge.complete([ask()], fresh=True)[0].text == "better"
            assert server.n == n, "once in a run"
        server.answer = lambda messages: Reply("", finish_reason="length")
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.complete([ask()], fresh=True)[0].status == "truncated"
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.complete([ask()])[0].text == "better"


# ---------------------------------------------------------------- limits of the endpoint


DAILY = {
    "OpenRouter": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 requests"},
    "Groq": {"message": "Rate limit reached for model `x` on requests per day (RPD): Limit 14400, Used 14400. Please "
             "try again in 7m12.5s."},
    "OpenAI": {"message": "Rate limit reached for gpt-4o on requests per day (RPD): Limit 200, Used 200, Requested 1.",
               "code": "rate_limit_exceeded"},
    "GitHub": {"message": "Rate limit of 150 per 86400s exceeded for UserByModelByDay. Please wait 5000 seconds"},
    "Gemini": {"message": "You exceeded your current quota", "details": [{"violations": [{"quotaId":
               "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}, {"retryDelay": "53s"}]},
    "Cohere": {"message": "You are using a Trial key, which is limited to 1000 API calls / month."},
    "Mistral": {"message": "Monthly token limit exceeded"},
}  # fmt: skip
MINUTELY = {
    "OpenAI": "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000. Please try again in 20ms.",
    "Anthropic": "This request would exceed your organization's rate limit of 50 requests per minute",
    "vLLM": "Too many requests today is a busy day",
    "Azure": "Requests to the ChatCompletions_Create Operation have exceeded the limit. Please retry after 0 seconds",
    "letters as of hours": "Rate limit reached in organization org-x24hAB on tokens per min. Try again in 6ms",
}


@pytest.mark.parametrize("name", slow_but_each(3, DAILY))
def test_a_limit_per_day_or_month_ends_the_run_as_a_budget_does(tmp_path: Path, name: str) -> None:
    used_up = Fault("status", 429, None, DAILY[name])
    with Server(echo, lambda n, body: used_up if n > 6 else None) as server:
        with Judge(options(server, tmp_path, concurrency=2), FAST) as judge:
            done = judge.complete([ask(i) for i in range(40)])
        assert server.n <= 8, "nobody knocks hundreds of times"
        assert {one.status for one in done} == {"ok", "budget"}
        assert sum(one.status == "ok" for one in done) == 6
        assert all("is used up" in (one.reason or "") for one in done if one.status == "budget")
        server.fault = lambda n, body: None
        with Judge(options(server, tmp_path), FAST) as judge:
            assert {one.status for one in judge.complete([ask(i) for i in range(40)])} == {"ok"}
        assert max(server.answered.values()) == 1


@pytest.mark.parametrize("name", MINUTELY)
def test_a_limit_per_minute_is_waited_for(tmp_path: Path, name: str) -> None:
    busy = Fault("status", 429, None, {"message": MINUTELY[name]})
    with Server(echo, in_order([busy] * 3)) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert {one.status for one in judge.complete([ask(i) for i in range(4)])} == {"ok"}


def test_an_endpoint_that_is_always_busy_ends_the_run_after_few_tries(tmp_path: Path) -> None:
    """319 tries were made, each request counting its own."""
    busy = Fault("status", 429, None, {"message": "slow down"})
    patience = Patience(attempts=3, rate_limits=6, base=0.001, longest=0.002)
    with Server(echo, lambda n, body: busy if n > 4 else None) as server:
        with Judge(options(server, tmp_path), patience) as judge:
            done = judge.complete([ask(i) for i in range(100)])
        assert server.n < 4 + 6 * 16
        assert {one.status for one in done} == {"ok", "budget"}


def test_a_server_that_fails_at_the_first_question_is_waited_for(tmp_path: Path) -> None:
    """llama.cpp answers 503 while it loads."""
    loading = Fault("status", 503, None, {"message": "Loading model", "type": "unavailable_error"})
    with Server(echo, in_order([loading])) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert judge.meet(ask()).status == "ok"
        assert judge.known is not None
        assert judge.known.takes["format"] == "json_schema"
    with (
        Server(echo, lambda n, body: BROKEN) as server,
        Judge(options(server, tmp_path), FAST) as judge,
        pytest.raises(JudgeError, match="does not answer"),
    ):
        judge.meet(ask())


def test_messages_without_a_system_message_lose_nothing() -> None:
    talk = [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "ask"},
        {"role": "assistant", "content": "said"},
        {"role": "user", "content": "again"},
    ]
    assert [message["role"] for message in merged(talk)] == ["user", "assistant", "user"]
    assert merged(talk)[0]["content"] == "rules\n\nask"
    assert merged(talk[:1]) == [{"role": "user", "content": "rules"}]
    assert merged(talk[1:]) == talk[1:]
    assert talk[0]["role"] == "system", "what was given stays as it is"


# ---------------------------------------------------------------- errors that repeat the question

ABOUT = "rules of the house: the temperature, the seed and the schema of a system role are flagged 100 times per day"
REPEATED = {
    "as it is": lambda text: text,
    "escaped twice": lambda text: json.dumps({"messages": [{"content": text}]}),
    "cut off": lambda text: text[: len(text) - 7] + "...",
    "over lines": lambda text: text.replace(" ", "\n> "),
}


@pytest.mark.parametrize("how", REPEATED)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_question_that_an_error_repeats_is_no_word_of_the_endpoint(tmp_path: Path, status: int, how: str) -> None:
    fault = Fault("status", status, None, {"message": f"could not serve: {REPEATED[how](f'{ABOUT} 1')}"})
    with Server(echo, in_order([fault] * 3)) as server, Judge(options(server, tmp_path), FAST) as judge:
        done = judge.complete([ask(f"{ABOUT} {i}") for i in range(4)])
    assert {one.status for one in done} == {"ok"}, "no limit per day, and no filter, has been met"
    asked = [set(body) for body in server.bodies]
    assert all({"temperature", "seed", "response_format"} <= names for names in asked)


def test_a_question_that_a_refusal_repeats_advises_nothing(tmp_path: Path) -> None:
    fault = Fault("status", 400, None, {"message": f"malformed request: {ABOUT}"})
    with Server(echo, lambda n, body: fault) as server, Judge(options(server, tmp_path), FAST) as judge:
        with pytest.raises(JudgeError, match="correct --judge-model") as found:
            judge.complete([ask(ABOUT)])
        assert server.n == 1
    assert "temperature=none" not in str(found.value)


def test_after_the_first_question_a_failure_changes_no_words_and_the_temperature_stays(tmp_path: Path) -> None:
    """The protocol says one temperature: half of the replies must not come at another."""
    broken = Fault("status", 500, None, {"message": "error while sampling: temperature, seed and schema were lost"})
    with Server(echo) as server, Judge(options(server, tmp_path), FAST) as judge:
        judge.meet(ask("who are you?"))
        server.fault = lambda n, body: broken if n in (2, 4) else None
        assert {one.status for one in judge.complete([ask(i) for i in range(6)])} == {"ok"}
        assert all({"temperature", "seed", "response_format"} <= set(body) for body in server.bodies)
        refusing = Fault("status", 400, None, {"message": "temperature is not supported"})
        server.fault = lambda n, body: refusing if "temperature" in body else None
        with pytest.raises(JudgeError, match="--judge-param temperature=none"):
            judge.complete([ask("one more")])


def test_a_filter_that_refuses_the_first_question_is_not_taken_for_a_judge(tmp_path: Path) -> None:
    """It names nobody, and whoever answers the rest would count as somebody else."""
    filtered = Fault("status", 400, None, {"message": "the prompt was filtered", "code": "content_filter"})
    with Server(echo, in_order([filtered])) as server, Judge(options(server, tmp_path), FAST) as judge:
        with pytest.raises(JudgeError, match=r"a filter before .* refuses the first question"):
            judge.meet(ask("who are you?"))
        judge.meet(ask("who are you?"))
        assert {one.status for one in judge.complete([ask(i) for i in range(3)])} == {"ok"}
