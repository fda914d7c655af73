"""SAELens' configurations, old and new: defaults of their time, hook points, and what cannot be meant."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sae_bench.saes.load import load_sae
from sae_bench.settings import Told
from tests.builders.saelens_files import assert_by_hand, config_of, folded, refusal, tensors_of, write, write_one
from tests.builders.tiny_saes import HOOK, LATENTS, WIDTH, K

FACTOR = 0.37

# configurations of v3 to v5


def legacy(**changes: Any) -> dict[str, Any]:
    """A flat configuration of v3; None leaves a field out."""
    config = {
        **{"d_in": WIDTH, "d_sae": LATENTS, "dtype": "torch.float32", "device": "cpu", "model_name": "gpt2-small"},
        **{"hook_point": HOOK, "hook_point_layer": 1, "hook_point_head_index": None, "context_size": 64},
        **{"prepend_bos": True, "normalize_activations": False, "model_from_pretrained_kwargs": {}},
        **{"l1_coefficient": 8e-5, "use_ghost_grads": False, "expansion_factor": 3, "wandb_project": "x"},
    }
    return {name: value for name, value in (config | changes).items() if value is not None}


def test_a_flat_configuration_has_the_defaults_of_its_time(tmp_path):
    tensors = tensors_of("standard")
    folder = write(tmp_path / "sae", legacy(prepend_bos=None), tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coder = assert_by_hand(folder, config_of("standard"), tensors)
    info = coder.info
    assert (info.hooks_in, info.model, info.prepend_bos, info.context_size) == ((HOOK,), "gpt2-small", True, 64)
    assert info.architecture == "standard"
    said = " ".join(info.provenance["assumptions"])
    assert "a token BOS" in said
    assert "b_dec is subtracted" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}},
        {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
        {"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
        {"architecture": "topk", "k": K},
    ],
)
def test_topk_before_v6_stands_in_the_activation_function(tmp_path, changes):
    tensors = tensors_of("topk")
    folder = write(tmp_path / "sae", legacy(**changes), tensors)
    coder = assert_by_hand(folder, config_of("topk"), tensors)
    assert coder.info.architecture == "topk"
    assert coder.info.provenance["declared_l0"] == K


@pytest.mark.parametrize("config", [legacy(activation_fn="topk"), config_of("topk") | {"k": None}])
def test_k_that_is_nowhere_is_asked_for(tmp_path, config):
    tensors = tensors_of("topk")
    folder = write(tmp_path / "sae", config, tensors)
    assert refusal(folder).endswith("settle it with --k")
    assert_by_hand(folder, config_of("topk"), tensors, Told(k=K))


def test_true_as_normalisation_meant_the_average_norm(tmp_path):
    tensors = tensors_of("standard")
    folder = write(tmp_path / "sae", legacy(normalize_activations=True), tensors)
    assert "expected_average_only_in" in refusal(folder)
    assert_by_hand(folder, *folded(config_of("standard"), tensors, FACTOR), Told(norm_factor=FACTOR))


@pytest.mark.parametrize("architecture", ["jumprelu", "gated"])
def test_other_architectures_were_flat_too(tmp_path, architecture):
    tensors = tensors_of(architecture)
    folder = write(tmp_path / "sae", legacy(architecture=architecture, activation_fn_str="relu"), tensors)
    assert_by_hand(folder, config_of(architecture), tensors)


def test_factors_per_latent_are_dropped_if_they_are_ones(tmp_path):
    tensors = tensors_of("standard")
    folder = write(tmp_path / "a", legacy(), tensors | {"scaling_factor": torch.ones(LATENTS)})
    assert_by_hand(folder, config_of("standard"), tensors)
    tuned = torch.ones(LATENTS).index_fill_(0, torch.tensor([3]), 1.1)
    assert "scaling_factor was fine-tuned" in refusal(
        write(tmp_path / "b", legacy(), tensors | {"scaling_factor": tuned})
    )


def test_a_name_with_a_place_for_the_layer_is_filled_in(tmp_path):
    config = legacy(hook_point="blocks.{layer}.hook_mlp_out", hook_point_layer=0)
    coder = load_sae(str(write(tmp_path / "a", config, tensors_of("standard"))))
    assert coder.info.hooks_in == ("blocks.0.hook_mlp_out",)
    config = legacy(hook_point="blocks.{layer}.hook_mlp_out", hook_point_layer=None)
    assert "give --hook-in" in refusal(write(tmp_path / "b", config, tensors_of("standard")))


LEGACY_WRONG = {
    "another activation": ({"activation_fn": "tanh-relu"}, "activation_fn must be relu, or topk"),
    "gated topk": ({"architecture": "gated", "activation_fn": "topk"}, "but it is 'topk' with 'gated'"),
    "k as text": ({"activation_fn": "topk", "activation_fn_kwargs": {"k": "5"}}, "k must be a positive whole number"),
    "options as a list": ({"activation_fn_kwargs": [5]}, "activation_fn_kwargs must be an object"),
    "one head": ({"hook_point_head_index": 3}, "hook_head_index is 3, but an SAE on a single attention head"),
    "two hooks": ({"hook_name": "blocks.0.hook_resid_post"}, "hook_point and hook_name must say the same"),
    "hook as a number": ({"hook_point": 3}, "hook_name must be text or null"),
    "unknown": ({"architecture": "vanilla"}, "architecture must be one of standard"),
}


@pytest.mark.parametrize("what", LEGACY_WRONG)
def test_a_flat_configuration_that_cannot_be_meant_is_refused(tmp_path, what):
    changes, expected = LEGACY_WRONG[what]
    assert expected in refusal(write(tmp_path / "sae", legacy(**changes), tensors_of("standard")))


# the model and the tokens that the SAE was trained on


def hooks_of(folder: Path, told: Told | None = None) -> tuple[str, str]:
    info = load_sae(str(folder), told=told).info
    return info.hooks_in[0], info.hooks_out[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_pre:centered"),
        ("blocks.11.hook_attn_out", "blocks.11.hook_attn_out:centered"),
        ("hook_embed", "hook_embed:centered"),
        ("blocks.0.attn.hook_z", "blocks.0.attn.hook_z"),
        ("blocks.0.mlp.hook_post", "blocks.0.mlp.hook_post"),
        ("blocks.0.ln2.hook_normalized", "blocks.0.ln2.hook_normalized"),
    ],
)
def test_centred_writing_weights_go_into_the_name_of_the_hook_point(tmp_path, name, expected):
    """gpt2-small-res-jb and others were trained on such a model: its raw activations are not theirs."""
    metadata = {"hook_name": name, "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    coder = load_sae(str(write_one(tmp_path / "sae", metadata=metadata)))
    assert coder.info.hooks_in == coder.info.hooks_out == (expected,)
    said = " ".join(coder.info.provenance.get("assumptions", []))
    assert ("center_writing_weights" in said) == (name != expected)


def test_both_hook_points_of_a_transcoder_are_centred_where_that_matters(tmp_path):
    metadata = {
        "hook_name": "blocks.1.ln2.hook_normalized",
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }
    folder = write_one(tmp_path / "sae", "transcoder", metadata=metadata)
    assert hooks_of(folder) == ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out:centered")


@pytest.mark.parametrize(
    "options", [{"fold_ln": True}, {"center_unembed": True}, {"fold_value_biases": True}, {"new": 1}]
)
def test_an_sae_of_weights_processed_otherwise_is_refused(tmp_path, options):
    folder = write_one(tmp_path / "sae", metadata={"model_from_pretrained_kwargs": options})
    message = refusal(folder)
    assert next(iter(options)) in message
    assert "--sae module:factory" in message


@pytest.mark.parametrize(
    "options",
    [
        *({}, None, {"fold_ln": False, "center_writing_weights": False}, {"center_writing_weights": None}),
        *({"dtype": "bfloat16", "device_map": "auto", "n_devices": 2, "trust_remote_code": True}, {"revision": "main"}),
    ],
)
def test_options_that_change_no_activations_are_ignored(tmp_path, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = write_one(tmp_path / "sae", metadata={"model_from_pretrained_kwargs": options})
        assert hooks_of(folder) == (HOOK, HOOK)


@pytest.mark.parametrize("options", [{"revision": "step3000"}, {"checkpoint_index": 0}, {"checkpoint_value": 512}])
def test_another_checkpoint_of_the_model_is_warned_of(tmp_path, options):
    folder = write_one(tmp_path / "sae", metadata={"model_from_pretrained_kwargs": options})
    with pytest.warns(UserWarning, match=f"trained on {next(iter(options))} .* of the model"):
        load_sae(str(folder))


def test_an_old_configuration_that_is_silent_on_processing_is_warned_of(tmp_path):
    """The files of gpt2-small-res-jb are silent, and its model was centred."""
    tensors = tensors_of("standard")
    folder = write(tmp_path / "a", legacy(model_from_pretrained_kwargs=None), tensors)
    with pytest.warns(UserWarning, match=f"give --hook-in {HOOK}:centered"):
        assert hooks_of(folder) == (HOOK, HOOK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hooks_of(folder, Told(hook_in=f"{HOOK}:centered")) == (f"{HOOK}:centered",) * 2
        later = legacy(model_from_pretrained_kwargs=None, sae_lens_training_version="5.3.0")
        load_sae(str(write(tmp_path / "b", later, tensors)))
        unmoved = legacy(model_from_pretrained_kwargs=None, hook_point="blocks.0.mlp.hook_post")
        load_sae(str(write(tmp_path / "c", unmoved, tensors)))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"hook_name": "model.layers.3"}, "model.layers.3:out"),
        ({"hook_name": "model.layers.3.mlp", "hf_hook_name": "model.layers.3.mlp.input"}, "model.layers.3.mlp:in"),
        ({"hook_name": "transformer.h.3", "hf_hook_name": "model.layers.3"}, "model.layers.3:out"),
        ({"hook_name": "blocks.3.hook_resid_post"}, "blocks.3.hook_resid_post"),
    ],
)
def test_hook_points_of_a_hugging_face_model_are_modules(tmp_path, metadata, expected):
    folder = write_one(tmp_path / "sae", metadata={"model_class_name": "AutoModelForCausalLM", **metadata})
    assert hooks_of(folder) == (expected, expected)


def test_the_hook_point_that_a_transcoder_predicts_is_asked_for(tmp_path):
    config = config_of("transcoder")
    config["metadata"]["hook_name_out"] = None
    folder = write(tmp_path / "sae", config, tensors_of("transcoder"))
    assert refusal(folder).endswith("settle it with --hook-out")
    assert hooks_of(folder, Told(hook_out="blocks.1.hook_mlp_out")) == (HOOK, "blocks.1.hook_mlp_out")


def test_b_dec_is_never_subtracted_from_the_input_of_a_transcoder(tmp_path):
    config, tensors = config_of("transcoder"), tensors_of("transcoder")
    coder = assert_by_hand(write(tmp_path / "sae", config | {"apply_b_dec_to_input": True}, tensors), config, tensors)
    assert "no transcoder of SAELens subtracts b_dec" in coder.info.provenance["assumptions"][0]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"seqpos_slice": [5, -5]}, "positions [5, -5] of every context only"),
        ({"exclude_special_tokens": [0, 7]}, "without the tokens [0, 7]"),
        ({"exclude_special_tokens": True}, "without special tokens"),
        ({"sequence_separator_token": None}, "joined without a token between them"),
        ({"sequence_separator_token": "eos"}, "joined with the token 'eos' between them"),
        ({"disable_concat_sequences": True}, "documents that were not joined"),
        ({"seqpos_slice": [None], "exclude_special_tokens": False, "sequence_separator_token": "bos"}, None),
        ({"seqpos_slice": None, "exclude_special_tokens": [], "disable_concat_sequences": False}, None),
    ],
)
def test_how_tokens_were_laid_out_is_said(tmp_path, metadata, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = load_sae(str(write_one(tmp_path / "sae", metadata=metadata))).info.provenance.get("assumptions", [])
    assert len(said) == (expected is not None)
    assert expected is None or expected in said[0]


def test_fields_that_no_version_has_are_named(tmp_path):
    folder = write_one(tmp_path / "sae", scale_latents=True, l1_coefficient=1.0)
    with pytest.warns(UserWarning, match="ignored: 'scale_latents'$"):
        load_sae(str(folder))


def test_the_type_in_the_configuration_gives_way_to_the_tensors(tmp_path):
    """And statistics of training beside the weights are left alone."""
    config, tensors = config_of("standard", dtype="bfloat16"), tensors_of("standard")
    folder = write(tmp_path / "sae", config, tensors)
    save_file({"sparsity": torch.zeros(LATENTS)}, folder / "sparsity.safetensors")
    (folder / "trainer_state.pt").write_bytes(b"not read")
    assert_by_hand(folder, config, tensors)


# what cannot be meant

WRONG = {
    "list as architecture": ({"architecture": ["topk"]}, {}, "architecture must be one of"),
    "no architecture": ({"architecture": None}, {}, "architecture must be one of"),
    "shape of the activations": (
        {"reshape_activations": "hook_q"},
        {},
        "reshape_activations must be one of none, hook_z",
    ),
    "unknown normalisation": ({"normalize_activations": "whitening"}, {}, "normalize_activations must be one of"),
    "whitening": ({"normalize_activations": "covariance_whitening"}, {}, "save_inference_model"),
    "one head": ({}, {"hook_head_index": 3}, "metadata.hook_head_index is 3, but an SAE on a single attention head"),
    "no hook": ({}, {"hook_name": None}, "give --hook-in"),
    "hook as a number": ({}, {"hook_name_out": 3}, "metadata.hook_name_out must be text"),
    "flag as text": ({"apply_b_dec_to_input": "no"}, {}, "apply_b_dec_to_input must be true or false"),
    "bos as text": ({}, {"prepend_bos": "false"}, "metadata.prepend_bos must be true or false"),
    "context as text": ({}, {"context_size": "128"}, "metadata.context_size must be a whole number"),
    "wrong width": ({"d_sae": 47}, {}, "must have shape"),
    "wrong input": ({"d_in": 15}, {}, "must have shape"),
    "no width": ({"d_sae": None}, {}, "d_sae must be a positive whole number"),
    "metadata as a list": ({"metadata": [1]}, {}, "metadata must be an object"),
    "options as text": ({}, {"model_from_pretrained_kwargs": "x"}, "model_from_pretrained_kwargs must be an object"),
    "centering as text": (
        {},
        {"model_from_pretrained_kwargs": {"center_writing_weights": "yes"}},
        "center_writing_weights must be true or false",
    ),
    "centering of a module": (
        {},
        {
            **{"model_class_name": "AutoModelForCausalLM", "hook_name": "model.layers.3"},
            "model_from_pretrained_kwargs": {"center_writing_weights": True},
        },
        "is an option of TransformerLens",
    ),
    "negative k": ({"k": -1}, {}, "k must be positive"),
    "details as text": ({}, {"training_architecture_details": "x"}, "training_architecture_details must be an object"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_configuration_that_cannot_be_meant_is_refused(tmp_path, what):
    changes, metadata, expected = WRONG[what]
    config = config_of("standard", metadata=metadata) | changes
    assert expected in refusal(write(tmp_path / "sae", config, tensors_of("standard")))
