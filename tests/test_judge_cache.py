"""What was paid for is kept: through kills, full disks, other versions, several processes and batch files."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sae_bench.errors import UsageError
from sae_bench.judge import Completion, Judge, JudgeError, JudgeOptions, key
from sae_bench.judge.cache import Cache, Row
from tests.builders.judge_asks import FAST, ask, echo, options
from tests.builders.judge_server import Fault, Server
from tests.builders.marks import slow_but

ROOT = Path(__file__).resolve().parents[1]
RUN = """
import sys
from pathlib import Path
from sae_bench.judge import Judge, JudgeOptions, Request
url, cache, n = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
asked = [Request([{"role": "user", "content": str(i)}], {"type": "object"}, 20) for i in range(n)]
with Judge(JudgeOptions("m", url, cache=cache, concurrency=8)) as judge:
    done = judge.complete(asked)
assert [it.text for it in done] == [f"reply to {i}" for i in range(n)]
"""


def run(server: Server, folder: Path, n: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", RUN, server.url, str(folder / "judge.sqlite"), str(n)]
    return subprocess.Popen(arguments, cwd=ROOT, env={**os.environ}, text=True, stderr=subprocess.PIPE)


def stored(folder: Path) -> int:
    """How many rows the cache has, read as another program would."""
    with sqlite3.connect(folder / "judge.sqlite") as db:
        n: int = db.execute("SELECT count(*) FROM completions").fetchone()[0]
    return n


@pytest.mark.parametrize("sign", slow_but(1, [signal.SIGKILL, signal.SIGINT]))
def test_a_run_that_is_killed_goes_on_with_the_missing_completions_only(tmp_path: Path, sign: signal.Signals) -> None:
    reached = threading.Event()

    def watch(n: int, body: dict[str, Any]) -> None:
        if n == 40:
            reached.set()

    with Server(echo, fault=watch, hold=0.02) as server:
        first = run(server, tmp_path, 120)
        assert reached.wait(30)
        first.send_signal(sign)
        _, said = first.communicate(timeout=30)
        assert first.returncode != 0
        assert sign == signal.SIGKILL or "KeyboardInterrupt" in said
        assert server.wait_closed()
        kept, before = stored(tmp_path), server.n
        assert before - 16 <= kept < 120  # all but those under way
        second = run(server, tmp_path, 120)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 0, said
        assert server.n - before == 120 - kept
    assert stored(tmp_path) == 120


def test_processes_share_a_cache(tmp_path: Path) -> None:
    with Server(echo) as server:
        both = [run(server, tmp_path, 40) for _ in range(2)]
        for process in both:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
    assert stored(tmp_path) == 40


@contextmanager
def small_disk(monkeypatch: pytest.MonkeyPatch, pages: int) -> Iterator[None]:
    """SQLite refuses to grow a file beyond so many pages, in the words of a full disk."""
    connect = sqlite3.connect

    def bounded(*arguments: Any, **more: Any) -> sqlite3.Connection:
        db = connect(*arguments, **more)
        db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", bounded)
        yield


def test_a_full_disk_stops_the_run_and_keeps_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [ask(f"{i} " + "x" * 2000) for i in range(60)]
    with Server(echo) as server:
        with (
            small_disk(monkeypatch, 30),
            Judge(options(server, tmp_path, concurrency=4), FAST) as judge,
            pytest.raises(JudgeError, match=r"cannot be written \(database or disk is full\); make room"),
        ):
            judge.complete(asked)
        kept, paid = stored(tmp_path), server.n
        assert 0 < kept < paid <= kept + 8
        with Judge(options(server, tmp_path), FAST) as judge:
            assert {it.status for it in judge.complete(asked)} == {"ok"}
        assert server.n - paid == 60 - kept


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "judge.sqlite", tmp_path):
        with pytest.raises(JudgeError, match=r"cannot be opened .*give a file"), Judge(JudgeOptions("m", cache=path)):
            pass


def test_a_cache_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    Cache(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE about SET value = '99' WHERE name = 'layout'")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(JudgeError, match="has layout 99, but this version of sae-bench reads layout 2; give"):
            Cache(path, read_only)
    assert path.read_bytes() == before


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other.sqlite"
    text.write_text("no database at all, but long enough to be looked at " * 40)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE users (name TEXT)")
    with pytest.raises(JudgeError, match="damaged or no cache"):
        Cache(text)
    with pytest.raises(JudgeError, match="not a cache of completions"):
        Cache(other)
    assert text.read_text().startswith("no database")


def test_a_cache_is_replayed_where_nothing_can_be_written(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "judge.sqlite")
    cache.store([Row("a" * 64, Completion("ok", "said", prompt_tokens=3))])
    cache.close()
    for file in tmp_path.iterdir():
        file.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        replayed = Cache(tmp_path / "judge.sqlite", read_only=True)
        found = replayed.read(["a" * 64, "b" * 64])
        replayed.close()
    finally:
        tmp_path.chmod(0o755)
    assert found == {"a" * 64: Completion("ok", "said", prompt_tokens=3, cached=True)}


def test_many_keys_are_read_at_once_and_the_first_reply_stays(tmp_path: Path) -> None:
    cache = Cache(None)
    names = [f"{i:064x}" for i in range(1700)]
    cache.store(Row(name, Completion("ok", name)) for name in names)
    cache.store([Row(names[0], Completion("ok", "later"))])
    assert {name: it.text for name, it in cache.read(names).items()} == {name: name for name in names}


def test_what_is_stored_can_be_read_without_this_package(tmp_path: Path) -> None:
    with Server(echo, formats=("json_object",)) as server, Judge(options(server, tmp_path), FAST) as judge:
        judge.complete([ask("x")])
        name = key(ask("x"), judge.options)
    db = sqlite3.connect(tmp_path / "judge.sqlite")
    columns = "request, raw, prompt_tokens, completion_tokens, format, source, latency, created"
    row = db.execute(f"SELECT {columns} FROM completions WHERE key = ?", (name,)).fetchone()
    db.close()
    assert json.loads(row[0])["messages"] == [{"role": "user", "content": "x"}]
    assert json.loads(row[1])["choices"][0]["message"]["content"] == "reply to x"
    assert row[2:6] == (0, 5, "json_object", "live")
    assert row[6] > 0
    assert row[7] > 1.7e9


def replies(lines: list[str], failed: tuple[int, ...] = ()) -> list[str]:
    """What a batch interface makes of exported lines."""
    written = []
    for number, line in enumerate(lines):
        asked = json.loads(line)
        text = f"reply to {asked['body']['messages'][0]['content']}"
        body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}}
        response: dict[str, Any] = {"status_code": 200, "request_id": "r", "body": body}
        if number in failed:
            response = {"status_code": 500, "request_id": "r", "body": {"error": {"message": "no"}}}
        written.append(json.dumps({"id": "b", "custom_id": asked["custom_id"], "response": response, "error": None}))
    return written


def test_a_batch_goes_out_and_comes_back_into_the_same_cache(tmp_path: Path) -> None:
    asked = [ask(i) for i in range(6)]
    sent, back = tmp_path / "out.jsonl", tmp_path / "in.jsonl"
    with Server(echo) as server, Judge(options(server, tmp_path), FAST) as judge:
        judge.complete(asked[:1])
        assert judge.export_batch([*asked, asked[2]], sent) == 5
        lines = sent.read_text().splitlines()
        assert {json.loads(line)["custom_id"] for line in lines} == {key(it, judge.options) for it in asked[1:]}
        first = json.loads(lines[0])
        assert (first["method"], first["url"]) == ("POST", "/v1/chat/completions")
        assert first["body"] == server.bodies[0] | {"messages": [{"role": "user", "content": "1"}]}
        unknown = json.dumps({"custom_id": "f" * 64, "response": json.loads(replies(lines)[0])["response"]})
        expired = json.dumps({"custom_id": "e" * 64, "response": None, "error": {"code": "batch_expired"}})
        back.write_text("\n".join([*replies(lines, failed=(4,)), unknown, expired, ""]))
        assert judge.import_batch(back) == (5, 2)
        assert judge.import_batch(back) == (5, 2)
        done = judge.complete(asked)
        assert [it.text for it in done] == [f"reply to {i}" for i in range(6)]
        assert server.n == 2  # the first, and the one that failed in the batch
    assert stored(tmp_path) == 7


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "{}", '{"custom_id": "mine", "response": null}', '{"custom_id": "' + "a" * 64 + '"}', "[" * 99_999],
)
def test_a_malformed_line_is_named_and_nothing_is_imported(tmp_path: Path, line: str) -> None:
    sent, back = tmp_path / "out.jsonl", tmp_path / "in.jsonl"
    with Judge(JudgeOptions("m", "http://h/v1", cache=tmp_path / "judge.sqlite")) as judge:
        judge.export_batch([ask(1), ask(2)], sent)
        back.write_text("\n".join([*replies(sent.read_text().splitlines()), line]))
        with pytest.raises(JudgeError, match="line 3"):
            judge.import_batch(back)
        assert judge.plan([ask(1), ask(2)]).cached == 0


def test_files_that_are_no_batch_and_caches_that_take_none_say_so(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with Judge(JudgeOptions("m", "http://h/v1", cache=path)) as judge:
        with pytest.raises(JudgeError, match="cannot be read"):
            judge.import_batch(tmp_path / "absent")
        with pytest.raises(JudgeError, match="not text in UTF-8"):
            judge.import_batch(tmp_path / "binary")
    with (
        Judge(JudgeOptions("m", "http://h/v1", cache=path, cache_only=True)) as judge,
        pytest.raises(UsageError, match="import_batch writes to the cache"),
    ):
        judge.import_batch(tmp_path / "absent")


@pytest.mark.parametrize("kind", ["a pipe", "zeros", "one long line"])
def test_a_batch_or_a_cache_that_never_ends_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    given = tmp_path / "given"
    if kind == "a pipe":
        os.mkfifo(given)
    elif kind == "zeros":
        given.symlink_to("/dev/zero")
    else:
        with given.open("w") as file:
            file.truncate(20 << 20)
    with (
        Judge(JudgeOptions("m", "http://h/v1", cache=tmp_path / "judge.sqlite")) as judge,
        pytest.raises(JudgeError, match=r"not a regular file|is no file|is longer than"),
    ):
        judge.import_batch(given)
    with pytest.raises(JudgeError, match=r"not a regular file|damaged or no cache"):
        Cache(given)


def test_failures_are_not_stored(tmp_path: Path) -> None:
    with (
        Server(echo, fault=lambda n, body: Fault("status", 500)) as server,
        Judge(options(server, tmp_path), FAST) as judge,
    ):
        assert judge.complete([ask("x")])[0].status == "transport_failed"
    assert stored(tmp_path) == 0


def of_layout_1(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        db.execute("CREATE TABLE completions (key TEXT PRIMARY KEY, text TEXT)")
        db.execute("INSERT INTO about VALUES ('layout', '1')")
        db.execute("INSERT INTO completions VALUES ('a', 'old')")
        db.commit()


@pytest.mark.parametrize("aside", [False, True])
def test_a_cache_of_the_older_layout_is_taken_over_and_its_replies_stay_aside(tmp_path: Path, aside: bool) -> None:
    """Also one that was left in the middle of it by a process that was killed."""
    path = tmp_path / "judge.sqlite"
    of_layout_1(path)
    if aside:
        with closing(sqlite3.connect(path)) as db:
            db.execute("ALTER TABLE completions RENAME TO completions_1")
    with Server(echo) as server:
        for _ in range(2):
            with Judge(options(server, tmp_path), FAST) as judge:
                assert judge.complete([ask(1)])[0].status == "ok"
        assert server.n == 1
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT text FROM completions_1").fetchall() == [("old",)]


@pytest.mark.parametrize("old", [True, False])
def test_several_that_open_a_new_or_older_cache_at_once_do_not_disturb_each_other(tmp_path: Path, old: bool) -> None:
    for n in range(10):
        path = tmp_path / f"{n}.sqlite"
        if old:
            of_layout_1(path)
        with ThreadPoolExecutor(4) as pool:
            for opened in pool.map(Cache, [path] * 4):
                opened.close()
