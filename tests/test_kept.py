"""What runs keep for later ones: equal to the bit to what would be measured, or not taken; and never in the way."""

from __future__ import annotations

import os
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
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

from sae_bench import registry
from sae_bench import verify as verifying
from sae_bench.engine.kept import Kept
from sae_bench.engine.moments import packed, unpacked
from sae_bench.files import cache_folder
from sae_bench.judge.options import default_cache
from sae_bench.models.huggingface import HuggingFaceSubject
from sae_bench.results import store
from sae_bench.saes.calibration import Moments
from sae_bench.schema import Result
from sae_bench.session import keeping
from tests.builders.interrupted import Stopped
from tests.builders.kept_runs import GIVEN, HOOK, PASSES, figures, files, ran, took
from tests.builders.marks import slow_but, slow_but_each
from tests.builders.tiny_models import TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.conftest import Run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    """What one run has kept, and its results."""
    folder = tmp_path_factory.mktemp("base") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(keeping.VARIABLE, str(folder))
        return folder, ran()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which this test's runs keep things."""
    monkeypatch.setenv(keeping.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def kept(empty: Path, base: tuple[Path, list[Result]]) -> Path:
    """The same, with what the run of ``base`` has kept."""
    return Path(shutil.copytree(base[0], empty))


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_a_second_run_takes_what_the_first_one_measured_to_the_same_bits(
    kept: Path, base: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    fresh, second = ran(calibration_cache=False, out=tmp_path / "a"), ran(out=tmp_path / "b")
    assert took(base[1]).keys() == took(fresh).keys() == set(PASSES)
    assert took(second) == {}
    assert figures(fresh) == figures(base[1]) == figures(second)
    assert len(files(kept)) == 2
    assert second[1].provenance.counters["suffix_clean"] > 0, "the SAE is held against the clean model"
    units = [sorted((tmp_path / name).rglob("*.units.safetensors")) for name in ("a", "b")]
    assert [file.read_bytes() for file in units[0]] == [file.read_bytes() for file in units[1]] != []


def test_another_sae_at_the_same_hook_point_takes_it_too(kept: Path) -> None:
    """But for its active latents, which have to be counted for controls: of TopK that is k."""
    other = ran(tiny_coder("relu", hook=HOOK), controls="none")
    assert took(other) == {}
    assert figures(other) == figures(ran(tiny_coder("relu", hook=HOOK), controls="none", calibration_cache=False))
    assert took(ran(tiny_coder("relu", hook=HOOK))).keys() == {"calibration_prefix"}


@pytest.mark.slow
def test_a_further_hook_point_is_measured_and_the_known_one_taken(kept: Path) -> None:
    """The clean pass goes on from the deepest hook point, so what hangs on it is measured again."""
    before = files(kept)
    both = {"a": tiny_coder("topk", hook=HOOK), "b": tiny_coder("topk", hook="blocks.2.hook_resid_post")}
    second = ran(both)
    assert took(second).keys() == set(PASSES)
    assert len(files(kept)) == len(before) + 1 + 2
    assert figures(second) == figures(ran(both, calibration_cache=False))
    assert took(ran(both)) == {}


@pytest.mark.slow
def test_more_documents_take_the_calibration_alone(empty: Path) -> None:
    ran(limit=20)
    second = ran(limit=30)
    assert "calibration_prefix" not in took(second)
    assert took(second).keys() == {"suffix_zero", "suffix_mean"}
    assert figures(second) == figures(ran(limit=30, calibration_cache=False))


def test_half_precision_comes_back_as_it_was(empty: Path) -> None:
    given = {"model": tiny_gpt2().to(torch.bfloat16)}
    first, second = ran(**given), ran(**given)
    assert took(second) == {}
    assert figures(first) == figures(second) == figures(ran(calibration_cache=False, **given))


# --- what is not: each differs in one thing that decides the bits ----------------------------------------------------


def _other_tokenizer() -> TinyTokenizer:
    tokenizer = TinyTokenizer()
    tokenizer.eos_token_id = 7
    return tokenizer


DIFFERENT: dict[str, Callable[[], dict[str, Any]]] = {
    "weights": lambda: {"model": tiny_gpt2(seed=1)},
    "configuration": lambda: {"model": tiny_gpt2(layer_norm_epsilon=0.1)},
    "dtype": lambda: {"model": tiny_gpt2().double()},
    "text": lambda: {"data": number_texts(60, seed=6)},
    "mask": lambda: {"mask": "none"},
    "special ids": lambda: {"tokenizer": _other_tokenizer()},
    "split of the text": lambda: {"seed": 1},
    "where the mean comes from": lambda: {"mean_from": "evaluation"},
    "batches": lambda: {"batch_tokens": 48},
    "sequences": lambda: {"context": 12},
}


@pytest.mark.parametrize("what", slow_but_each(2, DIFFERENT))
def test_nothing_is_taken_for_another(kept: Path, what: str) -> None:
    assert took(ran(**DIFFERENT[what]())).keys() == set(PASSES)


@pytest.mark.parametrize("what", slow_but(3, ["threads", "variable", "processor", "code", "version", "attention"]))
def test_nothing_is_taken_from_another_machine(kept: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    changes: dict[str, Callable[[], object]] = {
        "threads": lambda: monkeypatch.setattr(torch, "get_num_threads", lambda: 7),
        "variable": lambda: monkeypatch.setenv("MKL_CBWR", "COMPATIBLE"),
        "processor": lambda: monkeypatch.setattr(keeping, "_processor", lambda: "another"),
        "code": lambda: monkeypatch.setattr(keeping, "_code_sha256", lambda: "another"),
        "version": lambda: monkeypatch.setattr(torch, "__version__", "1.0"),
        "attention": lambda: monkeypatch.setattr(keeping, "_ATTENTION", ("none of these",)),
    }
    changes[what]()
    assert took(ran()).keys() == set(PASSES)


def test_the_parameters_of_a_task_and_its_code_are_part_of_what_is_kept(kept: Path) -> None:
    second = ran(parameters={"loss_recovered.smallest_denominator_nats": 9.0})
    assert took(second).keys() == {"suffix_zero", "suffix_mean"}


def test_of_a_task_whose_code_is_not_known_nothing_is_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in's modules are named by two digests, but not what they import."""
    monkeypatch.setattr(registry, "code_sha256", lambda spec: "0" * 64)
    before = files(kept)
    assert took(ran()).keys() == {"suffix_zero", "suffix_mean"}
    assert files(kept) == before


def _hooked() -> Any:
    model = tiny_gpt2()
    model.transformer.h[0].register_forward_hook(lambda module, given, output: output)
    return model


def _rewired() -> Any:
    model = tiny_gpt2()
    model.transformer.h[0].mlp.act = nn.ReLU()
    return model


@pytest.mark.parametrize("changed", [_hooked, _rewired])
def test_a_module_that_its_configuration_does_not_build_keeps_and_takes_nothing(
    kept: Path, changed: Callable[[], Any]
) -> None:
    before = files(kept)
    assert took(ran(model=changed())).keys() == set(PASSES)
    assert files(kept) == before


def test_a_back_end_of_another_package_takes_and_keeps_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HuggingFaceSubject, "__module__", "another.package")
    before = files(kept)
    assert took(ran()).keys() == set(PASSES)
    assert files(kept) == before


def test_verify_measures_everything_itself(empty: Path, tmp_path: Path) -> None:
    """What it checks may have come out of these files."""
    sae = tiny_coder("topk", hook=HOOK)
    ran(sae, out=tmp_path / "runs", calibration_cache=False)
    given = {name: GIVEN[name] for name in ("data", "device")}
    file = next(store.find(tmp_path / "runs"))
    report = verifying.verify(file, sae, share=1, model=tiny_gpt2(), tokenizer=TinyTokenizer(), **given)
    assert not report.wrong
    assert not empty.exists()


def test_overwrite_always_measures_anew_and_keeps_that(kept: Path, tmp_path: Path) -> None:
    age(kept)
    assert took(ran(out=tmp_path / "runs", overwrite="always")).keys() == set(PASSES)
    assert all(time.time() - file.stat().st_mtime < 1000 for file in files(kept))


def test_a_run_that_another_process_began_keeps_nothing_of_it(empty: Path, tmp_path: Path) -> None:
    """That may have been on another machine, whose rounding the checkpoint holds."""

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("evaluation", 2):
            raise Stopped

    given = {"out": tmp_path / "runs", "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        ran(progress=stop, **given)
    assert len(files(empty)) == 1, "the moments, which this process has measured"
    ran(**given)
    assert len(files(empty)) == 1


# --- damage and other people's files ---------------------------------------------------------------------------------


def age(folder: Path, seconds: float = 5000) -> None:
    for file in files(folder):
        os.utime(file, (time.time() - seconds,) * 2)


def _flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def _swap(file: Path) -> None:
    one, other = files(file.parent)
    middle = one.with_name("x")
    one.rename(middle)
    other.rename(one)
    middle.rename(other)


def _edit(file: Path) -> None:
    """Other numbers, with the metadata as it was."""
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    save_file({name: array + 1 for name, array in load_file(file).items()}, file, metadata)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit of the numbers": lambda file: _flip(file, -3),
    "a flipped bit of the header": lambda file: _flip(file, 20),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "empty": lambda file: file.write_bytes(b""),
    "no safetensors": lambda file: file.write_bytes(b"\x80\x04cos\nsystem\n"),
    "other numbers": _edit,
    "under another's name": _swap,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a link to nothing": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("how", slow_but_each(2, DAMAGE))
def test_what_is_damaged_is_measured_again(kept: Path, base: tuple[Path, list[Result]], how: str) -> None:
    for file in files(kept):
        if how != "under another's name" or file == files(kept)[0]:
            DAMAGE[how](file)
    second = ran()
    assert took(second).keys() == set(PASSES)
    assert figures(second) == figures(base[1])


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_is_not_trusted(kept: Path, mode: int) -> None:
    kept.chmod(mode)
    assert took(ran()).keys() == set(PASSES)


def test_what_is_kept_is_for_its_user_alone(base: tuple[Path, list[Result]]) -> None:
    """It holds activations of the text."""
    assert base[0].stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", tmp_path / "file", Path("/proc/nothing/here"), Path("x" * 300)):
        monkeypatch.setenv(keeping.VARIABLE, str(place))
        assert took(ran()).keys() == set(PASSES)


def test_what_lies_where_nothing_can_be_written_is_taken(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    assert took(ran()) == {}


def test_a_full_disk_stops_no_run(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert took(ran()).keys() == set(PASSES)
    assert not [*empty.iterdir()]


# --- the bound on disk -----------------------------------------------------------------------------------------------


def one(n: int = 100) -> dict[tuple[str, str, str], Any]:
    return {("", "", "x"): np.arange(n, dtype=np.float64)}


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    def opened() -> Kept:  # each a run of its own
        return Kept(tmp_path, {}, most=5000)

    for i in range(3):
        opened().save({"i": i}, one(), {})
        age(tmp_path, 100)
    used = opened().load({"i": 0})
    assert used is not None
    assert np.array_equal(used[0]["", "", "x"], np.arange(100.0))
    for i in (3, 4):
        opened().save({"i": i}, one(), {})
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5000
    there = [i for i in range(5) if opened().load({"i": i}) is not None]
    assert 0 in there
    assert {1, 2} - set(there)
    assert {3, 4} <= set(there)


def test_what_alone_is_larger_than_the_bound_drives_nothing_out(tmp_path: Path) -> None:
    Kept(tmp_path, {}, most=5000).save({"i": 0}, one(), {})
    kept = Kept(tmp_path, {}, most=5000)
    kept.save({"i": 1}, one(1000), {})
    assert kept.load({"i": 0}) is not None
    assert kept.load({"i": 1}) is None


def test_many_that_write_and_read_at_once_see_whole_files_or_none(tmp_path: Path) -> None:
    """There is room for four of their six files, so that they also remove one another's."""
    wrong: list[object] = []

    def work(first: int) -> None:
        for i in range(first, first + 30):
            kept = Kept(tmp_path, {}, most=4000)
            kept.save({"i": i % 6}, {("", "", "x"): np.full(100, float(i % 6))}, {})
            found = kept.load({"i": (i + 1) % 6})
            if found is not None and not np.array_equal(found[0]["", "", "x"], np.full(100, float((i + 1) % 6))):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [file for file in tmp_path.iterdir() if file.suffix != ".safetensors"] == []


def test_what_a_killed_process_left_behind_goes(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.tmp", tmp_path / ".b.tmp"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    Kept(tmp_path, {}).save({"i": 0}, one(), {})
    assert not old.exists()
    assert new.exists(), "somebody may be writing it"


@pytest.mark.slow
def test_two_processes_at_once_agree_and_leave_whole_files(empty: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.builders.kept_runs import figures, ran\n"
        "import hashlib; print(hashlib.sha256(repr(figures(ran())).encode()).hexdigest())"
    )
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    begun = [
        subprocess.Popen([sys.executable, "-c", program, str(root)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = {process.communicate()[0].strip() for process in begun}
    assert len(said) == 1
    assert len(files(empty)) == 2
    assert [file for file in empty.iterdir() if file.suffix != ".safetensors"] == []


# --- where, and how to refuse ----------------------------------------------------------------------------------------


def test_the_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(keeping.VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert keeping.folder() == tmp_path / ".cache" / "sae-bench" / "calibration"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert keeping.folder() == tmp_path / "elsewhere" / "sae-bench" / "calibration"
    assert default_cache() == tmp_path / "elsewhere" / "sae-bench" / "judge.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification tells to ignore
    assert cache_folder() == tmp_path / ".cache" / "sae-bench"
    monkeypatch.setenv(keeping.VARIABLE, "")
    assert keeping.folder() is None


def test_replies_that_were_paid_for_stay_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    before = tmp_path / ".cache" / "sae-bench" / "judge.sqlite"
    before.parent.mkdir(parents=True)
    before.touch()
    assert default_cache() == before


def test_the_flag_refuses(cli: Run, empty: Path) -> None:
    command = ("run", "--sae", "demo", "--tier", "smoke", "--limit", 4, "--tasks", "sparsity", "--controls", "none")
    assert cli(*command, "--quiet", "--no-calibration-cache")[0] == 0
    assert not empty.exists()
    assert cli(*command, "--quiet", "--overwrite", "always")[0] == 0
    assert files(empty)


def test_tests_do_not_touch_the_cache_of_whoever_runs_them() -> None:
    assert keeping.folder() is None


# --- moments as arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_moments_come_back_to_the_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, covariance = torch.randn(4, generator=generator).double(), torch.randn(4, 4, generator=generator).double()
    moments = Moments(mean, covariance, torch.randn(6, 4, generator=generator).to(dtype), 0.1 + 0.2, 6)
    (back,) = unpacked(*packed({"h": moments}), torch.device("cpu")).values()
    for name in ("mean", "covariance", "sample"):
        a, b = getattr(moments, name), getattr(back, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert b.is_contiguous()
    assert (back.rms, back.n_tokens) == (moments.rms, moments.n_tokens)


def test_moments_that_do_not_fit_one_another_are_refused() -> None:
    wrong = Moments(torch.zeros(3).double(), torch.zeros(4, 4).double(), torch.zeros(6, 4), 1.0, 6)
    with pytest.raises(ValueError, match="do not fit"):
        unpacked(*packed({"h": wrong}), torch.device("cpu"))
