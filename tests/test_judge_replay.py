"""What a judge has said, as a file for others: bound to the requests, without keys, and hostile files are refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_bench.judge import Judge, JudgeError, JudgeOptions, Patience
from sae_bench.judge.records import canonical
from tests.builders.explainers import oracle
from tests.builders.judge_asks import FAST, ask, echo, options
from tests.builders.judge_server import Server
from tests.builders.judged_runs import REQUESTS, judge_of, make, paid, run_of, sentence, without_key, written
from tests.conftest import Run

KEY = "sk-test-3f9a51c07be2468d"


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
def exported(tmp_path: Path) -> Iterator[Path]:
    with Server(echo) as server, Judge(options(server, tmp_path), FAST) as judge:
        judge.meet(ask("who?"))
        judge.complete([ask(i) for i in range(3)])
        assert judge.export_replay(tmp_path / "replay.jsonl") == 3
        yield tmp_path / "replay.jsonl"


def test_a_replay_repeats_the_run_to_the_byte_without_a_network(
    cli: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(oracle(0.8), key=KEY) as server:
        given = [*run_of(files), *judge_of(server)]
        header = ["--judge-header", "X-Team=team-secret-0123456789"]
        assert cli(*given, *header)[0] == 0
    monkeypatch.delenv("OPENAI_API_KEY")
    code, out, _ = cli("judge", "export", "replay.jsonl", "--judge-cache", "judge.sqlite")
    assert (code, out) == (0, f"{REQUESTS} answers of judge.sqlite are in replay.jsonl\n")
    text = Path("replay.jsonl").read_text()
    assert KEY not in text
    assert "team-secret" not in text
    code, out, _ = cli("judge", "import", "replay.jsonl", "--judge-cache", "theirs.sqlite")
    assert (code, out) == (0, f"{REQUESTS} answers are in theirs.sqlite\n")
    again = [one if one != "judge.sqlite" else "theirs.sqlite" for one in given]
    assert cli(*again, *header, "--judge-cache-only", "--out", "again")[0] == 0
    assert written("again") == written("runs")
    assert cli("judge", "export", "second.jsonl", "--judge-cache", "theirs.sqlite")[0] == 0
    assert Path("second.jsonl").read_text() == text, "a replay of a replay is the same"


def test_only_one_model_is_exported_where_that_is_asked_for(cli: Run, files: Path) -> None:
    with Server(oracle(0.8)) as server:
        for model in ("m", "n"):
            assert cli(*run_of(files), *judge_of(server, model=model), "--out", model)[0] == 0
    cli("judge", "export", "all.jsonl", "--judge-cache", "judge.sqlite")
    code, out, _ = cli("judge", "export", "n.jsonl", "--judge-cache", "judge.sqlite", "--judge-model", "n")
    assert (code, out.split()[0]) == (0, str(REQUESTS))
    assert len(Path("all.jsonl").read_text().splitlines()) == 1 + 2 + 2 * REQUESTS
    assert all(
        line["judge"]["asked"] == "n" if "judge" in line else line["request"]["model"] == "n"
        for line in rest("n.jsonl")
    )
    code, _, err = cli("judge", "import", "n.jsonl", "--judge-cache", "x.sqlite", "--judge-model", "n")
    assert code == 2
    assert "--judge-model" in sentence(err)


def rest(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()][1:]


def test_what_failed_is_no_part_of_a_replay(tmp_path: Path) -> None:
    with Server(lambda m: '{"cut": [', fault=lambda n, b: None) as server:
        server.says = {"choices": [{"index": 0, "message": {"content": '{"cut'}, "finish_reason": "length"}]}
        with Judge(options(server, tmp_path), FAST) as judge:
            assert judge.complete([ask(1)])[0].status == "truncated"
            assert judge.export_replay(tmp_path / "out.jsonl") == 0


def forged(line: dict[str, Any]) -> dict[str, Any]:
    request = line["request"] | {"seed": 1}
    return line | {"request": request}


def with_request(line: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    return line | {"request": request, "key": hashlib.sha256(canonical(request).encode()).hexdigest()}


def judge_that_takes(line: dict[str, Any], takes: dict[str, Any]) -> dict[str, Any]:
    return {"judge": {"endpoint": "e", "asked": "m", "served": line["served"], "takes": takes, "said": ""}}


FORGERIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another request": forged,
    "another key": lambda line: line | {"key": "0" * 64},
    "no key": lambda line: {name: value for name, value in line.items() if name != "key"},
    "no text": lambda line: line | {"text": None},
    "text that never ends": lambda line: line | {"text": "x" * 70_000},
    "more than there is": lambda line: line | {"status": "refused"},
    "counts below zero": lambda line: line | {"prompt_tokens": -5},
    "a count that is true": lambda line: line | {"prompt_tokens": True},
    "who served it in words": lambda line: line | {"served": "m-2026"},
    "no object": lambda line: [line],
    "a judge of nothing": lambda line: {"judge": {}},
    "a judge that takes what nobody does": lambda line: {
        "judge": {"endpoint": "e", "asked": "m", "served": line["served"], "takes": {"format": "xml"}, "said": ""}
    },
    "a judge that takes letters": lambda line: judge_that_takes(line, {"dropped": "temperature"}),
    "a judge with room in words": lambda line: judge_that_takes(line, {"most_room": "x"}),
    "a judge with flags in words": lambda line: judge_that_takes(line, {"system": "no"}),
    "a request to nobody": lambda line: with_request(line, {"a": 1}),
    "a request to half a character": lambda line: with_request(line, line["request"] | {"endpoint": "\ud800"}),
    "a request to several": lambda line: with_request(line, line["request"] | {"model": ["m"]}),
    "a judge that takes code": lambda line: {
        "judge": {"endpoint": "e", "asked": "m", "served": line["served"], "takes": {"__class__": 1}, "said": ""}
    },
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_line_that_was_changed_is_named_and_nothing_is_kept(exported: Path, tmp_path: Path, how: str) -> None:
    head, *others = exported.read_text().splitlines()
    bad = FORGERIES[how](json.loads(others[-1]))
    path = tmp_path / "forged.jsonl"
    path.write_text("\n".join([head, *others[:-1], json.dumps(bad)]))
    with Server(echo) as server, Judge(options(server, tmp_path / "new"), FAST) as judge:
        with pytest.raises(JudgeError, match=r"forged\.jsonl.*nothing was kept"):
            judge.import_replay(path)
        assert judge.known is None
        assert judge.plan([ask(i) for i in range(3)]).cached == 0


@pytest.mark.parametrize("cut", [1, 40, 900])
def test_a_file_that_was_cut_off_says_in_which_line(exported: Path, tmp_path: Path, cut: int) -> None:
    lines = exported.read_text().splitlines()
    path = tmp_path / "cut.jsonl"
    path.write_text("\n".join(lines)[:-cut])
    with Judge(JudgeOptions("m", cache=tmp_path / "new.sqlite"), FAST) as judge:
        last = len(path.read_text().splitlines())
        with pytest.raises(JudgeError, match=rf"cut\.jsonl, line {last} is not JSON.*nothing was kept"):
            judge.import_replay(path)


@pytest.mark.parametrize(
    "content", ["", "{}\n", '{"sae_bench_judge_replay": 2}\n', '{"sae_bench_judge_replay": 1, "x": 2}\n']
)
def test_other_versions_and_other_files_are_refused(cli: Run, content: str) -> None:
    Path("other.jsonl").write_text(content)
    code, out, err = cli("judge", "import", "other.jsonl", "--judge-cache", "x.sqlite")
    if content:
        assert (code, out) == (2, "")
        assert "other.jsonl" in sentence(err)
    else:
        assert code == 0, "an empty file is a batch without answers"


def test_a_key_is_the_digest_of_the_request(exported: Path) -> None:
    """Anyone can check that with ten lines and without this package."""
    for line in map(json.loads, exported.read_text().splitlines()[2:]):
        plain = json.dumps(line["request"], sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(plain.encode()).hexdigest() == line["key"]
        assert canonical(line["request"]) == plain


def test_an_exported_file_given_as_a_cache_says_what_to_do(cli: Run, files: Path, exported: Path) -> None:
    code, out, err = cli(
        *run_of(files), "--judge-model", "m", "--judge-cache", exported, "--judge-base-url", "http://h/v1"
    )
    assert (code, out) == (2, "")
    assert "judge import" in sentence(err)


def test_a_complete_reply_that_is_there_stays(exported: Path, tmp_path: Path) -> None:
    """Nobody's replay overwrites what was paid for."""
    with Server(lambda messages: "mine") as server, Judge(options(server, tmp_path / "new"), FAST) as judge:
        lines = [json.loads(line) for line in exported.read_text().splitlines()]
        for line in lines[2:]:
            line["request"]["endpoint"] = server.url
            line["key"] = hashlib.sha256(canonical(line["request"]).encode()).hexdigest()
        judge.meet(ask("who?"))
        assert [one.text for one in judge.complete([ask(0)])] == ["mine"]
        (tmp_path / "theirs.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert judge.import_replay(tmp_path / "theirs.jsonl") == 3
        assert [one.text for one in judge.complete([ask(0), ask(1)])] == ["mine", "reply to 1"]


def test_a_cache_that_knows_other_judges_alone_says_which(cli: Run, files: Path, exported: Path) -> None:
    """Else the run ends with nothing and says that everything is missing."""
    cli("judge", "import", exported, "--judge-cache", "x.sqlite")
    given = [*run_of(files), "--judge-model", "m", "--judge-endpoint", "mine", "--judge-cache", "x.sqlite"]
    code, out, err = cli(*given, "--judge-cache-only")
    assert (code, out) == (2, "")
    assert re.search(
        r"has no answer of m at mine, .*; it has answers of m at http://127.0.0.1:\d+/v1; give", sentence(err)
    )


def test_nothing_is_written_over_the_cache(cli: Run, files: Path) -> None:
    with Server(oracle()) as server:
        assert cli(*run_of(files), *judge_of(server))[0] == 0
        Path("link").symlink_to("judge.sqlite")
        for name in ("judge.sqlite", "link"):
            code, _, err = cli("judge", "export", name, "--judge-cache", "judge.sqlite")
            assert (code, "is the cache itself" in sentence(err)) == (2, True)
        code, _, err = cli(*run_of(files), *judge_of(server), "--out", "new", "--judge-batch", "judge.sqlite")
        assert (code, "is the cache itself" in err) == (2, True)
        assert cli(*run_of(files), *judge_of(server), "--out", "again")[0] == 0
        assert paid(server) == REQUESTS, "all answers are still there"
