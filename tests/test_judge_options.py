"""What can be asked and how it is keyed: a wrong option is one sentence, and a key never shows."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.errors import SaeBenchError, UsageError
from sae_bench.judge import JudgeError, JudgeOptions, Request, key
from sae_bench.judge.records import body

ASK = Request([{"role": "user", "content": "Which windows?"}], {"type": "object"}, 100)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model", "  ", "--judge-model must be"),
        ("base_url", "localhost:8000", "--judge-base-url must look like"),
        ("base_url", "http://", "--judge-base-url must look like"),
        ("base_url", "http://host:port/v1", "--judge-base-url must look like"),
        ("base_url", "http://me:secret@host/v1", "without user name"),
        ("base_url", "http://host/v1?key=secret", "without user name"),
        ("api_key_env", "sk-secret", "--judge-key-env must be the name"),
        ("api_key_env", "0123abcdsecret", "--judge-key-env must be the name"),
        ("endpoint_id", "", "--judge-endpoint must be"),
        ("timeout", 0, "--judge-timeout must be a number more than 0"),
        ("timeout", None, "--judge-timeout must be"),
        ("timeout", float("nan"), "--judge-timeout must be"),
        ("concurrency", 0, "concurrency must be a whole number from 1 to 1024"),
        ("concurrency", True, "concurrency must be"),
        ("temperature", 2.5, "--judge-param temperature must be a number at least 0 and at most 2"),
        ("seed", -1, "--judge-param seed must be"),
        ("seed", 1.5, "--judge-param seed must be"),
        ("max_requests", -1, "--max-requests must be"),
        ("max_tokens", "many", "--max-tokens must be"),
        ("max_cost", 1.0, "--max-cost needs --price-in and --price-out"),
        ("price_in", -1.0, "--price-in must be"),
        ("price_out", float("inf"), "--price-out must be"),
        ("cache", 7, "--judge-cache must be the path"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_sentence(field: str, value: object, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        JudgeOptions(**{"model": "m", field: value})
    assert "secret" not in str(refusal.value)


def test_cache_only_needs_a_cache() -> None:
    with pytest.raises(UsageError, match="give its file with --judge-cache"):
        JudgeOptions("m", cache=None, cache_only=True)


def test_a_judge_error_is_refused_with_exit_code_2_like_all_others() -> None:
    assert issubclass(JudgeError, SaeBenchError)


def test_the_address_comes_from_the_environment_and_is_the_same_however_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert JudgeOptions("m").url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu:8000/v1/")
    assert JudgeOptions("m").url == "http://gpu:8000/v1"
    assert JudgeOptions("m", "http://gpu:8000/v1/chat/completions").url == "http://gpu:8000/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "gpu")
    with pytest.raises(UsageError, match="OPENAI_BASE_URL must look like"):
        JudgeOptions("m")


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"schema": {"x": float("nan")}},
        {"schema": {"x": object()}},
        {"max_tokens": 0},
        {"sample_index": -1},
        {"attempt": True},
    ],
)
def test_a_request_that_cannot_be_sent_is_refused_when_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(ASK, **wrong)


def test_the_key_is_that_of_point_19_written_out() -> None:
    import hashlib
    import json

    options = JudgeOptions("m", "http://h/v1", temperature=0, seed=3)
    expected = {
        "v": 1,
        "endpoint": "http://h/v1",
        "model": "m",
        "messages": [{"role": "user", "content": "Which windows?"}],
        "sampling": {"temperature": 0.0, "seed": 3, "max_tokens": 100},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": {"type": "object"}},
        },
        "sample_index": 0,
        "attempt": 0,
    }
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert key(ASK, options) == hashlib.sha256(text.encode()).hexdigest()


def test_the_key_changes_with_all_that_decides_the_reply_and_with_nothing_else() -> None:
    options = JudgeOptions("m", "http://h/v1")
    same = {"timeout": 5, "concurrency": 2, "price_in": 1.0, "max_requests": 3, "cache": None, "api_key_env": "K"}
    for field, value in same.items():
        assert key(ASK, replace(options, **{field: value})) == key(ASK, options), field
    others = {"model": "n", "base_url": "http://i/v1", "endpoint_id": "e", "temperature": 0.5, "seed": None}
    keys = {key(ASK, options)} | {key(ASK, replace(options, **{field: value})) for field, value in others.items()}
    asks = [{"messages": [{"role": "system", "content": "Which windows?"}]}, {"schema": None}, {"max_tokens": 99}]
    asks += [{"sample_index": 1}, {"attempt": 1}]
    keys |= {key(replace(ASK, **ask), options) for ask in asks}
    assert len(keys) == 1 + len(others) + len(asks)


def test_an_endpoint_that_moves_keeps_its_keys_by_its_id() -> None:
    first, second = (JudgeOptions("m", f"http://h:{port}/v1", endpoint_id="mine") for port in (1, 2))
    assert key(ASK, first) == key(ASK, second)


@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=4))
def test_the_key_does_not_depend_on_the_order_in_a_schema(schema: dict[str, int]) -> None:
    options = JudgeOptions("m", "http://h/v1")
    turned = dict(reversed(schema.items()))
    assert key(replace(ASK, schema=schema), options) == key(replace(ASK, schema=turned), options)


def test_repetitions_of_a_question_are_other_draws() -> None:
    options = JudgeOptions("m", "http://h/v1", seed=5)
    assert [body(replace(ASK, sample_index=i), options)["seed"] for i in (0, 1)] == [5, 6]
    assert "seed" not in body(ASK, replace(options, seed=None))
    assert "temperature" not in body(ASK, replace(options, temperature=None))


def test_options_hold_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    options = JudgeOptions("m", "http://h/v1")
    assert "sk-very-secret" not in repr(options)
    assert b"sk-very-secret" not in pickle.dumps(options)
    assert pickle.loads(pickle.dumps(options)) == options


def test_importing_the_judge_imports_no_client_and_no_torch() -> None:
    code = (
        "import sys, sae_bench.judge; print([m for m in ('openai', 'torch', 'httpx', 'pydantic') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env={**os.environ})
    assert ran.stdout.strip() == "[]", ran.stderr
