"""What a judge may cost, who gets how much of it, what is said of it, and what a judge that says nothing is worth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_bench.cli.exits import Exit
from sae_bench.cli.main import main
from sae_bench.judge import Patience
from sae_bench.results import store
from sae_bench.schema import Result
from tests.builders.explainers import EXPLAIN, TASK, kind_of, oracle
from tests.builders.judge_server import Fault, Messages, Reply, Server
from tests.builders.judged_runs import (
    LATENTS,
    REQUESTS,
    answered,
    is_first,
    judge_of,
    make,
    result_in,
    run_of,
    without_key,
    written,
)
from tests.builders.marks import slow_but
from tests.builders.said import complaints
from tests.builders.tiny_saes import tiny_coder, write_native
from tests.conftest import Run

SAES = ("alive", "second", "third")
PRICES = ["--price-in", 2, "--price-out", 10]
FAST = Patience(attempts=3, base=0.002, longest=0.02)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, ids and three SAEs on disk."""
    folder = tmp_path_factory.mktemp("files")
    make(folder)
    for seed, name in enumerate(SAES[1:], 1):
        write_native(tiny_coder("topk", seed=seed), folder / name, model=str(folder / "model"), name=name)
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


def run_of_all(files: Path) -> list[Any]:
    """Arguments of a run of the three SAEs."""
    return [*run_of(files), *(arg for name in SAES[1:] for arg in ("--sae", files / name))]


def results_in(folder: str = "runs") -> dict[str, Result]:
    return {one.sae.name: one for one in map(store.read, store.find(Path(folder)))}


def without_counters(found: dict[str, bytes]) -> dict[str, Any]:
    """Results as they are, but for how much was computed beside them: that depends on the SAEs of one run."""
    plain: dict[str, Any] = dict(found)
    for name in (name for name in found if name.endswith(".json")):
        plain[name] = json.loads(found[name])
        plain[name].get("provenance", {}).pop("counters", None)
    return plain


@pytest.fixture(scope="module")
def direct(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run of the three SAEs that no limit disturbed."""
    out = tmp_path_factory.mktemp("direct")
    with Server(oracle(0.8)) as running:
        given = [*run_of_all(files), *judge_of(running, str(out / "judge.sqlite")), "--out", out / "results"]
        assert main([str(a) for a in given]) == 0
    return written(str(out / "results"))


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "limit",
    slow_but(
        1,
        [
            *(["--max-requests", 1 + REQUESTS], ["--max-cost", 0.02, *PRICES]),
            *(["--max-requests", 1 + 2 * REQUESTS], ["--max-tokens", 12_000], ["--max-requests", 11]),
        ],
    ),
)
def test_each_sae_gets_its_share_of_what_there_is(
    cli: Run, files: Path, server: Server, limit: list[Any], direct: dict[str, bytes]
) -> None:
    """Not the first one all, and the last one none."""
    given = [*run_of_all(files), *judge_of(server)]
    code, out, err = cli(*given, *limit, "--all-metrics")
    assert code == Exit.BUDGET == 4
    own = {name: one.details["statuses"].get("ok", 0) for name, one in results_in().items()}
    assert set(own) == set(SAES)
    assert out.count("autointerp: partial: ") == sum("budget" in one.details for one in results_in().values()) > 0
    if limit[1] != 11:
        assert min(own.values()) >= 1
        # of tokens and money the most that a request can cost is kept aside: the last portions are coarse
        assert max(own.values()) - min(own.values()) <= (1 if limit[0] == "--max-requests" else 3)
    if limit[0] == "--max-requests":
        assert server.n == limit[1], "nothing is left over"
    says = rf"{TASK}: {limit[0]} \S+ of this run is used up: {sum(own.values())} of {3 * LATENTS} "
    (said,) = [row for row in complaints(err) if "latents judged" in row]
    assert re.search(
        says + r"latents judged, (0\.\d{4}|\d+ tokens in \d+ requests) spent; the same command goes on$", said
    )
    while code == 4:
        code, _, err = cli(*given, *limit)
        assert len(server.bodies) < 8 * REQUESTS
    assert (code, complaints(err)) == (0, [])
    assert max(answered(server).values()) == 1, "nothing is paid for twice"
    assert without_counters(written("runs")) == without_counters(direct)


def test_what_one_sae_leaves_the_others_get(cli: Run, files: Path, server: Server) -> None:
    """The judge refuses to explain two of them: all the rest is for the third."""
    given = [*run_of_all(files), *judge_of(server), "--max-requests", 1 + REQUESTS + 2 * LATENTS]
    served: list[str] = []

    def answer(messages: Messages) -> str | Reply:
        if kind_of(messages) == EXPLAIN:
            served.append(messages[1]["content"])
            if len(set(served)) > LATENTS:
                return Reply(None, refusal="I do not like these.")
        return oracle()(messages)

    server.answer = answer
    code, _, _ = cli(*given)
    assert code == 1, "two SAEs have no score at all"
    assert server.n == 1 + REQUESTS + 2 * LATENTS
    assert results_in()["alive"].details["statuses"] == {"ok": LATENTS}


def test_a_limit_of_nothing_asks_nobody_and_says_so(cli: Run, files: Path, server: Server) -> None:
    code, _, err = cli(*run_of(files), *judge_of(server), "--max-requests", 0)
    assert code == 4
    assert server.n == 0
    assert f"0 of {LATENTS} latents judged, 0 tokens in 0 requests spent" in err


@pytest.mark.parametrize("limit", slow_but(1, [["--max-requests", 1], ["--max-tokens", 20], ["--max-requests", 0]]))
def test_a_limit_that_never_gets_further_than_the_first_question_says_so(
    cli: Run, files: Path, server: Server, limit: list[Any]
) -> None:
    """The same command would ask that question again, and nothing else."""
    for _ in range(2):
        code, _, err = cli(*run_of(files), *judge_of(server), *limit)
        assert code == 4
        assert "give a larger limit" in err
        assert "spent; the same command goes on" not in err


def test_a_failure_beside_an_empty_purse_is_a_failure(cli: Run, files: Path, server: Server) -> None:
    """1 says that something must be looked at; 4 only that the command must be given again."""
    broken = files / "broken"
    if not broken.exists():
        write_native(tiny_coder("jumprelu", seed=3), broken, model=str(files / "model"), name="broken")
    given = [*run_of(files), "--sae", broken, *judge_of(server), "--max-requests", 12]
    code, _, err = cli(*given, "--param", f"{TASK}.most_density=0.05")
    states = {one.status for one in results_in().values()}
    assert code == (1 if "error" in states else 4)
    assert ("latents judged" in err) == (code == 4 or any("budget" in one.details for one in results_in().values()))


# ---------------------------------------------------------------- what it cost


def test_what_was_spent_is_always_said(cli: Run, files: Path, server: Server) -> None:
    given = [*run_of(files), *judge_of(server)]
    _, out, _ = cli(*given, "--out", "a")
    sent = 1 + REQUESTS
    assert re.search(
        rf"^judge: {sent} requests, \d+ tokens in and {5 * sent} out, cost unknown \(give --price", out, re.M
    )
    (Path("judge.sqlite")).unlink()
    _, out, err = cli(*given, "--out", "b", *PRICES, "--json")
    used = json.loads(out)["judge"]
    assert used["cost"] == pytest.approx((2 * used["tokens_in"] + 10 * used["tokens_out"]) / 1e6, abs=1e-6)
    assert (used["requests"], used["tries"], used["tokens_out"]) == (sent, sent, 5 * sent)
    assert complaints(err) == []
    _, out, _ = cli(*given, "--out", "c", *PRICES)
    assert "judge: 1 requests, " in out, "the cache answered all, and who judges was asked"


def test_what_was_spent_is_said_of_a_run_that_is_stopped(
    cli: Run, files: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_bench.tasks.autointerp.task.by_rule", stop)
    code, _, err = cli(*run_of(files), *judge_of(server), *PRICES)
    assert code == 130
    assert re.search(rf"^judge: {1 + REQUESTS} requests, .* cost 0\.\d{{4}}$", err, re.M)


# ---------------------------------------------------------------- a judge that cannot be read


def unreadable(n: int) -> Any:
    """Explains all but ``n`` latents in words that cannot be read, however often it is asked."""
    seen: list[str] = []

    def answer(messages: Messages) -> str | Reply:
        if kind_of(messages) == EXPLAIN:
            if messages[1]["content"] not in seen:
                seen.append(messages[1]["content"])
            if seen.index(messages[1]["content"]) < n:
                return "Well \x1b[31m it fires\n on things."
        return oracle()(messages)

    return answer


@pytest.mark.parametrize(("n", "status"), [(LATENTS // 2, "ok"), (LATENTS // 2 + 1, "degraded")])
def test_a_result_without_most_scores_is_degraded_and_shows_a_reply(
    cli: Run, files: Path, server: Server, n: int, status: str
) -> None:
    server.answer = unreadable(n)
    code, out, err = cli(*run_of(files), *judge_of(server), "--all-metrics")
    assert code == 0
    found = result_in("runs")
    assert found.status == status
    if status == "ok":
        assert found.reason is None
        return
    assert found.reason == (
        f"{n} of {LATENTS} judged latents have no score (explain_failed {n}); the first reply of them: "
        "Well [31m it fires on things."
    )
    assert f"{TASK}: degraded: {found.reason}" in out
    assert re.search(r"detection ↑ +\S+( \[.*\]\*?)? degraded", out)
    assert f"sae-bench: alive, {TASK}: degraded: {found.reason}" in err
    assert all(mark.isprintable() or mark == "\n" for mark in out + err)


def test_latents_that_wait_do_not_make_a_result_degraded(cli: Run, files: Path, server: Server) -> None:
    assert cli(*run_of(files), *judge_of(server), "--max-requests", 4)[0] == 4
    assert result_in("runs").details["statuses"] == {"budget": LATENTS}
    assert result_in("runs").status == "ok"


def test_a_degraded_result_is_measured_again(cli: Run, files: Path, server: Server) -> None:
    """When the judge is mended: with the same cache."""
    given = [*run_of(files), *judge_of(server)]
    server.answer = unreadable(LATENTS - 1)
    assert cli(*given)[0] == 0
    assert result_in("runs").status == "degraded"
    server.answer = oracle()
    assert cli(*given)[0] == 0
    assert result_in("runs").status == "ok"


def test_latents_that_no_request_reached_are_no_result(cli: Run, files: Path, server: Server) -> None:
    def fault(n: int, body: dict[str, Any]) -> Fault | None:
        return None if is_first(body) else Fault("status", 500)

    server.fault = fault
    assert cli(*run_of(files), *judge_of(server))[0] == 1
    found = result_in("runs")
    assert found.status == "error"
    assert "transport_failed" in (found.reason or "")
    server.fault = lambda n, body: None
    assert cli(*run_of(files), *judge_of(server))[0] == 0
    assert result_in("runs").status == "ok"


@pytest.fixture
def half(cli: Run, files: Path, server: Server) -> tuple[Path, Path]:
    """Folders of a result that is degraded, and of another SAE's that is not."""
    server.answer = unreadable(LATENTS - 2)
    assert cli(*run_of(files), *judge_of(server), "--out", "runs/bad")[0] == 0
    server.answer = oracle()
    given = [a if a != files / "sae" else files / "second" for a in run_of(files)]
    assert cli(*given, *judge_of(server), "--out", "runs/good")[0] == 0
    states = {folder: {one.status for one in results_in(folder).values()} for folder in ("runs/bad", "runs/good")}
    assert states == {"runs/bad": {"degraded"}, "runs/good": {"ok"}}
    return Path("runs/bad"), Path("runs/good")


def test_the_verbs_tell_a_degraded_result_from_a_good_one(cli: Run, half: tuple[Path, Path]) -> None:
    """It is shown with a mark, and is neither ranked, compared, nor taken for a baseline."""
    bad, good = half
    _, out, _ = cli("ls", "results", "--out", "runs")
    assert [line.startswith("alive ") for line in out.splitlines() if "degraded" in line] == [True]
    code, out, _ = cli("show", bad)
    assert (code, "judged latents have no score" in out) == (0, True)
    code, out, err = cli("compare", good, bad)
    assert (code, out) == (2, "")
    assert "degraded" in err
    code, _, err = cli("check", "--baseline", good, bad)
    assert code in (2, 3)
    assert "degraded" in err
    code, out, err = cli("submit", bad, "--check-only")
    assert code != 0
    assert "the status is degraded" in out + err


def test_the_board_shows_a_degraded_result_without_a_rank(cli: Run, half: tuple[Path, Path]) -> None:
    code, out, _ = cli("board", "runs", "--format", "json")
    assert code == 0
    rows = [row for table in json.loads(out)["tables"] for row in table["rows"]]
    marks = {(row["sae"], score.get("mark")) for row in rows for score in row["scores"].values()}
    assert marks == {("alive", "degraded"), ("second", None)}
    assert all(score["rank"] is None for row in rows if row["sae"] == "alive" for score in row["scores"].values())
    for shown in ("text", "github", "latex", "csv"):
        code, out, _ = cli("board", "runs", "--format", shown)
        assert (code, "degraded" in out) == (0, True), shown


def test_a_control_that_waits_is_marked_and_the_sae_beside_it_is_not(cli: Run, files: Path, server: Server) -> None:
    """One request of the control is not asked any more; the same command asks it."""
    given = [*run_of(files), *judge_of(server), "--controls", "random", "--null", "untrained"]
    code, out, _ = cli(*given, "--max-requests", 2 * REQUESTS, "--all-metrics")
    assert code == 4
    rows = [line for line in out.splitlines() if line.startswith(f"{TASK} ")]
    assert rows
    assert all(row.endswith(" partial") and row.count("partial") == 1 for row in rows)
    assert f"{TASK}: control random is partial: --max-requests" in out
    assert cli(*given)[0] == 0
    assert "partial" not in cli("show", "runs")[1]


# ---------------------------------------------------------------- the demo


@pytest.mark.parametrize(
    "more",
    [["--param", f"{TASK}.latents=80", "--param", f"{TASK}.null_latents=2", "--controls", "none"], []],
)
@pytest.mark.slow
def test_the_smoke_tier_of_the_demo_can_be_judged(cli: Run, server: Server, more: list[str]) -> None:
    """A first try of a judge costs little, and ends in figures."""
    given = ["run", "--sae", "demo", "--tasks", TASK, "--tier", "smoke", "--resamples", 20, "--quiet", *more]
    code, out, _ = cli(*given, *judge_of(server))
    assert code == 0
    found = result_in("runs")
    assert found.status == "ok"
    assert found.details["statuses"].keys() == {"ok"}
    assert found.metrics["detection"].value is not None
    assert re.search(r"^judge: \d+ requests", out, re.M)


def test_a_control_without_any_score_is_said_and_asked_again(cli: Run, files: Path, server: Server) -> None:
    """It was asked for and paid for; a result that is silent about it looks as if nobody had."""
    cli(*run_of(files), *judge_of(server), "--out", "alone")
    known = {json.dumps(body["messages"]) for body in server.bodies}

    def answer(messages: Messages) -> str | Reply:
        own = json.dumps(messages) in known
        return oracle()(messages) if own else Reply(None, refusal="I do not like these.")

    server.answer = answer
    given = [*run_of(files), *judge_of(server), "--controls", "random", "--null", "untrained"]
    code, _, err = cli(*given)
    assert code == 0
    assert any(
        "control random has no figures" in row and "the same command asks again" in row for row in complaints(err)
    )
    server.answer = oracle()
    code, _, err = cli(*given)
    assert (code, complaints(err)) == (0, [])
    assert "random" in result_in("runs").controls
