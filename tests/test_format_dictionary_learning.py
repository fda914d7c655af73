"""dictionary_learning: its classes, backups and checkpoints, and what files without a configuration leave open."""

import numpy as np
import pytest
import torch

from sae_bench.errors import CoderError
from sae_bench.saes.load import load_sae
from sae_bench.saes.prefixes import prefix_of
from sae_bench.settings import Told
from tests.builders.dictionary_learning_files import (
    CLASSES,
    HOOK,
    D,
    K,
    alone,
    assert_computes,
    by_hand,
    config,
    folder,
    random,
    tensors,
)
from tests.builders.format_fixtures import assert_close, assert_matches_fixture


@pytest.mark.parametrize("kind", [*CLASSES, "backup"])
def test_the_librarys_own_outputs(references, kind):
    place = references / "fixtures" / ("dl_backup_checkpoint" if kind == "backup" else f"dl_{kind}")
    coder = load_sae(str(place))
    assert_matches_fixture(place, coder)
    info = coder.info
    assert info.hooks_in == info.hooks_out == ("blocks.1.hook_resid_post",)
    assert (info.model, info.context_size, info.format) == ("example/tiny-gpt2", 128, "dictionary_learning")
    assert info.architecture == ("BatchTopKSAE" if kind == "backup" else kind)
    assert info.prefix_widths == ((16, 48) if kind.startswith("Matryoshka") else ())
    l0 = {"AutoEncoder": None, "AutoEncoderNew": None, "GatedAutoEncoder": None, "JumpReluAutoEncoder": 20}
    assert info.provenance.get("declared_l0") == l0.get(kind, 8)


def test_nested_dictionaries_of_the_library(references):
    place = references / "fixtures" / "dl_MatryoshkaBatchTopKSAE"
    coder, reference = load_sae(str(place)), np.load(place / "reference.npz")
    for width in coder.info.prefix_widths:
        part = prefix_of(coder, width)
        x = torch.from_numpy(reference["x"])
        assert_close(part.decode(part.encode(x), x), reference[f"reconstruction_prefix_{width}"])


def test_a_threshold_that_was_never_estimated_is_asked_for(references):
    place = references / "fixtures" / "dl_BatchTopKSAE_unset_threshold"
    with pytest.raises(CoderError, match="every positive latent would be active; settle it with --threshold"):
        load_sae(str(place))
    assert_matches_fixture(place, load_sae(str(place), told=Told(threshold=0.0)))  # what the library silently does


def test_backups_crash_no_other_way_of_pointing_at_them(references):
    file = references / "fixtures" / "dl_backup_checkpoint" / "ae.pt"
    coder = load_sae(str(file))
    assert_matches_fixture(file.parent, coder)
    assert coder.info.name == "dl_backup_checkpoint"
    assert coder.info.provenance["step"] == 500
    assert any("norm_factor=3.7" in sentence for sentence in coder.info.provenance["assumptions"])


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_computes_as_defined(tmp_path, kind):
    coder = load_sae(folder(tmp_path, kind))
    assert_computes(coder, kind, tensors(kind))
    assert coder.info.prefix_widths == ((4, 10) if kind.startswith("Matryoshka") else ())
    assert not coder.weights.W_dec.is_cuda
    assert coder.weights.W_dec.stride(1) == 1


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("factor", [2.5, None])
def test_a_backup_computes_on_raw_activations(tmp_path, kind, factor):
    """In normalised units training saw x / factor, and its reconstruction is to be multiplied with the factor."""
    saved = {"step": 7, "ae": tensors(kind), "optimizer": {"state": {0: {"exp": torch.ones(2)}}, "param_groups": []}}
    saved |= {"config": config(kind)["trainer"], "norm_factor": factor}
    coder = load_sae(folder(tmp_path, kind, content=saved))
    scale = factor or 1.0
    x = random(9, 12, D)
    latents, reconstruction = by_hand(kind, tensors(kind), x / scale)
    assert_close(coder.encode(x).dense(), latents * scale)
    assert_close(coder.decode(coder.encode(x), x), reconstruction * scale)


def test_scaled_biases_of_half_precision_lose_nothing(tmp_path):
    half = {name: value.to(torch.bfloat16) for name, value in tensors("AutoEncoder").items()}
    saved = {"step": 7, "ae": half, "optimizer": {}, "config": config("AutoEncoder")["trainer"], "norm_factor": 3.7}
    coder = load_sae(folder(tmp_path, content=saved))
    assert torch.allclose(coder.weights.b_dec, half["bias"].float() * 3.7, rtol=1e-6)


@pytest.mark.parametrize("factor", [0, -1.0, "two", float("nan"), True, [1.0]])
def test_a_backup_with_a_strange_factor_is_refused(tmp_path, factor):
    saved = {"step": 7, "ae": tensors("AutoEncoder"), "config": config("AutoEncoder")["trainer"], "norm_factor": factor}
    with pytest.raises(CoderError, match=r"ae\.pt: norm_factor must be a"):
        load_sae(folder(tmp_path, content=saved))


@pytest.mark.parametrize("changes", [{"ae": 3}, {"ae": None}, {"ae": {}}, {"config": 3}, {"ae": {1: torch.ones(2)}}])
def test_a_backup_of_other_things_is_refused(tmp_path, changes):
    saved = {"step": 7, "ae": tensors("AutoEncoder"), "config": config("AutoEncoder")["trainer"], "norm_factor": 2.0}
    with pytest.raises(CoderError, match=r"must be an object|lacks the tensors"):
        load_sae(folder(tmp_path, content=saved | changes))


def test_a_checkpoint_finds_the_configuration_above_it(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    folder(tmp_path, "AutoEncoderTopK")
    other = {name: value * 0.5 if name == "b_dec" else value for name, value in tensors("AutoEncoderTopK").items()}
    torch.save(other, tmp_path / "checkpoints" / "ae_500.pt")
    coder = load_sae(str(tmp_path / "checkpoints" / "ae_500.pt"))
    assert_computes(coder, "AutoEncoderTopK", other)
    assert coder.info.name == "ae_500"
    assert coder.info.hooks_in == ("blocks.2.hook_resid_post",)
    assert coder.info.provenance["files"] == ["ae_500.pt", "../config.json"]
    assert_computes(load_sae(str(tmp_path / "checkpoints")), "AutoEncoderTopK", other)
    assert_computes(load_sae(str(tmp_path)), "AutoEncoderTopK", tensors("AutoEncoderTopK"))


def test_the_file_alone_is_read_with_the_configuration_beside_it(tmp_path):
    """Also for AutoEncoderNew, whose tensors are those of another layout."""
    for kind in ("AutoEncoderNew", "BatchTopKSAE"):
        (tmp_path / kind).mkdir()
        folder(tmp_path / kind, kind)
        coder = load_sae(str(tmp_path / kind / "ae.pt"))
        assert_computes(coder, kind, tensors(kind))
        assert (coder.info.format, coder.info.name) == ("dictionary_learning", kind)


@pytest.mark.parametrize("kind", ["AutoEncoder", "GatedAutoEncoder", "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"])
def test_files_alone_are_recognised_by_their_tensors(tmp_path, kind):
    file = alone(tmp_path, kind)
    with pytest.raises(CoderError, match=r"do not say which hook point .* give --hook-in"):
        load_sae(file)
    coder = load_sae(file, told=HOOK)
    assert_computes(coder, kind, tensors(kind))
    assert coder.info.architecture == kind
    assert any(kind in sentence for sentence in coder.info.provenance["assumptions"])


def test_topk_and_batchtopk_look_alike_without_a_configuration(tmp_path):
    file = alone(tmp_path, "AutoEncoderTopK")
    with pytest.raises(CoderError, match=r"look|AutoEncoderTopK or BatchTopKSAE.*k=3.*0\.6.*--k or --threshold"):
        load_sae(file, told=HOOK)
    hook = "blocks.1.hook_resid_post"
    for told, kind in [
        (Told(hook_in=hook, k=K), "AutoEncoderTopK"),
        (Told(hook_in=hook, threshold=0.6), "BatchTopKSAE"),
        (Told(hook_in=hook, format="dictionary_learning:AutoEncoderTopK"), "AutoEncoderTopK"),
        (Told(hook_in=hook, format="dictionary_learning:BatchTopKSAE"), "BatchTopKSAE"),
    ]:
        assert_computes(load_sae(file, told=told), kind, tensors(kind))


def test_early_versions_did_not_store_k_and_threshold(tmp_path):
    old = {name: value for name, value in tensors("AutoEncoderTopK").items() if name not in ("k", "threshold")}
    place = folder(tmp_path, "AutoEncoderTopK", content=old)
    assert_computes(load_sae(place), "AutoEncoderTopK", tensors("AutoEncoderTopK"))
    place = folder(tmp_path, "AutoEncoderTopK", content=old, k=None)
    with pytest.raises(CoderError, match="how many latents are kept; settle it with --k"):
        load_sae(place)
    assert_computes(load_sae(place, told=Told(k=K)), "AutoEncoderTopK", tensors("AutoEncoderTopK"))
    place = folder(tmp_path, "BatchTopKSAE", content=old)
    with pytest.raises(CoderError, match=r"has no threshold.* settle it with --threshold"):
        load_sae(place)
    assert_computes(load_sae(place, told=Told(threshold=0.6)), "BatchTopKSAE", tensors("BatchTopKSAE"))


def test_a_class_that_is_told_goes_over_the_declared_one_with_a_warning(tmp_path):
    place = folder(tmp_path, "AutoEncoderTopK")
    with pytest.warns(UserWarning, match="says AutoEncoderTopK, and it is read as BatchTopKSAE"):
        coder = load_sae(place, told=Told(format="dictionary_learning:BatchTopKSAE"))
    assert_computes(coder, "BatchTopKSAE", tensors("BatchTopKSAE"))
    with pytest.raises(CoderError, match="lacks the tensors"):
        load_sae(place, told=Told(format="dictionary_learning:GatedAutoEncoder"))
    with pytest.raises(CoderError, match="the variants are dictionary_learning:AutoEncoder, "):
        load_sae(place, told=Told(format="dictionary_learning:TopK"))
