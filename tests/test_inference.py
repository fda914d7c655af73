"""``load_sae(...).encode``: arrays of any kind, in flat memory, with a sentence for what is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sae_bench
from sae_bench.api import Session
from sae_bench.errors import CoderError
from sae_bench.saes import inference
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.pursuit import Pursuit, PursuitCoder
from sae_bench.saes.wrap import DenseCoder, as_coder
from tests.builders.kernel_inputs import LargestAllocation, normal
from tests.builders.marks import slow_but
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import ACTIVATIONS, HOOK, WIDTH, activations, tiny_coder, tiny_weights, write_saelens
from tests.builders.token_rows import token_rows


class Dense(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W = torch.nn.Parameter(normal(WIDTH, 40).float())

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W).relu()

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.W.T


def pursuit() -> PursuitCoder:
    return PursuitCoder(tiny_coder("topk").info, tiny_weights("topk"), Pursuit(3))


CODERS: dict[str, Any] = {
    **{activation: lambda activation=activation: tiny_coder(activation) for activation in ACTIVATIONS},
    "pursuit": pursuit,
    "dense module": lambda: as_coder(Dense(), hook=HOOK, d_in=WIDTH),
}


def checking(name: str) -> Any:
    coder = CODERS[name]()
    coder.checks = True
    return coder


FORMS: dict[str, Any] = {
    "a tensor": lambda x: x,
    "batches of sequences": lambda x: x.reshape(3, 2, 5, WIDTH),
    "an array": lambda x: x.numpy(),
    "an array of sequences": lambda x: x.reshape(6, 5, WIDTH).numpy(),
    "float64": lambda x: x.double().numpy(),
    "big-endian": lambda x: x.numpy().astype(">f4"),
    "with a gradient": lambda x: x.clone().requires_grad_(),
    "not contiguous": lambda x: x.T.contiguous().T,
}


@pytest.mark.filterwarnings("ignore:.*is wrapped")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("numbers", slow_but(1, [7 * WIDTH, 1, 1 << 24]))
def test_every_form_gives_the_codes_of_the_tensor(name, form, numbers, monkeypatch):
    monkeypatch.setattr(inference, "NUMBERS", numbers)
    x = activations(30)
    expected = CODERS[name]().encode(x)
    coder = checking(name)
    codes = coder.encode(FORMS[form](x))
    assert torch.equal(codes.indptr, expected.indptr)
    assert torch.equal(codes.indices, expected.indices)
    torch.testing.assert_close(codes.values, expected.values, rtol=1e-5, atol=1e-6)
    assert not codes.values.requires_grad
    out = coder.decode(codes, FORMS[form](x))
    torch.testing.assert_close(out, CODERS[name]().decode(expected, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(dtype):
    x = activations(20).to(dtype)
    assert torch.equal(checking("topk").encode(x).values, tiny_coder("topk").encode(x.float()).values)
    if dtype == torch.float16:
        assert torch.equal(checking("topk").encode(x.numpy()).values, tiny_coder("topk").encode(x.float()).values)


def test_one_token_and_none():
    coder = checking("topk")
    assert coder.encode(activations(1)[0]).n_tokens == 1
    assert coder.encode(np.zeros((0, WIDTH), np.float32)).n_tokens == 0
    assert coder.encode(torch.zeros(4, 0, WIDTH)).n_tokens == 0


def spoilt(value: float) -> Tensor:
    x = activations(30)
    x[17, 3] = value
    return x


WRONG: dict[str, tuple[Any, str]] = {
    "another width": (torch.zeros(3, 7), r"must have 16 numbers a token, but x has shape \[3, 7\]"),
    "a width of sequences": (torch.zeros(2, WIDTH, 3), r"must have 16 numbers a token, but x has shape \[2, 16, 3\]"),
    "token ids": (torch.zeros(3, WIDTH, dtype=torch.int64), "must be floating-point numbers, but x holds int64"),
    "truth values": (np.zeros((3, WIDTH), bool), "must be floating-point numbers, but x holds bool"),
    "complex": (torch.zeros(3, WIDTH, dtype=torch.complex64), "must be floating-point numbers, but x holds complex64"),
    "objects": (np.full((3, WIDTH), None), "must be floating-point numbers, but x holds object"),
    "a list": ([[0.0] * WIDTH], r"must be a tensor or an array \[\.\.\., 16\], but x is a list"),
    "nothing": (None, "but x is a NoneType"),
    "a number": (torch.tensor(1.0), r"but x is a single number \(Tensor\)"),
    "NaN": (spoilt(torch.nan), r"must be finite, but x\[17\] holds NaN or infinite numbers"),
    "infinite": (spoilt(-torch.inf).numpy(), r"must be finite, but x\[17\] holds"),
    "not finite in a batch": (spoilt(torch.inf).reshape(6, 5, WIDTH), r"must be finite, but x\[3\] holds"),
}


@pytest.mark.filterwarnings("ignore:.*is wrapped")
@pytest.mark.parametrize("name", ["topk", "pursuit", "dense module"])
@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("numbers", [4 * WIDTH, 1 << 24])
def test_what_is_wrong_with_x_is_said(name, what, numbers, monkeypatch):
    monkeypatch.setattr(inference, "NUMBERS", numbers)
    x, message = WRONG[what]
    if what == "not finite in a batch":
        monkeypatch.setattr(inference, "NUMBERS", max(numbers, 10 * WIDTH))
    with pytest.raises(CoderError, match=message) as raised:
        checking(name).encode(x)
    assert str(raised.value).startswith(checking(name).info.name)


def test_codes_and_activations_of_something_else_are_refused():
    coder, x = checking("topk"), activations(30)
    codes = coder.encode(x)
    with pytest.raises(CoderError, match="the codes are of 99 latents, but it has 48"):
        coder.decode(codes._replace(n_latents=99))
    with pytest.raises(CoderError, match="the codes are of 30 tokens, but x has 29"):
        coder.decode(codes, x[1:])


def test_a_loaded_sae_is_that_of_plain_torch_and_of_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 5, WIDTH)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    tiny = tiny_coder("topk")
    sae = sae_bench.load_sae(write_saelens(tiny, tmp_path / "sae"))
    codes = sae.encode(np.load(tmp_path / "x.npy", mmap_mode="r"))
    flat = torch.from_numpy(x).reshape(-1, WIDTH)
    w = tiny.weights
    pre = (flat - w.b_dec) @ w.W_enc + w.b_enc
    kept, latents = pre.topk(tiny.rule.k or 0, dim=1)
    dense = torch.zeros_like(pre).scatter_(1, latents, kept.relu())
    torch.testing.assert_close(codes.dense(), dense, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.decode(codes), dense @ w.W_dec + w.b_dec, rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_tokens(monkeypatch):
    """The parts of a long array are converted and encoded one after the other."""
    monkeypatch.setattr(inference, "NUMBERS", 64 * WIDTH)
    coder = checking("topk")
    x = np.broadcast_to(np.ones(WIDTH, np.float16), (20_000, WIDTH))
    with LargestAllocation() as seen:
        codes = coder.encode(x)
    assert codes.n_tokens == 20_000
    assert seen.numbers <= max(20_001, len(codes.indices)), seen.by


def test_a_run_says_itself_what_is_not_finite():
    """The checks are of who calls encode; an SAE of load_sae keeps them, and the run has none."""
    mine = tiny_coder("topk", hook=HOOK)
    mine.checks = True
    results = sae_bench.evaluate(
        mine, model=tiny_gpt2(), data=token_rows(), tasks="sparsity", controls="none", resamples=20
    )
    assert results[0].status == "ok"
    assert mine.checks
    session = Session(mine, sae_bench.Settings(model=tiny_gpt2(), data=token_rows()))
    assert session.work[0].entry.coder.checks is False


def test_the_document_of_python_says_what_runs():
    path = Path(__file__).parent.parent / "docs" / "python.md"
    if not path.is_file():
        pytest.skip("needs the checkout")
    block = next(b for b in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL) if "load_sae" in b)
    names: dict[str, Any] = {"sae_bench": sae_bench, "activations": np.ones((2, 3, 128), np.float16)}
    exec(block, names)
    assert isinstance(names["sae"], LinearCoder)
    assert names["reconstruction"].shape == (6, names["sae"].info.d_out)
    assert len(names["first"][0]) == names["codes"].counts()[0]


def test_only_loaded_coders_check():
    assert not tiny_coder("topk").checks
    assert isinstance(CODERS["dense module"](), DenseCoder)
