"""Files of Gemma Scope 1 and 2 with random weights, as the releases lay them out."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from tests.builders.numpy_saes import arrays, jump

PLACE = "layer_3/width_16k/average_l0_40"
EMBEDDING = "embedding/width_4k/average_l0_21"
IN, OUT = "model.layers.7.pre_feedforward_layernorm.output", "model.layers.7.post_feedforward_layernorm.output"


def write_1(folder, weights=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: array for name, array in (weights or arrays()).items() if name != "W_skip"} | changes
    np.savez(folder / "params.npz", **made)
    return str(folder)


def write_2(folder, config=None, *, weights=None, skip=False, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    made = weights or arrays()
    tensors = {
        "w_enc": made["W_enc"],
        "w_dec": made["W_dec"],
        "b_enc": made["b_enc"],
        "b_dec": made["b_dec"],
        "threshold": made["threshold"],
    }
    if skip:
        tensors["affine_skip_connection"] = made["W_skip"].T.copy()
    save_file({k: torch.from_numpy(v) for k, v in (tensors | changes).items()}, folder / "params.safetensors")
    if config is not None:
        settings = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt"} | config
        kept = {key: value for key, value in settings.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))
    return str(folder)


def jumprelu(w, x):
    pre = x.astype(float) @ w["W_enc"] + w["b_enc"]
    return pre * jump(pre, w["threshold"])
