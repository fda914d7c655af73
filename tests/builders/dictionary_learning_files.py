"""Tiny files of dictionary_learning, and its classes written anew in numpy."""

import json

import numpy as np
import torch

from sae_bench.saes.conformance import check
from sae_bench.settings import Told
from tests.builders.format_fixtures import assert_close

D, M, K = 6, 20, 3
HOOK = Told(hook_in="blocks.1.hook_resid_post")
CLASSES = [
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
]


def random(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def tensors(kind, threshold=0.6):
    linear = {
        "encoder.weight": random(1, M, D),
        "encoder.bias": random(2, M, scale=0.2),
        "decoder.weight": random(3, D, M),
    }
    matrices = {"W_enc": random(1, D, M), "b_enc": random(2, M, scale=0.2), "W_dec": random(3, M, D)}
    matrices["b_dec"] = random(4, D, scale=0.3)
    buffers = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(threshold)}
    gates = {name: random(5 + i, M, scale=0.3) for i, name in enumerate(("r_mag", "gate_bias", "mag_bias"))}
    return {
        "AutoEncoder": {**linear, "bias": random(4, D, scale=0.3)},
        "AutoEncoderNew": {**linear, "decoder.bias": random(4, D, scale=0.3)},
        "GatedAutoEncoder": {
            "encoder.weight": linear["encoder.weight"],
            "decoder.weight": linear["decoder.weight"],
            "decoder_bias": random(4, D, scale=0.3),
            **gates,
        },
        "JumpReluAutoEncoder": {**matrices, "threshold": random(8, M).abs()},
        "AutoEncoderTopK": {**linear, "b_dec": random(4, D, scale=0.3), **buffers},
        "BatchTopKSAE": {**linear, "b_dec": random(4, D, scale=0.3), **buffers},
        "MatryoshkaBatchTopKSAE": {**matrices, **buffers, "group_sizes": torch.tensor([4, 6, 10])},
    }[kind]


def by_hand(kind, t, x):
    """Latents and reconstruction in numpy, class by class, after the definitions of the library."""
    t = {name: value.double().numpy() for name, value in t.items()}
    x = x.double().numpy()
    if "W_enc" in t:
        encoder, decoder, b_enc = t["W_enc"], t["W_dec"], t["b_enc"]
    else:
        encoder, decoder, b_enc = t["encoder.weight"].T, t["decoder.weight"].T, t.get("encoder.bias", 0)
    names = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
    b_dec = t[names.get(kind, "b_dec")]
    u = x if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - b_dec
    pre = u @ encoder + b_enc
    relu = np.maximum(pre, 0)
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        latents = relu
    elif kind == "GatedAutoEncoder":
        latents = np.maximum(np.exp(t["r_mag"]) * pre + t["mag_bias"], 0) * (pre + t["gate_bias"] > 0)
    elif kind == "AutoEncoderTopK":
        latents = np.where(relu >= np.sort(relu, 1)[:, -K][:, None], relu, 0)
    else:
        latents = relu * (relu > t["threshold"])
    return latents, latents @ decoder + b_dec


def config(kind, **changes):
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": M, "layer": 2, "lm_name": "example/model"}
    trainer |= {"submodule_name": "resid_post_layer_2", "trainer_class": "T", "lr": 1e-4, "steps": 10, "device": "cpu"}
    if "TopK" in kind:
        trainer["k"] = K
    return {"trainer": {**trainer, **changes}, "buffer": {"io": "out", "ctx_len": 64, "d_submodule": D}}


def folder(tmp_path, kind="AutoEncoder", content=None, settings=None, **changes):
    torch.save(tensors(kind) if content is None else content, tmp_path / "ae.pt")
    written = config(kind, **changes) if settings is None else settings
    (tmp_path / "config.json").write_text(json.dumps(written))
    return str(tmp_path)


def alone(tmp_path, kind, name="x.pt", **changes):
    content = {**tensors(kind), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, tmp_path / name)
    return str(tmp_path / name)


def assert_computes(coder, kind, t):
    x = random(9, 12, D)
    latents, reconstruction = by_hand(kind, t, x)
    codes = coder.encode(x)
    assert np.array_equal(codes.dense().numpy() != 0, latents != 0)
    assert len(codes.indices) > 0
    assert_close(codes.dense(), latents)
    assert_close(coder.decode(codes, x), reconstruction)
    assert check(coder, x) == []
