"""A judge against a real socket: order, sharing, pace, limits of a run, forecasts, and the oracle itself."""

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from sae_bench.errors import UsageError
from sae_bench.judge import Completion, Judge, JudgeError, JudgeOptions, Ratings, read_answers
from sae_bench.judge.endpoint import Limiter, endpoint
from tests.builders.judge_asks import FAST, ask, echo, options
from tests.builders.judge_server import BUSY, Fault, Oracle, Reply, Server, in_order


def test_completions_come_in_the_order_of_the_requests_and_equal_ones_are_sent_once(tmp_path: Path) -> None:
    asked = [ask(i % 7) for i in range(21)]
    seen: list[tuple[int, int]] = []
    with Server(echo) as server, Judge(options(server, tmp_path), FAST) as judge:
        done = judge.complete(asked, lambda n, of: seen.append((n, of)))
        assert [it.text for it in done] == [f"reply to {i % 7}" for i in range(21)]
        assert {it.status for it in done} == {"ok"}
        assert server.n == 7
        assert seen == [(n, 7) for n in range(8)]
        again = judge.complete(asked)
        assert server.n == 7
        assert [it.text for it in again] == [it.text for it in done]
        assert all(it.cached for it in again)
        usage = judge.usage
    assert (usage.requests, usage.attempts, usage.cached, usage.completion_tokens) == (7, 7, 7, 35)
    assert (usage.models, usage.fingerprints, usage.formats) == (("m-2026",), ("fp_test",), ("json_schema",))


def test_it_works_inside_a_running_loop_as_in_a_notebook(tmp_path: Path) -> None:
    async def cell(judge: Judge) -> list[Completion]:
        return judge.complete([ask("x")])

    with Server(echo) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert asyncio.run(cell(judge))[0].text == "reply to x"


def test_two_threads_that_ask_the_same_pay_once(tmp_path: Path) -> None:
    asked = [ask(i) for i in range(10)]
    results: list[list[Completion]] = []
    with Server(echo, hold=0.02) as server:
        with Judge(options(server, tmp_path), FAST) as one, Judge(options(server, tmp_path), FAST) as two:
            threads = [
                threading.Thread(target=lambda judge=judge: results.append(judge.complete(asked)))
                for judge in (one, two, one)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(results) == 3
        assert all([it.text for it in done] == [f"reply to {i}" for i in range(10)] for done in results)
        assert server.n == 10


def test_no_more_requests_are_under_way_than_asked_for_by_all_judges_together(tmp_path: Path) -> None:
    with Server(echo, hold=0.01) as server:
        judges = [Judge(options(server, tmp_path, concurrency=3, seed=seed), FAST) for seed in (0, 1)]
        with judges[0], judges[1]:
            threads = [threading.Thread(target=judge.complete, args=([ask(i) for i in range(12)],)) for judge in judges]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert server.n == 24
        assert server.peak <= 3


def test_the_pace_is_halved_when_the_endpoint_is_busy_and_rises_by_one_after_20_completions(tmp_path: Path) -> None:
    with Server(echo, fault=in_order([BUSY])) as server, Judge(options(server, tmp_path), FAST) as judge:
        judge.complete([ask(i) for i in range(65)])
        assert endpoint(server.url).limiter.limit == 8 + 3
        judge.complete([ask(i) for i in range(100, 180)])
        assert endpoint(server.url).limiter.limit == 8 + 7


def test_requests_that_are_turned_away_together_halve_the_pace_once() -> None:
    async def burst() -> list[int]:
        limiter = Limiter()
        limiter.admit(16)
        together = [await limiter.acquire() for _ in range(16)]
        limits = []
        for generation in together:
            limiter.throttle(generation, 0.0)
            limiter.release()
            limits.append(limiter.limit)
        later = await limiter.acquire()
        limiter.throttle(later, 0.0)
        return [*limits, limiter.limit]

    assert asyncio.run(burst()) == [8] * 16 + [4]


def test_an_endpoint_that_takes_few_at_once_gets_all_done_without_paying_twice(tmp_path: Path) -> None:
    with Server(echo, most=2, hold=0.005) as server, Judge(options(server, tmp_path), FAST) as judge:
        assert {it.status for it in judge.complete([ask(i) for i in range(40)])} == {"ok"}
        assert max(server.answered.values()) == 1


def test_a_pause_asked_by_one_reply_holds_for_all(tmp_path: Path) -> None:
    wait = Fault("status", 429, "0.3", BUSY.error)
    with Server(echo, fault=in_order([wait])) as server:
        with Judge(options(server, tmp_path, concurrency=1), FAST) as judge:
            judge.complete([ask(i) for i in range(3)])
        assert server.times[1] - server.times[0] >= 0.29
        assert server.n == 4


@pytest.mark.parametrize(
    ("limit", "sent"),
    [({"max_requests": 5}, 5), ({"max_requests": 0}, 0), ({"max_tokens": 600}, None), ({"max_tokens": 0}, 0)],
)
def test_a_limit_of_the_run_ends_it_cleanly_and_is_never_passed(
    tmp_path: Path, limit: dict[str, int], sent: int | None
) -> None:
    asked = [ask(f"{i} " + "word " * 40) for i in range(30)]
    with Server(echo) as server:
        with Judge(options(server, tmp_path, **limit), FAST) as judge:
            done = judge.complete(asked)
            usage = judge.usage
        n_ok = sum(it.status == "ok" for it in done)
        assert n_ok == server.n == usage.attempts
        assert sent is None or server.n == sent
        assert usage.prompt_tokens + usage.completion_tokens <= limit.get("max_tokens", 10**9)
        left = [it for it in done if it.status != "ok"]
        assert {it.status for it in left} == {"budget"}
        flag = "--" + next(iter(limit)).replace("_", "-")
        assert all(flag in (it.reason or "") for it in left)
        if sent is None:
            assert 3 <= n_ok < 30
        with Judge(options(server, tmp_path), FAST) as judge:
            assert {it.status for it in judge.complete(asked)} == {"ok"}
        assert server.n == 30


def test_retries_count_against_the_limit_of_requests(tmp_path: Path) -> None:
    with Server(echo, fault=lambda n, body: Fault("status", 500)) as server:
        with Judge(options(server, tmp_path, max_requests=3), FAST) as judge:
            assert judge.complete([ask("x")])[0].status == "budget"
        assert server.n == 3


def test_the_cost_of_a_run_stays_under_its_limit(tmp_path: Path) -> None:
    asked = [ask(f"{i} " + "word " * 40) for i in range(30)]
    prices = {"price_in": 1000.0, "price_out": 2000.0}
    with Server(echo) as server, Judge(options(server, tmp_path, max_cost=0.6, **prices), FAST) as judge:
        done = judge.complete(asked)
        cost = judge.usage.cost
        tokens = (judge.usage.prompt_tokens, judge.usage.completion_tokens)
    assert {it.status for it in done} == {"ok", "budget"}
    assert cost == pytest.approx((tokens[0] * 1000 + tokens[1] * 2000) / 1e6)
    assert cost <= 0.6


def test_a_reply_without_a_count_is_taken_at_the_most_that_it_can_cost(tmp_path: Path) -> None:
    lost = Fault("truncated")
    with Server(echo, fault=in_order([lost])) as server:
        with Judge(options(server, tmp_path, max_tokens=420), FAST) as judge:
            assert judge.complete([ask("x" * 200)])[0].status == "budget"
            assert judge.usage.unreported == 1
        assert server.n == 1


def test_cache_only_answers_from_the_cache_and_opens_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(echo) as server:
        with Judge(options(server, tmp_path), FAST) as judge:
            judge.complete([ask("known")])
        before = server.n
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with Judge(options(server, tmp_path, cache_only=True), FAST) as judge:
            known, new = judge.complete([ask("known"), ask("new")])
        assert (known.status, known.text, known.cached) == ("ok", "reply to known", True)
        assert new.status == "missing"
        assert "only the cache may answer" in (new.reason or "")
        assert server.n == before


def test_cache_only_without_a_cache_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(JudgeError, match="there is no cache"),
        Judge(JudgeOptions("m", cache_only=True, cache=tmp_path)),
    ):
        pass


def test_a_forecast_counts_what_is_left_and_opens_no_connection(tmp_path: Path) -> None:
    asked = [ask(f"{i} " + "word " * 100) for i in range(4)] * 2
    nowhere = JudgeOptions("m", "http://127.0.0.1:9/v1", cache=None, price_in=2.0, price_out=8.0)
    with Judge(nowhere) as judge:
        forecast = judge.plan(asked)
        exact = judge.plan(asked, tokens=lambda text: len(text.split()))
    assert (forecast.requests, forecast.cached, forecast.to_send, forecast.tokens_out) == (4, 0, 4, 80)
    assert 0.7 * forecast.tokens_in < forecast.tokens_in_low < forecast.tokens_in < forecast.tokens_in_high
    assert forecast.cost == pytest.approx((forecast.tokens_in_high * 2 + 80 * 8) / 1e6)
    assert "25 %" in forecast.counted
    assert exact.tokens_in == exact.tokens_in_low == exact.tokens_in_high == 4 * (101 + 4)
    with Server(echo) as server, Judge(options(server, tmp_path), FAST) as judge:
        judge.complete(asked[:3])
        later = judge.plan(asked)
        assert (later.cached, later.to_send, later.cost) == (3, 1, None)
        assert server.n == 3


def test_a_judge_that_is_not_open_says_so() -> None:
    with pytest.raises(UsageError, match="not open"):
        Judge(JudgeOptions("m", cache=None)).complete([ask("x")])


def listed(messages: list[dict[str, str]]) -> Sequence[tuple[str, bool]] | None:
    """Prompts of this file: ``kq:yes zx:no``."""
    words = messages[-1]["content"].split()
    pairs = [word.split(":") for word in words if ":" in word]
    return [(name, truth == "yes") for name, truth in pairs] or None


def verdicts(oracle: Oracle, folder: Path, n: int = 300) -> list[tuple[Completion, dict[str, float]]]:
    asked = [ask(f"window {i} aa:yes bb:no cc:yes dd:no") for i in range(n)]
    with Server(oracle) as server, Judge(options(server, folder), FAST) as judge:
        read = [(it, read_answers(it.text, ["aa", "bb", "cc", "dd"])) for it in judge.complete(asked)]
    return [(it, dict(said.numbers) if isinstance(said, Ratings) else {}) for it, said in read]


@pytest.mark.slow
def test_the_oracle_has_the_accuracy_and_the_failures_that_it_was_given(tmp_path: Path) -> None:
    found = verdicts(Oracle(listed, accuracy=0.8, parse_failure=0.2, refusal=0.1), tmp_path)
    refused = sum(it.status == "refused" for it, _ in found) / 300
    read = [answers for _, answers in found if answers]
    right = [(answers[name] >= 50) == (name in ("aa", "cc")) for answers in read for name in answers]
    assert refused == pytest.approx(0.1, abs=0.05)
    assert len(read) / 300 == pytest.approx(0.9 * 0.8, abs=0.08)
    assert sum(right) / len(right) == pytest.approx(0.8, abs=0.04)


def test_an_oracle_that_goes_by_place_says_yes_in_the_first_half(tmp_path: Path) -> None:
    found = verdicts(Oracle(listed, position_bias=1.0), tmp_path, n=5)
    assert all([p >= 50 for p in answers.values()] == [True, True, False, False] for _, answers in found)


def test_an_oracle_explains_where_it_is_asked_for_no_verdicts() -> None:
    said = Oracle(listed, explain=lambda messages: json.dumps({"explanation": "cats"}))([{"content": "explain this"}])
    assert said == Reply('{"explanation": "cats"}')
