"""``--sae-dtype bfloat16``: an SAE as it is run in bfloat16, named in the protocol, refused where it cannot act."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench import Settings
from sae_bench.api import Session, evaluate
from sae_bench.cli.main import main
from sae_bench.errors import UsageError
from sae_bench.kernels import topk
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.load import load_sae
from sae_bench.saes.pursuit import Pursuit, PursuitCoder
from sae_bench.verify import verify
from tests.builders.foreign_saes import Dense
from tests.builders.kernel_inputs import tiling
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import (
    ACTIVATIONS,
    HOOK,
    activations,
    coder_of,
    tiny_coder,
    tiny_rule,
    tiny_weights,
    write_native,
)
from tests.builders.token_rows import token_rows

SHORT = torch.bfloat16


def in_plain_torch(coder: LinearCoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction as a module whose parameters are bfloat16 makes them."""
    w = {name: tensor.to(SHORT) for name, tensor in coder.weights.items()}
    u = x.to(SHORT) - w["b_dec"]
    activation = coder.rule.activation
    pre = u @ w["W_enc"]
    if activation == "gated":
        f = (pre * w["r_mag"].exp() + w["b_mag"]).relu() * (pre + w["b_gate"] > 0)
    else:
        pre = pre + w["b_enc"]
        keys = pre.abs() if activation == "abstopk" else pre
        kept = keys.sort(dim=1, descending=True, stable=True).indices[:, : coder.rule.k or 0]
        only = torch.zeros_like(pre).scatter_(1, kept, 1)
        f = {
            "relu": lambda: pre.relu(),
            "jumprelu": lambda: pre * (pre > w["threshold"].clamp(min=0)),
            "topk": lambda: pre.relu() * only,
            "abstopk": lambda: pre * only,
        }[activation]()
    return f, f @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("converted", ["once", "tile by tile"])
def test_latents_are_those_of_plain_torch_in_bfloat16(activation, waits, converted, monkeypatch):
    if converted == "tile by tile":
        monkeypatch.setattr(topk, "TILE_ELEMENTS", 40)
    weights = tiny_weights(activation)
    full = coder_of(weights, tiny_rule(activation))
    coder = LinearCoder(full.info, weights, full.rule, dtype=SHORT, waits=waits)
    x = activations(40)
    with tiling(16, 1 << 16):
        codes = coder.encode(x)
    f, out = in_plain_torch(full, x)
    assert codes.values.dtype == SHORT
    assert torch.equal(codes.dense() != 0, f != 0)
    torch.testing.assert_close(codes.dense(), f, rtol=2**-7, atol=0)
    decoded = coder.decode(codes)
    assert decoded.dtype == SHORT
    torch.testing.assert_close(decoded, out, rtol=0, atol=0.05 * float(out.abs().max()))
    assert not torch.equal(full.encode(x).values, codes.values.float()), "float32 gives something else"


def test_a_run_computes_in_it_and_says_so(tmp_path):
    path = write_native(tiny_coder("topk", hook=HOOK), tmp_path / "sae")
    given: dict[str, Any] = {"model": tiny_gpt2(), "data": token_rows(), "tasks": "reconstruction", "resamples": 50}
    short, full = (evaluate(path, sae_dtype=d, **given)[0] for d in ("bfloat16", "auto"))
    assert short.status == full.status == "ok"
    a, b = (result.metrics["fvu"].value for result in (short, full))
    assert a is not None
    assert b is not None
    assert a != b
    assert abs(a - b) < 0.05 * b
    protocols = [result.provenance.protocol for result in (short, full)]
    assert protocols[0].parameters == protocols[1].parameters | {"sae_dtype": "bfloat16"}
    assert short.protocol != full.protocol


def test_a_result_of_it_is_verified_in_it(tmp_path):
    path = write_native(tiny_coder("topk", hook=HOOK), tmp_path / "sae")
    given: dict[str, Any] = {"model": tiny_gpt2(), "data": token_rows()}
    evaluate(path, tasks="sparsity", out=tmp_path / "runs", sae_dtype="bfloat16", resamples=20, **given)
    file = next(f for f in (tmp_path / "runs").rglob("*.json") if f.name != "sae.json")
    report = verify(file, path, share=1.0, **given)
    assert report.rows
    assert report.wrong == []


def test_pursuit_is_refused(tmp_path):
    coder = PursuitCoder(tiny_coder("topk", hook=HOOK).info, tiny_weights("topk"), Pursuit(3), SHORT)
    with pytest.raises(UsageError, match="matching pursuit takes away what it has found again and again"):
        Session(coder, Settings(model=tiny_gpt2(), data=token_rows(), sae_dtype="bfloat16"))


def test_an_sae_in_memory_that_computes_in_it_is_named_too(tmp_path):
    mine = load_sae(write_native(tiny_coder("topk", hook=HOOK), tmp_path / "sae"), dtype=SHORT)
    for asked in ("auto", "bfloat16"):
        session = Session(mine, Settings(model=tiny_gpt2(), data=token_rows(), tasks="sparsity", sae_dtype=asked))
        assert session.work[0].protocols["sparsity"][1].parameters["sae_dtype"] == "bfloat16"


def test_results_of_two_types_are_not_compared(tmp_path, capsys):
    path = write_native(tiny_coder("topk", hook=HOOK), tmp_path / "sae")
    for place, dtype in (("a", "bfloat16"), ("b", "auto")):
        given = {"model": tiny_gpt2(), "data": token_rows(), "tasks": "sparsity", "resamples": 20}
        evaluate(path, out=tmp_path / place, sae_dtype=dtype, **given)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) != 0
    assert "sae_dtype" in "".join(capsys.readouterr())


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "code of one's own": (
        lambda f: Dense(),
        {"hook_in": HOOK},
        "sae_dtype='bfloat16' says nothing about code of your own",
    ),
    "in memory": (
        lambda f: tiny_coder("topk", hook=HOOK),
        {},
        r"the SAE in memory computes in float32 and stays as it is \(tiny topk\)",
    ),
    "certified selection": (
        lambda f: write_native(tiny_coder("topk", hook=HOOK), f / "sae"),
        {"select_in": "bfloat16"},
        "select_in='bfloat16' finds the latents that float32 selects, and sae_dtype",
    ),
    "another type": (
        lambda f: write_native(tiny_coder("topk", hook=HOOK), f / "sae"),
        {"sae_dtype": "float16"},
        "sae_dtype must be one of auto, float32, bfloat16, but it is 'float16'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_cannot_act_on_is_refused(what, tmp_path):
    made, settings, message = REFUSED[what]
    given = {"model": tiny_gpt2(), "data": token_rows(), "sae_dtype": "bfloat16"} | settings
    with pytest.raises(UsageError, match=message):
        Session(made(tmp_path), Settings(**given))


def test_the_flag_is_told_in_help(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "--sae-dtype {auto,float32,bfloat16}" in capsys.readouterr().out
