"""The two layouts that other tests write too: what goes to disk comes back, and defaults are the documented ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_bench.saes.formats import native, saelens
from sae_bench.saes.load import load_sae
from sae_bench.saes.source import Source
from tests.builders.marks import slow_but
from tests.builders.tiny_saes import ACTIVATIONS, HOOK, activations, tiny_coder, write_native, write_saelens

RULES = [
    *((activation, {}) for activation in ACTIVATIONS),
    *((activation, {"apply_b_dec_to_input": False}) for activation in ACTIVATIONS),
    *((activation, {"normalise": "layer_norm"}) for activation in ACTIVATIONS),
    *(("relu", {"normalise": "constant_norm_rescale"}), ("topk", {"by_decoder_norm": "latents"})),
    ("abstopk", {"by_decoder_norm": "latents"}),
]


@pytest.mark.parametrize(("activation", "rule"), RULES)
@pytest.mark.parametrize("storage", slow_but(2, [torch.bfloat16, torch.float32, torch.float16, torch.float64]))
@pytest.mark.parametrize("write", [write_native, write_saelens])
def test_an_sae_comes_back_from_disk_as_it_was(tmp_path, activation, rule, storage, write):
    coder = tiny_coder(activation, storage=storage, **rule)
    back = load_sae(str(write(coder, tmp_path / "sae")))
    x = activations(20)
    codes, again = coder.encode(x), back.encode(x)
    assert torch.equal(codes.indptr, again.indptr)
    assert torch.equal(codes.indices, again.indices)
    assert torch.equal(codes.values, again.values)
    assert torch.equal(coder.decode(codes, x), back.decode(again, x))
    for field in ("n_latents", "d_in", "d_out", "hooks_in", "hooks_out", "signed", "decode_needs"):
        assert getattr(back.info, field) == getattr(coder.info, field)


def test_a_transcoder_comes_back_in_the_native_layout(tmp_path):
    coder = tiny_coder("topk", d_out=7, hook_out="blocks.1.hook_mlp_out")
    back = load_sae(str(write_native(coder, tmp_path / "sae")))
    assert back.info.is_transcoder
    assert (back.info.d_in, back.info.d_out) == (16, 7)
    x = activations(5)
    assert torch.equal(back.decode(back.encode(x)), coder.decode(coder.encode(x)))


def test_the_record_says_where_the_sae_comes_from(tmp_path):
    folder = write_native(
        tiny_coder(), tmp_path / "a", name="mine", model="gpt2", prepend_bos=False, context_size=64, notes="layer 1"
    )
    info = load_sae(str(folder)).info
    assert (info.name, info.model, info.prepend_bos, info.context_size) == ("mine", "gpt2", False, 64)
    assert info.provenance["files"] == ["sae_bench.json", "weights.safetensors"]
    assert info.provenance["notes"] == "layer 1"
    same = load_sae(str(write_native(tiny_coder(), tmp_path / "b")))
    other = load_sae(str(write_native(tiny_coder(seed=1), tmp_path / "c")))
    again = load_sae(str(write_native(tiny_coder(), tmp_path / "d")))
    assert same.info.provenance["sha256"] == again.info.provenance["sha256"] != other.info.provenance["sha256"]


def test_what_the_configuration_leaves_out_has_the_documented_default(tmp_path):
    coder = tiny_coder()
    left_out = dict.fromkeys(
        ("name", "apply_b_dec_to_input", "normalize_activations", "rescale_acts_by_decoder_norm", "d_out", "hook_out")
    )
    back = load_sae(str(write_native(coder, tmp_path / "short", **left_out)))
    assert back.info.name == "short"
    assert back.info.hooks_out == (HOOK,)
    x = activations(5)
    assert torch.equal(back.decode(back.encode(x)), coder.decode(coder.encode(x)))


def test_a_scalar_threshold_is_read(tmp_path):
    coder = tiny_coder("jumprelu")
    coder.weights = type(coder.weights)(**(dict(coder.weights.items()) | {"threshold": torch.tensor(0.7)}))
    back = load_sae(str(write_native(coder, tmp_path / "sae")))
    assert torch.equal(back.encode(activations(5)).indices, coder.encode(activations(5)).indices)


@pytest.mark.parametrize(("write", "module"), [(write_native, native), (write_saelens, saelens)])
def test_a_layout_is_recognised_by_its_files_alone(tmp_path, write, module):
    folder = write(tiny_coder(), tmp_path / "sae")
    assert module.matches(Source(folder))
    assert not module.matches(Source(tmp_path))
    assert not module.matches(Source(next(folder.glob("*.safetensors"))))


def test_files_of_both_layouts_are_read_as_native(tmp_path):
    folder: Path = write_saelens(tiny_coder(seed=1), tmp_path / "sae")
    write_native(tiny_coder(seed=2), folder)
    assert load_sae(str(folder)).info.format == "native"
