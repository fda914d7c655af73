"""Who judged: one model in a result, by its own name, from the endpoint that was asked, and no answer of another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_bench.judge import Judge, JudgeError, JudgeOptions, Patience
from sae_bench.judge.served import Served
from sae_bench.results import store
from tests.builders.explainers import oracle
from tests.builders.judge_asks import FAST, ask, echo, options
from tests.builders.judge_server import Server
from tests.builders.judged_runs import REQUESTS, make, paid, result_in, run_of, sentence, without_key
from tests.builders.marks import slow_but
from tests.builders.said import complaints
from tests.conftest import Run

FIRST = ask("who are you?")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make(folder)
    return folder


@pytest.fixture
def cli(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    without_key(monkeypatch, Patience(attempts=3, base=0.002, longest=0.02))
    return cli


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(oracle(0.8)) as running:
        yield running


def at(server: Server, cache: str = "judge.sqlite", model: str = "m") -> list[Any]:
    """A judge by its address alone."""
    return ["--judge-model", model, "--judge-base-url", server.url, "--judge-cache", cache]


def after(n: int, server: Server, says: dict[str, Any]) -> None:
    """Let the server answer as another after so many requests."""

    def swap(number: int, body: dict[str, Any]) -> None:
        if number > n:
            server.says = says

    server.fault = swap


OTHERS = {
    "model": {"model": "n-2027"},
    "fingerprint": {"system_fingerprint": "fp_other"},
    "no fingerprint": {"system_fingerprint": None},
    "provider": {"provider": "Elsewhere"},
    "no name": {"model": None},
}


@pytest.mark.parametrize("what", slow_but(2, OTHERS))
def test_a_server_that_swaps_its_model_in_the_middle_gives_no_result(
    cli: Run, files: Path, server: Server, what: str
) -> None:
    after(12, server, OTHERS[what])
    code, _, err = cli(*run_of(files), *at(server))
    assert code == 1
    (said,) = complaints(err)
    assert "has answered as m-2026" in said
    assert "one result has one judge" in said
    assert result_in("runs").status == "error"


def test_the_same_command_begins_anew_with_the_other_judge_and_pays_nothing_twice(
    cli: Run, files: Path, server: Server
) -> None:
    after(12, server, OTHERS["model"])
    assert cli(*run_of(files), *at(server))[0] == 1
    assert cli(*run_of(files), *at(server))[0] == 0
    by = {one.provenance.protocol.parameters["judge_model"] for one in results() if one.status == "ok"}
    assert by == {"n-2027"}
    assert {one.details["judge"]["models"][0] for one in results() if one.status == "ok"} == {"n-2027"}
    seen = [json.dumps(body) for body in server.bodies[12:]]
    assert len(seen) - len(set(seen)) <= 1, "only the first question is asked twice of one judge"


def results() -> list[Any]:
    return [store.read(file) for file in store.find(Path("runs"))]


def test_a_fingerprint_may_change_where_the_user_says_so(cli: Run, files: Path, server: Server) -> None:
    after(12, server, OTHERS["fingerprint"])
    assert cli(*run_of(files), *at(server), "--judge-fingerprint", "any")[0] == 0
    found = result_in("runs")
    assert found.details["judge"]["fingerprints"] == ["fp_other", "fp_test"]
    assert "judge_fingerprint" not in found.provenance.protocol.parameters


@pytest.mark.parametrize(
    ("url", "counts"),
    [
        ("https://api.openai.com/v1", False),
        ("https://mine.openai.azure.com/openai/deployments/d?api-version=2024-10-21", False),
        ("http://localhost:8000/v1", True),
        ("https://openrouter.ai/api/v1", False),
        ("http://192.168.1.7:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://gpu-box:8000/v1", True),
        ("http://gpu.lan/v1", True),
        ("http://8.8.8.8/v1", False),
    ],
)
def test_a_service_answers_with_many_fingerprints_and_a_server_of_ones_own_with_one(url: str, counts: bool) -> None:
    assert JudgeOptions("m", url).fingerprints is counts
    assert JudgeOptions("m", url, fingerprint="one").fingerprints
    assert not JudgeOptions("m", url, fingerprint="any").fingerprints


def test_a_second_endpoint_with_the_same_model_name_is_asked_too(cli: Run, files: Path, server: Server) -> None:
    """Both were "already there" under the name of the first."""
    assert cli(*run_of(files), *at(server))[0] == 0
    with Server(oracle(0.1)) as other:
        assert cli(*run_of(files), *at(other))[0] == 0
        assert paid(other) == REQUESTS
        places = {one.provenance.protocol.parameters["judge_endpoint"] for one in results()}
        assert places == {f"127.0.0.1:{one.server_address[1]}/v1" for one in (server, other)}
    assert len({one.protocol for one in results()}) == 2


def test_a_model_that_is_swapped_behind_one_address_is_asked_anew(cli: Run, files: Path, server: Server) -> None:
    """The result that is there is of another judge, also where the name and the address are the same."""
    assert cli(*run_of(files), *at(server))[0] == 0
    server.says = {"model": "m-2027"}
    server.answer = oracle(0.1)
    assert cli(*run_of(files), *at(server))[0] == 0
    assert paid(server) == 2 * REQUESTS
    assert {one.provenance.judge["judge_model"] for one in results()} == {"m-2026", "m-2027"}
    server.says = {}
    assert cli(*run_of(files), *at(server))[0] == 0
    assert paid(server) == 2 * REQUESTS, "the first judge's result is there"


def test_another_model_than_was_asked_for_is_said(cli: Run, files: Path, server: Server) -> None:
    server.says = {"model": "llama-3-8b"}
    code, _, err = cli(*run_of(files), *at(server, model="gpt-4o"))
    assert code == 0
    assert "gpt-4o was asked for, and 127.0.0.1" in sentence(err)
    assert "answers as llama-3-8b" in sentence(err)
    assert result_in("runs").provenance.protocol.parameters["judge_model"] == "llama-3-8b"


@pytest.mark.parametrize(
    ("asked", "answers", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("openai/gpt-4o-mini", "gpt-4o-mini", True),
        ("llama3", "llama3:latest", True),
        ("qwen2.5-7b-instruct", "Qwen2.5-7B-Instruct@q4_k_m", True),
        ("any", "/models/any-Q4_K_M.gguf", True),
        ("meta-llama/llama-3-8b:free", "meta-llama/Llama-3-8B", True),
        ("m", None, True),
        ("gpt-4o", "gpt-3.5-turbo", False),
        ("claude", "llama", False),
    ],
)
def test_names_of_one_model_differ_by_snapshot_tag_vendor_and_path(asked: str, answers: str, same: bool) -> None:
    assert Served(answers).is_asked(asked) is same


def test_a_judge_that_is_gone_leaves_what_is_there(cli: Run, files: Path) -> None:
    """A table can be shown again without the server; but nothing new is measured."""
    with Server(oracle(0.8)) as server:
        given = [*run_of(files), *at(server)]
        assert cli(*given)[0] == 0
    code, out, err = cli(*given, "--all-metrics")
    assert code == 0
    assert "detection" in out
    assert "results by m-2026 (fingerprint fp_test) are there and taken" in sentence(err)
    code, out, err = cli(*given, "--seed", 1)
    assert (code, out) == (2, "")
    assert "--judge-cache-only" in sentence(err)


def test_two_judges_in_one_cache_do_not_answer_for_each_other(tmp_path: Path) -> None:
    asked = [ask(i) for i in range(5)]
    with Server(echo) as server:
        with Judge(options(server, tmp_path), FAST) as judge:
            judge.meet(FIRST)
            judge.complete(asked)
        server.says = {"model": "other"}
        with Judge(options(server, tmp_path), FAST) as judge:
            judge.meet(FIRST)
            assert not any(one.cached for one in judge.complete(asked))
        assert server.n == 12
        server.says = {}
        with Judge(options(server, tmp_path), FAST) as judge:
            judge.meet(FIRST)
            assert all(one.cached and one.model == "m-2026" for one in judge.complete(asked))
        with Judge(options(server, tmp_path, cache_only=True), FAST) as judge:
            assert all(one.model == "m-2026" for one in judge.complete(asked)), "of the judge that was asked last"


def test_without_a_first_question_the_first_reply_says_who_judges(tmp_path: Path) -> None:
    with Server(echo) as server, Judge(options(server, tmp_path, concurrency=1), FAST) as judge:
        after(3, server, {"model": "other"})
        with pytest.raises(JudgeError, match=r"has answered as m-2026 .* and now answers as other"):
            judge.complete([ask(i) for i in range(6)])


def test_judges_are_compared_by_nobody(cli: Run, files: Path, server: Server, tmp_path: Path) -> None:
    """The same SAE came out as different, since another judge had looked at it."""
    assert cli(*run_of(files), *at(server), "--out", "a")[0] == 0
    with Server(oracle(0.2)) as other:
        assert cli(*run_of(files), *at(other, "b.sqlite"), "--out", "b")[0] == 0
    code, out, err = cli("compare", "a", "b")
    assert code == 3
    assert "judge" in err + out
