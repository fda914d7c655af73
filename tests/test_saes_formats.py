"""The readers against references of other libraries, and what they refuse rather than get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_bench.errors import CoderError
from sae_bench.saes import conformance
from sae_bench.saes.formats import native, saelens
from sae_bench.saes.load import load_sae
from tests.tiny_saes import ACTIVATIONS, HOOK, activations, tiny_coder, write_native, write_saelens

READ = (
    "saelens_standard",
    "saelens_standard_bf16",
    "saelens_standard_no_bdec",
    "saelens_standard_layer_norm",
    "saelens_standard_constant_norm_rescale",
    "saelens_standard_hook_z",
    "saelens_topk",
    "saelens_topk_rescale",
    "saelens_abstopk",
    "saelens_jumprelu",
    "saelens_gated",
    "saelens_batchtopk",
    "saelens_matryoshka",
)
REFUSED = {
    "saelens_batchtopk_training_ckpt": "the architecture must be one of .* but it is 'batchtopk'",
    "saelens_matryoshka_training_ckpt": "the architecture must be one of .* but it is 'matryoshka_batchtopk'",
    "saelens_transcoder": "but it is 'transcoder'",
    "saelens_skip_transcoder": "but it is 'skip_transcoder'",
    "saelens_jumprelu_transcoder": "but it is 'jumprelu_transcoder'",
    "saelens_jumprelu_skip_transcoder": "but it is 'jumprelu_skip_transcoder'",
    "saelens_matching_pursuit": "but it is 'matching_pursuit'",
    "saelens_temporal": "but it is 'temporal'",
    "saelens_standard_expected_average": "normalize_activations is 'expected_average_only_in', whose factor is not",
    "saelens_v3_legacy_standard": "has no metadata: only SAELens v6",
    "saelens_v5_legacy_topk": "has no metadata: only SAELens v6",
}


def test_every_saelens_fixture_is_either_read_or_refused(shared):
    there = {folder.name for folder in (shared / "fixtures").glob("saelens_*")}
    assert there == {*READ, *REFUSED}


@pytest.mark.parametrize("name", READ)
def test_a_saelens_sae_gives_the_numbers_of_its_library(shared, name):
    folder = shared / "fixtures" / name
    described = json.loads((folder / "fixture.json").read_text())
    reference = np.load(folder / "reference.npz")
    coder = load_sae(str(folder))
    assert coder.info.format == "saelens"
    assert coder.info.hooks_in == (described["hook_in"],)
    assert coder.info.hooks_out == (described["hook_out"],)
    x = torch.from_numpy(reference["x"]).float().flatten(1)  # hook_z: heads are flattened head-major
    codes = coder.encode(x)
    out = coder.decode(codes, x)
    latents, expected = reference["latents"], reference["reconstruction"].reshape(len(x), -1)
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0), "the same latents are active"
    np.testing.assert_allclose(codes.dense().numpy(), latents, rtol=1e-5, atol=1e-5 * np.abs(latents).max())
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert coder.info.signed == bool(latents.min() < 0)
    assert conformance.check(coder, x) == []


@pytest.mark.parametrize("name", READ)
def test_float64_agrees_too(shared, name):
    reference = np.load(shared / "fixtures" / name / "reference.npz")
    coder = load_sae(str(shared / "fixtures" / name), dtype=torch.float64)
    x = torch.from_numpy(reference["x"]).double().flatten(1)
    out = coder.decode(coder.encode(x), x)
    expected = reference["reconstruction"].reshape(len(x), -1)
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_rightly_is_refused_with_the_reason(shared, name):
    with pytest.raises(CoderError, match=REFUSED[name]) as error:
        load_sae(str(shared / "fixtures" / name))
    assert "\n" not in str(error.value)


def test_layouts_of_other_libraries_are_refused(shared):
    others = [f for f in (shared / "fixtures").iterdir() if f.is_dir() and not f.name.startswith("saelens_")]
    for folder in others:
        with pytest.raises(CoderError):
            load_sae(str(folder))


RULES = [
    *((activation, {}) for activation in ACTIVATIONS),
    *((activation, {"apply_b_dec_to_input": False}) for activation in ACTIVATIONS),
    *((activation, {"normalise": "layer_norm"}) for activation in ACTIVATIONS),
    *(("relu", {"normalise": "constant_norm_rescale"}), ("topk", {"rescale_by_decoder_norm": True})),
    ("abstopk", {"rescale_by_decoder_norm": True}),
]


@pytest.mark.parametrize(("activation", "rule"), RULES)
@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
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
    for field in ("n_latents", "d_in", "d_out", "hooks_in", "hooks_out", "signed", "decode_needs_x"):
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
    assert module.matches(folder)
    assert not module.matches(tmp_path)


SAELENS_WRONG = {
    "list as architecture": ({"architecture": ["topk"]}, {}, "the architecture must be one of"),
    "shape of the activations": ({"reshape_activations": "hook_q"}, {}, "reshape_activations must be none or hook_z"),
    "unknown normalisation": ({"normalize_activations": "whitening"}, {}, "whose factor is not stored"),
    "one head": ({}, {"hook_head_index": 3}, "single attention head"),
    "no hook": ({}, {"hook_name": None}, "metadata.hook_name must name the hook point"),
    "hook as a number": ({}, {"hook_name_out": 3}, "hook_name_out must be text"),
    "flag as text": ({"apply_b_dec_to_input": "no"}, {}, "apply_b_dec_to_input must be true or false"),
    "bos as text": ({}, {"prepend_bos": "false"}, "prepend_bos must be true or false"),
    "context as text": ({}, {"context_size": "128"}, "context_size must be a whole number"),
    "wrong width": ({"d_sae": 47}, {}, "must have shape"),
}


@pytest.mark.parametrize("what", SAELENS_WRONG)
def test_a_saelens_configuration_that_cannot_be_meant_is_refused(tmp_path, what):
    changes, metadata, expected = SAELENS_WRONG[what]
    folder = write_saelens(tiny_coder(), tmp_path / "sae", metadata=metadata, **changes)
    with pytest.raises(CoderError, match=expected) as error:
        load_sae(str(folder))
    assert "\n" not in str(error.value)


def test_files_of_both_layouts_are_read_as_native(tmp_path):
    folder: Path = write_saelens(tiny_coder(seed=1), tmp_path / "sae")
    write_native(tiny_coder(seed=2), folder)
    assert load_sae(str(folder)).info.format == "native"


def test_an_sae_of_processed_weights_is_refused_rather_than_measured_on_others(tmp_path: Path) -> None:
    """gpt2-small-res-jb and others were trained with centred writing weights: raw activations are not theirs."""
    metadata = {
        "hook_name": "blocks.0.hook_resid_pre",
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }
    folder = write_saelens(tiny_coder("relu"), tmp_path / "sae", metadata)
    with pytest.raises(CoderError, match="center_writing_weights"):
        load_sae(str(folder))
