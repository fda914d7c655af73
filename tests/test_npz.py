"""Archives of numpy: read as numpy reads them, mapped where they are stored, refused where damaged or hostile."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npy

from sae_bench.errors import CoderError
from sae_bench.saes import npz
from sae_bench.saes.npz import open_npz

RNG = np.random.default_rng(0)
W = RNG.normal(size=(7, 5)).astype(np.float32)
DTYPES = ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8", "<i4", ">i8", "u1"]


def header(shape, descr="<f4", fortran=False, version=(1, 0)):
    """The start of an .npy entry that claims anything."""
    stream = io.BytesIO()
    content = {"descr": descr, "fortran_order": fortran, "shape": shape}
    write = npy.write_array_header_1_0 if version == (1, 0) else npy.write_array_header_2_0
    write(stream, content)
    return stream.getvalue()


def raw_header(text):
    """A header of this text, which need not be one that numpy would write."""
    body = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def archive(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return path


def same(tensor, array):
    native = array.astype(array.dtype.newbyteorder("="))
    assert tensor.shape == array.shape
    assert np.array_equal(tensor.numpy(), native)
    assert tensor.numpy().dtype == native.dtype


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_those_that_numpy_reads(tmp_path, save, dtype, order):
    arrays = {
        "W": np.asarray(W * 50, dtype=dtype, order=order),
        "cube": np.asarray(RNG.normal(size=(2, 3, 4)) * 50, dtype=dtype, order=order),
        "scalar": np.array(3, dtype=dtype),
        "empty": np.zeros((0, 4), dtype=dtype),
        "vector": np.arange(11).astype(dtype),
    }
    save(tmp_path / "a.npz", **arrays)
    found = open_npz(tmp_path / "a.npz")
    assert set(found) == set(arrays)
    with np.load(tmp_path / "a.npz") as expected:
        for name, array in arrays.items():
            same(found[name], array)
            assert np.array_equal(found[name].numpy(), expected[name])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.dtype(d) for d in DTYPES]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements=st.integers(0, 100),
    ),
    compressed=st.booleans(),
)
def test_any_small_array(tmp_path, array, compressed):
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", x=array)
    same(open_npz(tmp_path / "a.npz")["x"], array)


def test_stored_entries_are_mapped_and_the_file_is_never_written(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    np.savez(file, first=W, second=W + 1)
    before, mapped, memmap = file.read_bytes(), [], np.memmap

    def counted(*arguments):
        mapped.append(memmap(*arguments))
        return mapped[-1]

    monkeypatch.setattr(np, "memmap", counted)
    found = open_npz(file)
    assert [array.ctypes.data for array in mapped] == [found[name].data_ptr() for name in ("first", "second")]
    found["second"].zero_()
    assert file.read_bytes() == before
    same(open_npz(file)["second"], W + 1)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_numbers_that_do_not_lie_on_a_boundary_are_right(tmp_path, length):
    content = header(W.shape) + W.tobytes()
    file = archive(tmp_path / "a.npz", [("x" * length + ".npy", content)])
    tensor = open_npz(file)["x" * length]
    same(tensor, W)
    torch.testing.assert_close(tensor @ torch.eye(5), torch.from_numpy(W))


def test_a_newer_header_and_names_in_folders(tmp_path):
    file = archive(tmp_path / "a.npz", [("in/x.npy", header(W.shape, version=(2, 0)) + W.tobytes())])
    same(open_npz(file)["in/x"], W)


def test_an_archive_behind_other_bytes(tmp_path):
    """As zipfile allows; the offsets of its entries count from where the archive begins."""
    np.savez(tmp_path / "a.npz", x=W)
    (tmp_path / "b.npz").write_bytes(b"#!" * 33 + (tmp_path / "a.npz").read_bytes())
    same(open_npz(tmp_path / "b.npz")["x"], W)


def test_biases_of_zeros_may_shrink_to_nothing(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", W=W, b=np.zeros(100_000, np.float32))
    same(open_npz(tmp_path / "a.npz")["b"], np.zeros(100_000, np.float32))


def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", **{f"x{i}": np.zeros(100_000, np.float32) for i in range(4)})
    monkeypatch.setattr(npz, "_SMALL", 1_000_000)
    with pytest.raises(CoderError, match=r"unpacks from \d+ bytes to 16\d+, which no weights do"):
        open_npz(tmp_path / "a.npz")


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(CoderError, match=r"x\.npy holds object, not numbers"):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array([True]),
        np.array([1j]),
        np.array([(1, 2.0)], dtype=[("a", "<i4"), ("b", "<f4")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.zeros(2, dtype="V2"),
        np.zeros(0, dtype="<U0"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path, array):
    np.savez(tmp_path / "a.npz", x=array)
    with pytest.raises(CoderError, match=r"a\.npz: x\.npy holds .*, not numbers"):
        open_npz(tmp_path / "a.npz")


def test_numbers_that_torch_does_not_have_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2, dtype=np.longdouble))
    with pytest.raises(CoderError, match="not a valid npz archive"):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "shape",
    [
        (7, 6),
        (6, 5),
        (36,),
        (2**40,),
        (2**31, 2**31),
        (2**70,),
        (-7, -5),
        (-1,),
        (35, -1),
        (),
        (0,),
        (0, 2**62),
        (7, 5, 2),
    ],
)
def test_shapes_that_the_entry_does_not_hold_are_refused(tmp_path, shape, compression):
    file = archive(tmp_path / "a.npz", [("x.npy", header(shape) + W.tobytes())], compression)
    with pytest.raises(CoderError, match="claims the shape"):
        open_npz(file)


@pytest.mark.parametrize("shape", [(0, 2**62), (2**64, 0), (1,) * 70])
def test_shapes_without_numbers_that_numpy_cannot_make(tmp_path, shape):
    content = header(shape) + (W.tobytes()[:4] if 0 not in shape else b"")
    with pytest.raises(CoderError, match="not a valid npz archive"):
        open_npz(archive(tmp_path / "a.npz", [("x.npy", content)]))


@pytest.mark.filterwarnings("ignore:Reading .*Python 2")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "()",
        "{'descr': '<f4'}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 'many'}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1.5,)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (1,)}",
        "{'descr': [('a', '<f4', (2, 2))], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "__import__('os').system('true')",
        "'unclosed",
        "(" * 5000,
        "-" * 9000 + "1",
        "[" * 300 + "]" * 300,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1L,), }",
        "\x00\xff",
        "if True:\n    1\n  2",
    ],
)
def test_headers_that_are_none_are_refused(tmp_path, text):
    file = archive(tmp_path / "a.npz", [("x.npy", raw_header(text) + W.tobytes())])
    with pytest.raises(CoderError) as caught:
        open_npz(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(file))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00\x01\x00", b"PK", b"text of some length"])
def test_entries_that_are_no_arrays_are_refused(tmp_path, content):
    file = archive(tmp_path / "a.npz", [("x.npy", content)])
    with pytest.raises(CoderError, match="is not a valid npz archive"):
        open_npz(file)


def test_two_entries_of_one_name_are_refused(tmp_path):
    content = header(W.shape) + W.tobytes()
    with pytest.raises(CoderError, match="holds x twice"):
        open_npz(archive(tmp_path / "a.npz", [("x.npy", content), ("x", content)]))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_anywhere_is_refused(tmp_path, save):
    save(tmp_path / "a.npz", W=W, b=np.arange(4.0))
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 17):
        (tmp_path / "b.npz").write_bytes(whole[:length])
        with pytest.raises(CoderError, match=r"is it truncated|cannot be read"):
            open_npz(tmp_path / "b.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_bytes_raise_nothing_else_and_stay_in_the_file(tmp_path, save):
    save(tmp_path / "a.npz", W=W, b=np.arange(4.0))
    whole = (tmp_path / "a.npz").read_bytes()
    rng = np.random.default_rng(1)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            found = open_npz(tmp_path / "b.npz")
        except CoderError:
            continue
        assert sum(tensor.numel() * tensor.element_size() for tensor in found.values()) <= 4 * len(whole)
        assert all(tensor.double().sum() is not None for tensor in found.values())


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, compression):
    file = archive(tmp_path / "a.npz", [("x.npy", header(W.shape) + W.tobytes())], compression)
    with pytest.raises(CoderError, match="packed in another way than numpy does"):
        open_npz(file)


def test_an_entry_that_claims_to_lie_beyond_the_file_is_refused(tmp_path):
    """The lengths in the entry's own header move its numbers; zipfile does not check the second of them."""
    file = archive(tmp_path / "a.npz", [("x.npy", header(W.shape) + W.tobytes())])
    damaged = bytearray(file.read_bytes())
    damaged[28:30] = struct.pack("<H", 60_000)  # length of the extra field of the first entry
    file.write_bytes(damaged)
    with pytest.raises(CoderError, match=r"beyond the end|not a valid npz archive"):
        open_npz(file)


def test_an_encrypted_entry_is_refused(tmp_path):
    file = archive(tmp_path / "a.npz", [("x.npy", header(W.shape) + W.tobytes())])
    damaged = bytearray(file.read_bytes())
    damaged[6] |= 1
    directory = damaged.index(b"PK\x01\x02")
    damaged[directory + 8] |= 1
    file.write_bytes(damaged)
    with pytest.raises(CoderError, match="encrypted"):
        open_npz(file)


def test_missing_files_and_other_files(tmp_path):
    with pytest.raises(CoderError, match=r"a\.npz is missing"):
        open_npz(tmp_path / "a.npz")
    with pytest.raises(CoderError, match="cannot be read"):
        open_npz(tmp_path)
    np.save(tmp_path / "b.npy", W)
    with pytest.raises(CoderError, match="not a valid npz archive"):
        open_npz(tmp_path / "b.npy")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(CoderError, match="is it truncated"):
        open_npz(tmp_path / "empty.npz")


def test_an_archive_without_entries_has_no_tensors(tmp_path):
    assert open_npz(archive(tmp_path / "a.npz", [])) == {}
