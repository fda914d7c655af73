"""Runs that share a folder: equal ones at once, unequal ones at once, killed ones, and what somebody damaged meanwhile.

Processes are real where two of them matter: a lock that works between threads alone would pass anything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_bench import evaluate, locks
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.checkpoint import MOMENTS, PLAN, STATE, Checkpoint, Damaged
from sae_bench.engine.plan import Options
from sae_bench.errors import ResultError
from sae_bench.results import store
from sae_bench.streams.documents import UNIT
from sae_bench.streams.guard import TaskFailure
from sae_bench.streams.whole import check_rows, check_sequences, check_tokens, kept_tokens
from sae_bench.tasks.base import Task
from sae_bench.units import Units
from tests.builders.interrupted import TASKS, contents, interrupted, settings
from tests.builders.marks import slow_but, slow_but_each
from tests.builders.token_rows import LENGTH, coder
from tests.builders.views import task as task_of
from tests.conftest import Run

ROOT = Path(__file__).parents[1]
TWO = """
import os, sys
from sae_bench import evaluate
from sae_bench.cli.main import main

evaluate("demo", tasks="sparsity", tier="smoke", limit=8, resamples=20, controls="none")  # all that it imports is there
children = []
for name in "01":
    children.append(os.fork())
    if children[-1] == 0:
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 1)
        code = 1
        try:
            code = main(sys.argv[1:])
            sys.stdout.flush()
        finally:
            os._exit(code)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""
SLEEPY = """
import sys, time
from sae_bench import locks
from tests.builders.marks import slow_but, slow_but_each
from pathlib import Path
with locks.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_lock_of_another_process_ends_with_it(tmp_path: Path) -> None:
    """However it ends: here it is killed outright. Meanwhile it is said who holds it."""
    file = tmp_path / "deep" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", SLEEPY, file], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said: list[str] = []

    def waiting(who: str) -> None:
        said.append(who)
        holder.kill()
        holder.wait()

    with locks.held(file, waiting) as waited:
        assert waited
    assert said == [f"process {holder.pid} on {os.uname().nodename}, since {said[0][-19:]}"]
    assert not file.exists()
    holder.stdout.close()


def test_a_lock_that_nobody_holds_is_taken_at_once(tmp_path: Path) -> None:
    """Also where an earlier process left its file behind."""
    (tmp_path / "lock").write_text('{"process": 1, "host": "gone", "since": "long ago"}')
    with locks.held(tmp_path / "lock", lambda who: pytest.fail(who)) as waited:
        assert not waited


def test_a_lock_leaves_no_folder_that_it_made_for_nothing(tmp_path: Path) -> None:
    """What is refused at once, such as a judge that does not answer, leaves nothing behind."""
    with pytest.raises(ZeroDivisionError), locks.held(tmp_path / "out" / ".partial" / "run" / "lock"):
        raise ZeroDivisionError
    assert not any(tmp_path.iterdir())
    with locks.held(tmp_path / "out" / ".partial" / "run" / "lock"):
        (tmp_path / "out" / "result").write_text("")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["result"]


def test_of_many_threads_one_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    """The file is removed each time it is given back, so this also tries the moment between opening and locking it."""
    inside = most = 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(5):
            with locks.held(tmp_path / "folder" / "lock"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1
            with contextlib.suppress(OSError):
                (tmp_path / "folder").rmdir()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("said", ["", "[]", '{"process": "x"}', "\x00" * 900])
def test_a_lock_says_something_whatever_its_file_holds(tmp_path: Path, said: str) -> None:
    (tmp_path / "lock").write_text(said)
    assert locks._holder(tmp_path / "lock") == "another process"


def test_a_lock_in_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot write"), locks.held(tmp_path / "file" / "lock"):
        pass


# --- equal runs at once ----------------------------------------------------------------------------------------------


def test_two_equal_commands_at_once_measure_once_and_agree(cli: Run, tmp_path: Path, shipped_lock: None) -> None:
    """What was interleaved rows of both, with exit code 0."""
    command = ["run", "--sae", "demo/topk_k16", "--tasks", TASKS, "--quiet"]
    command += ["--limit", "16", "--batch-tokens", "128", "--resamples", "20", "--controls", "mean", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", TWO, *command, "--out", str(tmp_path / "both")]
    done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    code, out, err = cli(*command, "--out", tmp_path / "alone")
    assert code == 0, err
    assert (done.returncode, done.stdout) == (0, "[0, 0]\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")
    assert [json.loads((tmp_path / name).read_text()) for name in "01"] == [json.loads(out)] * 2


def test_whoever_comes_second_waits_says_so_and_measures_nothing(tmp_path: Path) -> None:
    first_is_in, done = threading.Event(), threading.Event()
    steps: list[str] = []
    results: list[Any] = []

    def slowly(what: str, n: int, total: int) -> None:
        first_is_in.set()
        if what == "evaluation":
            done.wait(0.2)

    first = threading.Thread(target=lambda: results.append(evaluate(coder(), progress=slowly, **settings(tmp_path))))
    first.start()
    assert first_is_in.wait(60)
    with pytest.warns(UserWarning, match=rf"in progress \(process {os.getpid()} on .*; this one waits"):
        again = evaluate(coder(), progress=lambda what, *_: steps.append(what), **settings(tmp_path))
    first.join()
    assert results == [again]
    assert not steps
    assert not (tmp_path / ".partial").exists()


def test_whoever_waited_for_a_run_that_died_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    evaluate(coder(), **settings(tmp_path / "whole"))
    interrupted(tmp_path / "killed")
    steps: list[int] = []

    def note(what: str, done: int, total: int) -> None:
        if what == "evaluation":
            steps.append(done)

    evaluate(coder(), progress=note, **settings(tmp_path / "killed"))
    assert steps[0] > 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_unequal_runs_that_write_one_result_leave_a_pair(tmp_path: Path) -> None:
    """Other controls and batches, the same protocol: the last one wins, with its own units."""
    runs = [settings(tmp_path, controls=names, batch_tokens=LENGTH * n) for names, n in (("mean", 2), ("identity", 5))]
    threads = [threading.Thread(target=lambda run=run: evaluate(coder(), **run)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list(store.find(tmp_path))
    assert len(files) == 2
    for file in files:
        result = store.read(file)
        store.check_whole(file, result)
        assert set(store.read_units(file)) >= {f"control/{name}/document" for name in result.provenance.controls}


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(kills: int) -> None:
    """Alone and two at a time; `python scripts/kills.py --kills 200` does more."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(ROOT / "scripts" / "kills.py"), "--kills", str(kills), "--seed", str(kills)]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith(f"{kills} kills in ")


# --- a result that is there, but not whole ---------------------------------------------------------------------------


def no_units(file: Path) -> None:
    store.units_of(file).unlink()


def cut_units(file: Path) -> None:
    store.units_of(file).write_bytes(store.units_of(file).read_bytes()[:-1])


def units_of_another(file: Path) -> None:
    other = next(path for path in file.parent.glob("*.units.safetensors") if path != store.units_of(file))
    store.units_of(file).write_bytes(other.read_bytes())


def cut_result(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty_result(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", slow_but_each(2, [no_units, cut_units, units_of_another, cut_result, empty_result]))
def test_a_result_that_is_not_whole_is_measured_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    first = evaluate(coder(), **settings(tmp_path))
    before = contents(tmp_path)
    (file,) = (file for file in store.find(tmp_path) if "sparsity" in file.name)
    damage(file)
    with pytest.warns(UserWarning, match=rf"{re.escape(file.name[:20])}.*it is measured again"):
        again = evaluate(coder(), **settings(tmp_path))
    assert [(one.metrics, one.controls, one.units_sha256) for one in again] == [
        (one.metrics, one.controls, one.units_sha256) for one in first
    ]
    assert contents(tmp_path).keys() == before.keys()
    for found in store.find(tmp_path):
        store.check_whole(found, store.read(found))


@pytest.mark.parametrize("damage", [no_units, cut_units, units_of_another])
def test_a_result_that_is_shown_says_that_its_units_are_not_its_own(
    cli: Run, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    evaluate(coder(), **settings(tmp_path))
    (file,) = (file for file in store.find(tmp_path) if "sparsity" in file.name)
    damage(file)
    code, out, err = cli("show", file)
    assert code == 0
    assert "l0" in out
    assert err.count("its figures cannot be checked") == 1


def test_what_is_to_be_kept_is_not_measured_again_but_refused(tmp_path: Path) -> None:
    evaluate(coder(), **settings(tmp_path))
    for file in store.find(tmp_path):
        no_units(file)
    with pytest.raises(ResultError, match="cannot be read"):
        evaluate(coder(), **settings(tmp_path, overwrite="never"))


# --- a run in progress that was damaged ------------------------------------------------------------------------------


def rows_of(folder: Path) -> Path:
    return sorted(folder.glob("rows-*"))[0]


def layout_of(folder: Path) -> Path:
    return sorted(folder.glob("layout-*"))[0]


def replaced_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def swapped(one: Path, other: Path) -> None:
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module", name="whole")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    evaluate(coder(), **settings(out))
    return contents(out)


@pytest.fixture(scope="module", name="killed")
def _killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that ends in the middle; to be copied."""
    out = tmp_path_factory.mktemp("killed")
    interrupted(out)
    return out


def copied(killed: Path, to: Path) -> Path:
    """The folder of the run in progress in a copy of what one left."""
    shutil.copytree(killed, to)
    (folder,) = (to / ".partial").iterdir()
    return folder


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no JSON": lambda folder: (folder / PLAN).write_text("{"),
    "not UTF-8": lambda folder: (folder / PLAN).write_bytes(b"\xff\xfe"),
    "no names": lambda folder: (folder / PLAN).write_text('{"saes": 3, "tasks": null}'),
    "an empty plan": lambda folder: (folder / PLAN).write_text(""),
    "a deep plan": lambda folder: (folder / PLAN).write_text("[" * 100_000),
    "an empty state": lambda folder: (folder / STATE).write_bytes(b""),
    "a flipped bit of the state": lambda folder: flipped(folder / STATE),
    "a cut state": lambda folder: (folder / STATE).write_bytes((folder / STATE).read_bytes()[:-1]),
    "rows that are gone": lambda folder: rows_of(folder).unlink(),
    "a flipped bit of rows": lambda folder: flipped(rows_of(folder)),
    "cut rows": lambda folder: rows_of(folder).write_bytes(rows_of(folder).read_bytes()[:-1]),
    "rows that stand for others": lambda folder: swapped(*sorted(folder.glob("rows-*"))[:2]),
    "a layout that is gone": lambda folder: layout_of(folder).unlink(),
    "an empty layout": lambda folder: layout_of(folder).write_bytes(b""),
    "a flipped bit of a layout": lambda folder: flipped(layout_of(folder)),
    "a cut layout": lambda folder: layout_of(folder).write_bytes(layout_of(folder).read_bytes()[:-1]),
    "a layout of other rows": lambda folder: layout_of(folder).write_text('[["", "", "unit", "<i8", []]]'),
    "a folder for rows": lambda folder: replaced_by_a_folder(rows_of(folder)),
    "a folder for a layout": lambda folder: replaced_by_a_folder(layout_of(folder)),
    "a flipped bit of moments": lambda folder: flipped(folder / MOMENTS),
}


@pytest.mark.parametrize("damage", slow_but_each(2, DAMAGE))
def test_a_run_in_progress_that_is_damaged_begins_anew(
    tmp_path: Path, killed: Path, whole: dict[str, bytes], damage: str
) -> None:
    """With a warning that names the file, and to the same bits."""
    folder = copied(killed, tmp_path / "killed")
    DAMAGE[damage](folder)
    with pytest.warns(UserWarning, match=r"of a run in progress is damaged: .*; the run begins anew"):
        evaluate(coder(), **settings(tmp_path / "killed"))
    assert contents(tmp_path / "killed") == whole


@pytest.mark.parametrize(
    "plan",
    slow_but(
        2,
        [
            {"saes": [], "tasks": []},
            {"saes": ["tiny"], "tasks": ["sparsity"]},
            {"saes": ["tiny"], "tasks": ["reconstruction", "sparsity", "nothing"]},
            {"saes": ["tiny", "another"], "tasks": ["reconstruction", "sparsity"]},
        ],
    ),
)
def test_a_plan_of_something_else_is_no_plan(
    tmp_path: Path, killed: Path, whole: dict[str, bytes], plan: dict[str, list[str]]
) -> None:
    (copied(killed, tmp_path / "killed") / PLAN).write_text(json.dumps(plan))
    with pytest.warns(UserWarning, match=r"is not the plan of what is missing now; the run begins anew"):
        evaluate(coder(), **settings(tmp_path / "killed"))
    assert contents(tmp_path / "killed") == whole


def test_a_result_that_is_removed_while_the_run_is_interrupted_is_measured_too(tmp_path: Path) -> None:
    """The plan of the run was made while that result was there."""
    evaluate(coder(), **settings(tmp_path, tasks="sparsity"))
    evaluate(coder(), **settings(tmp_path / "whole"))
    interrupted(tmp_path)
    for file in tmp_path.glob("*/*/sparsity*"):
        file.unlink()
    with pytest.warns(UserWarning, match="the run begins anew"):
        evaluate(coder(), **settings(tmp_path))
    assert {file.name for file in store.find(tmp_path / "tiny")} == {
        file.name for file in store.find(tmp_path / "whole")
    }


def test_rows_of_another_run_in_the_folder_are_no_rows(tmp_path: Path) -> None:
    """As a run without a lock would have left them."""
    evaluate(coder(), **settings(tmp_path / "whole"))
    folder = interrupted(tmp_path / "killed")
    for i, file in enumerate(sorted(folder.glob("rows-*"))):
        (folder / f"rows-0badc0de-{i:06d}.safetensors").write_bytes(file.read_bytes())
    evaluate(coder(), **settings(tmp_path / "killed"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_a_finished_run_could_not_remove_goes_with_the_next(tmp_path: Path) -> None:
    """A kill while the folder is removed: all results are there, and a part of the folder."""
    evaluate(coder(), **settings(tmp_path))
    before = contents(tmp_path)
    folder = interrupted(tmp_path, overwrite="always")
    (folder / STATE).unlink()
    evaluate(coder(), **settings(tmp_path))
    assert contents(tmp_path) == before
    assert not folder.exists()


def test_files_that_vanish_while_a_run_goes_on_are_one_sentence(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run")
    state = checkpoint.load()
    checkpoint.save(state, {UNIT: np.zeros(2)})
    rows_of(tmp_path / "run").unlink()
    with pytest.raises(Damaged, match="of a run in progress is damaged"):
        checkpoint.rows(state, {UNIT[:2]})


# --- units and tokens are those of the text --------------------------------------------------------------------------


@pytest.fixture(name="task")
def _task() -> Task:
    return task_of("sparsity")


@pytest.mark.parametrize("units", [[0, 1], [0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 5], []])
def test_other_rows_than_sequences_are_an_error(task: Task, units: list[int]) -> None:
    tokens = two_documents()
    check_sequences(task, np.array([0, 1, 1]), tokens)
    with pytest.raises(TaskFailure, match=r"of \d documents have other rows than sequences"):
        check_sequences(task, np.array(units, dtype=np.int64), tokens)


def two_documents() -> TokenSet:
    offsets, units = np.array([0, 3, 5, 7]), np.array([0, 1, 1], dtype=np.int32)
    return TokenSet(np.arange(7, dtype=np.int32), offsets, units, ("a", "b"))


def test_other_tokens_than_those_of_the_text_are_an_error(task: Task) -> None:
    kept = kept_tokens(two_documents(), Options(special_ids=frozenset({4})))
    assert kept == {"a": 2, "b": 1}
    right = Units(("a", "b"), {"tokens": np.array([2.0, 1.0])})
    check_tokens(task, right, kept)
    with pytest.raises(TaskFailure, match="tokens of document b are 2, but the text has 1 inside the mask"):
        check_tokens(task, Units(("a", "b"), {"tokens": np.array([2.0, 2.0])}), kept)


def test_rows_that_are_there_twice_or_not_at_all_are_an_error(task: Task) -> None:
    sets, texts = np.array([0, 0, 1]), np.array([1, 2, 1])
    check_rows(task, "texts", [(sets, 2), (texts, 3)], (sets[::-1], texts[::-1]))
    with pytest.raises(TaskFailure, match="1 texts are there twice"):
        check_rows(task, "texts", [(np.append(sets, 1), 2), (np.append(texts, 1), 3)])
    with pytest.raises(TaskFailure, match="there are 2 texts for 3, or others"):
        check_rows(task, "texts", [(sets[1:], 2), (texts[1:], 3)], (sets, texts))
    with pytest.raises(TaskFailure, match="there are 3 texts for 3, or others"):
        check_rows(task, "texts", [(sets, 2), (np.array([0, 2, 1]), 3)], (sets, texts))


@pytest.mark.parametrize("twice", [True, False])
def test_a_run_that_lost_or_doubled_rows_is_an_error_and_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: bool
) -> None:
    """Whatever did it: here the list of row files says one too often, or lacks one."""
    load = Checkpoint.load

    def other(self: Checkpoint) -> Any:
        state = load(self)
        state.row_files = [*state.row_files, *state.row_files[:1]] if twice else state.row_files[1:]
        return state

    interrupted(tmp_path)
    monkeypatch.setattr(Checkpoint, "load", other)
    results = evaluate(coder(), **settings(tmp_path))
    assert {result.status for result in results} == {"error"}
    assert all("other rows than sequences" in str(result.reason) for result in results)
