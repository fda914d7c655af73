"""Judging from the command line: nothing paid for twice, nothing leaked, clear sentences, batches, budgets."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_bench.cli.main import main
from sae_bench.judge import Patience
from sae_bench.results import store
from tests.builders.explainers import EXPLAIN, INTRUDER, TASK, excerpts, kind_of, learned, oracle
from tests.builders.judge_server import BROKEN, QUOTA, Fault, Messages, Reply, Server, at_random, completion
from tests.builders.judged_runs import (
    GROUPS,
    LATENTS,
    REQUESTS,
    answered,
    is_first,
    judge_of,
    make,
    paid,
    result_in,
    run_of,
    sentence,
    without_key,
    written,
)
from tests.builders.marks import slow_but, slow_but_each
from tests.builders.said import complaints
from tests.conftest import Run

KEY = "sk-test-3f9a51c07be2468d"
FAST = Patience(attempts=8, base=0.002, longest=0.02)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, ids and an SAE on disk."""
    folder = tmp_path_factory.mktemp("files")
    make(folder)
    return folder


@pytest.fixture
def cli(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder, without a key and with little patience; exit code, stdout, stderr."""
    without_key(monkeypatch, FAST)
    return cli


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(oracle(0.8)) as running:
        yield running


def rows_in(cache: Path) -> int:
    with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as opened:
        (name,) = [n for (n,) in opened.execute("select name from sqlite_master where type='table'") if "comp" in n]
        return int(opened.execute(f"select count(*) from {name}").fetchone()[0])


@pytest.fixture(scope="module")
def direct(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a run that nothing disturbed, and the requests that it took."""
    out = tmp_path_factory.mktemp("direct")
    with Server(oracle(0.8)) as running:
        given = [*run_of(files), *judge_of(running, str(out / "judge.sqlite")), "--out", out / "results"]
        assert main([str(a) for a in given]) == 0
        return written(str(out / "results")), paid(running)


# ---------------------------------------------------------------- without a judge


def test_all_tasks_without_a_judge_say_what_is_skipped_and_why(cli: Run, files: Path) -> None:
    given = [*run_of(files, "all"), "--tier", "smoke", "--param", "downstream_sparsity.latents=2", "--json"]
    code, out, err = cli(*given)
    assert code == 0, err
    found = {r["task"]: r for r in json.loads(out)["results"]}
    assert found[TASK]["status"] == "skipped"
    for words in ("no judge", "--judge-model", "--judge-base-url", "OPENAI_API_KEY"):
        assert words in found[TASK]["reason"]
    assert not found[TASK]["metrics"], "never a zero"
    for name in ("reconstruction", "sparsity", "loss_recovered", "token_rules"):
        assert found[name]["status"] == "ok", name
    code, out, _ = cli(*given[:-1])
    assert code == 0
    assert "no judge" in out


@pytest.mark.parametrize(
    "flags",
    [
        ["--judge-base-url", "http://localhost:1/v1"],
        ["--judge-batch", "batch.jsonl"],
        ["--max-requests", "10"],
        ["--max-tokens", "10"],
        ["--max-cost", "1"],
        ["--price-in", "1"],
        ["--price-out", "1"],
        ["--judge-cache-only"],
        ["--judge-cache", "mine.sqlite"],
        ["--null", "untrained", "--controls", "random"],
    ],
)
def test_a_flag_of_the_judge_without_a_judge_is_an_error(cli: Run, files: Path, flags: list[str]) -> None:
    """Else a user believes that the budget, the cache or the null is in force."""
    code, out, err = cli(*run_of(files), *flags)
    assert (code, out) == (2, "")
    assert "--judge-model" in sentence(err)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--max-cost", "1"], "--max-cost needs --price-in and --price-out"),
        (["--max-requests", "-1"], "--max-requests must be"),
        (["--judge-base-url", "localhost"], "must look like http://localhost:8000/v1"),
        (["--judge-base-url", "http://me:hidden@localhost/v1"], "without user name, password"),
        (["--null", "untrained", "--controls", "mean"], "add it to --controls"),
        (["--judge-batch", "b.jsonl", "--judge-cache-only"], "not both"),
    ],
)
def test_flags_that_cannot_work_are_one_sentence(cli: Run, files: Path, flags: list[str], says: str) -> None:
    code, out, err = cli(*run_of(files), "--judge-model", "m", *flags)
    assert (code, out) == (2, "")
    assert says in sentence(err)
    assert "hidden" not in err


# ---------------------------------------------------------------- a judge that cannot be used


def no_model(n: int, body: dict[str, Any]) -> Fault:
    return Fault("status", 404, None, {"message": f"The model `{body['model']}` does not exist", "code": "not_found"})


@pytest.mark.parametrize("name", ["no key", "wrong key", "no model", "a web page", "wrong path", "nobody", "quota"])
def test_a_judge_that_cannot_be_used_is_a_sentence_before_the_model_runs(
    cli: Run, files: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Not after an hour of forward passes."""
    faults: dict[str, Any] = {"no model": no_model, "a web page": lambda n, b: Fault("html")}
    faults |= {
        "quota": lambda n, b: QUOTA,
        "wrong path": lambda n, b: Fault("status", 404, None, {"detail": "Not Found"}),
    }
    says = {"no key": "OPENAI_API_KEY", "wrong key": "the key in OPENAI_API_KEY is wrong", "no model": "no model 'm'"}
    says |= {"a web page": "/v1", "wrong path": "/chat/completions", "nobody": "start the server", "quota": "credit"}
    monkeypatch.setattr("sae_bench.api.measure", lambda *args, **more: pytest.fail("the model ran"))
    with Server(fault=faults.get(name, lambda n, b: None), key=KEY if name == "wrong key" else None) as server:
        url = server.url
        if name == "nobody":
            server.__exit__()
        if name == "wrong key":
            monkeypatch.setenv("OPENAI_API_KEY", "sk-other-0123456789")
        where = [] if name == "no key" else ["--judge-base-url", url]
        code, out, err = cli(*run_of(files), "--judge-model", "m", "--judge-cache", "judge.sqlite", *where)
    assert (code, out) == (2, "")
    assert says[name] in sentence(err)
    assert "sk-other" not in err
    assert not Path("runs").exists()


def test_an_error_in_the_middle_spares_the_other_tasks_and_the_same_command_goes_on(
    cli: Run, files: Path, server: Server, direct: tuple[dict[str, bytes], int]
) -> None:
    server.fault = lambda n, body: QUOTA if n > 20 else None
    given = [*run_of(files, f"sparsity,{TASK}"), *judge_of(server)]
    code, out, err = cli(*given, "--json")
    assert code == 1
    found = {r["task"]: r for r in json.loads(out)["results"]}
    assert found["sparsity"]["status"] == "ok"
    assert found[TASK]["status"] == "error"
    assert "no credit left" in found[TASK]["reason"]
    assert "add credit" in sentence(err)
    sparsity = {name: content for name, content in written("runs").items() if "sparsity" in name}
    done = sum(answered(server).values())
    assert done >= 19
    server.fault = lambda n, body: None
    before = server.n
    code, out, err = cli(*given, "--json")
    assert (code, complaints(err)) == (0, [])
    assert server.n - before == 1 + REQUESTS - done
    assert max(answered(server).values()) == 1
    assert {name: content for name, content in written("runs").items() if "sparsity" in name} == sparsity
    assert json.loads(out)["results"][1]["metrics"] == json.loads(next_json(direct[0]))["metrics"]


def next_json(found: dict[str, bytes]) -> bytes:
    return next(content for name, content in found.items() if TASK in name and name.endswith(".json"))


# ---------------------------------------------------------------- nothing twice


@pytest.mark.slow
def test_a_killed_run_pays_for_the_missing_completions_only(
    cli: Run, files: Path, tmp_path: Path, direct: tuple[dict[str, bytes], int]
) -> None:
    """kill -9 in the middle of judging; the cache has what came back, and nothing of it is asked again."""
    with Server(oracle(0.8), hold=0.08, most=4) as server:
        given = [str(a) for a in [*run_of(files), *judge_of(server, str(tmp_path / "judge.sqlite"))]]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        killed = subprocess.Popen([sys.executable, "-m", "sae_bench.cli.main", *given], env=environment, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while killed.poll() is None and time.monotonic() < deadline and sum(server.answered.values()) < 12:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert server.wait_closed()
        server.hold, server.most = 0.0, 100
        before, kept = sum(server.answered.values()), rows_in(tmp_path / "judge.sqlite")
        assert 8 <= kept < REQUESTS
        code, _, err = cli(*given)
        assert (code, complaints(err)) == (0, [])
        assert sum(server.answered.values()) - before == 1 + REQUESTS - kept
    assert written("runs") == direct[0]
    assert not list(Path("runs").rglob(".partial/*"))


def test_faults_in_three_of_ten_requests_change_nothing_and_cost_nothing_twice(
    cli: Run, files: Path, direct: tuple[dict[str, bytes], int]
) -> None:
    with Server(oracle(0.8), at_random(0.3, 7)) as server:
        code, _, err = cli(*run_of(files), *judge_of(server))
        assert (code, complaints(err)) == (0, [])
        assert server.n > 1.2 * direct[1]
        assert len(answered(server)) == direct[1] == REQUESTS
        assert max(answered(server).values()) == 1
    assert written("runs") == direct[0]


def test_the_cache_alone_gives_the_same_file_without_a_key_or_a_network(
    cli: Run, files: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*run_of(files), *judge_of(server)]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert cli(*given, "--out", "first")[0] == 0
    n = server.n
    monkeypatch.delenv("OPENAI_API_KEY")
    assert cli(*given, "--out", "second", "--judge-cache-only")[0] == 0
    assert server.n == n
    assert cli(*given, "--out", "third")[0] == 0
    assert server.n == n + 1, "who answers now is asked, and nothing else"
    assert written("second") == written("first") == written("third")
    with Server(oracle(0.1)) as other:
        assert cli(*given, "--out", "other", "--judge-model", "n", "--judge-base-url", other.url)[0] == 0
    assert written("other") != written("first")


def test_a_cache_that_lacks_something_says_so_and_asks_nobody(cli: Run, files: Path, server: Server) -> None:
    """--judge-cache-only after a run that was cut short: a partial result, and no request."""
    given = [*run_of(files), *judge_of(server)]
    assert cli(*given, "--out", "part", "--max-requests", LATENTS + 6)[0] == 4
    n = server.n
    code, _, _ = cli(*given, "--out", "replayed", "--judge-cache-only")
    assert code == 0
    assert server.n == n
    statuses = result_in("replayed").details["statuses"]
    assert statuses["missing"] == LATENTS - statuses.get("ok", 0)
    assert "only the cache may answer" in result_in("replayed").details["explanations"][-1]["raw"]
    assert cli(*given, "--out", "replayed")[0] == 0
    assert result_in("replayed").details["statuses"] == {"ok": LATENTS}
    code, _, err = cli(*given, "--judge-cache-only", "--judge-cache", "nowhere.sqlite", "--out", "none")
    assert code == 2
    assert "nowhere.sqlite" in sentence(err)


def test_another_model_is_another_protocol_and_another_address_under_one_name_is_not(
    cli: Run, files: Path, direct: tuple[dict[str, bytes], int]
) -> None:
    with Server(oracle(0.8)) as one, Server(oracle(0.8)) as other:
        assert cli(*run_of(files), *judge_of(one))[0] == 0
        assert cli(*run_of(files), *judge_of(other, "other.sqlite"))[0] == 0
        assert paid(other) == 0, "the result is there already"
        assert cli(*run_of(files), *judge_of(other, "other.sqlite"), "--out", "elsewhere")[0] == 0
        assert written("elsewhere") == written("runs") == direct[0]
        assert cli(*run_of(files), *judge_of(other, "other.sqlite", "m2"))[0] == 0
    assert len({store.read(file).protocol for file in store.find(Path("runs"))}) == 2


def test_the_key_is_written_nowhere(cli: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the endpoint repeats it in its messages."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    rude = Fault("status", 500, None, {"message": f"cannot serve {KEY}"})
    shown = ""
    with Server(lambda m: Reply(f"my key is {KEY}"), lambda n, b: rude if n % 3 == 0 else None, key=KEY) as server:
        for more in (
            ["--json"],
            ["--dry-run"],
            ["--judge-batch", "batch.jsonl", "--out", "b"],
            ["--overwrite", "always"],
        ):
            code, out, err = cli(*[a for a in run_of(files) if a != "--quiet"], *judge_of(server), *more)
            assert code in (0, 1), err  # nothing that this judge says can be read
            shown += out + err
        code, out, err = cli("show", "runs")
        shown += out + err
        server.fault = lambda n, b: Fault("status", 401, None, {"message": f"Incorrect API key provided: {KEY}"})
        code, out, err = cli(*run_of(files), *judge_of(server, model="m3"))
        assert code == 2
        shown += out + err
    assert result_in("runs").status == "error"
    assert KEY not in shown
    kept = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert any(f.suffix == ".sqlite" for f in kept)
    assert not [f for f in kept if KEY.encode() in f.read_bytes()]


ECHOES = {
    "escaped": "".join(f"\\u{ord(mark):04x}" for mark in KEY),
    "escaped in part": KEY.replace("t", "\\u0074"),
    "per cent": "".join(f"%{ord(mark):02X}" for mark in KEY),
    "base64": b64encode(f"user:{KEY}".encode()).decode(),
}


@pytest.mark.parametrize("how", slow_but_each(2, ECHOES))
def test_a_key_that_an_explanation_holds_in_other_words_reaches_no_file(
    cli: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It was kept where reading the reply undid what had hidden it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def answer(messages: Messages) -> Reply | str:
        own = kind_of(messages) == EXPLAIN
        return f'{{"explanation": "fires on {ECHOES[how]} alone"}}' if own else oracle()(messages)

    with Server(answer, key=KEY) as server:
        code, out, err = cli(*run_of(files), *judge_of(server))
        shown = out + err + "".join(cli("show", "runs")[1:])
        asked = json.dumps([body["messages"] for body in server.bodies])
    assert code == 0
    (said,) = {one["explanation"] for one in result_in("runs").details["explanations"]}
    assert re.fullmatch(r"fires on \S{0,8}\[key\]\S{0,3} alone", said)
    kept = [f.read_bytes().decode("latin-1") for f in tmp_path.rglob("*") if f.is_file()]
    for text in [shown, asked, *kept]:
        assert KEY not in text
        assert ECHOES[how][4:-4] not in text
        assert json.dumps(ECHOES[how])[5:-5] not in text


# ---------------------------------------------------------------- cost: nulls, dry run, budgets


def test_the_untrained_null_is_judged_only_where_asked_for_and_costs_twice(
    cli: Run, files: Path, server: Server
) -> None:
    given = [*run_of(files), *judge_of(server), "--controls", "random,mean"]
    assert cli(*given, "--out", "plain")[0] == 0
    assert paid(server) == REQUESTS
    assert not result_in("plain").controls
    _, out, _ = cli(*given, "--out", "x", "--null", "untrained", "--dry-run", "--json")
    assert json.loads(out)["requests to the judge, at most"] == 1 + 2 * REQUESTS
    assert cli(*given, "--out", "null", "--null", "untrained")[0] == 0
    assert paid(server) == 2 * REQUESTS
    found = result_in("null")
    assert list(found.controls) == ["random"]
    assert found.controls["random"]["detection"].value is not None
    assert found.metrics == result_in("plain").metrics


def test_asking_for_the_untrained_null_later_is_not_answered_by_a_result_without_it(
    cli: Run, files: Path, server: Server
) -> None:
    given = [*run_of(files), *judge_of(server), "--controls", "random"]
    assert cli(*given)[0] == 0
    assert cli(*given, "--null", "untrained")[0] == 0
    assert list(result_in("runs").controls) == ["random"]
    assert paid(server) == 2 * REQUESTS


def test_a_dry_run_counts_and_prices_and_opens_no_connection(cli: Run, files: Path, server: Server) -> None:
    given = [*run_of(files), *judge_of(server), "--dry-run"]
    code, out, _ = cli(*given, "--json")
    assert code == 0
    plain = json.loads(out)
    assert plain["requests to the judge, at most"] == 1 + REQUESTS
    assert "--price-in" in plain["cost of the judge, roughly"]
    _, out, _ = cli(*given, "--json", "--price-in", 2, "--price-out", 10)
    priced = json.loads(out)
    tokens = [priced[f"tokens {way} the judge, roughly"] for way in ("to", "from")]
    assert min(tokens) > 0
    assert priced["cost of the judge, roughly"] == pytest.approx((2 * tokens[0] + 10 * tokens[1]) / 1e6, abs=1e-4)
    code, out, _ = cli(*given)
    assert "requests to the judge, at most" in out
    assert server.n == server.connections == 0
    assert not Path("runs").exists()
    assert not Path("judge.sqlite").exists()


@pytest.mark.parametrize(
    "changes", slow_but(2, [{}, {"scorers": '"detection,fuzz,intruder"'}, {"windows_a_request": 3, "random": 5}])
)
def test_the_forecast_bounds_what_is_asked(cli: Run, files: Path, server: Server, changes: dict[str, Any]) -> None:
    """Without second tries; and it is no wild overestimate."""

    def answer(messages: Messages) -> str | Reply:
        if kind_of(messages) == INTRUDER:
            return json.dumps({"odd": excerpts(messages)[0][0]})
        return oracle(0.8)(messages)

    server.answer = answer
    more = [arg for name, value in changes.items() for arg in ("--param", f"{TASK}.{name}={value}")]
    given = [*run_of(files), *more, *judge_of(server)]
    _, out, _ = cli(*given, "--dry-run", "--json")
    expected = json.loads(out)
    assert cli(*given)[0] == 0
    assert 0.5 * expected["requests to the judge, at most"] <= server.n <= expected["requests to the judge, at most"]
    judge = result_in("runs").details["judge"]
    assert judge["prompt_tokens"] < 4 * expected["tokens to the judge, roughly"]


IN_EXPLANATIONS, IN_ANSWERS, IN_NULLS = 4, 1 + LATENTS + 6, 1 + LATENTS + GROUPS * LATENTS + 3


@pytest.mark.parametrize(
    "limit",
    slow_but(
        1,
        [
            *(["--max-requests", n] for n in (IN_EXPLANATIONS, IN_NULLS)),
            ["--max-tokens", 5_000],
            *(["--max-requests", n] for n in (IN_ANSWERS, IN_ANSWERS + 3)),
        ],
    ),
)
def test_a_budget_ends_in_a_partial_result_and_the_rest_is_bought_later(
    cli: Run, files: Path, server: Server, limit: list[Any], direct: tuple[dict[str, bytes], int]
) -> None:
    """Wherever the money ends: in the explanations, in the middle of a latent, or when only nulls are left."""
    given = [*run_of(files), *judge_of(server)]
    code, _, err = cli(*given, *limit)
    *_, said = complaints(err)
    assert (code, said.endswith("; the same command goes on")) == (4, True)
    part = result_in("runs")
    assert part.status == "ok"
    assert 0 < paid(server) < REQUESTS
    if limit[0] == "--max-requests":
        assert server.n == limit[1]
        statuses = part.details["statuses"]
        assert (statuses.get("budget", 0) > 0) == ("degraded" in part.details) == (limit[1] < IN_NULLS)
    code, _, err = cli(*given)
    assert (code, complaints(err)) == (0, [])
    assert paid(server) == REQUESTS
    assert max(answered(server).values()) == 1
    assert result_in("runs").details["statuses"] == {"ok": LATENTS}
    assert written("runs") == direct[0]


def test_a_budget_that_ends_in_the_untrained_null_is_also_bought_later(cli: Run, files: Path, server: Server) -> None:
    """Else the control stands there with the score of two latents, and nothing says so."""
    given = [*run_of(files), *judge_of(server), "--controls", "random", "--null", "untrained"]
    assert cli(*given, "--max-requests", 1 + REQUESTS + 10)[0] == 4
    assert cli(*given)[0] == 0
    assert paid(server) == 2 * REQUESTS
    found = result_in("runs").controls["random"]
    assert found["failed_fraction"].value == 0


def test_a_second_try_that_the_budget_forbade_is_made_later(cli: Run, files: Path, server: Server) -> None:
    """The first reply could not be read and the money was out: the latent waits, it has not failed."""
    server.answer = lambda messages: oracle()(messages) if len(messages) != 2 else "hm"
    given = [*run_of(files), *judge_of(server)]
    assert cli(*given, "--max-requests", 1 + LATENTS)[0] == 4
    assert "explain_failed" in result_in("runs").details["statuses"]
    server.answer = oracle()
    assert cli(*given)[0] == 0
    assert result_in("runs").details["statuses"] == {"ok": LATENTS}


def test_what_failed_on_the_way_is_asked_again_by_the_same_command(cli: Run, files: Path, server: Server) -> None:
    """A network that was down for a minute must not stay in the result for ever."""

    unlucky = iter([True, *[False] * 5])
    chosen: dict[str, bool] = {}

    def once(n: int, body: dict[str, Any]) -> Fault | None:
        if is_first(body) or kind_of(body["messages"]) != EXPLAIN:
            return None
        text = body["messages"][1]["content"]
        return BROKEN if chosen.setdefault(text, next(unlucky, False)) else None

    server.fault = once
    given = [*run_of(files), *judge_of(server)]
    assert cli(*given)[0] == 0
    assert result_in("runs").details["statuses"] == {"ok": LATENTS - 1, "transport_failed": 1}
    server.fault = lambda n, body: None
    assert cli(*given)[0] == 0
    assert result_in("runs").details["statuses"] == {"ok": LATENTS}
    n = paid(server)
    assert cli(*given)[0] == 0
    assert paid(server) == n


# ---------------------------------------------------------------- batches


def test_a_batch_gives_the_result_of_a_direct_run(
    cli: Run, files: Path, server: Server, direct: tuple[dict[str, bytes], int]
) -> None:
    """As the help says: explanations first, then their scores, in two rounds or three."""

    def model(messages: Messages) -> Reply:
        return oracle(0.8)([{"role": m["role"], "content": m["content"]} for m in messages])

    given = [*run_of(files), *judge_of(server), "--judge-batch", "batch.jsonl"]
    asked: set[str] = set()
    rounds = 0
    while rounds < 8:
        code, out, err = cli(*given, "--json")
        assert (code, complaints(err)) == (0, [])
        (found,) = json.loads(out)["results"]
        if found["status"] == "ok":
            break
        rounds += 1
        assert found["status"] == "skipped"
        assert "batch" in found["reason"]
        lines = [json.loads(line) for line in Path("batch.jsonl").read_text().splitlines()]
        assert lines
        for line in lines:
            assert set(line) == {"custom_id", "method", "url", "body"}
            assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
            assert line["custom_id"] not in asked, "asked twice"
            asked.add(line["custom_id"])
        replies = [
            {
                "id": f"batch_req_{i}",
                "custom_id": line["custom_id"],
                "response": {"status_code": 200, "body": completion(line["body"], model(line["body"]["messages"]))},
                "error": None,
            }
            for i, line in enumerate(reversed(lines))
        ]
        Path("replies.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
        code, out, err = cli("judge", "import", "replies.jsonl", "--judge-cache", "judge.sqlite")
        assert (code, complaints(err)) == (0, [])
        assert f"{len(lines)} answers" in out
    assert server.n == 0
    assert len(asked) == REQUESTS
    found, expected = (json.loads(next_json(own)) for own in (written("runs"), direct[0]))
    for part in ("metrics", "controls", "details", "units_sha256"):
        assert found[part] == expected[part], part
    assert "takes" not in found["provenance"]["judge"], "nobody has asked a first question"
    assert rounds <= 3, "the help says two rounds or three"


@pytest.mark.parametrize("said", slow_but(1, ["I'm sorry, I can't help with that.", "hmm"]))
def test_a_batch_that_can_never_be_read_ends_with_advice_that_works(
    cli: Run, files: Path, server: Server, said: str
) -> None:
    given = [*run_of(files), *judge_of(server)]
    for _ in range(4):
        code, _, err = cli(*given, "--judge-batch", "batch.jsonl")
        if code:
            break
        replies = [
            {"custom_id": one["custom_id"], "response": {"status_code": 200, "body": completion(one["body"], said)}}
            for one in map(json.loads, Path("batch.jsonl").read_text().splitlines())
        ]
        Path("replies.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
        assert cli("judge", "import", "replies.jsonl", "--judge-cache", "judge.sqlite")[0] == 0
    assert (code, server.n) == (1, 0)
    assert sentence(err).endswith("the same command without --judge-batch and --judge-cache-only asks again")
    assert cli(*given)[0] == 0
    assert result_in("runs").status == "ok"


@pytest.mark.parametrize("content", ["not json\n", '{"custom_id": "short"}\n', None])
def test_a_file_that_is_no_answer_of_a_batch_is_one_sentence(cli: Run, content: str | None) -> None:
    if content is not None:
        Path("replies.jsonl").write_text(content)
    code, out, err = cli("judge", "import", "replies.jsonl", "--judge-cache", "judge.sqlite")
    assert (code, out) == (2, "")
    assert "replies.jsonl" in sentence(err)


# ---------------------------------------------------------------- what a user reads


def test_too_little_text_is_an_error_with_a_cure(cli: Run, files: Path, server: Server) -> None:
    code, out, err = cli(*run_of(files), *judge_of(server), "--limit", 4, "--json")
    assert code == 1
    first, last = err.strip().splitlines()
    (found,) = json.loads(out)["results"]
    assert found["status"] == "error"
    for words in ("no latent is active often enough", "--tier, --limit"):
        assert words in found["reason"]
        assert words in sentence(last)
    assert "calibration tokens (4 documents)" in first
    assert not found["metrics"]
    assert server.n <= 1


def test_show_prints_explanations_windows_and_verdicts(cli: Run, files: Path, server: Server) -> None:
    assert cli(*run_of(files), *judge_of(server))[0] == 0
    code, out, err = cli("show", "runs")
    assert (code, complaints(err)) == (0, [])
    found = result_in("runs").details
    for one in found["explanations"]:
        (line,) = [row for row in out.splitlines() if row.split()[:1] == [str(one["latent"])]]
        assert one["explanation"] in line
        assert f"  latent {one['latent']}:" in out.splitlines()
        for window in one["windows"]:
            assert [row for row in out.splitlines() if row.endswith(window["text"]) and f"{window['p']:.2f}" in row]
            assert ("<<" in window["text"]) == (window["stratum"] < 10)
    assert "m-2026" in out
    assert f"  ok: {LATENTS}" in out.splitlines()
    assert "  decile 1: " in out


def test_failures_are_shown_with_what_the_judge_wrote_on_one_line(cli: Run, files: Path, server: Server) -> None:
    said, seen = "\x1b[2J No.\n  latent 99: detection 1.00, forged \u202e\x07", set()

    def answer(messages: Messages) -> str | Reply:
        """All but one latent get an explanation that cannot be read."""
        if kind_of(messages) == EXPLAIN:
            seen.add(messages[1]["content"])
            return said if len(seen) > 1 else oracle()(messages)
        return oracle()(messages)

    server.answer = answer
    assert cli(*run_of(files), *judge_of(server))[0] == 0
    code, out, _ = cli("show", "runs")
    assert code == 0
    assert "explain_failed" in out
    assert "degraded" in out
    assert all(mark.isprintable() or mark == "\n" for mark in out)
    assert not [row for row in out.splitlines() if row.startswith("  latent 99")]
    code, out, _ = cli(*run_of(files), *judge_of(server), "--overwrite", "never")
    assert code == 0
    assert "detection" in out


def test_an_answer_of_the_task_reads_only_what_was_asked(server: Server, cli: Run, files: Path) -> None:
    """The prompts hold every excerpt once, on a line of its own, and no answer."""
    assert cli(*run_of(files), *judge_of(server))[0] == 0
    for body in server.bodies[1:]:
        messages = body["messages"]
        if kind_of(messages) == EXPLAIN:
            assert learned(messages).startswith("fires on ")
        else:
            assert len(excerpts(messages)) in (3, 4)
            assert "<<" not in messages[1]["content"]
    assert len({json.dumps(body["messages"]) for body in server.bodies}) == 1 + REQUESTS
