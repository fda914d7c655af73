"""What belongs to a hook point: summed once and stored once, to the bits of what each coder would have had alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sae_bench import evaluate
from sae_bench.errors import ResultError
from sae_bench.results import compare, recompute, store, submit, unit_files, verified
from sae_bench.units import Units, bootstrap, weights
from sae_bench.units.table import Merging, merge, pack
from tests.builders.at_hook import ROWS, WIDTH, hook, saved, table
from tests.builders.interrupted import contents, settings
from tests.builders.results import changed, result
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.token_rows import coder

FIGURES = ("x", "first_x", "tokens", "error")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiny tables share counts as large."""
    monkeypatch.setattr(unit_files, "LEAST", 1000)


def alone(units: Units) -> Units:
    """The same table of which nobody says that it shares anything."""
    return Units(units.ids, {name: column.copy() for name, column in units.columns.items()})


def squares(tokens: Any, x: Any) -> Any:
    return (x**2).sum(-1) / tokens


# --- sums ------------------------------------------------------------------------------------------------------------


def counts(ids: tuple[str, ...], seed: int, resamples: int) -> np.ndarray[Any, Any]:
    """Weights in floats, as one array: what a byte each and slabs of them must give."""
    found = [weights._POISSON[np.frombuffer(weights.random(seed, unit, 2 * resamples), "<u2")] for unit in ids]
    return np.stack(found).T.astype(np.float64)


@pytest.mark.parametrize("slab", [weights.SLAB, 8 * ROWS * 128, 1])
def test_sums_in_slabs_are_those_of_one_product(monkeypatch: pytest.MonkeyPatch, slab: int) -> None:
    monkeypatch.setattr(weights, "SLAB", slab)
    units = table(hook())
    sums, dense = bootstrap.resample(units, seed=3, resamples=700), counts(units.ids, 3, 700)
    assert (weights.resample_weights(units.ids, 3, 700) == dense).all()
    for name in FIGURES:
        assert getattr(sums, name) == pytest.approx(dense @ units.columns[name], rel=1e-12)


@pytest.mark.parametrize("n", [ROWS, bootstrap.MAX_GROUPS + 100])
def test_what_coders_share_gives_each_the_bits_that_it_would_have_alone(n: int) -> None:
    common = hook(n)
    for seed in (1, 2):
        units = table(common, seed)
        own = alone(units)
        for shared, single in (
            (bootstrap.total(units), bootstrap.total(own)),
            (bootstrap.resample(units, seed=5, resamples=300), bootstrap.resample(own, seed=5, resamples=300)),
        ):
            for name in (*FIGURES, "size"):
                assert (getattr(shared, name) == getattr(single, name)).all()
            assert (shared.once(squares, "tokens", "x") == single.once(squares, "tokens", "x")).all()
            assert (shared.under("first_").x == single.first_x).all()


def test_what_is_made_of_the_hook_point_alone_is_made_once_for_all_coders_there() -> None:
    calls = []

    def counted(tokens: Any, x: Any) -> Any:
        calls.append(1)
        return squares(tokens, x)

    common = hook()
    for seed in range(5):
        bootstrap.resample(table(common, seed), seed=0, resamples=20).once(counted, "tokens", "x")
    assert len(calls) == 1
    for seed in range(5):  # what is a coder's own is made for each
        bootstrap.resample(table(common, seed), seed=0, resamples=20).once(counted, "error", "x")
    assert len(calls) == 6


def test_other_seeds_and_numbers_of_resamples_are_other_sums() -> None:
    units = table(hook())
    found = [bootstrap.resample(units, seed=s, resamples=n).x for s, n in ((0, 20), (1, 20), (0, 30))]
    assert found[0].shape == (20, WIDTH)
    assert (found[2][:20] == found[0]).all()
    assert (found[1] != found[0]).any()


def test_a_column_that_a_task_puts_in_place_of_a_shared_one_counts() -> None:
    """Also one that it scales, and rows that it leaves out or puts in another order."""
    units = table(hook())
    changed_x = replace(units, columns={**units.columns, "x": units.columns["x"] * 2})
    fewer = units.select([3, 1, 7])
    renamed = replace(units, ids=tuple(f"other {i}" for i in range(ROWS)))
    for one in (changed_x, fewer, renamed):
        shared, single = (bootstrap.resample(u, seed=5, resamples=50) for u in (one, alone(one)))
        for name in FIGURES:
            assert (getattr(shared, name) == getattr(single, name)).all()
        assert (bootstrap.total(one).x == bootstrap.total(alone(one)).x).all()
    with pytest.raises(ValueError, match="read-only"):
        units.columns["x"][0] = 7


def test_memory_of_weights_is_a_byte_each_and_one_slab() -> None:
    import tracemalloc

    n, resamples = 2000, 8000
    units = Units(tuple(map(str, range(n))), {"a": np.ones(n), "b": np.ones(n)})
    weights._KEPT.clear()
    tracemalloc.start()
    assert bootstrap.resample(units, seed=0, resamples=resamples).a.shape == (resamples,)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * resamples + weights.SLAB + (4 << 20)  # as floats they take 8 times as much


def test_weights_are_kept_within_a_bound_and_made_once() -> None:
    kept = weights._Kept(most=3 * 50 * 20)
    names = [tuple(f"{letter}{i}" for i in range(50)) for letter in "abcd"]
    arrays = [kept.get((ids, 0, 20)) for ids in names]
    assert kept.get((names[3], 0, 20)) is arrays[3]
    assert kept.get((names[0], 0, 20)) is not arrays[0]  # the oldest had to go
    large = [kept.get((ids, 0, 2000)) for ids in names[:2]]  # as of documents and of latents
    assert all(kept.get((ids, 0, 2000)) is one for ids, one in zip(names, large, strict=False))
    assert len(kept._found) == 2


def test_rows_are_merged_alike_for_all_tables_of_the_same_ids() -> None:
    ids = tuple("badcabd")
    merging = Merging.of(ids)
    for seed in range(3):
        values = np.random.default_rng(seed).normal(size=(7, 2))
        whole = merge(Units(ids, {"a": values[:, 0].copy(), "b": values}))
        assert whole.ids == merging.ids == tuple("abcd")
        assert (merging.columns({"b": values})["b"] == whole.columns["b"]).all()
        assert whole.columns["a"] == pytest.approx([values[[1, 4], 0].sum(), values[[0, 5], 0].sum(), values[3, 0],
                                                    values[[2, 6], 0].sum()])  # fmt: skip


# --- files -----------------------------------------------------------------------------------------------------------


def shared_files(folder: Path) -> list[Path]:
    return sorted((folder / unit_files.SHARED).iterdir())


@pytest.mark.usefixtures("small")
def test_six_saes_of_one_hook_point_share_a_file_and_two_hook_points_have_two(tmp_path: Path) -> None:
    hooks = [hook(seed=0), hook(seed=1)]
    for common in hooks:
        files = [saved(tmp_path, common, f"{id(common)} {i}", seed=i) for i in range(6)]
        for seed, file in enumerate(files):
            found, own = store.read_units(file), table(common, seed)
            assert found["document"].ids == own.ids == found["control/mean/document"].ids
            assert found["document"].columns.keys() == own.columns.keys()
            assert all((found["document"].columns[name] == column).all() for name, column in own.columns.items())
            assert found["control/mean/document"].columns.keys() == {"error"}
            assert b"/x" not in store.units_of(file).read_bytes()
            store.check_whole(file, store.read(file))
    assert len(shared_files(tmp_path)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{64}\.safetensors", file.name) for file in shared_files(tmp_path))


def test_what_would_save_little_is_not_shared(tmp_path: Path) -> None:
    """A small result is whole with the file beside it; a large one is not stored again and again."""
    saved(tmp_path / "small", hook())
    assert not (tmp_path / "small" / unit_files.SHARED).exists()
    saved(tmp_path / "large", hook(width=2000))
    assert len(shared_files(tmp_path / "large")) == 1


@pytest.mark.usefixtures("small")
def test_a_control_on_other_documents_shares_with_those_on_the_same(tmp_path: Path) -> None:
    """Its rows are fewer than the SAE's, so it has a part of its own."""
    common, part = hook(), hook(n=9)
    controls = {f"control/{name}/document": table(part, seed=i) for i, name in enumerate(("pca", "random"))}
    file = store.write(tmp_path, result(), {"document": table(common), **controls})
    assert len(shared_files(tmp_path)) == 2
    found = store.read_units(file)
    for key, wanted in controls.items():
        assert found[key].ids == part.ids
        assert all((found[key].columns[name] == column).all() for name, column in wanted.columns.items())
    assert found["control/pca/document"].common is found["control/random/document"].common


@pytest.mark.usefixtures("small")
def test_results_that_were_read_share_what_is_made_of_the_hook_point(tmp_path: Path) -> None:
    common = hook()
    a, b = (store.read_units(saved(tmp_path, common, name))["document"] for name in "ab")
    assert a.columns["x"] is b.columns["x"]
    assert a.shared == b.shared == {"tokens", "x", "first_x"}


@pytest.mark.usefixtures("small")
def test_a_table_whose_shared_column_was_replaced_is_read_with_its_own(tmp_path: Path) -> None:
    own = table(hook())
    own = replace(own, columns={**own.columns, "tokens": own.columns["tokens"] + 1})
    found = store.read_units(store.write(tmp_path, result(), {"document": own}))["document"]
    assert (found.columns["tokens"] == own.columns["tokens"]).all()
    assert (found.columns["x"] == own.columns["x"]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_shared_file_is_a_safetensors_file_of_any_columns(tmp_path: Path, dtype: Any) -> None:
    """It is written in pieces, so that there is no copy of it in memory."""
    arrays = {"é/x": np.arange(6, dtype=dtype).reshape(3, 2), "a/b": np.ones(3), "n/o": np.zeros((0, 4))}
    (tmp_path / "made").write_bytes(b"".join(unit_files._pieces(arrays, {"ids": "ü"})))
    found = load_file(tmp_path / "made")
    assert found.keys() == arrays.keys()
    assert all(found[name].shape == a.shape and (found[name] == a).all() for name, a in arrays.items())
    with safe_open(tmp_path / "made", framework="numpy") as opened:
        assert opened.metadata() == {"ids": "ü"}


def removed(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def of_another(file: Path) -> None:
    saved(file.parent / "other", hook(seed=9))
    file.write_bytes(shared_files(file.parent / "other")[0].read_bytes())


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE = {
    removed: r"is missing, which holds a part of .* copy the folder _shared along with the results, or measure again",
    cut: "is not what was written",
    flipped: "is not what was written",
    of_another: "is not what was written",
    a_folder: "is a folder",
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_shared_file_that_is_not_what_was_written_is_one_sentence(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """In every reader: of tables, of digests, of notes of a verifier, of submissions."""
    file = saved(tmp_path, hook())
    verified.record(file, "re-run", "somebody")
    assert verified.state_of(file) == ("re-run", None)
    (shared,) = shared_files(tmp_path)
    damage(shared)
    for read in (store.read_units, lambda f: store.check_whole(f, store.read(f)), submit.check):
        try:
            said = " ".join(read(file).problems)
        except ResultError as error:
            said = str(error)
        if read is not submit.check:
            assert str(shared) in said
            assert re.search(DAMAGE[damage], said)
            assert "\n" not in said
    state, why = verified.state_of(file)
    assert state == "reported"
    assert re.search(DAMAGE[damage], str(why))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", [removed, cut, flipped, of_another])
def test_writing_again_mends_a_shared_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Also within the process that wrote it first."""
    common = hook()
    file = saved(tmp_path, common)
    damage(shared_files(tmp_path)[-1])
    saved(tmp_path, common, "another")
    store.check_whole(file, store.read(file))


@pytest.mark.usefixtures("small")
def test_one_table_may_go_to_two_folders(tmp_path: Path) -> None:
    common = hook()
    files = [saved(tmp_path / name, common) for name in "ab"]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for file in files:
        store.check_whole(file, store.read(file))


@pytest.mark.usefixtures("small")
def test_a_folder_of_results_may_be_moved_linked_and_flattened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path / "runs", hook())
    inside = file.relative_to(tmp_path / "runs")
    shutil.copytree(tmp_path / "runs", tmp_path / "deep" / "er" / "moved")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "sae").symlink_to(file.parent.parent)
    shutil.copytree(file.parent, tmp_path / "flat")
    assert store.find(tmp_path)
    with pytest.raises(ResultError, match="_shared"):
        store.read_units(tmp_path / "flat" / file.name)
    shutil.copytree(tmp_path / "runs" / unit_files.SHARED, tmp_path / "flat" / unit_files.SHARED)
    places = [
        tmp_path / "deep" / "er" / "moved" / inside,
        tmp_path / "linked" / "sae" / file.parent.name / file.name,
        tmp_path / "flat" / file.name,
    ]
    for place in places:
        assert store.read_units(place)["document"].ids == hook().ids
    monkeypatch.chdir(file.parent)
    assert store.read_units(file.name)["document"].ids == hook().ids


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name", ["../../secret", "A" * 64, "", "0" * 63, "/etc/passwd", 7, None, ["0" * 64], "0" * 64 + "\n"]
)
def test_a_name_that_is_no_digest_opens_nothing(tmp_path: Path, name: Any) -> None:
    file = saved(tmp_path, hook())
    units = store.units_of(file)
    with safe_open(units, framework="numpy") as opened:
        ids = json.loads(opened.metadata()["ids"])
    ids["document"]["shared"] = name
    save_file(load_file(units), units, {"ids": json.dumps(ids)})
    with pytest.raises(ResultError, match=r"is not a table of units .*64 hexadecimal digits"):
        store.read_units(file)


@pytest.mark.usefixtures("small")
def test_a_shared_file_names_no_other_and_holds_rows_for_all(tmp_path: Path) -> None:
    """A file of that digest may be anybody's."""
    file = saved(tmp_path, hook())
    units = store.units_of(file)

    def naming(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        save_file(arrays, tmp_path / "made", metadata)
        digest = unit_files.sha256(tmp_path / "made")
        shutil.copy(tmp_path / "made", unit_files.place_of(tmp_path, digest))
        ids = json.dumps({"document": {"shared": digest}})
        save_file({"document/error": np.zeros(ROWS)}, units, {"ids": ids})

    for arrays, metadata in (
        ({"shared/x": np.zeros(3)}, {"ids": json.dumps({"shared": {"shared": "0" * 64}})}),
        pack({"shared": Units(("a", "b"), {"x": np.zeros(2)})}),
        pack({"shared": Units((), {}), "more": Units(("a",), {"x": np.zeros(1)})}),
        ({"x": np.zeros(1)}, {}),
    ):
        naming(arrays, metadata)
        with pytest.raises(ResultError, match="is not a table of units"):
            store.read_units(file)


WRITER = """
import sys
from pathlib import Path
from tests.builders.at_hook import hook, saved
saved(Path(sys.argv[1]), hook(width=2000), sys.argv[2])
"""


def test_processes_that_write_at_once_leave_whole_results(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(i)], cwd=Path(__file__).parents[1]) for i in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(shared_files(tmp_path)) == 1
    files = list(store.find(tmp_path))
    assert len(files) == 2
    for file in files:
        store.check_whole(file, store.read(file))


@pytest.mark.usefixtures("small")
def test_threads_that_write_at_once_leave_whole_results(tmp_path: Path) -> None:
    made = [hook() for _ in range(6)]  # as of processes that know nothing of one another
    threads = [threading.Thread(target=saved, args=(tmp_path, one, str(i))) for i, one in enumerate(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shared_files(tmp_path)) == 1
    for file in store.find(tmp_path):
        store.check_whole(file, store.read(file))


def test_results_that_were_stored_whole_are_read_as_before(tmp_path: Path) -> None:
    file = saved(tmp_path, hook())
    found = store.read_units(file)
    assert found["document"].common is None
    assert (found["document"].columns["x"] == hook().columns["x"]).all()


# --- runs ------------------------------------------------------------------------------------------------------------


def runs(out: Path, **more: Any) -> dict[str, Any]:
    return settings(out, tasks="reconstruction,sparsity", controls="mean,permuted", **more)


@pytest.mark.usefixtures("small")
def test_a_run_stores_what_its_saes_share_once_with_the_figures_of_one_alone(tmp_path: Path) -> None:
    """SAEs of two hook points in any order: tables, figures and intervals are those of a run of one SAE alone."""
    hooks = [f"blocks.{i}.hook_resid_post" for i in (1, 0, 1)]
    saes = {f"sae {i}": coder(f"sae {i}", seed=i, hook=at) for i, at in enumerate(hooks)}
    both = evaluate(saes, **runs(tmp_path / "all"))
    assert [one.sae.name for one in both] == [name for name in saes for _ in range(2)]
    assert len(shared_files(tmp_path / "all")) == 2
    for one in evaluate({"sae 2": saes["sae 2"]}, **runs(tmp_path / "alone")):
        (same,) = (x for x in both if (x.sae.name, x.task) == ("sae 2", one.task))
        assert (same.metrics, same.controls, same.units_sha256) == (one.metrics, one.controls, one.units_sha256)
    for file in store.find(tmp_path / "all"):
        n, wrong = recompute.differences(store.read(file), store.read_units(file))
        assert (n > 0, wrong) == (True, [])


@pytest.mark.usefixtures("small")
def test_a_result_without_what_it_shares_is_measured_again(tmp_path: Path) -> None:
    evaluate(coder(), **runs(tmp_path))
    before = contents(tmp_path)
    removed(shared_files(tmp_path)[0])
    with pytest.warns(UserWarning, match="is missing, .* it is measured again"):
        evaluate(coder(), **runs(tmp_path))
    assert contents(tmp_path).keys() == before.keys()
    for file in store.find(tmp_path):
        store.check_whole(file, store.read(file))
    removed(shared_files(tmp_path)[0])
    with pytest.raises(ResultError, match="is missing"):
        evaluate(coder(), **runs(tmp_path, overwrite="never"))
    evaluate(coder(), **runs(tmp_path, overwrite="always"))
    assert contents(tmp_path).keys() == before.keys()


@pytest.mark.usefixtures("small")
def test_a_submission_brings_along_what_it_shares(tmp_path: Path) -> None:
    evaluate(coder(), **runs(tmp_path / "runs"))
    for file in store.find(tmp_path / "runs"):
        checked = submit.Checked(file, store.read(file), ())
        placed = submit.place(checked, tmp_path / "to")
        store.check_whole(placed, store.read(placed))
    assert contents(tmp_path / "to") == contents(tmp_path / "runs")
    (shared,) = shared_files(tmp_path / "runs")
    shared.write_bytes(shared.read_bytes() + bytes(8))
    (file,) = (file for file in store.find(tmp_path / "runs") if file.name.startswith("reconstruction"))
    with pytest.raises(ResultError, match="is not what was written"):
        submit.place(submit.Checked(file, store.read(file), ()), tmp_path / "else")
    assert not (tmp_path / "else").exists()


@pytest.mark.usefixtures("small")
def test_results_of_one_hook_point_are_compared(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(1, 50, (24, 12))
    saes = {name: coder(name, seed=i) for i, name in enumerate("ab")}
    evaluate(saes, **{**runs(tmp_path), "tasks": "reconstruction", "model": tiny_gpt2(), "data": data})
    a, b = (compare.load(file) for file in store.find(tmp_path))
    assert a.tables["document"].columns["x"] is b.tables["document"].columns["x"]
    found = compare.difference(a, b, "fvu")
    for one in (a, b):
        one.tables["document"] = alone(one.tables["document"])
        one._figures.clear()
    assert compare.difference(a, b, "fvu") == found
    changed(a.file, "units_sha256", value="0" * 64)
    with pytest.raises(ResultError, match="its digest is another"):
        compare.load(a.file)
