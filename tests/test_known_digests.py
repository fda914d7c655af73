"""A file is hashed again unless nothing of it can have changed, and what is in memory always."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae_bench import files, known_digests, verify
from sae_bench.api import evaluate
from sae_bench.errors import CoderError
from sae_bench.models.digests import weights_sha256
from sae_bench.results import submit
from sae_bench.saes.load import load_sae
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import HOOK, tiny_coder, write_native
from tests.builders.token_rows import token_rows


class Clock:
    """The time that the module sees, ahead of that of the files by so many seconds."""

    def __init__(self) -> None:
        self.ahead = 3.0

    def time_ns(self) -> int:
        return time.time_ns() + int(self.ahead * 1e9)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(known_digests, "time", made)
    monkeypatch.setattr(known_digests, "_known", {})
    return made


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, ...]]:
    """What was really read."""
    seen: list[tuple[Path, ...]] = []
    real = files.sha256

    def watched(*paths: Path, raises: type = CoderError) -> str:
        seen.append(paths)
        return real(*paths, raises=raises)

    monkeypatch.setattr(files, "sha256", watched)
    return seen


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "weights"
    made.write_bytes(b"one")
    return made


def test_a_file_that_stays_is_hashed_once(file, hashed):
    first = known_digests.sha256(file)
    assert known_digests.sha256(file) == first == files.sha256(file)
    assert len(hashed) == 2, "the second of them by the last line"


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"two")
    other.replace(file)


def edited(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"two")


def edited_and_set_back(file: Path) -> None:
    before = file.stat()
    edited(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def edited_by_a_hard_link(file: Path) -> None:
    other = file.with_name("linked")
    os.link(file, other)
    edited(other)


def moved_into_a_link(file: Path) -> None:
    other = file.with_name("target")
    other.write_bytes(b"two")
    file.unlink()
    file.symlink_to(other)


def with_times_of_the_old(file: Path) -> None:
    before = file.stat()
    replaced(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: list[Callable[[Path], None]] = [
    replaced,
    edited,
    edited_and_set_back,
    edited_by_a_hard_link,
    moved_into_a_link,
    with_times_of_the_old,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("aged", [True, False])
def test_a_file_that_changed_is_hashed_again(change, aged, file, clock):
    clock.ahead = 3.0 if aged else 0.0
    first = known_digests.sha256(file)
    time.sleep(0.02)  # a step of the clock of files; the two seconds stand for coarser ones
    change(file)
    assert known_digests.sha256(file) == files.sha256(file) != first


@pytest.mark.parametrize("ahead", [-5.0, 0.0, 1.9])
def test_a_file_that_changed_just_now_is_never_known(ahead, file, clock, hashed):
    """Its time may come in steps of two seconds, or lie in the future."""
    clock.ahead = ahead
    known_digests.sha256(file)
    known_digests.sha256(file)
    assert len(hashed) == 2


def test_a_file_that_changes_while_it_is_read_is_not_known(file, monkeypatch):
    real = files.sha256

    def slow(*paths: Path, raises: type = CoderError) -> str:
        found = real(*paths, raises=raises)
        time.sleep(0.02)
        edited(file)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(files, "sha256", slow)
        known_digests.sha256(file)
    assert known_digests.sha256(file) == files.sha256(file)


def test_several_files_are_known_together_and_in_their_order(file, hashed):
    other = file.with_name("b")
    other.write_bytes(b"other")
    assert known_digests.sha256(file, other) != known_digests.sha256(other, file)
    known_digests.sha256(file, other)
    assert len(hashed) == 2


def test_a_missing_file_is_the_sentence_it_was(tmp_path):
    with pytest.raises(CoderError, match=r"there is no file|is missing"):
        known_digests.sha256(tmp_path / "nothing", raises=CoderError)


def test_verify_hashes_whatever_is_known_and_submit_asks_nothing_of_it(tmp_path, hashed, monkeypatch):
    path = write_native(tiny_coder("topk", hook=HOOK), tmp_path / "sae")
    given = {"model": tiny_gpt2(), "data": token_rows()}
    evaluate(path, tasks="sparsity", out=tmp_path / "runs", controls="none", resamples=20, **given)
    hashed.clear()
    load_sae(path)
    assert not hashed, "it is known by now"
    result = next(f for f in (tmp_path / "runs").rglob("*.json") if f.name != "sae.json")
    report = verify.verify(result, path, share=1.0, **given)
    assert any(path in one.parents for paths in hashed for one in paths)
    assert report.rows
    monkeypatch.setattr(known_digests, "sha256", lambda *paths, raises=None: pytest.fail("asked"))
    submit.check(result)


CHANGES_IN_MEMORY: dict[str, Callable[[torch.Tensor], object]] = {
    "by .data": lambda p: p.data.add_(1),
    "by a NumPy view": lambda p: p.detach().numpy().__iadd__(1),
    "in place": lambda p: p.add_(1),
}


@pytest.mark.parametrize("how", CHANGES_IN_MEMORY)
def test_a_model_in_memory_is_hashed_each_time(how):
    """Two of these leave ``_version`` and address as they are: whoever trusted them would name the old weights."""
    model = tiny_gpt2()
    weight = next(model.parameters())
    before = weight._version, weight.data_ptr(), weights_sha256(model)
    with torch.no_grad():
        CHANGES_IN_MEMORY[how](weight)
    assert weights_sha256(model) != before[2]
    assert ((weight._version, weight.data_ptr()) == before[:2]) == (how != "in place")
