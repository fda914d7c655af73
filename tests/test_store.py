"""Results on disk: what was written is what is read, nothing is half written, and nothing false is believed."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_bench.errors import ResultError
from sae_bench.results import store
from sae_bench.schema import Protocol
from sae_bench.units import Units
from tests.builders.results import changed, protocol, result

TABLES = {
    "document": Units(("a", "b"), {"n": np.array([1.0, 2.0]), "x": np.arange(4.0).reshape(2, 2)}),
    "control/mean/document": Units(("a", "b"), {"n": np.array([0.1, 0.2])}),
}


def files_below(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def tampered(folder, *path, value):
    """A result whose field at `path` was changed by hand."""
    file = store.write(folder, result(details={"list": [1.0, {"deep": 2.0}]}), TABLES)
    changed(file, *path, value=value)
    return file


def test_round_trip(tmp_path):
    one = result(details={"histogram": [1, 2], "ü": None})
    written, file = store.written(tmp_path, one, TABLES)
    assert store.read(file) == written
    assert written.model_copy(update={"units_sha256": None}) == one
    assert written.units_sha256 == hashlib.sha256(store.units_of(file).read_bytes()).hexdigest()
    found = store.read_units(file)
    assert found.keys() == TABLES.keys()
    for key, units in TABLES.items():
        assert found[key].ids == units.ids
        for name, column in units.columns.items():
            assert (found[key].columns[name] == column).all()
    assert list(store.find(tmp_path)) == [file]
    assert files_below(tmp_path) == [
        "my__sae/abababababab/sae.json",
        f"my__sae/abababababab/sparsity@v1-{one.protocol[:8]}.json",
        f"my__sae/abababababab/sparsity@v1-{one.protocol[:8]}.units.safetensors",
    ]


def test_the_same_result_is_the_same_bytes(tmp_path):
    one, other = (store.write(tmp_path / str(i), result(), TABLES) for i in range(2))
    assert one.read_bytes() == other.read_bytes()
    units = [f.with_suffix(".units.safetensors").read_bytes() for f in (one, other)]
    assert units[0] == units[1]


def test_a_result_without_units_has_none(tmp_path):
    failed = result(metrics={}, status="error", reason="encode failed")
    file = store.write(tmp_path, failed, {})
    assert store.read_units(file) == {}
    assert store.read(file).reason == "encode failed"


def test_two_protocols_do_not_overwrite_each_other(tmp_path):
    short, long = result(n_documents=2, data_sha256="5" * 64), result(n_documents=512)
    files = [store.write(tmp_path, r, TABLES) for r in (short, long)]
    assert files[0] != files[1]
    assert [store.read(f).provenance for f in files] == [short.provenance, long.provenance]
    other = store.write(tmp_path, result(sha="cd" * 32), TABLES)
    assert sorted(store.find(tmp_path)) == sorted([*files, other])


# --- the protocol hash -----------------------------------------------------------------------------------------------

CHANGES = {
    "parameters": {"horizon": 8},
    "task": "reconstruction",
    "version": 2,
    "task_sha256": "9" * 64,
    "model_sha256": "9" * 64,
    "dtype": "bfloat16",
    "hooks_in": ("blocks.1.hook_resid_post",),
    "hooks_out": ("blocks.1.hook_resid_post",),
    "data_sha256": "9" * 64,
    "calibration_sha256": "9" * 64,
    "n_documents": 3,
    "mask": "none",
    "special_ids": (0, 2),
    "mean_from": "evaluation",
    "seed": 1,
    "resamples": 100,
    "config_sha256": "9" * 64,
    "tokenizer_sha256": "9" * 64,
    "backend": "tl",
    "bos": 0,
    "code_sha256": "9" * 64,
}


@pytest.mark.parametrize("name", sorted(Protocol.model_fields))
def test_the_protocol_hash_counts_every_field_but_file_names(name):
    plain = store.protocol_hash(protocol())
    if name in ("model", "data"):
        assert store.protocol_hash(protocol(**{name: "/home/me/elsewhere"})) == plain
    else:
        assert store.protocol_hash(protocol(**{name: CHANGES[name]})) != plain


# --- failures while writing ------------------------------------------------------------------------------------------


def test_a_failure_between_writing_and_renaming_leaves_nothing(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ResultError, match="No space left on device; make room or give another folder"):
        store.write(tmp_path, result(), TABLES)
    assert files_below(tmp_path) == []


def test_a_failure_leaves_the_old_result_whole(tmp_path, monkeypatch):
    old, file = store.written(tmp_path, result(), TABLES)

    def refuse(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ResultError, match="Input/output error"):
        store.write_atomically(file, b"half of a new res")
    assert store.read(file) == old
    assert not [f for f in files_below(tmp_path) if f.endswith(".tmp")]


def test_a_kill_leaves_a_temporary_file_that_no_reader_takes_for_a_result(tmp_path, monkeypatch):
    file = store.write(tmp_path, result(), TABLES)

    class Killed(BaseException):
        pass

    def kill(self, target):
        raise Killed

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(Killed):
        store.write(tmp_path, result(seed=1), TABLES)
    assert list(store.find(tmp_path)) == [file]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match="cannot write"):
        store.write(tmp_path / "file", result(), TABLES)
    with pytest.raises(ResultError, match="File name too long"):
        store.write_atomically(tmp_path / ("x" * 300), b"")


def test_what_cannot_be_written_names_no_flag_that_its_verb_lacks(tmp_path):
    """``check --junit`` has no ``--out``."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match="cannot write") as caught:
        store.write_atomically(tmp_path / "file" / "report.xml", b"")
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to a stream", "folder"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path, kind):
    """``--out /dev/null`` took the device away from the whole machine, where the user was allowed to."""
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    os.mkfifo(pipe)
    if kind == "pipe":
        file = pipe
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(pipe if "pipe" in kind else "/proc/self/fd/1")
    before = os.lstat(file)
    with pytest.raises(ResultError, match="not a regular file; give the name of a file"):
        store.write_atomically(file, b"new")
    after = os.lstat(file)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert not [f for f in os.listdir(tmp_path) if f.endswith(".tmp")]


# --- names that come from elsewhere ----------------------------------------------------------------------------------

HOSTILE = ["../../x", "a/b", "/etc/passwd", "..", ".", "", "~", "a\x00b", "a\nb", "\x1b[31mred", "ü" * 200, "x" * 4000,
           "\u202egnp.exe", "con:aux", "a\\b", ".hidden", "-rf", "日本語", "🙂" * 100, "@v1"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside_the_folder(tmp_path, name):
    out = tmp_path / "out"
    one = result(name=name, sha="../../../up")
    file = store.write(out, one, TABLES)
    assert file.resolve().is_relative_to(out.resolve())
    assert len(file.relative_to(out).parts) == 3
    assert os.listdir(tmp_path) == ["out"]
    assert all(part.isprintable() and not part.startswith(".") for part in file.relative_to(out).parts)
    assert list(store.find(out)) == [file]
    assert store.read(file).sae.name == name


@settings(deadline=None)
@given(name=st.text(), task=st.text(), protocol=st.text(), sha=st.text())
def test_no_name_leaves_its_part_of_the_path(name, task, protocol, sha):
    sae = result().sae.model_copy(update={"name": name, "weights_sha256": sha})
    path = store.path_of(Path("out"), sae, task, 1, protocol)
    assert len(path.parts) == 4
    assert ".." not in path.parts
    assert all(0 < len(os.fsencode(part)) < 200 for part in path.parts)


# --- files that are not to be believed -------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_truncated_files_are_named(tmp_path, keep):
    file = store.write(tmp_path, result(), TABLES)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ResultError, match="is not valid JSON") as caught:
        store.read(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("metrics", "l0", "value"), float("nan"), "'metrics.l0.value' is not a finite number"),
        (("metrics", "l0", "high"), float("inf"), "'metrics.l0.high' is not a finite number"),
        (("details", "list", 1, "deep"), float("nan"), "'details.list.1.deep' is not a finite number"),
        (("provenance", "data", "how"), float("-inf"), "'provenance.data.how' is not a finite number"),
        (("metrics", "l0", "value"), "much", "'metrics.l0.value': Input should be a valid number"),
        (("metrics", "l0", "value"), None, "'metrics.l0': Value error, either value or reason"),
        (
            ("metrics", "l0", "value"),
            3.0,
            "'metrics.l0': Value error, the interval 1.25 to 2.0 must hold the value 3.0",
        ),
        (("metrics", "l0", "low"), None, "'metrics.l0': Value error, low and high must both be"),
        (("metrics", "l0", "n_units"), -1, "'metrics.l0.n_units'"),
        (("controls", "mean", "l0", "better"), "up", "'controls.mean.l0.better'"),
        (("status",), "great", "'status'"),
        (("extra",), 1, "'extra': Extra inputs are not permitted"),
        (("\x1b[2Jextra",), 1, r"'\x1b[2Jextra': Extra inputs"),
        (("sae", "d_in"), 1.5, "'sae.d_in'"),
        (("schema_version",), 99, "has result schema 99, this sae-bench knows 3; update sae-bench"),
        (("schema_version",), "99", "'schema_version'"),
        (("schema_version",), True, "'schema_version'"),
        (("schema_version",), 0, "'schema_version'"),
        (("protocol",), "0" * 64, "'protocol' must be the hash of 'provenance.protocol'"),
        (("provenance", "protocol", "data_sha256"), "0" * 64, "'protocol' must be the hash of 'provenance.protocol'"),
    ],
)
def test_tampered_files_are_refused_with_file_and_field(tmp_path, path, value, message):
    file = tampered(tmp_path, *path, value=value)
    with pytest.raises(ResultError) as caught:
        store.read(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_other_json_is_no_result(tmp_path):
    for content in ("[]", "3", '"x"', "null", "{}", "[" * 100_000, "1" * 5000, '{"a": 1e999}'):
        file = tmp_path / "x@v1-0.json"
        file.write_text(content)
        with pytest.raises(ResultError, match="x@v1-0"):
            store.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ResultError, match="is not valid JSON"):
        store.read(file)
    with pytest.raises(ResultError, match="is missing"):
        store.read(tmp_path / "nothing.json")


def test_no_number_that_json_does_not_have_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.to_json({"x": float("nan")})


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "no metadata", "too many rows", "folder"])
def test_damaged_units_are_named(tmp_path, damage):
    from safetensors.numpy import save

    file = store.write(tmp_path, result(), TABLES)
    units = file.with_suffix(".units.safetensors")
    content = {
        "truncated": units.read_bytes()[:-9],
        "empty": b"",
        "text": b"not at all what was expected here",
        "no metadata": save({"document/n": np.zeros(2)}),
        "too many rows": save({"document/n": np.zeros(2)}, {"ids": '{"document": 100000000000}'}),
    }
    units.unlink()
    if damage == "folder":
        units.mkdir()
    else:
        units.write_bytes(content[damage])
    with pytest.raises(ResultError, match=r"is not a table of units|it is a folder") as caught:
        store.read_units(file)
    assert str(units) in str(caught.value)


def test_find_passes_over_what_is_no_result(tmp_path):
    file = store.write(tmp_path, result(), TABLES)
    (file.parent / ".x@v1-0.json.77.tmp").write_text("{")
    (file.parent / ".x@v1-0.json").write_text("{")
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "x@v1-0.json").write_text("{")
    assert list(store.find(tmp_path)) == [file]
    assert list(store.find(tmp_path / "nothing")) == []


# --- a result and its units belong together --------------------------------------------------------------------------


def removed(units):
    units.unlink()


def cut(units):
    units.write_bytes(units.read_bytes()[:-8])


def of_another(units):
    """As when two runs write one result, and each half is of another."""
    tables = {key: Units(t.ids, {n: c + 1 for n, c in t.columns.items()}) for key, t in TABLES.items()}
    units.write_bytes(store.units_of(store.write(units.parent / "other", result(), tables)).read_bytes())


@pytest.mark.parametrize("damage", [removed, cut, of_another])
@pytest.mark.parametrize("digest", [True, False])
def test_a_result_without_its_own_units_is_not_whole(tmp_path, damage, digest):
    """Also one of before digests, as far as its tables tell."""
    file = store.write(tmp_path, result(), TABLES)
    if not digest:
        changed(file, "units_sha256", value=None)
    store.check_whole(file, store.read(file))
    damage(store.units_of(file))
    if digest or damage is not of_another:
        with pytest.raises(ResultError, match=r"units\.safetensors"):
            store.check_whole(file, store.read(file))
