"""Single files of weights: Goodfire, qresearch, Qwen Scope, Kissane et al., and files of no release at all."""

import json

import numpy as np
import pytest
import torch

from sae_bench.errors import CoderError
from sae_bench.saes import detect
from sae_bench.saes.conformance import check
from sae_bench.saes.formats import qwen_scope
from sae_bench.saes.load import load_sae
from sae_bench.saes.reading import build
from sae_bench.saes.source import Source
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_close, assert_matches_fixture

D, M, K = 6, 20, 3
HOOK = Told(hook_in="blocks.1.hook_resid_post")
LAYOUTS = {
    "goodfire": ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"),
    "deepseek": ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"),
    "qwen_scope": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "connor_rob": ("W_enc", "b_enc", "W_dec", "b_dec"),
}
FILES = {
    "goodfire": "Llama-3.1-8B-Instruct-SAE-l19.pth",
    "deepseek": "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
    "qwen_scope": "layer5.sae.pt",
    "connor_rob": "gpt2-small_L3_Hcat_z_lr1.2e-03_v9.pt",
}
CFG = {"act_name": "blocks.3.attn.hook_z", "act_size": D, "dict_size": M, "layer": 3, "site": "z", "enc_dtype": "fp32"}


def random(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


W_ENC, B_ENC, W_DEC, B_DEC = random(1, D, M), random(2, M, scale=0.2), random(3, M, D), random(4, D, scale=0.3)


def write(folder, layout, name=None, *, cfg=CFG, **changes):
    """A file of the layout; only Kissane et al. store matrices as the formulas below have them."""
    folder.mkdir(parents=True, exist_ok=True)
    row_major = layout == "connor_rob"
    encoder, decoder = (W_ENC, W_DEC) if row_major else (W_ENC.T.contiguous(), W_DEC.T.contiguous())
    saved = dict(zip(LAYOUTS[layout], (encoder, B_ENC, decoder, B_DEC), strict=True)) | changes
    file = folder / (name or FILES[layout])
    torch.save({key: value for key, value in saved.items() if value is not None}, file)
    if row_major and cfg is not None:
        (folder / f"{file.stem}_cfg.json").write_text(json.dumps(cfg))
    return str(file)


def by_hand(layout, x):
    encoder, b_enc, decoder, b_dec = (t.double().numpy() for t in (W_ENC, B_ENC, W_DEC, B_DEC))
    u = x.double().numpy() - (b_dec if layout == "connor_rob" else 0)
    pre = u @ encoder + b_enc
    if layout == "qwen_scope":
        pre = np.where(pre >= np.sort(pre, 1)[:, -K][:, None], pre, 0)
    latents = np.maximum(pre, 0)
    return latents, latents @ decoder + b_dec


def assert_computes(coder, layout):
    x = random(9, 12, D)
    latents, reconstruction = by_hand(layout, x)
    codes = coder.encode(x)
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0)
    assert_close(codes.dense(), latents)
    assert_close(coder.decode(codes, x), reconstruction)
    assert check(coder, x) == []
    assert coder.weights.W_dec.stride(1) == 1


@pytest.mark.parametrize(
    ("name", "told", "hook", "model"),
    [
        ("goodfire", Told(), "blocks.19.hook_resid_post", "meta-llama/Llama-3.1-8B-Instruct"),
        ("deepseek_r1_qresearch", Told(), "blocks.19.hook_resid_post", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("qwen_scope", Told(k=8), "blocks.5.hook_resid_post", None),
        ("connor_rob_hook_z", Told(), "blocks.3.attn.hook_z", "gpt2-small"),
    ],
)
def test_the_loaders_own_outputs(references, name, told, hook, model):
    place = references / "fixtures" / name
    coder = load_sae(str(place), told=told)
    assert_matches_fixture(place, coder)
    assert coder.info.hooks_in == coder.info.hooks_out == (hook,)
    assert coder.info.model == model
    assert coder.info.provenance["assumptions"]
    weights = next(p for p in place.iterdir() if p.suffix in (".pt", ".pth"))
    assert_matches_fixture(place, load_sae(str(weights), told=told))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_computes_as_defined(tmp_path, layout):
    told = Told(k=K) if layout == "qwen_scope" else Told()
    coder = load_sae(write(tmp_path, layout), told=told)
    assert coder.info.format == layout
    assert_computes(coder, layout)


@pytest.mark.parametrize(
    ("layout", "name", "model"),
    [
        ("goodfire", "Llama-3.3-70B-Instruct-SAE-l50.pt", "meta-llama/Llama-3.3-70B-Instruct"),
        ("goodfire", "mine-SAE-l50.pt", None),
        ("deepseek", "other-l50.pt", None),
    ],
)
def test_layer_and_model_are_in_the_name(tmp_path, layout, name, model):
    coder = load_sae(write(tmp_path, layout, name))
    assert coder.info.hooks_in == ("blocks.50.hook_resid_post",)
    assert coder.info.model == model
    said = " ".join(coder.info.provenance["assumptions"])
    assert "after block 50" in said
    assert (model or "the model is") in said or model is None


def test_the_name_of_the_repository_serves_as_well(tmp_path):
    file = write(tmp_path / "Goodfire" / "Llama-3.1-8B-Instruct-SAE-l19", "goodfire", "sae.pth")
    coder = load_sae(file)
    assert coder.info.hooks_in == ("blocks.19.hook_resid_post",)
    assert coder.info.model == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize("layout", ["goodfire", "deepseek", "qwen_scope"])
def test_a_layer_that_no_name_has_is_asked_for(tmp_path, layout):
    file = write(tmp_path / "runs-l2", layout, "sae.pt")
    k = K if layout == "qwen_scope" else None
    with pytest.raises(CoderError, match="which layer the SAE reads; settle it with --layer or --hook-in"):
        load_sae(file, told=Told(k=k))
    assert load_sae(file, told=Told(layer=4, k=k)).info.hooks_in == ("blocks.4.hook_resid_post",)
    coder = load_sae(file, told=Told(hook_in="blocks.4.hook_mlp_out", k=k))
    assert coder.info.hooks_in == ("blocks.4.hook_mlp_out",)
    assert not any("residual stream" in sentence for sentence in coder.info.provenance["assumptions"])


def test_k_of_qwen_is_in_the_name_of_the_repository(tmp_path):
    repository = tmp_path / "Qwen" / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"
    coder = load_sae(write(repository, "qwen_scope"))
    assert_computes(coder, "qwen_scope")
    assert coder.info.model == "Qwen/Qwen3-1.7B-Base"
    assert coder.info.provenance["declared_l0"] == K
    assert load_sae(write(repository, "qwen_scope"), told=Told(k=5)).rule.k == 5
    file = write(tmp_path / "elsewhere", "qwen_scope")
    with pytest.raises(CoderError, match="how many latents are kept; settle it with --k"):
        load_sae(file)
    assert_computes(load_sae(file, told=Told(k=K)), "qwen_scope")


def test_a_file_of_the_hub_is_known_by_its_label(tmp_path):
    file = tmp_path / "snapshots" / "abc" / "layer5.sae.pt"
    write(file.parent, "qwen_scope")
    source = Source(file, label="Qwen/SAE-Res-Qwen3.5-27B-W80K-L0_100/layer5.sae.pt")
    reading = qwen_scope.read(source, Told())
    assert (reading.rule.k, reading.model, reading.hook_in) == (100, "Qwen/Qwen3.5-27B", "blocks.5.hook_resid_post")


def test_kissanes_configuration_may_name_model_and_context(tmp_path):
    coder = load_sae(write(tmp_path, "connor_rob", cfg={**CFG, "model_name": "gelu-2l", "seq_len": 128}))
    assert (coder.info.model, coder.info.context_size) == ("gelu-2l", 128)
    assert coder.info.provenance["files"] == [FILES["connor_rob"], FILES["connor_rob"].replace(".pt", "_cfg.json")]
    file = write(tmp_path / "unnamed", "connor_rob", cfg={**CFG, "act_name": None})
    with pytest.raises(CoderError, match="give --hook-in"):
        load_sae(file)
    assert load_sae(file, told=HOOK).info.d_in == D


def test_two_saes_of_kissane_in_a_folder_are_listed(tmp_path):
    for name in ("a.pt", "b.pt"):
        write(tmp_path, "connor_rob", name)
    with pytest.raises(CoderError, match=r"SAEs \(a\.pt, b\.pt\): give one of them"):
        load_sae(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"act_size": 7}, "must have shape"),
        ({"dict_size": "many"}, "dict_size must be a positive whole number"),
        ({"act_size": None}, "act_size must be a positive whole number"),
        ({"act_name": 3}, "act_name must be text or null"),
        ({"model_name": 3}, "model_name must be text or null"),
        ({"seq_len": "long"}, "seq_len must be a whole number or null"),
    ],
)
def test_wrong_values_of_kissanes_configuration(tmp_path, changes, match):
    with pytest.raises(CoderError, match=match):
        load_sae(write(tmp_path, "connor_rob", cfg={**CFG, **changes}))


def test_a_broken_configuration_of_kissane_is_named(tmp_path):
    file = write(tmp_path, "connor_rob")
    (tmp_path / FILES["connor_rob"].replace(".pt", "_cfg.json")).write_text("{")
    with pytest.raises(CoderError, match=r"_cfg\.json is not valid JSON"):
        load_sae(file)


def test_row_major_matrices_without_a_configuration_are_not_guessed(tmp_path):
    file = write(tmp_path, "connor_rob", cfg=None)
    for told in (HOOK, Told(hook_in=HOOK.hook_in, k=K), Told(hook_in=HOOK.hook_in, format="qwen_scope")):
        with pytest.raises(CoderError, match=r"not of Qwen Scope.*whether b_dec is subtracted.*--format connor_rob"):
            load_sae(file, told=told)
    with pytest.raises(CoderError, match="give --hook-in"):
        load_sae(file, told=Told(format="connor_rob"))
    assert_computes(load_sae(file, told=Told(format="connor_rob", hook_in=HOOK.hook_in)), "connor_rob")


def test_a_square_is_not_guessed(tmp_path):
    n = 8
    square = {"W_enc": random(1, n, n), "b_enc": random(2, n), "W_dec": random(3, n, n), "b_dec": random(4, n)}
    torch.save(square, tmp_path / "layer5.sae.pt")
    file = str(tmp_path / "layer5.sae.pt")
    with pytest.raises(CoderError, match=r"is square.*--format qwen_scope.*--format connor_rob"):
        load_sae(file, told=Told(k=K))
    x = random(5, 3, n)
    transposed = load_sae(file, told=Told(k=n, format="qwen_scope"))
    assert torch.allclose(transposed.encode(x).dense(), (x @ square["W_enc"].T + square["b_enc"]).relu(), atol=1e-5)
    straight = load_sae(file, told=Told(hook_in=HOOK.hook_in, format="connor_rob"))
    expected = ((x - square["b_dec"]) @ square["W_enc"] + square["b_enc"]).relu()
    assert torch.allclose(straight.encode(x).dense(), expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize(
    "strange",
    [
        torch.tensor(1.0),
        torch.ones(2, 2, 2, 2, 2),
        torch.ones(0),
        torch.ones(0, 3),
        torch.ones(M, D, dtype=torch.int64),
        torch.ones(D, M, dtype=torch.complex64),
        torch.full((M, D), float("nan")),
        torch.ones(M + 1, D),
        "text",
        None,
    ],
)
def test_any_tensor_in_any_place_gives_one_sentence(tmp_path, layout, which, strange):
    told = Told(hook_in=HOOK.hook_in, k=K if layout == "qwen_scope" else None, format=layout)
    with pytest.raises(CoderError) as caught:
        load_sae(write(tmp_path, layout, **{LAYOUTS[layout][which]: strange}), told=told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_further_tensors_are_not_ignored(tmp_path, layout):
    told = Told(hook_in=HOOK.hook_in, k=K if layout == "qwen_scope" else None, format=layout)
    with pytest.raises(CoderError, match="holds the tensors scale, which this kind of SAE does not use"):
        load_sae(write(tmp_path, layout, scale=torch.ones(1)), told=told)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_that_is_told_to_be_of_a_layout(tmp_path, layout):
    with pytest.raises(CoderError, match="is a single file of weights, so give the file, not its folder"):
        load_sae(str(tmp_path), told=Told(format=layout))


def test_the_same_tensors_in_other_kinds_of_file_are_not_taken_for_these(tmp_path):
    """Gemma Scope stores W_enc, W_dec, b_enc, b_dec and threshold too, in an npz."""
    np.savez(tmp_path / "x.npz", W_enc=W_ENC.T, W_dec=W_DEC.T, b_enc=B_ENC, b_dec=B_DEC)
    with pytest.raises(CoderError, match="is not an SAE in a known layout"):
        detect.detect(Source(tmp_path / "x.npz"))


def test_half_precision_keeps_its_type(tmp_path):
    stored = (W_ENC.T, B_ENC, W_DEC.T, B_DEC)
    halves = {key: value.to(torch.bfloat16) for key, value in zip(LAYOUTS["goodfire"], stored, strict=True)}
    torch.save(halves, tmp_path / FILES["goodfire"])
    source = Source(tmp_path / FILES["goodfire"])
    entry, place = detect.detect(source)
    reading = detect.reader(entry).read(place, Told())
    assert reading.weights.W_enc.dtype == reading.weights.W_dec.dtype == torch.bfloat16
    coder = build(place, entry.name, reading, Told(), device="cpu", dtype=torch.float32)
    assert coder.encode(random(9, 3, D)).values.dtype == torch.float32
