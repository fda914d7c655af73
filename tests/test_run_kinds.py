"""Transcoders, SAEs on attention heads, centred hooks and nested dictionaries go through all tasks that make sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_bench import demo, evaluate
from sae_bench.errors import CoderError
from sae_bench.saes.load import expand, load_sae
from sae_bench.saes.prefixes import prefix_of
from sae_bench.saes.weights import Weights
from tests.builders.marks import slow_but
from tests.builders.tiny_saes import coder_of, tiny_coder, tiny_rule, tiny_weights, write_native

D = 128  # of the demo model
SMALL: dict[str, Any] = {
    "tier": "smoke",
    "limit": 8,
    "context": 48,
    "controls": "mean,random_l0",
    "resamples": 50,
}
ABLATED = {"downstream_sparsity.latents": 2, "downstream_sparsity.positions": 2}
FOLDS = {"probe_recovery.folds": 2, "sparse_probing.folds": 2, "sparse_probing.strengths": [0.1]}
FEW = {"tasks": "all", "parameters": ABLATED | FOLDS, "probe_sets": "kind_r*"}  # one of the demo's labelled sets


def scores(sae: Any, **settings: Any) -> dict[tuple[str, str], Any]:
    few = {} if "tasks" in settings else FEW
    results = evaluate(sae, **(SMALL | {"model": "demo"} | few | settings))
    assert [r.reason for r in results if r.status == "error"] == []
    return {(r.sae.name, r.task): r for r in results}


def value(result: Any, metric: str) -> float:
    found = result.metrics[metric].value
    assert found is not None, result.metrics[metric].reason
    return float(found)


@pytest.fixture
def matryoshka(tmp_path: Path) -> Path:
    weights = tiny_weights("jumprelu", d_in=D, n_latents=256)
    coder = coder_of(weights, tiny_rule("jumprelu"), hooks_in=(demo.HOOK,), hooks_out=(demo.HOOK,))
    return write_native(coder, tmp_path / "nested", prefix_widths=[32, 128], name="nested")


@pytest.mark.parametrize(
    ("hook_in", "hook_out"),
    slow_but(
        1,
        [
            ("blocks.2.ln2.hook_normalized", "blocks.2.hook_mlp_out"),
            ("blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"),
        ],
    ),
)
def test_a_transcoder_goes_through_all_tasks(tmp_path, hook_in, hook_out):
    coder = tiny_coder("topk", d_in=D, n_latents=256, k=16, hook=hook_in, hook_out=hook_out, apply_b_dec_to_input=False)
    found = scores(str(write_native(coder, tmp_path / "t", name="t")), out=tmp_path / "runs")
    for task in ("reconstruction", "sparsity", "loss_recovered", "downstream_sparsity", "sparse_probing"):
        assert found["t", task].status == "ok", found["t", task].reason
        assert found["t", task].sae.hooks_out == (hook_out,)
    assert value(found["t", "sparsity"], "l0") <= 16


def test_an_sae_on_attention_heads_goes_through_all_tasks(tmp_path):
    hook = "blocks.1.attn.hook_z"
    coder = tiny_coder("topk", d_in=D, n_latents=256, k=16, hook=hook)
    found = scores(str(write_native(coder, tmp_path / "z", name="z")))
    assert {task for (_, task), r in found.items() if r.status == "ok"} >= {
        *("reconstruction", "sparsity", "loss_recovered", "downstream_sparsity", "probe_recovery", "token_rules")
    }


def test_a_skip_transcoder_adds_its_skip_once_and_its_share_is_told(tmp_path):
    """With an empty dictionary and the true linear map of the target in the skip, nothing is left unexplained."""
    projection = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH).transformer.h[2].attn.c_proj
    weights = tiny_weights("relu", d_in=D, n_latents=16)
    silent = Weights(
        W_enc=weights.W_enc,
        W_dec=weights.W_dec,
        b_dec=projection.bias.detach(),
        b_enc=torch.full((16,), -1e4),
        W_skip=projection.weight.detach().T.contiguous(),
    )
    hooks = {"hooks_in": ("transformer.h.2.attn.c_proj:in",), "hooks_out": ("transformer.h.2.attn.c_proj:out",)}
    coder = coder_of(silent, tiny_rule("relu", apply_b_dec_to_input=False), **hooks)
    with pytest.warns(UserWarning, match=r"skip connection carries 100.0% of the variance of the reconstruction"):
        found = scores(
            str(write_native(coder, tmp_path / "skip", name="skip")), tasks="reconstruction", controls="permuted"
        )
    result = found["skip", "reconstruction"]
    assert value(result, "fvu") == pytest.approx(0, abs=1e-9)
    assert result.details["skip_share"]["value"] == pytest.approx(1, abs=1e-6)
    assert [caution.partition(" carries")[0] for caution in result.cautions][:1] == ["the skip connection"]
    assert "fvu says nothing about the latents" in result.cautions[1]


def test_nested_dictionaries_are_saes_of_their_own(matryoshka, tmp_path):
    source = f"{matryoshka}#*"
    assert expand([source]) == [str(matryoshka), f"{matryoshka}#32", f"{matryoshka}#128"]
    found = scores(source, out=tmp_path / "runs", tasks="sparsity", controls="none")
    l0 = {name: value(found[name, "sparsity"], "l0") for name in ("nested#32", "nested#128", "nested")}
    assert l0["nested#32"] < l0["nested#128"] < l0["nested"]
    digests = {found[name, "sparsity"].sae.weights_sha256 for name in l0}
    assert len(digests) == 3, "results of nested dictionaries must not overwrite each other"
    assert len(list((tmp_path / "runs").glob("**/sparsity@*.json"))) == 3


def test_a_nested_dictionary_equals_the_sae_cut_by_hand(matryoshka):
    whole, part = load_sae(str(matryoshka)), load_sae(f"{matryoshka}#32")
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    dense = whole.encode(x).dense()[:, :32]
    assert torch.equal(part.encode(x).dense(), dense)
    by_hand = dense @ whole.weights.W_dec[:32] + whole.weights.b_dec
    assert np.allclose(part.decode(part.encode(x)), by_hand, atol=1e-5)
    assert prefix_of(whole, 32).weights.W_dec.data_ptr() == whole.weights.W_dec.data_ptr(), "shared, not copied"


def test_prefixes_that_are_not_there_are_refused(matryoshka, tmp_path):
    with pytest.raises(CoderError, match="no nested dictionary of 33 latents; it declares 32, 128"):
        load_sae(f"{matryoshka}#33")
    plain = write_native(tiny_coder(), tmp_path / "plain")
    with pytest.raises(CoderError, match="declares no nested dictionaries"):
        expand([f"{plain}#*"])
    top = tiny_coder("topk", d_in=D, n_latents=64, hook=demo.HOOK)
    with pytest.raises(CoderError, match="keeps k latents of the whole dictionary"):
        load_sae(f"{write_native(top, tmp_path / 'top', prefix_widths=[8])}#8")


def test_a_centred_hook_changes_nothing_where_norms_do_not_subtract_the_mean(tmp_path):
    coder = tiny_coder("topk", d_in=D, n_latents=256, k=16, hook=demo.HOOK)
    plain = write_native(coder, tmp_path / "a", name="sae")
    centred = write_native(coder, tmp_path / "b", name="sae", hook_in=f"{demo.HOOK}:centered", hook_out=None)
    both = [scores(str(folder), tasks="reconstruction,loss_recovered", controls="none") for folder in (plain, centred)]
    config = json.loads((demo.MODEL_PATH / "config.json").read_text())
    same = all(
        value(both[0]["sae", task], metric) == value(both[1]["sae", task], metric)
        for task, metric in (("reconstruction", "fvu"), ("loss_recovered", "ce_spliced"))
    )
    assert same == ("rms_norm_eps" in config)
