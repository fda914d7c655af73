"""SAELens: its own numbers from its own files, whatever the architecture, and a refusal where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_bench.errors import CoderError
from sae_bench.saes.load import load_sae, load_saes
from sae_bench.schema import INFERENCE
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_close, assert_matches_fixture, flat
from tests.builders.marks import slow_but
from tests.builders.saelens_files import (
    assert_by_hand,
    by_hand,
    config_of,
    folded,
    refusal,
    tensors_of,
    write,
    write_one,
)
from tests.builders.tiny_saes import LATENTS, WIDTH, activations

READ = (
    *("standard", "standard_bf16", "standard_no_bdec", "standard_layer_norm", "standard_constant_norm_rescale"),
    *("standard_hook_z", "topk", "topk_rescale", "abstopk", "jumprelu", "gated", "batchtopk", "matryoshka"),
    *("batchtopk_training_ckpt", "matryoshka_training_ckpt", "transcoder", "skip_transcoder", "jumprelu_transcoder"),
    *("jumprelu_skip_transcoder", "matching_pursuit", "v3_legacy_standard", "v5_legacy_topk"),
)
ASKED = ("standard_expected_average",)
REFUSED = ("temporal",)
D_OUT = 12
FACTOR = 0.37


def fixture_folder(references: Path, name: str) -> Path:
    return references / "fixtures" / f"saelens_{name}"


# fixtures: outputs of SAELens 6.54


def test_every_fixture_is_read_asked_about_or_refused(references):
    there = {folder.name.removeprefix("saelens_") for folder in (references / "fixtures").glob("saelens_*")}
    assert there == {*READ, *ASKED, *REFUSED}


@pytest.mark.filterwarnings("ignore:.*centred the writing weights")
@pytest.mark.parametrize("name", READ)
def test_an_sae_gives_the_numbers_of_its_library(references, name):
    folder = fixture_folder(references, name)
    described = json.loads((folder / "fixture.json").read_text())
    coder = load_sae(str(folder))
    assert_matches_fixture(folder, coder)
    info = coder.info
    assert (info.format, info.hooks_in, info.hooks_out) == (
        "saelens",
        (described["hook_in"],),
        (described["hook_out"],),
    )
    assert (info.model, info.prepend_bos, info.context_size) == ("tiny-gpt2", True, 128)
    config = json.loads((folder / "cfg.json").read_text())
    trained = config.get("metadata", {}).get("training_architecture", described["architecture"])
    assert info.architecture == trained
    assert described["architecture"] in (trained, info.provenance.get(INFERENCE))
    assert info.signed == (name == "abstopk")


@pytest.mark.filterwarnings("ignore:.*centred the writing weights")
@pytest.mark.parametrize("name", READ)
def test_float64_agrees_too(references, name):
    folder = fixture_folder(references, name)
    reference = np.load(folder / "reference.npz")
    coder = load_sae(str(folder), dtype=torch.float64)
    x = torch.from_numpy(flat(reference["x"])).double()
    out = coder.decode(coder.encode(x), x)
    assert out.dtype == torch.float64
    assert_close(out, flat(reference["reconstruction"]))


def test_the_factor_of_a_normalisation_is_asked_for_and_used_as_saelens_folds_it(references):
    folder = fixture_folder(references, "standard_expected_average")
    message = refusal(folder)
    assert "expected_average_only_in" in message
    assert message.endswith("settle it with --norm-factor")
    factor = json.loads((folder / "fixture.json").read_text())["norm_scaling_factor"]
    coder = load_sae(str(folder), told=Told(norm_factor=factor))
    assert_matches_fixture(folder, coder, latents="latents_scaled", reconstruction="reconstruction_scaled")
    left_out = load_sae(str(folder), told=Told(norm_factor=1.0))
    assert_matches_fixture(folder, left_out)
    assert coder.info.provenance["sha256"] != left_out.info.provenance["sha256"]


@pytest.mark.parametrize("name", ["matryoshka", "matryoshka_training_ckpt"])
def test_nested_dictionaries_of_a_matryoshka_sae_stand_alone(references, name):
    folder = fixture_folder(references, name)
    coder = load_sae(str(folder))
    assert coder.info.prefix_widths == (16, 48)
    assert coder.info.provenance["declared_l0"] == 8
    reference = np.load(fixture_folder(references, "matryoshka") / "reference.npz")
    x = torch.from_numpy(reference["x"])
    for width in (16, 48):
        nested = load_sae(f"{folder}#{width}")
        assert nested.info.n_latents == width
        assert_close(nested.decode(nested.encode(x), x), reference[f"reconstruction_prefix_{width}"])


def test_a_temporal_sae_is_refused_because_tokens_depend_on_each_other(references):
    message = refusal(fixture_folder(references, "temporal"))
    assert "architecture is temporal" in message
    assert "need the sequence" in message


# the same without fixtures: tiny files, and the formulas in plain numpy


CASES = [
    *(("standard", {}), ("standard", {"apply_b_dec_to_input": False}), ("gated", {}), ("jumprelu", {})),
    *(("topk", {}), ("topk", {"rescale_acts_by_decoder_norm": True}), ("topk", {"k": 5.0})),
    *(("abstopk", {}), ("abstopk", {"rescale_acts_by_decoder_norm": True}), ("matching_pursuit", {})),
    *(("matching_pursuit", {"apply_b_dec_to_input": False}), ("matching_pursuit", {"residual_threshold": 0.0})),
    *(("transcoder", {}), ("skip_transcoder", {}), ("jumprelu_transcoder", {}), ("jumprelu_skip_transcoder", {})),
    *(("batchtopk", {}), ("batchtopk", {"rescale_acts_by_decoder_norm": False}), ("matryoshka_batchtopk", {})),
]


@pytest.mark.parametrize(("architecture", "changes"), CASES)
def test_every_architecture_follows_its_formula(tmp_path, architecture, changes):
    d_out = D_OUT if "transcoder" in architecture else None
    config = config_of(architecture, d_out=d_out, **changes)
    if isinstance(config.get("k"), float) and architecture == "topk":
        config["k"] = int(config["k"])
    tensors = tensors_of(architecture, d_out=d_out)
    coder = assert_by_hand(write(tmp_path / "sae", config | changes, tensors), config, tensors)
    assert coder.info.architecture == architecture
    assert coder.info.is_transcoder == ("transcoder" in architecture)
    assert coder.info.decode_needs == ("skip" if "skip" in architecture else "nothing")
    assert coder.info.provenance["files"] == ["cfg.json", "sae_weights.safetensors"]


@pytest.mark.parametrize(("architecture", "changes"), CASES)
@pytest.mark.parametrize("beside", slow_but(1, [False, True]))
def test_a_factor_of_activations_is_folded_as_saelens_does(tmp_path, architecture, changes, beside):
    """Also where latents have units of the decoder's norm, which the factor changes."""
    config = config_of(architecture, **changes) | {"normalize_activations": "expected_average_only_in"}
    config |= {"k": int(config["k"])} if architecture == "topk" else {}
    tensors = tensors_of(architecture)
    folder = write(tmp_path / "sae", config, tensors)
    told = None if beside else Told(norm_factor=FACTOR)
    if beside:
        scaler = {"scaling_factor": FACTOR, "has_whitening": False}
        (folder / "activation_scaler.json").write_text(json.dumps(scaler))
    coder = assert_by_hand(folder, *folded(config, tensors, FACTOR), told)
    assert ("activation_scaler.json" in coder.info.provenance["files"]) == beside
    assert any(str(FACTOR) in said for said in coder.info.provenance.get("assumptions", [])) == beside


def test_a_told_factor_counts_over_the_one_of_a_checkpoint(tmp_path):
    config = config_of("topk", normalize_activations="expected_average_only_in", rescale_acts_by_decoder_norm=True)
    tensors = tensors_of("topk")
    folder = write(tmp_path / "sae", config, tensors)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 5.0, "has_whitening": false}')
    coder = assert_by_hand(folder, *folded(config, tensors, FACTOR), Told(norm_factor=FACTOR))
    assert "assumptions" not in coder.info.provenance


def test_a_factor_that_the_configuration_does_not_expect_is_asked_about(tmp_path):
    folder = write_one(tmp_path / "sae")
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 5.0, "has_whitening": false}')
    assert "normalize_activations is none, but activation_scaler.json has the factor 5.0" in refusal(folder)
    load_sae(str(folder), told=Told(norm_factor=1.0))


@pytest.mark.parametrize(
    ("scaler", "expected"),
    [
        ({"scaling_factor": None, "has_whitening": True}, "has_whitening is true"),
        ({"scaling_factor": -1.0}, "scaling_factor must be positive"),
        ({"scaling_factor": "2"}, "scaling_factor must be a number"),
        ({"scaling_factor": None}, "is not in the folder; settle it with --norm-factor"),
        ({}, "is not in the folder; settle it with --norm-factor"),
    ],
)
def test_a_scaler_that_cannot_be_used_is_refused(tmp_path, scaler, expected):
    folder = write_one(tmp_path / "sae", normalize_activations="expected_average_only_in")
    (folder / "activation_scaler.json").write_text(json.dumps(scaler))
    assert expected in refusal(folder)


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_a_transcoder_normalises_its_input_but_not_its_output(tmp_path, architecture):
    config = config_of(architecture, d_out=D_OUT, normalize_activations="layer_norm")
    tensors = tensors_of(architecture, d_out=D_OUT)
    x = activations(20, dtype=torch.float64)
    normed = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    _, out = by_hand(config, {n: t for n, t in tensors.items() if n != "W_skip"}, normed.numpy())
    if "W_skip" in tensors:
        out = out + x.numpy() @ tensors["W_skip"].double().numpy().T
    coder = load_sae(str(write(tmp_path / "sae", config, tensors)), dtype=torch.float64)
    assert_close(coder.decode(coder.encode(x), x), out, 1e-6)


def test_a_checkpoint_of_jumprelu_has_the_logarithm_of_its_threshold(tmp_path):
    config, tensors = config_of("jumprelu"), tensors_of("jumprelu")
    tensors["threshold"] = tensors["threshold"].abs()
    stored = {name: tensor for name, tensor in tensors.items() if name != "threshold"}
    folder = write(tmp_path / "sae", config, stored | {"log_threshold": tensors["threshold"].log()})
    assert_by_hand(folder, config, tensors)


def test_the_threshold_of_a_checkpoint_before_the_first_step_is_asked_for(tmp_path):
    config, tensors = config_of("batchtopk"), tensors_of("batchtopk")
    folder = write(tmp_path / "sae", config, tensors | {"topk_threshold": torch.tensor(0.0)})
    assert refusal(folder).endswith("settle it with --threshold")
    assert_by_hand(folder, config, tensors | {"topk_threshold": torch.tensor(0.8)}, Told(threshold=0.8))


# Matryoshka


def test_nested_widths_are_read_only_where_a_prefix_can_stand_alone(tmp_path):
    details = {"training_architecture_details": {"matryoshka_widths": [8, 16, LATENTS], "k": 3.5}}
    exported = load_sae(str(write_one(tmp_path / "a", "jumprelu", metadata=details)))
    assert exported.info.prefix_widths == (8, 16)
    assert exported.info.provenance["declared_l0"] == 3.5
    assert load_sae(str(write_one(tmp_path / "b", "topk", metadata=details))).info.prefix_widths == ()
    checkpoint = write_one(tmp_path / "c", "matryoshka_batchtopk", matryoshka_widths=[8, LATENTS])
    assert load_sae(str(checkpoint)).info.prefix_widths == (8,)


def test_all_nested_dictionaries_are_asked_for_at_once_and_share_what_was_read(tmp_path):
    details = {"training_architecture_details": {"matryoshka_widths": [8, 16, LATENTS]}}
    folder = str(write_one(tmp_path / "a", "jumprelu", metadata=details))
    found = dict(load_saes([f"{folder}#*", f"{folder}#8"]))
    assert list(found) == [folder, f"{folder}#8", f"{folder}#16"], "each once"
    assert [coder.info.n_latents for coder in found.values()] == [LATENTS, 8, 16]
    assert len({coder.info.provenance["sha256"] for coder in found.values()}) == 3
    whole, *parts = (coder.weights.W_dec for coder in found.values())
    assert {part.data_ptr() for part in parts} == {whole.data_ptr()}
    for name, coder in found.items():
        alone = load_sae(name)
        assert (alone.info, alone.weights.W_dec.shape) == (coder.info, coder.weights.W_dec.shape)
    with pytest.raises(CoderError, match="declares no nested dictionaries"):
        list(load_saes([str(write_one(tmp_path / "b", "jumprelu")) + "#*"]))


@pytest.mark.parametrize("widths", [[16, 8], [8, 8], [8, LATENTS + 1], [0, 8], ["8"], 8])
def test_nested_widths_that_do_not_ascend_within_the_dictionary_are_refused(tmp_path, widths):
    details = {"training_architecture_details": {"matryoshka_widths": widths}}
    message = refusal(write_one(tmp_path / "sae", "jumprelu", metadata=details))
    assert "metadata.training_architecture_details.matryoshka_widths must" in message


# what cannot be meant

PURSUIT_WRONG = {
    "normalised": ({"normalize_activations": "layer_norm"}, "must be none or expected_average_only_in with matching"),
    "iterations": ({"max_iterations": 0}, "max_iterations must be a positive whole number"),
    "threshold": ({"residual_threshold": None}, "residual_threshold must be a number"),
    "stop": ({"stop_on_duplicate_support": 1}, "stop_on_duplicate_support must be true or false"),
}


@pytest.mark.parametrize("what", PURSUIT_WRONG)
def test_a_matching_pursuit_that_cannot_be_meant_is_refused(tmp_path, what):
    changes, expected = PURSUIT_WRONG[what]
    assert expected in refusal(write_one(tmp_path / "sae", "matching_pursuit", **changes))


def test_a_matching_pursuit_without_a_limit_takes_as_many_steps_as_there_are_dimensions(tmp_path):
    config, tensors = config_of("matching_pursuit", max_iterations=None), tensors_of("matching_pursuit")
    tensors["W_dec"] /= tensors["W_dec"].norm(dim=1, keepdim=True)
    assert_by_hand(write(tmp_path / "sae", config, tensors), config | {"max_iterations": WIDTH}, tensors)


@pytest.mark.parametrize("told", [Told(k=3), Told(threshold=0.5)])
def test_a_matching_pursuit_cannot_be_told_another_rule(tmp_path, told):
    assert "matching pursuit keeps latents by its own rule" in refusal(
        write_one(tmp_path / "a", "matching_pursuit"), told
    )


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("standard", {"threshold": torch.ones(LATENTS)}),
        ("standard", {"b_enc": None}),
        ("gated", {"b_enc": torch.ones(LATENTS)}),
        ("transcoder", {"W_skip": torch.ones(WIDTH, WIDTH)}),
        ("skip_transcoder", {"W_skip": None}),
        ("jumprelu", {"topk_threshold": torch.tensor(0.5)}),
        ("batchtopk", {"topk_threshold": None}),
        ("batchtopk", {"topk_threshold": torch.ones(3)}),
        ("matching_pursuit", {"W_enc": torch.ones(WIDTH, LATENTS)}),
        ("matching_pursuit", {"W_dec": torch.ones(LATENTS)}),
        ("standard", {"W_enc": torch.ones(())}),
        ("standard", {"W_dec": torch.ones(2, 2, 2, 2, 2)}),
        ("standard", {"scaling_factor": torch.ones(LATENTS, dtype=torch.int64)}),
        ("jumprelu", {"threshold": None, "log_threshold": torch.ones(LATENTS, dtype=torch.bool)}),
    ],
)
def test_tensors_that_do_not_belong_to_the_architecture_are_refused(tmp_path, architecture, change):
    folder = write_one(tmp_path / "sae", architecture)
    tensors = load_file(folder / "sae_weights.safetensors") | change
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "sae_weights.safetensors")
    assert refusal(folder)
