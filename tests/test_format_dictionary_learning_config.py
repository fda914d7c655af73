"""dictionary_learning: which hook point its configuration means, and values and tensors that must not be."""

import pytest
import torch

from sae_bench.errors import CoderError
from sae_bench.saes.load import load_sae
from sae_bench.settings import Told
from tests.builders.dictionary_learning_files import HOOK, D, M, alone, config, folder, tensors


@pytest.mark.parametrize(
    ("name", "io", "hook"),
    [
        ("resid_post_layer_2", "out", "blocks.2.hook_resid_post"),
        ("attn_out_layer2", "out", "blocks.2.hook_attn_out"),
        ("mlp_out_layer2", "out", "blocks.2.hook_mlp_out"),
        ("blocks.2.hook_mlp_out", "out", "blocks.2.hook_mlp_out"),
        ("model.layers.2.mlp", "in", "model.layers.2.mlp:in"),
        ("model.layers.2.mlp", "out", "model.layers.2.mlp:out"),
        (None, "out", "blocks.2.hook_resid_post"),
        (None, "in", "blocks.2.hook_resid_pre"),
    ],
)
def test_hook_points(tmp_path, name, io, hook):
    settings = config("AutoEncoder", submodule_name=name)
    settings["buffer"]["io"] = io
    coder = load_sae(folder(tmp_path, settings=settings))
    assert coder.info.hooks_in == coder.info.hooks_out == (hook,)
    guessed = any("residual stream" in sentence for sentence in coder.info.provenance["assumptions"])
    assert guessed == (name is None)


@pytest.mark.parametrize(
    ("name", "io", "match"),
    [
        ("resid_post_layer_2", "in", "input of 'resid_post_layer_2' was read, and that names an output; .* --hook-in"),
        ("my favourite place", "out", "names no hook point that sae-bench knows; settle it with --hook-in"),
        ("resid", "out", "names no hook point"),
        ("mlp2", "in_and_out", "from the input of a module to its output.* --hook-in"),
    ],
)
def test_hook_points_that_are_open_are_asked_for(tmp_path, name, io, match):
    settings = config("AutoEncoder", submodule_name=name)
    settings["buffer"]["io"] = io
    place = folder(tmp_path, settings=settings)
    with pytest.raises(CoderError, match=match):
        load_sae(place)
    if io == "in_and_out":
        with pytest.raises(CoderError, match="settle it with --hook-out"):
            load_sae(place, told=HOOK)
    told = Told(hook_in="blocks.0.hook_resid_post", hook_out="blocks.1.hook_mlp_out")
    assert load_sae(place, told=told).info.hooks_in == ("blocks.0.hook_resid_post",)


def test_layers_that_are_told(tmp_path):
    assert load_sae(folder(tmp_path), told=Told(layer=5)).info.hooks_in == ("blocks.5.hook_resid_post",)
    place = folder(tmp_path, submodule_name=None, layer=None)
    with pytest.raises(CoderError, match="neither a submodule nor a layer; settle it with --layer or --hook-in"):
        load_sae(place)
    assert load_sae(place, told=Told(layer=5)).info.hooks_in == ("blocks.5.hook_resid_post",)


def test_a_module_path_without_a_side_is_an_assumption(tmp_path):
    settings = {"trainer": config("AutoEncoder", submodule_name="model.layers.2")["trainer"]}
    coder = load_sae(folder(tmp_path, settings=settings))
    assert coder.info.hooks_in == ("model.layers.2:out",)
    assert any("no buffer.io" in sentence for sentence in coder.info.provenance["assumptions"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dict_class": "MySAE"}, r"trainer\.dict_class must be one of .*'MySAE'.*--format dictionary_learning:CLASS"),
        ({"dict_class": None}, "dict_class must be one of"),
        ({"dict_class": "GatedAutoEncoder"}, "lacks the tensors"),
        ({"k": 4}, r"was trained with k=3, but .*trainer\.k is 4"),
        ({"k": "three"}, "k must be a positive whole number"),
        ({"k": -3}, "k must be a positive whole number"),
        ({"activation_dim": 7}, r"W_enc must have shape \[7, 20\]"),
        ({"dict_size": 21}, "must have shape"),
        ({"dict_size": []}, "dict_size must be a positive whole number"),
        ({"lm_name": 3}, "lm_name must be text or null"),
        ({"submodule_name": 3}, "submodule_name must be text or null"),
        ({"submodule_name": None, "layer": "two"}, "neither a submodule nor a layer"),
        ({"submodule_name": None, "layer": True}, "neither a submodule nor a layer"),
        ({"group_sizes": [10, 10]}, None),
    ],
)
def test_wrong_values_of_the_trainer(tmp_path, changes, match):
    place = folder(tmp_path, "AutoEncoderTopK", **changes)
    if match is None:
        load_sae(place)
        return
    with pytest.raises(CoderError, match=match) as caught:
        load_sae(place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({}, "dict_class must be one of"),
        ({"trainer": None}, "dict_class must be one of"),
        ({"trainer": [1]}, "trainer must be an object"),
        ({**config("AutoEncoder"), "buffer": 3}, "buffer must be an object"),
        ({**config("AutoEncoder"), "buffer": {"io": "both"}}, r"buffer\.io must be one of in, out"),
        ({**config("AutoEncoder"), "buffer": {"ctx_len": "long"}}, r"buffer\.ctx_len must be a whole number"),
    ],
)
def test_wrong_configurations(tmp_path, settings, match):
    with pytest.raises(CoderError, match=match):
        load_sae(folder(tmp_path, settings=settings))


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        ("AutoEncoderTopK", {"k": torch.tensor([1, 2])}, "k must be a positive whole number"),
        ("AutoEncoderTopK", {"k": torch.tensor(2.5)}, "k must be a positive whole number"),
        ("AutoEncoderTopK", {"k": torch.tensor(0)}, "k must be a positive whole number"),
        ("AutoEncoderTopK", {"more": torch.ones(1)}, "holds the tensors more, which this kind of SAE does not use"),
        ("AutoEncoderTopK", {"encoder.weight": torch.ones(3)}, "encoder.weight must be a matrix"),
        ("AutoEncoderTopK", {"encoder.weight": torch.tensor(1.0)}, "encoder.weight must be a matrix"),
        ("AutoEncoderTopK", {"decoder.weight": torch.ones(2, 2, 2, 2, 2)}, "decoder.weight must be a matrix"),
        ("AutoEncoderTopK", {"encoder.weight": torch.ones(M, D, dtype=torch.int64)}, "floating-point"),
        ("AutoEncoderTopK", {"encoder.weight": torch.ones(D, M)}, "must have shape"),
        ("BatchTopKSAE", {"threshold": torch.tensor(float("nan"))}, "NaN"),
        ("BatchTopKSAE", {"threshold": torch.tensor(1j)}, "floating-point|more than tensors|needs torch"),
        ("BatchTopKSAE", {"threshold": torch.tensor(1)}, "threshold must hold floating-point"),
        ("BatchTopKSAE", {"threshold": torch.ones(3)}, "threshold must have shape"),
        ("JumpReluAutoEncoder", {"W_enc": torch.tensor(1.0)}, "must have shape"),
        ("JumpReluAutoEncoder", {"threshold": None}, "lacks the tensors threshold"),
        ("MatryoshkaBatchTopKSAE", {"group_sizes": torch.tensor([4, 6])}, "group_sizes must add up to 20"),
        ("MatryoshkaBatchTopKSAE", {"group_sizes": torch.tensor([25, -5])}, "group_sizes must be a list of positive"),
        (
            "MatryoshkaBatchTopKSAE",
            {"group_sizes": torch.tensor([2.5, 17.5])},
            "group_sizes must be a list of positive",
        ),
        ("MatryoshkaBatchTopKSAE", {"group_sizes": torch.tensor(20.0)}, "group_sizes must be a list of positive"),
        ("GatedAutoEncoder", {"r_mag": torch.ones(3)}, "r_mag must have shape"),
        ("AutoEncoder", {"bias": torch.ones(3)}, "b_dec must have shape"),
    ],
)
def test_wrong_tensors(tmp_path, kind, changes, match):
    content = {name: value for name, value in {**tensors(kind), **changes}.items() if value is not None}
    with pytest.raises(CoderError, match=match) as caught:
        load_sae(folder(tmp_path, kind, content=content))
    assert "\n" not in str(caught.value)


def test_group_sizes_of_files_that_disagree(tmp_path):
    place = folder(tmp_path, "MatryoshkaBatchTopKSAE", group_sizes=[10, 10])
    with pytest.raises(CoderError, match="group_sizes must add up to 20 latents and be those of its configuration"):
        load_sae(place)


def test_a_file_that_is_told_to_be_of_this_layout_and_is_not(tmp_path):
    torch.save({"something": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(CoderError, match="holds something, which is no class of dictionary_learning"):
        load_sae(str(tmp_path / "x.pt"), told=Told(format="dictionary_learning"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CoderError, match="is missing"):
        load_sae(str(tmp_path / "empty"), told=Told(format="dictionary_learning"))


def test_a_configuration_of_something_else_beside_a_file_is_not_taken(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    file = alone(tmp_path, "AutoEncoder")
    assert load_sae(file, told=HOOK).info.model is None
