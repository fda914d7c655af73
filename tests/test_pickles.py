"""Files of weights are pickles: nothing in them is run, and no few bytes cost much memory, time or the process."""

import contextlib
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_bench.errors import CoderError
from sae_bench.saes.pickles import open_pickle

NUMBERS = torch.arange(16, dtype=torch.float32).numpy().tobytes()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "Float") -> bytes:
    """Instructions that build a tensor, with any claims about it."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text("0") + text("cpu") + whole(numel)
    shape = b"(" + b"".join(map(whole, size)) + b"t(" + b"".join(map(whole, stride)) + b"t"
    builder = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return builder + b"(" + storage + b"tQ" + whole(offset) + shape + b"\x89ccollections\nOrderedDict\n)RtR"


GOOD = b"\x80\x02}" + text("w") + tensor(16, 0, (4, 4), (4, 1)) + b"s."


def archive(path: Path, instructions: bytes, *first: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in first:
            made.writestr(name, content)
        made.writestr("archive/data.pkl", instructions)
        made.writestr("archive/byteorder", "little")
        made.writestr("archive/data/0", NUMBERS)
        made.writestr("archive/version", "3\n")
    return path


def test_what_torch_saves_is_opened_as_it_was(tmp_path):
    saved = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "scalar": torch.tensor(7, dtype=torch.int32),
        "nested": {"parameter": torch.nn.Parameter(torch.ones(2)), "ordered": OrderedDict(k=1), "list": [1, 2.5, "x"]},
        "view": torch.arange(12.0).reshape(3, 4).T,
    }
    torch.save(saved, tmp_path / "x.pt")
    opened = open_pickle(tmp_path / "x.pt")
    assert torch.equal(opened["a"], saved["a"])
    assert torch.equal(opened["half"], saved["half"])
    assert opened["scalar"].item() == 7
    assert torch.equal(opened["nested"]["parameter"], torch.ones(2))
    assert opened["nested"]["list"] == [1, 2.5, "x"]
    assert torch.equal(opened["view"], saved["view"])


def test_the_hand_written_archive_is_a_good_one_before_it_is_made_bad(tmp_path):
    assert torch.equal(open_pickle(archive(tmp_path / "x.pt", GOOD))["w"], torch.arange(16.0).reshape(4, 4))


def opened_or_refused(file: Path) -> None:
    """A dictionary, or one sentence; any other exception fails the test."""
    said = ""
    with contextlib.suppress(CoderError):
        try:
            assert isinstance(open_pickle(file), dict)
        except CoderError as error:
            said = str(error)
            raise
    assert "\n" not in said


class Runs:
    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


def command(marker: Path) -> list[bytes]:
    """Pickles that touch a file when an ordinary unpickler opens them, or reach for what could."""
    touch = text(f"touch {marker}")
    return [
        b"\x80\x02cposix\nsystem\n" + touch + b"\x85R.",
        b"\x80\x02cos\nsystem\n(" + touch + b"tR.",
        b"(S'touch " + str(marker).encode() + b"'\niposix\nsystem\n.",
        b"(cposix\nsystem\nS'touch " + str(marker).encode() + b"'\no.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + touch + b"\x85R.",
        b"\x80\x02cbuiltins\neval\n" + text(f"open({str(marker)!r}, 'w')") + b"\x85R.",
        b"\x80\x02cbuiltins\ngetattr\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x83\x01\x00.",
        b"\x80\x02\x84\x01\x00\x00\x00.",
        b"\x80\x02ctorch\nload\n" + text(str(marker)) + b"\x85R.",
        b"\x80\x02ctorch.storage\nUntypedStorage\n" + whole(1 << 42) + b"\x85R.",
        b"\x80\x02ctorch.hub\nload\n.",
        b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_numpy\n.",
        b"\x80\x02ccollections\ndefaultdict\ncposix\nsystem\n\x85R.",
        b"\x80\x02ccollections\nOrderedDict.__init__\n.",
        pickle.dumps(Runs(exec, f"open({str(marker)!r}, 'w')"), protocol=2),
        pickle.dumps(Runs(exec, f"open({str(marker)!r}, 'w')"), protocol=5),
    ]


@pytest.mark.parametrize("which", range(18))
def test_nothing_is_run(tmp_path, which):
    attack = command(tmp_path / "ran")[which]
    wrapped = b"\x80\x02}" + text("w") + attack.removeprefix(b"\x80\x02")[:-1] + b"s."
    for instructions in (attack, wrapped):
        with pytest.raises(CoderError, match=r"could run any code|is damaged"):
            open_pickle(archive(tmp_path / "x.pt", instructions))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_object_is_refused_with_what_to_do(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(CoderError, match=r"needs torch\.nn\.modules\.linear\.Linear.*module:factory.*state_dict"):
        open_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["batchtopk", "jump", "topk", "topk_bn"])
def test_saved_objects_of_overcomplete_are_refused_with_the_hint(references, name):
    with pytest.raises(CoderError, match=r"needs overcomplete\.sae\.\w+\.\w+SAE.*--sae module:factory"):
        open_pickle(references / "fixtures" / f"overcomplete_{name}" / "sae.pth")


def test_building_a_permitted_object_with_a_state_runs_nothing(tmp_path):
    state = b"}" + text("__class__") + text("os") + b"s"
    ordered = b"\x80\x02ccollections\nOrderedDict\n)R" + state + b"b."
    with pytest.raises(CoderError, match="adds attributes to a dictionary"):
        open_pickle(archive(tmp_path / "x.pt", ordered))
    set_by_state = b"\x80\x02}" + text("w") + tensor(16, 0, (4,), (1,)) + state + b"bs."
    with pytest.raises(CoderError, match="cannot be opened as tensors"):
        open_pickle(archive(tmp_path / "y.pt", set_by_state))


@pytest.mark.parametrize("name", ["archive/DATA.PKL", "other/data.pkl", "Archive/data.pkl", "archive/data.pkl"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_pickles_of_which_only_one_would_be_checked(tmp_path, name):
    attack = command(tmp_path / "ran")[0]
    for first, second in ((attack, GOOD), (GOOD, attack)):
        with pytest.raises(CoderError, match=r"not a file that torch\.save writes"):
            open_pickle(archive(tmp_path / "x.pt", second, (name, first)))


def test_an_archive_behind_another_pickle_is_refused(tmp_path):
    archive(tmp_path / "x.pt", GOOD)
    (tmp_path / "y.pt").write_bytes(command(tmp_path / "ran")[0] + (tmp_path / "x.pt").read_bytes())
    with pytest.raises(CoderError, match="does not start as a zip archive"):
        open_pickle(tmp_path / "y.pt")


def test_an_archive_in_an_archive_is_not_followed(tmp_path):
    inner = archive(tmp_path / "inner.pt", command(tmp_path / "ran")[0]).read_bytes()
    assert list(open_pickle(archive(tmp_path / "x.pt", GOOD, ("archive/data/inner.pt", inner)))) == ["w"]
    assert not (tmp_path / "ran").exists()


def test_compressed_entries_are_refused(tmp_path):
    with pytest.raises(CoderError, match=r"not a file that torch\.save writes"):
        open_pickle(archive(tmp_path / "x.pt", GOOD, compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    "claims",
    [
        {"numel": 16, "offset": 0, "size": (10**9, 10**9), "stride": (0, 0)},
        {"numel": 16, "offset": 0, "size": (10**6,), "stride": (0,)},
        {"numel": 10**12, "offset": 0, "size": (10**12,), "stride": (1,)},
        {"numel": 16, "offset": 0, "size": (10**10,), "stride": (1,)},
        {"numel": 16, "offset": 10, "size": (4, 4), "stride": (4, 1)},
        {"numel": 16, "offset": -4, "size": (4,), "stride": (1,)},
        {"numel": 16, "offset": 0, "size": (4,), "stride": (-1,)},
        {"numel": 16, "offset": 0, "size": (-4,), "stride": (1,)},
        {"numel": -16, "offset": 0, "size": (4,), "stride": (1,)},
        {"numel": 16, "offset": 0, "size": (2**62, 4), "stride": (1, 1)},
    ],
)
def test_tensors_that_claim_more_than_the_file_has(tmp_path, claims):
    file = archive(tmp_path / "x.pt", b"\x80\x02}" + text("w") + tensor(**claims) + b"s.")
    with pytest.raises(CoderError, match=r"not as many numbers|cannot be opened as tensors"):
        open_pickle(file)


def test_a_giant_is_found_however_deep_it_lies(tmp_path):
    giant = tensor(16, 0, (10**9,), (0,))
    inner = b"}" + text("w") + giant + b"s"
    for levels in range(1, 30):
        inner = b"]" + inner + b"a" if levels % 2 else b"}" + text("w") + inner + b"s"
        with pytest.raises(CoderError, match=r"not as many numbers|deeper than"):
            open_pickle(archive(tmp_path / "x.pt", b"\x80\x02}" + text("w") + inner + b"s."))


def test_values_too_deep_to_be_shown_are_refused(tmp_path):
    deep = b"]" * 5000 + b"a" * 4999
    with pytest.raises(CoderError, match="nests its values deeper than 16 levels"):
        open_pickle(archive(tmp_path / "x.pt", b"\x80\x02}" + text("w") + deep + b"s."))


def test_lists_that_share_lists_are_seen_once(tmp_path):
    levels = text("l0") + b"]q\x00s"
    for n in range(1, 14):
        levels += text(f"l{n}") + b"]q" + bytes([n]) + b"(" + (b"h" + bytes([n - 1])) * 12 + b"es"
    assert len(open_pickle(archive(tmp_path / "x.pt", b"\x80\x02}" + levels + b"."))) == 14  # 12 ** 13 paths


def test_a_list_in_itself(tmp_path):
    opened = open_pickle(archive(tmp_path / "x.pt", b"\x80\x02}" + text("w") + b"]q\x00h\x00as."))
    assert opened["w"][0] is opened["w"]


def test_tuples_in_tuples_as_a_key_do_not_end_the_process(tmp_path):
    nested = b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns."
    with pytest.raises(CoderError, match="builds 1000000 tuples"):
        open_pickle(archive(tmp_path / "x.pt", nested))


def test_instructions_without_end_are_refused_unread(tmp_path):
    with pytest.raises(CoderError, match="bytes of instructions, which no file of tensors needs"):
        open_pickle(archive(tmp_path / "x.pt", b"\x80\x02}" + b"N0" * (2 << 20) + b"."))


@pytest.mark.parametrize("content", [[1, 2], "text", 3, torch.ones(3), None])
def test_what_is_no_dictionary_is_named(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CoderError, match=r"must hold a dictionary of tensors, but it holds a \w+"):
        open_pickle(tmp_path / "x.pt")


def test_files_of_old_versions_are_refused_with_what_to_do(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CoderError, match=r"PyTorch 1\.6 and later.*Older files: load them where they come from"):
        open_pickle(tmp_path / "x.pt")


def test_a_missing_file_a_folder_and_no_zip(tmp_path):
    with pytest.raises(CoderError, match="is missing"):
        open_pickle(tmp_path / "none.pt")
    with pytest.raises(CoderError, match="it is a folder"):
        open_pickle(tmp_path)
    for content in (b"", b"PK\x03\x04", b"PK\x03\x04" + b"\0" * 1000, b"not a zip at all"):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(CoderError, match=r"not a file of torch\.save"):
            open_pickle(tmp_path / "x.pt")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.randn(8, 8), "b": torch.randn(8)}, buffer)
    content = buffer.getvalue()
    for length in range(0, len(content) - 1, max(1, len(content) // 60)):
        (tmp_path / "x.pt").write_bytes(content[:length])
        with pytest.raises(CoderError, match=r"truncated|damaged|cannot be opened"):
            open_pickle(tmp_path / "x.pt")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_bytes_raise_nothing_but_a_sentence(tmp_path, changes):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(4, 4), "b": torch.zeros(4), "n": {"k": 3}}, buffer)
    content = bytearray(buffer.getvalue())
    for where, value in changes:
        content[where % len(content)] = value
    (tmp_path / "x.pt").write_bytes(bytes(content))
    opened_or_refused(tmp_path / "x.pt")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.binary(max_size=60))
def test_any_instructions_raise_nothing_but_a_sentence(tmp_path, instructions):
    opened_or_refused(archive(tmp_path / "x.pt", b"\x80\x02}" + instructions + b"."))


def test_pytorchs_advice_to_drop_the_guard_is_not_passed_on(tmp_path):
    file = archive(tmp_path / "x.pt", b"\x80\x02}" + text("w") + b"(lp0\nI1\nas.")  # protocol 0: valid, not permitted
    with pytest.raises(CoderError) as caught:
        open_pickle(file)
    assert "weights_only" not in str(caught.value)
