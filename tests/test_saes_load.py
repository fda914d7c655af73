"""Whatever a user writes after --sae: the right coder, or one clear sentence."""

from __future__ import annotations

import json
import struct
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_bench import demo
from sae_bench.errors import CoderError, SaeBenchError
from sae_bench.saes.load import expand, load_sae
from sae_bench.settings import Told
from tests.builders.tiny_saes import HOOK, LATENTS, WIDTH, activations, tiny_coder, write_native, write_saelens

WEIGHTS = "weights.safetensors"


def refusal(source: str | Path, **options: Any) -> str:
    """The one sentence with which ``source`` is refused."""
    with pytest.raises(CoderError) as error:
        load_sae(str(source), **options)
    message = str(error.value)
    assert message
    assert "\n" not in message
    assert len(message) < 600
    assert isinstance(error.value, SaeBenchError)
    return message


def write_tensors(folder: Path, **changes: Any) -> None:
    """Change tensors of a native folder; None removes one."""
    tensors = load_file(folder / WEIGHTS) | changes
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / WEIGHTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_native(tiny_coder("topk"), tmp_path / "sae")


def test_a_missing_path_says_what_can_be_given(tmp_path):
    message = refusal(tmp_path / "nowhere")
    assert "there is no SAE at" in message
    assert "nowhere" in message
    assert "module:factory" in message


@pytest.mark.parametrize("source", ["", "a" * 5000, "org/name-on-a-hub", "with\0null", "module:", "module:a.b"])
def test_sources_that_name_nothing_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CoderError):
        load_sae(source)


def test_the_weights_of_a_folder_stand_for_the_folder(folder):
    assert load_sae(str(folder / WEIGHTS)).info == load_sae(str(folder)).info


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_tensors_that_are_no_sae_are_named(tmp_path, suffix):
    file = tmp_path / f"sae{suffix}"
    torch.save({"W_one": torch.zeros(2)}, file)
    message = refusal(file)
    assert "not an SAE in a known layout" in message
    assert "W_one" in message


def test_an_empty_folder_and_an_unknown_one_say_what_is_there(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "it holds nothing" in refusal(tmp_path / "empty")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_bytes(b"x")
    message = refusal(other)
    assert "notes.txt" in message
    assert "sae-bench ls formats" in message


def test_a_folder_of_several_saes_names_them_and_the_glob(tmp_path):
    for name in ("a", "b"):
        write_native(tiny_coder(), tmp_path / name)
    message = refusal(tmp_path)
    assert "holds several SAEs" in message
    assert "a, b" in message
    assert f"'{tmp_path}/*'" in message
    assert f"--sae {tmp_path}/a" in message


CONFIGURATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "negative width": ({"d_in": -16}, "d_in must be a positive whole number, but it is -16"),
    "width as text": ({"d_in": "16"}, "d_in must be a positive whole number"),
    "width of true": ({"d_in": True}, "d_in must be a positive whole number"),
    "fractional width": ({"d_in": 16.5}, "d_in must be a positive whole number"),
    "huge width": ({"d_in": 10**30}, "d_in must be a positive whole number"),
    "no width": ({"d_in": None}, "d_in must be a positive whole number, but it is None"),
    "k beyond the latents": ({"k": LATENTS + 1}, "k must lie between 1 and the number of latents"),
    "no k": ({"k": None}, "k must be a positive whole number, but it is None"),
    "unknown activation": ({"activation": "softmax"}, "activation must be one of relu, topk"),
    "list as activation": ({"activation": ["relu"]}, "activation must be one of relu, topk"),
    "no activation": ({"activation": None}, "activation must be one of relu, topk"),
    "unknown field": ({"colour": "red"}, "unknown fields: colour"),
    "newer version": ({"format_version": 2}, "format_version must be 1, but it is 2"),
    "no version": ({"format_version": None}, "format_version must be 1"),
    "unknown normalisation": ({"normalize_activations": "batch"}, "normalize_activations must be one of none"),
    "flag as a number": ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input must be true or false, but it is 1"),
    "no hook": ({"hook_in": None}, "hook_in must name a hook point"),
    "hook as a number": ({"hook_out": 8}, "hook_out must be text or null, but it is 8"),
    "bos as text": ({"prepend_bos": "false"}, "prepend_bos must be true or false or null, but it is 'false'"),
    "model as a list": ({"model": ["gpt2"]}, "model must be text or null"),
    "name as a number": ({"name": 5}, "name must be text or null"),
    "wrong number of latents": ({"n_latents": LATENTS + 1, "k": 5}, "W_enc must have shape"),
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_a_wrong_configuration_names_the_field(tmp_path, what):
    changes, expected = CONFIGURATIONS[what]
    message = refusal(write_native(tiny_coder("topk"), tmp_path / "sae", **changes))
    assert expected in message


JSON = {
    "half an object": ('{"format": ', "is not valid JSON"),
    "a list": ("[1, 2]", "must hold a JSON object, but it holds a list"),
    "nothing": ("", "is not valid JSON"),
    "not UTF-8": (b"\xff\xfe\x00", "is not valid text in UTF-8"),
    "nested without end": ("[" * 100_000, "is not valid JSON"),
    "a number of many digits": ('{"d_in": ' + "9" * 6000 + "}", "is not valid JSON"),
}


@pytest.mark.parametrize("what", JSON)
def test_a_damaged_configuration_names_the_file(folder, what):
    content, expected = JSON[what]
    (folder / "sae_bench.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(folder)
    assert expected in message
    assert "sae_bench.json" in message


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "transposed": ({"W_enc": torch.zeros(LATENTS, WIDTH)}, "W_enc must have shape [16, 48]"),
    "NaN": ({"b_enc": torch.full((LATENTS,), float("nan"))}, "b_enc holds NaN or infinite"),
    "infinite": ({"W_dec": torch.full((LATENTS, WIDTH), float("inf"))}, "W_dec holds NaN or infinite"),
    "half precision infinite": ({"b_dec": torch.full((WIDTH,), float("-inf")).half()}, "b_dec holds NaN or infinite"),
    "integers": ({"b_enc": torch.zeros(LATENTS, dtype=torch.int64)}, "b_enc must hold floating-point numbers"),
    "8 bits": ({"b_enc": torch.zeros(LATENTS).to(torch.float8_e5m2)}, "it holds float8_e5m2"),
    "truth values": ({"b_enc": torch.zeros(LATENTS, dtype=torch.bool)}, "b_enc must hold floating-point numbers"),
    "missing": ({"b_enc": None, "b_dec": None}, "lacks the tensors b_dec, b_enc"),
    "unknown": ({"scaling_factor": torch.ones(LATENTS)}, "holds the tensors scaling_factor, which"),
    "of another activation": ({"threshold": torch.ones(LATENTS)}, "holds the tensors threshold, which"),
}


@pytest.mark.parametrize("what", TENSORS)
def test_wrong_tensors_are_named(folder, what):
    changes, expected = TENSORS[what]
    write_tensors(folder, **changes)
    message = refusal(folder)
    assert expected in message


def header(**tensors: Any) -> bytes:
    content = json.dumps(tensors).encode()
    return struct.pack("<Q", len(content)) + content


ABSURD = {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 1 << 62]}
FILES = {
    "nothing": b"",
    "a few bytes": b"1234",
    "no safetensors": b"PK\x03\x04" + bytes(100),
    "header longer than the file": struct.pack("<Q", 1 << 62) + b"{}",
    "header of 100 MB": struct.pack("<Q", 100_000_000) + b"{}",
    "sizes that overflow": header(W_enc=ABSURD),
    "data beyond the file": header(W_enc={"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 1 << 22]}),
    "negative offsets": header(W_enc={"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}) + bytes(4),
    "unknown type": header(W_enc={"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
}


@pytest.mark.parametrize("what", FILES)
def test_a_damaged_weights_file_is_named(folder, what):
    (folder / WEIGHTS).write_bytes(FILES[what])
    message = refusal(folder)
    assert WEIGHTS in message
    assert "is not a valid safetensors file" in message


@pytest.mark.parametrize("left", [0.1, 0.9, 0.999])
def test_a_truncated_weights_file_is_named(folder, left):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(left * len(content))])
    assert "is it truncated?" in refusal(folder)


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS).unlink()
    assert f"{WEIGHTS} is missing" in refusal(folder)
    (folder / WEIGHTS).mkdir()
    assert WEIGHTS in refusal(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_not_called_a_damaged_file(folder):
    assert "cannot be put on cuda" in refusal(folder, device="cuda")


def test_an_unknown_demo_sae_gets_a_suggestion():
    assert f"did you mean {demo.SAE_NAMES[0]!r}" in refusal(f"demo/{demo.SAE_NAMES[0]}x")


def test_a_demo_sae_without_its_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "sae_path", lambda name: tmp_path / name)
    assert "there is no SAE at" in refusal("demo/relu")


def test_a_demo_sae_is_called_as_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "sae_path", lambda name: write_native(tiny_coder(), tmp_path / name))
    assert load_sae("demo/relu").info.name == "demo/relu"


# ------------------------------------------------------------------------------------------------ hooks and numbers


def test_hooks_can_be_given_and_the_declared_ones_are_kept(folder):
    info = load_sae(str(folder), told=Told(hook_in="blocks.0.hook_resid_pre")).info
    assert info.hooks_in == info.hooks_out == ("blocks.0.hook_resid_pre",)
    assert not info.is_transcoder
    assert info.provenance["declared_hooks"] == {"hook_in": HOOK}
    assert info.provenance["told"] == {"hook_in": "blocks.0.hook_resid_pre"}
    info = load_sae(str(folder), told=Told(hook_out="blocks.0.hook_mlp_out")).info
    assert (info.hooks_in, info.hooks_out) == ((HOOK,), ("blocks.0.hook_mlp_out",))


def test_the_hook_of_a_transcoders_target_stays_when_its_input_is_given(tmp_path):
    coder = tiny_coder(hook_out="blocks.1.hook_mlp_out")
    info = load_sae(str(write_native(coder, tmp_path / "t")), told=Told(hook_in="blocks.1.hook_resid_mid")).info
    assert (info.hooks_in, info.hooks_out) == (("blocks.1.hook_resid_mid",), ("blocks.1.hook_mlp_out",))


def test_the_type_of_the_arithmetic_can_be_chosen(folder):
    coder = load_sae(str(folder), dtype=torch.float64)
    assert coder.encode(activations(3)).values.dtype == torch.float64


# --------------------------------------------------------------------------------------------- module:factory


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module of the user into the current folder; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        name = f"user_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


CONFORMING = """
    from tests.builders.tiny_saes import tiny_coder
    def make():
        return tiny_coder("relu")
    ready = tiny_coder("topk")
"""


def test_a_factory_and_a_ready_object_are_taken(module):
    name = module(CONFORMING)
    assert load_sae(f"{name}:make").info.architecture == "relu"
    assert load_sae(f"{name}:ready").info.architecture == "topk"


DENSE = f"""
    import torch
    class MySAE(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = torch.nn.Parameter(torch.eye({WIDTH}))
            self.d_in = {WIDTH}
            self.hook_name = "{HOOK}"
        def encode(self, x):
            return (x @ self.W).relu()
        def decode(self, z):
            return z @ self.W.T
    class Half(MySAE):
        def __init__(self):
            raise FileNotFoundError(2, "No such file", "weights.pt")
"""


@pytest.mark.filterwarnings("ignore:.*MySAE is wrapped")
def test_a_class_is_constructed_although_it_has_an_encode(module):
    name = module(DENSE)
    coder = load_sae(f"{name}:MySAE")
    assert coder.info.name == f"{name}.MySAE"
    assert len(coder.encode(activations(3)).indptr) == 4


FAILING = {
    "missing module": (None, "no_such_module_xyz:make", "there is no module 'no_such_module_xyz'"),
    "module that imports a missing one": ("import not_there_abc", "make", "there is no module 'not_there_abc'"),
    "module with an error": ("1 / 0", "make", "fails: ZeroDivisionError: division by zero"),
    "module with an attribute error": ("None.x", "make", "fails: AttributeError: 'NoneType'"),
    "module that is no Python": ("def (", "make", "fails: SyntaxError"),
    "missing attribute": ("x = 1", "make", "has no make"),
    "factory that raises": (
        "def make():\n    raise ValueError('bad\\nsecond line')",
        "make",
        "make() fails: ValueError: bad",
    ),
    "factory that raises nothing to read": (
        "def make():\n    raise RuntimeError",
        "make",
        "make() fails: RuntimeError",
    ),
    "factory with arguments": ("def make(x):\n    return x", "make", "make() fails: TypeError"),
    "constructor that raises": (DENSE, "Half", "Half() fails: FileNotFoundError: "),
    "no SAE": ("def make():\n    return {'W_enc': 1}", "make", "encode and decode methods, but dict has not"),
    "nothing": ("def make():\n    return None", "make", "encode and decode methods, but NoneType has not"),
    "a class from a factory": (
        f"{DENSE}\n    def make():\n        return MySAE",
        "make",
        "the class MySAE is no object",
    ),
    "a number": ("make = 3", "make", "encode and decode methods, but int has not"),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_factory_that_fails_is_one_sentence(module, what):
    code, attribute, expected = FAILING[what]
    source = attribute if code is None else f"{module(code)}:{attribute}"
    assert expected in refusal(source)


def test_a_coder_whose_record_is_of_another_kind_is_refused(module):
    code = """
        class Coder:
            info = {"d_in": 4}
            def encode(self, x): ...
            def decode(self, codes, x=None): ...
            def decoder_rows(self, latents): ...
    """
    assert "Coder.info must be a sae_bench.CoderInfo, but it is a dict" in refusal(f"{module(code)}:Coder")


def test_hooks_cannot_be_forced_on_a_coder_with_a_fixed_record(module):
    code = """
        from tests.builders.tiny_saes import tiny_coder
        class Coder:
            def __init__(self):
                self.inner = tiny_coder("relu")
            @property
            def info(self):
                return self.inner.info
            def encode(self, x): ...
            def decode(self, codes, x=None): ...
            def decoder_rows(self, latents): ...
    """
    source = f"{module(code)}:Coder"
    assert load_sae(source).info.hooks_in == (HOOK,)
    assert "info of Coder is read-only" in refusal(source, told=Told(hook_in="blocks.0.hook_resid_pre"))


# ------------------------------------------------------------------------------------------------------- expand


def test_demo_names_and_globs_expand():
    assert expand(["demo"]) == [f"demo/{demo.DEFAULT_SAE}"]
    assert expand(["demo/*"]) == [f"demo/{name}" for name in demo.SAE_NAMES]
    assert expand(["demo/topk*", "demo"]) == [f"demo/{n}" for n in demo.SAE_NAMES if n.startswith("topk")]
    assert expand(["demo/more/*"]) == [f"demo/{name}" for name in demo.MORE_SAES]
    assert expand(["demo/*/topk_k32_seed?", "demo/more/topk_k256"]) == [
        *("demo/more/topk_k32_seed3", "demo/more/topk_k32_seed4", "demo/more/topk_k256")
    ]
    with pytest.raises(CoderError, match="did you mean 'more/topk_k32_seed3'"):
        expand(["demo/topk_k32_seed3"])
    with pytest.raises(CoderError, match="the demo has no SAE named 'nothing\\*'"):
        expand(["demo/nothing*"])


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders runs/b, runs/a and a file runs/c; the current folder is work, beside runs."""
    for name in ("b", "a"):
        write_saelens(tiny_coder(), tmp_path / "runs" / name)
    (tmp_path / "runs" / "c").write_text("no folder")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "runs"


@pytest.mark.parametrize("pattern", ["../runs/*", "../r*/*", "../runs/[ab]", "./../runs/*"])
def test_relative_globs_over_folders_expand_in_order(several, pattern):
    found = expand([pattern])
    assert [Path(f).resolve() for f in found] == [several / "a", several / "b"]
    assert all(load_sae(f).info.format == "saelens" for f in found)


@pytest.mark.parametrize("pattern", ["*", "./*", "r*", "?", ".h*"])
def test_globs_below_the_current_folder(several, monkeypatch, pattern):
    monkeypatch.chdir(several)
    (several / ".hidden").mkdir()
    expected = {"r*": None, ".h*": [".hidden"]}.get(pattern, ["a", "b"])
    if expected is None:
        with pytest.raises(CoderError, match="no folder or file of weights matches"):
            expand([pattern])
    else:
        assert [Path(f).name for f in expand([pattern])] == expected


def test_absolute_globs_and_duplicates(several):
    a, b = str(several / "a"), str(several / "b")
    assert expand([f"{several}/*"]) == [a, b]
    assert expand([b, f"{several}/*", a]) == [b, a]
    assert expand([a, f"{a}/", "../runs/a", f"{several}/../runs/a"]) == [a]
    assert expand(["demo", "demo", "m:f", "m:f"]) == [f"demo/{demo.DEFAULT_SAE}", "m:f"]


def test_a_folder_whose_name_looks_like_a_glob_is_taken_as_it_is(tmp_path):
    folder = write_native(tiny_coder(), tmp_path / "sae[1]")
    assert expand([str(folder)]) == [str(folder)]


def test_a_glob_without_a_match_says_so(tmp_path):
    with pytest.raises(CoderError, match="no folder or file of weights matches"):
        expand([f"{tmp_path}/*"])


def test_what_does_not_exist_is_left_for_loading_to_refuse():
    assert expand(["nowhere", "module:factory"]) == ["nowhere", "module:factory"]
    assert expand([]) == []
