"""What endpoints do when they fail: what passes is waited out, what does not is one sentence, nothing is lost."""

import logging
import pickle
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from sae_bench.errors import UsageError
from sae_bench.judge import Judge, JudgeError, JudgeOptions, Patience, Request
from sae_bench.judge.outcomes import classify, retry_after
from tests.builders.judge_asks import FAST, ask, echo, options
from tests.builders.judge_server import BROKEN, BUSY, QUOTA, Fault, Reply, Server, at_random, in_order, key_of

SECRET = "sk-0123456789-very-secret"


def test_with_30_percent_faults_all_requests_are_answered_and_none_is_paid_twice(tmp_path: Path) -> None:
    asked = [ask(i) for i in range(150)]
    with Server(echo, fault=at_random(0.3, seed=1)) as server:
        with Judge(options(server, tmp_path), Patience(attempts=12, base=0.005, longest=0.02)) as judge:
            done = judge.complete(asked)
            usage = judge.usage
        assert [it.text for it in done] == [f"reply to {i}" for i in range(150)]
        assert len(server.answered) == 150
        assert max(server.answered.values()) == 1
        assert server.n == usage.attempts > 180
        assert usage.requests == 150


@pytest.mark.parametrize(
    "kind", ["drop", "half_sent", "truncated", "html", "error_200", "choices_null", "choices_empty"]
)
def test_each_passing_fault_is_tried_again(tmp_path: Path, kind: str) -> None:
    with Server(echo, fault=in_order([Fault(kind)] * 3)) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert judge.complete([ask("x")])[0].text == "reply to x"
        assert server.n == 4


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
def test_each_passing_status_is_tried_again(tmp_path: Path, status: int) -> None:
    with Server(echo, fault=in_order([Fault("status", status)])) as server:
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.complete([ask("x")])[0].status == "ok"
        assert server.n == 2


def test_a_request_that_hangs_is_given_up_and_tried_again(tmp_path: Path) -> None:
    with (
        Server(echo, fault=in_order([Fault("hang")])) as server,
        Judge(options(server, tmp_path, timeout=1.0), FAST) as judge,
    ):
        assert judge.complete([ask("x")])[0].status == "ok"
        assert judge.usage.unreported >= 1


def test_a_request_that_keeps_failing_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    bad = ask("bad")

    def fault(n: int, body: dict[str, Any]) -> Fault | None:
        return BROKEN if body["messages"][0]["content"] == "bad" else None

    with Server(echo, fault=fault) as server, Judge(options(server, tmp_path), FAST) as judge:
        done = judge.complete([ask(1), bad, ask(2)])
        assert [it.status for it in done] == ["ok", "transport_failed", "ok"]
        assert "failed 6 times, last: injected" in (done[1].reason or "")
        assert server.n == 2 + FAST.attempts
        server.fault = lambda n, body: None
        assert judge.complete([bad])[0].status == "ok"  # a failure is not remembered


def test_an_endpoint_that_has_stopped_working_stops_the_run_and_keeps_what_is_paid(tmp_path: Path) -> None:
    asked = [ask(i) for i in range(60)]
    with Server(echo, fault=lambda n, body: BROKEN if n > 20 else None) as server:
        with Judge(options(server, tmp_path), FAST) as judge, pytest.raises(JudgeError, match="requests in a row"):
            judge.complete(asked)
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.plan(asked).cached == len(server.answered) == 20


def test_without_quota_the_run_stops_at_once_and_keeps_what_is_paid(tmp_path: Path) -> None:
    asked = [ask(i) for i in range(80)]
    with Server(echo, fault=lambda n, body: QUOTA if n == 21 else None, hold=0.01) as server:
        with (
            Judge(options(server, tmp_path, concurrency=8), FAST) as judge,
            pytest.raises(JudgeError, match=r"no credit left .*you have no quota"),
        ):
            judge.complete(asked)
        paid = sum(server.answered.values())
        assert 20 <= paid < 50  # those under way with the one that was refused are waited for
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.plan(asked).cached == paid
            judge.complete(asked)
        assert max(server.answered.values()) == 1


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, {"message": "maximum context length is 8192 tokens"}, "refused the request .*maximum context length"),
        (402, {"message": "Insufficient Balance"}, "no credit left"),
        (403, {"message": "no access"}, "does not allow this key to use m"),
        (404, {"message": "The model `m` does not exist"}, "has no model 'm'"),
        (404, {"message": "Not Found"}, "does not speak the chat-completions protocol"),
    ],
)
def test_what_no_retry_mends_is_one_sentence_after_one_request(
    tmp_path: Path, status: int, error: dict[str, Any], words: str
) -> None:
    with Server(echo, fault=lambda n, body: Fault("status", status, None, error)) as server:
        with Judge(options(server, tmp_path, concurrency=1), FAST) as judge, pytest.raises(JudgeError, match=words):
            judge.complete([ask(i) for i in range(5)])
        assert server.n == 1


def test_a_wrong_key_and_no_key_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(echo, key="right-key-0123") as server, Judge(options(server, tmp_path), FAST) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "wrong-key-0123")
        with pytest.raises(JudgeError, match="the key in OPENAI_API_KEY is wrong"):
            judge.complete([ask("x")])
    monkeypatch.delenv("OPENAI_API_KEY")
    with (
        Server(echo, key="right-key-0123") as server,
        Judge(options(server, tmp_path), FAST) as judge,
        pytest.raises(JudgeError, match="put a key into OPENAI_API_KEY"),
    ):
        judge.complete([ask("x")])
    with (
        Judge(JudgeOptions("m", "https://api.openai.com/v1", cache=None)) as judge,
        pytest.raises(UsageError, match=r"there is no key .*OPENAI_API_KEY"),
    ):
        judge.complete([ask("x")])
    monkeypatch.setenv("OPENAI_API_KEY", "broken\nkey-0123456")
    with (
        Judge(JudgeOptions("m", "http://127.0.0.1:9/v1", cache=None)) as judge,
        pytest.raises(UsageError, match="a character that no key has") as refusal,
    ):
        judge.complete([ask("x")])
    assert "0123456" not in str(refusal.value)


def test_an_address_where_nothing_listens_or_something_else_does_says_so(tmp_path: Path) -> None:
    with Server(echo) as server:
        url = server.url
        other = JudgeOptions("m", url.replace("/v1", "/v2/chat"), cache=None)
        server.fault = lambda n, body: Fault("html")
        with Judge(other, FAST) as judge, pytest.raises(JudgeError, match="no endpoint of the chat-completions"):
            judge.complete([ask("x")])
    with (
        Judge(JudgeOptions("m", url, cache=None), FAST) as judge,
        pytest.raises(JudgeError, match=r"no endpoint of the chat-completions protocol answers at .*/v1"),
    ):
        judge.complete([ask("x")])


def test_an_endpoint_that_asks_for_hours_ends_the_run_as_a_budget_does(tmp_path: Path) -> None:
    wait = Fault("status", 429, "7200", BUSY.error)
    with Server(echo, fault=in_order([None, wait])) as server:
        with Judge(options(server, tmp_path, concurrency=1), FAST) as judge:
            done = judge.complete([ask(i) for i in range(5)])
            assert [it.status for it in done] == ["ok", *["budget"] * 4]
            assert "it asks to wait 7200 s" in (done[1].reason or "")
            assert server.n == 2, "nothing more is asked in this run"
        with Judge(options(server, tmp_path), FAST) as judge:
            assert [it.status for it in judge.complete([ask(i) for i in range(5)])] == ["ok"] * 5


@pytest.mark.parametrize(
    ("formats", "expected"),
    [(("json_schema",), "json_schema"), (("json_object",), "json_object"), ((), "none")],
)
def test_the_strictest_format_that_the_endpoint_takes_is_found_once(
    tmp_path: Path, formats: tuple[str, ...], expected: str
) -> None:
    with Server(echo, formats=formats) as server:
        with Judge(options(server, tmp_path, concurrency=1), FAST) as judge:
            done = judge.complete([ask(i) for i in range(6)])
            assert {it.status for it in done} == {"ok"}
            assert judge.usage.formats == (expected,)
        rejected = ("json_schema", "json_object", "none").index(expected)
        assert (server.refused, server.n) == (rejected, 6 + rejected)
        assert server.bodies[-1].get("response_format", {}).get("type", "none") == expected
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.plan([ask(i) for i in range(6)]).cached == 6  # keyed by what was asked for


def test_an_endpoint_that_wants_the_other_name_of_the_length_limit_gets_it(tmp_path: Path) -> None:
    words = {"message": "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."}

    def fault(n: int, body: dict[str, Any]) -> Fault | None:
        return Fault("status", 400, None, words) if "max_tokens" in body else None

    with Server(echo, fault=fault) as server, Judge(options(server, tmp_path, concurrency=1), FAST) as judge:
        assert {it.status for it in judge.complete([ask(1), ask(2)])} == {"ok"}
        assert server.n == 3
        assert server.bodies[-1]["max_completion_tokens"] == 20


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(None, refusal="No."), "refused"),
        (Reply("", finish_reason="content_filter"), "refused"),
        (Reply('{"answers": [', finish_reason="length"), "truncated"),
        (Reply("x" * 70_000), "truncated"),
        (Reply(None), "ok"),
        (Reply("\ud800 \x00 text"), "ok"),
    ],
)
def test_a_reply_that_is_no_answer_is_kept_and_flagged(tmp_path: Path, reply: Reply, status: str) -> None:
    with Server(lambda messages: reply) as server, Judge(options(server, tmp_path), FAST) as judge:
        first, again = judge.complete([ask("x")])[0], judge.complete([ask("x")])[0]
        assert first.status == again.status == status
        assert (first.reason is None) == (status == "ok")
        assert again.text == first.text
        assert len(again.raw or "") <= 65536
        assert server.n == (2 if reply.finish_reason == "length" else 1)  # once more, with room for thoughts
        assert judge.complete([ask("x", attempt=1)])[0].cached is False  # a re-ask is never answered by a bad reply


def test_a_filter_that_answers_with_400_refuses_one_prompt_and_not_the_run(tmp_path: Path) -> None:
    error = {"message": "The response was filtered", "code": "content_filter"}
    with (
        Server(echo, fault=in_order([Fault("status", 400, None, error)])) as server,
        Judge(options(server, tmp_path, concurrency=1), FAST) as judge,
    ):
        assert [it.status for it in judge.complete([ask(1), ask(2)])] == ["refused", "ok"]


def test_the_key_appears_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where the endpoint repeats it in its replies and messages."""
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    errors = [Fault("status", 500, None, {"message": f"key {SECRET} met a bug"})]
    with Server(lambda messages: f"your key is {SECRET}", fault=in_order(errors), key=SECRET) as server:
        with Judge(options(server, tmp_path), FAST) as judge:
            shown += [repr(judge.complete([ask("x")])), repr(judge), repr(judge.options), repr(judge.usage)]
            shown.append(repr(vars(judge)) + repr([vars(it) for it in vars(judge).values() if hasattr(it, "__dict__")]))
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(judge)
            server.fault = lambda n, body: errors[0]
            shown.append(repr(judge.complete([ask("y")])))
        server.key = "another-key-01234"
        with Judge(options(server, tmp_path), FAST) as judge, pytest.raises(JudgeError) as refusal:
            judge.complete([ask("z")])
    shown += ["".join(traceback.format_exception(refusal.value)), caplog.text]
    assert "your key is [key]" in shown[0]
    assert not [text for text in shown if SECRET in text]
    files = [file.read_bytes() for file in tmp_path.iterdir()]
    assert files
    assert not [content for content in files if SECRET.encode() in content]


def test_waits_are_read_in_every_form() -> None:
    assert retry_after({"retry-after": "2"}) == 2
    assert retry_after({"retry-after-ms": "250", "retry-after": "2"}) == 0.25
    assert retry_after({"retry-after": "-1"}) == 0
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"error": {"code": 429, "message": "slow"}}', "rate_limit"),
        ('{"error": {"code": 402, "message": "pay"}}', "fatal"),
        ('{"error": {"code": 502, "message": "bad"}}', "transient"),
        ('{"error": "bad"}', "transient"),
        ('{"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}', "transient"),
        ('{"choices": [{"text": "x"}]}', "transient"),
        ('{"choices": {"a": 1}}', "transient"),
        ("[]", "transient"),
        ("[" * 100_000, "transient"),
        ('{"choices": [{"message": {"content": ["x"]}}], "usage": {"prompt_tokens": -1}}', "completion"),
    ],
)
def test_odd_bodies_with_status_200(text: str, kind: str) -> None:
    assert classify(200, {}, text).kind == kind


def test_reasons_are_short_and_printable() -> None:
    outcome = classify(500, {}, '{"error": {"message": "\\u001b[31mred\\n' + "x" * 1000 + '"}}')
    assert outcome.reason.isprintable()
    assert len(outcome.reason) == 300


def test_the_server_tells_requests_apart_by_what_they_ask() -> None:
    bodies = [{"model": "m", "messages": [], "seed": seed, "response_format": seed} for seed in (0, 1)]
    assert key_of(bodies[0]) != key_of(bodies[1])
    assert key_of({**bodies[0], "response_format": None}) == key_of(bodies[0])
    assert isinstance(ask("x"), Request)
