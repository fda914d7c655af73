"""Layouts that no reader can read: recognised, and refused with the reason rather than as unknown."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from sae_bench.errors import CoderError
from sae_bench.saes.formats import refused
from sae_bench.saes.load import load_sae
from sae_bench.saes.source import Source
from sae_bench.settings import Told


def refusal(path, told=None):
    with pytest.raises(CoderError) as error:
        load_sae(str(path), told=told)
    assert "\n" not in str(error.value)
    return str(error.value)


def temporal(folder):
    (folder / "conf.yaml").write_text("sae:\n  n_heads: 4\n")
    save_file({"D": torch.ones(4, 3), "E": torch.ones(3, 4)}, folder / "latest_ckpt.safetensors")


def cross_layer(folder):
    for layer in (0, 1):
        save_file({f"W_enc_{layer}": torch.ones(4, 3)}, folder / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": torch.ones(4, 2 - layer, 3)}, folder / f"W_dec_{layer}.safetensors")


def crosscoder_of_a_hub(folder):
    (folder / "config.json").write_text(json.dumps({"activation_dim": 3, "dict_size": 4, "num_encoder_layers": 2}))
    save_file({"encoder.weight": torch.ones(2, 3, 4)}, folder / "model.safetensors")


def crosscoder_of_a_file(folder):
    tensors = {
        "W_enc": torch.ones(2, 3, 4),
        "W_dec": torch.ones(4, 2, 3),
        "b_enc": torch.ones(4),
        "b_dec": torch.ones(2, 3),
    }
    torch.save(tensors, folder / "crosscoder.pt")
    (folder / "cfg.json").write_text("{}")


LAYOUTS = {
    temporal: "holds a temporal SAE .*need the sequence before",
    cross_layer: "holds a cross-layer transcoder .*writes to several layers",
    crosscoder_of_a_hub: "holds a crosscoder .*num_encoder_layers",
    crosscoder_of_a_file: "holds a crosscoder .*three axes",
}


@pytest.mark.parametrize("write", LAYOUTS)
def test_the_folder_and_the_folder_above_are_refused_with_the_reason(tmp_path, write):
    folder = tmp_path / "above" / "sae"
    folder.mkdir(parents=True)
    write(folder)
    for path in (folder, folder.parent):
        with pytest.raises(CoderError, match=LAYOUTS[write]):
            load_sae(str(path))


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_file_of_the_folder_is_refused_with_the_reason(tmp_path, write):
    write(tmp_path)
    for file in (*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.pt")):
        with pytest.raises(CoderError, match=LAYOUTS[write]):
            load_sae(str(file))


def test_a_layer_of_a_cross_layer_transcoder_is_refused(references):
    assert "holds a cross-layer transcoder" in refusal(references / "fixtures" / "mntss_clt_layer")


def test_what_merely_resembles_them_is_not_called_so(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    save_file({"x": torch.ones(3)}, tmp_path / "model.safetensors")
    assert not refused.matches(Source(tmp_path))
    torch.save({"W_enc": torch.ones(3, 4), "W_dec": torch.ones(4, 3)}, tmp_path / "a.pt")
    torch.save({"W_enc": 3, "W_dec": "text"}, tmp_path / "b.pt")
    assert not refused.matches(Source(tmp_path / "a.pt"))
    assert not refused.matches(Source(tmp_path / "b.pt"))


def test_the_format_cannot_be_asked_for(tmp_path):
    (tmp_path / "readme.md").write_text("no SAE")
    assert "none of the layouts that --format refused stands for" in refusal(tmp_path, Told(format="refused"))
