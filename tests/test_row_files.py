"""Row files of a run in progress: the same bits however they are kept, each opened once, and nothing of them left."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sae_bench.api import evaluate
from sae_bench.engine import checkpoint as checkpoints
from sae_bench.engine import rows as row_files
from sae_bench.engine.checkpoint import STATE, Arrays, Checkpoint, Damaged, State
from sae_bench.streams import loop
from tests.builders.interrupted import contents, interrupted, settings
from tests.builders.marks import slow_but
from tests.builders.token_rows import coder

TYPES = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
A, B = ("task", "a"), ("task", "b")


def column(*shape: int, dtype: str = "f8", seed: int = 0) -> NDArray[Any]:
    return (np.random.default_rng(seed).normal(size=shape) * 50).astype(dtype)


KINDS: dict[str, list[Arrays]] = {
    "one file": [{(*A, "x"): column(3)}],
    "types": [{(*A, dtype): column(n, dtype=dtype) for dtype in TYPES} for n in (3, 5)],
    "big-endian": [{(*A, dtype): column(4, dtype=dtype) for dtype in (">f8", ">i4", ">u2")} for _ in range(2)],
    "more than one entry a row": [{(*A, "x"): column(n, 3), (*A, "y"): column(n, 2, 2, dtype="f4")} for n in (2, 4)],
    "rows of nothing": [{(*A, "x"): column(n, 0), (*A, "y"): column(n, dtype="?")} for n in (2, 0, 4)],
    "no rows at all": [{(*A, "x"): column(0), (*A, "y"): column(0, 3)} for _ in range(2)],
    "no rows in a file": [{(*A, "x"): column(n, seed=n), (*B, "x"): column(3 - n)} for n in (2, 0, 3)],
    "other lengths in one file": [{(*A, "x"): column(n), (*A, "y"): column(2 * n, 3, dtype="i4")} for n in (1, 6)],
    "parts of arrays": [{(*A, "x"): column(6, 4)[::2, ::-1], (*A, "y"): np.asfortranarray(column(5, 3))}],
    "a coder that comes and goes": [
        {(*A, "x"): column(2), (*B, "x"): column(2, seed=1)},
        {(*B, "x"): column(3, seed=2)},
        {(*B, "x"): column(1, seed=3), (*A, "x"): column(1)},
        {(*A, "x"): column(2), (*B, "x"): column(2, seed=4)},
    ],
    "another type later": [{(*A, "x"): column(2, dtype="i4")}, {(*A, "x"): column(3)}, {(*A, "x"): column(1, 1)[:, 0]}],
    "owners between each other": [
        {("t", "a", "1"): column(2), ("t", "b", "1"): column(2), ("t", "a", "2"): column(2), ("s", "a", "0"): column(2)}
    ],
}


def plain(files: list[Arrays], wanted: set[tuple[str, str]]) -> Arrays:
    """All rows, the simple way."""
    found: dict[Any, list[Any]] = {}
    for rows in files:
        for key, array in rows.items():
            if key[:2] in wanted:
                found.setdefault(key, []).append(array.astype(array.dtype.newbyteorder("=")))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def same(one: Arrays, other: Arrays) -> None:
    """In the same order, to the bit."""
    assert list(one) == list(other)
    for key, array in one.items():
        assert (array.dtype, array.shape) == (other[key].dtype, other[key].shape), key
        assert array.tobytes() == other[key].tobytes(), key
        assert array.flags.owndata or array.base is not None


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_was_appended(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory, in a folder, in the next process, and beyond the number of files that are mapped."""
    files, state = KINDS[kind], State()
    memory, folder = Checkpoint(), Checkpoint(tmp_path / "run")
    other = State()
    for rows in files:
        memory.save(state, rows)
        folder.save(other, rows)
    owners = {key[:2] for rows in files for key in rows}
    for wanted in [owners, *({owner} for owner in sorted(owners)), {("none", "none")}, set()]:
        expected = plain(files, wanted)
        same(memory.rows(state, wanted), expected)
        same(folder.rows(other, wanted), expected)
        again = Checkpoint(tmp_path / "run")
        same(again.rows(again.load(), wanted), expected)
        monkeypatch.setattr(row_files, "MOST_MAPPED", 1)
        again = Checkpoint(tmp_path / "run")
        same(again.rows(again.load(), wanted), expected)


def test_rows_that_come_after_a_reader_asked_are_seen(tmp_path: Path) -> None:
    for checkpoint in (Checkpoint(), Checkpoint(tmp_path / "run")):
        state = State()
        for n in range(1, 4):
            checkpoint.save(state, {(*A, "x"): np.full(2, float(n))})
            assert checkpoint.rows(state, {A})[*A, "x"].tolist() == [float(i) for i in range(1, n + 1) for _ in "ab"]


def test_what_a_reader_got_is_its_own(tmp_path: Path) -> None:
    """A task may change its columns in place: the next one must not see it."""
    for checkpoint in (Checkpoint(), Checkpoint(tmp_path / "run")):
        state = State()
        checkpoint.save(state, {(*A, "x"): np.arange(3)})
        checkpoint.rows(state, {A})[*A, "x"][:] = 7
        assert checkpoint.rows(state, {A})[*A, "x"].tolist() == [0, 1, 2]


def test_a_row_file_does_not_grow_with_names(tmp_path: Path) -> None:
    """They stand in the layout, of which there is one, written before the rows that need it."""
    sizes = []
    for length in (1, 300):
        folder = tmp_path / str(length)
        checkpoint, state = Checkpoint(folder), State()
        rows = {("t" * length, f"{i:03d}" + "o" * length, "c"): np.arange(4.0) for i in range(100)}
        for _ in range(5):
            checkpoint.save(state, rows)
        (layout,) = folder.glob("layout-*")
        sizes.append([(folder / name).stat().st_size for name in state.row_files])
        assert all(layout.stat().st_mtime_ns <= (folder / name).stat().st_mtime_ns for name in state.row_files)
    assert sizes[0] == sizes[1]
    assert max(sizes[0]) < 100 * (4 * 8 + 8) + 500, "the rows, an end a column, and a header"


def test_a_run_opens_every_row_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many coders and tasks ask; also a run that goes on, which has compared them with their digests first."""
    opened: Counter[str] = Counter()
    mapped, os_open = row_files.safe_open, os.open

    def map_counted(file: Path, **options: Any) -> Any:
        opened[file.name] += 1
        return mapped(file, **options)

    def open_counted(file: Any, flags: int, *more: Any, **options: Any) -> int:
        if not flags & (os.O_WRONLY | os.O_RDWR):
            opened[f"regular {Path(os.fspath(file)).name}"] += 1
        return os_open(file, flags, *more, **options)

    monkeypatch.setattr(row_files, "safe_open", map_counted)
    monkeypatch.setattr(os, "open", open_counted)
    evaluate([coder("a"), coder("b")], **settings(tmp_path / "whole", controls="mean,permuted"))
    of_rows = {name: n for name, n in opened.items() if "rows-" in name or "layout-" in name}
    assert len(of_rows) > 2 * 3
    assert set(of_rows.values()) == {1}
    folder = interrupted(tmp_path / "killed")
    begun = {file.name for file in folder.glob("rows-*")}
    opened.clear()
    evaluate(coder(), **settings(tmp_path / "killed"))
    of_rows = {name: n for name, n in opened.items() if "rows-" in name or "layout-" in name}
    assert begun < set(of_rows)
    assert set(of_rows.values()) == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="reads what is mapped from /proc")
def test_row_files_are_mapped_and_let_go(tmp_path: Path) -> None:
    """They are not read into memory, take no open file each, and can be removed on any system."""

    def held(what: str) -> list[str]:
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
        links = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.exists()]
        return lines if what == "maps" else [link for link in links if str(tmp_path) in link]

    checkpoint, state = Checkpoint(tmp_path / "run"), State()
    for _ in range(4):
        checkpoint.save(state, {(*A, "x"): np.zeros(1 << 16), (*B, "x"): np.zeros(3)})
    checkpoint.rows(state, {B})
    assert len(held("maps")) == 4
    assert held("files") == []
    checkpoint.remove()
    assert held("maps") == []
    assert not (tmp_path / "run").exists()


DAMAGE: dict[str, Callable[[Path, Path], Any]] = {
    "layout gone": lambda rows, layout: layout.unlink(),
    "rows gone": lambda rows, layout: rows.unlink(),
    "rows are a folder": lambda rows, layout: (rows.unlink(), rows.mkdir()),
    "rows are a pipe": lambda rows, layout: (rows.unlink(), os.mkfifo(rows)),
    "rows of another format": lambda rows, layout: shutil.copy(rows.parent / STATE, rows),
    "rows with too few ends": lambda rows, layout: rows.write_bytes(
        row_files.save({"ends": np.arange(1), "content": np.zeros(0, np.uint8)}, named(layout))
    ),
    "rows that end elsewhere": lambda rows, layout: rows.write_bytes(
        row_files.save({"ends": np.array([0, 8, 32]), "content": np.zeros(16, np.uint8)}, named(layout))
    ),
    "rows that end before they begin": lambda rows, layout: rows.write_bytes(
        row_files.save({"ends": np.array([0, 24, 16]), "content": np.zeros(16, np.uint8)}, named(layout))
    ),
    "half a row": lambda rows, layout: rows.write_bytes(
        row_files.save({"ends": np.array([0, 4, 12]), "content": np.zeros(12, np.uint8)}, named(layout))
    ),
}


def named(layout: Path) -> dict[str, str]:
    return {"layout": layout.stem.removeprefix("layout-"), "digest": "0"}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_while_a_run_goes_on_is_one_sentence(tmp_path: Path, damage: str) -> None:
    """Found without comparing digests, by whoever opens the file first; the next process begins anew."""
    checkpoint, state = Checkpoint(tmp_path / "run"), State()
    checkpoint.save(state, {(*A, "x"): np.zeros(2), (*B, "x"): np.zeros(1)})
    checkpoint._rows.close()
    (layout,) = (tmp_path / "run").glob("layout-*")
    DAMAGE[damage](tmp_path / "run" / state.row_files[0], layout)
    with pytest.raises(Damaged, match="of a run in progress is damaged: "):
        checkpoint.rows(state, {A})


class Interrupted(BaseException):
    """As a user's Ctrl-C."""


@pytest.mark.parametrize("which", ["rows-", "layout-", STATE])
@pytest.mark.parametrize("after", slow_but(1, [True, False]))
def test_an_interrupt_while_a_save_is_written_neither_loses_nor_doubles_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, after: bool
) -> None:
    """What was measured is saved once more on the way out."""
    evaluate(coder(), **settings(tmp_path / "whole"))
    write, calls = row_files.write_atomically, 0

    def interrupt(file: Path, content: bytes) -> None:
        nonlocal calls
        calls += file.name.startswith(which)
        stop = file.name.startswith(which) and calls == (1 if which == "layout-" else 2)
        if stop and not after:
            raise Interrupted
        write(file, content)
        if stop:
            raise Interrupted

    with monkeypatch.context() as patch:
        for module in (row_files, checkpoints):
            patch.setattr(module, "write_atomically", interrupt)
        with pytest.raises(Interrupted):
            evaluate(coder(), **settings(tmp_path / "killed"))
    (folder,) = (tmp_path / "killed" / ".partial").iterdir()
    assert Checkpoint(folder).load().done == {"documents": 1 if which == "layout-" else 2}
    evaluate(coder(), **settings(tmp_path / "killed"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("seconds", "cost", "saves"),
    [(0.0, 0.0, 600), (0.0, 9.0, 600), (5.0, 0.01, 120), (5.0, 0.04, 120), (5.0, 0.5, 12), (5.0, 2.0, 3)],
)
def test_saves_that_take_long_come_seldom(
    monkeypatch: pytest.MonkeyPatch, seconds: float, cost: float, saves: int
) -> None:
    """Six hundred steps of a second; a save takes at most a hundredth of a run, after the first, or is after a step."""
    now, done = 0.0, 0
    clock = SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now)
    monkeypatch.setattr(loop, "time", clock)

    def save(state: State, rows: Any = None) -> None:
        nonlocal now, done
        now, done = now + cost, done + 1

    run = SimpleNamespace(
        checkpoint=SimpleNamespace(append=lambda state, rows: None, save=save),
        inputs=SimpleNamespace(options=SimpleNamespace(checkpoint_seconds=seconds)),
        state=State(),
    )
    own = loop._Loop(SimpleNamespace(run=run, sums=dict), saved=0.0)  # type: ignore[arg-type]
    for _ in range(600):
        now += 1
        own.save_if_long()
    assert abs(done - saves) <= (0 if seconds == 0 else 1)
