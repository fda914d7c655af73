"""A device that is not here is blamed itself, in one sentence, before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from sae_bench.errors import ModelError
from sae_bench.models.placement import check_device
from tests.conftest import Run


def no_gpu(monkeypatch: pytest.MonkeyPatch, *, built: bool, gpus: int) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0" if built else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("device", "built", "gpus", "says"),
    [
        ("cuda", False, 0, "was built without CUDA; install one with it, or give --device cpu"),
        ("cuda:7", False, 0, "'cuda:7' cannot be used here: this PyTorch"),
        ("cuda", True, 0, "PyTorch finds no GPU or no driver for it; give --device cpu"),
        ("cuda:7", True, 1, "'cuda:7' cannot be used here: cuda:0 is the only GPU; give one that is here"),
        ("cuda:7", True, 4, "there are cuda:0 to cuda:3; give one that is here"),
        ("meta", False, 0, "nothing is computed on the device 'meta': give cpu, cuda"),
        ("gpu", False, 0, "no device is called 'gpu': give cpu, cuda, cuda:1 and so on, mps, or auto"),
        ("cud", False, 0, "no device is called 'cud'"),
        ("cuda:x", False, 0, "no device is called 'cuda:x'"),
        ("", False, 0, "no device is called ''"),
        ("xla", False, 0, "this machine or its PyTorch has none; give cpu"),
    ],
)
def test_a_device_that_is_not_here(
    device: str, built: bool, gpus: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch, built=built, gpus=gpus)
    with pytest.raises(ModelError) as caught:
        check_device(device)
    assert says in str(caught.value)


def test_a_device_that_is_here() -> None:
    check_device("cpu")


@pytest.mark.parametrize("verb", [["run", "no/such/sae"], ["inspect", "no/such/sae"], ["run", "demo", "--dry-run"]])
def test_it_comes_first_and_blames_no_sae(verb: list[str], cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch, built=True, gpus=0)
    code, out, said = cli(*verb, "--device", "cuda")
    assert (code, out) == (2, "")
    assert said == (
        "sae-bench: the device 'cuda' cannot be used here: PyTorch finds no GPU or no driver for it; "
        "give --device cpu\n"
    )
