"""An SAE of the user's own is identified by what it is, not by the process around it; wrappers name what is inside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_bench import evaluate
from sae_bench.errors import CoderError, ModelError, SaeBenchError
from sae_bench.models.loading import load_subject
from sae_bench.saes.load import load_sae
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.wrap import as_coder, content_sha256
from sae_bench.settings import Told
from tests.builders.foreign_saes import Dense, wrapped
from tests.builders.marks import slow_but_each
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.tiny_saes import HOOK, WIDTH, tiny_coder
from tests.builders.token_rows import token_rows


class Dropping(Dense):
    """With dropout, which evaluation switches off."""

    def encode(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().encode(x), 0.5, self.training)


class Bare:
    """An object without a tensor that torch knows of."""

    def __init__(self) -> None:
        self.matrix = torch.eye(WIDTH, dtype=torch.float32)

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.matrix).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.matrix


MADE: list[Callable[[], SparseCoder]] = [
    lambda: wrapped(Dropping().train()),
    lambda: wrapped(Dense().double()),
    lambda: wrapped(Bare()),
    lambda: tiny_coder("topk", normalise="layer_norm"),
]


@contextmanager
def changed(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    """Another value of something that the process has set, and then its own again."""
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def dtype_by_default(dtype: torch.dtype) -> AbstractContextManager[None]:
    return changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


def threads(n: int) -> AbstractContextManager[None]:
    return changed(torch.get_num_threads, torch.set_num_threads, n)


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype float64": lambda: dtype_by_default(torch.float64),
    "default dtype bfloat16": lambda: dtype_by_default(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "three threads": lambda: threads(3),
    "gradients on": torch.enable_grad,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("make", MADE, ids=["training", "float64", "no parameters", "coder"])
@pytest.mark.parametrize("around", AROUND)
def test_what_a_process_has_set_changes_no_digest(make: Callable[[], SparseCoder], around: str) -> None:
    coder = make()
    expected = content_sha256(coder)
    torch.manual_seed(5)
    with AROUND[around]():
        assert content_sha256(coder) == expected


@pytest.mark.parametrize(
    "around", slow_but_each(2, sorted(set(AROUND) - {"three threads"}))
)  # these may change last bits
def test_what_a_process_has_set_changes_no_figure(around: str) -> None:
    sae, found = Dense(), []
    given = {"hook_in": HOOK, "model": tiny_gpt2(), "data": token_rows(), "tasks": "reconstruction", "resamples": 20}
    for process in (nullcontext, AROUND[around]):
        with process(), pytest.warns(UserWarning, match="is wrapped"):
            (result,) = evaluate(sae, **given)
        found.append((result.sae.weights_sha256, result.protocol, result.metrics, result.controls))
    assert found[0] == found[1]


def test_training_and_evaluation_mode_are_one_sae() -> None:
    sae = Dropping()
    assert content_sha256(wrapped(sae.train())) == content_sha256(wrapped(sae.eval()))


@pytest.mark.parametrize("attribute", ["name", "run_name", "label", "path", "title"])
def test_a_name_is_no_part_of_the_digest(attribute: str) -> None:
    first, second = Dense(), Dense()
    setattr(first, attribute, "mine")
    setattr(second, attribute, "yours")
    assert content_sha256(wrapped(first, name="a")) == content_sha256(wrapped(second, name="b"))
    second.gain = 3  # type: ignore[assignment]
    assert content_sha256(wrapped(first)) != content_sha256(wrapped(second)), "a number is"


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def fully_sharded(module: nn.Module) -> nn.Module:
    """Named as torch's, which cannot be made without a GPU."""
    kind = type("FullyShardedDataParallel", (nn.Module,), {})
    made: nn.Module = kind()
    made.module = module
    return made


def distributed(module: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(module)


WRAPPERS = {
    "DistributedDataParallel": (distributed, r"give its \.module"),
    "DataParallel": (nn.DataParallel, r"give its \.module"),
    "FullyShardedDataParallel": (fully_sharded, r"give its \.module"),
    "OptimizedModule": (torch.compile, r"\._orig_mod"),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("kind", slow_but_each(2, WRAPPERS))
def test_a_wrapper_names_what_is_inside(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrap, names = WRAPPERS[kind]
    with pytest.raises(ModelError, match=f"wrapped in {kind}: .*{names}"):
        load_subject(wrap(tiny_gpt2()))
    with pytest.raises(CoderError, match=f"the SAE is wrapped in {kind}: .*{names}"):
        as_coder(wrap(Dense()), hook=HOOK, d_in=WIDTH)
    monkeypatch.setitem(sys.modules, "saes_of_mine", SimpleNamespace(ready=wrap(Dense()), make=lambda: wrap(Dense())))
    for source in ("saes_of_mine:ready", "saes_of_mine:make"):
        with pytest.raises(CoderError, match=f"the SAE is wrapped in {kind}: .*{names}"):
            load_sae(source, told=Told(hook_in=HOOK), d_in=WIDTH)
    for sae, model in ((wrap(Dense()), tiny_gpt2()), (Dense(), wrap(tiny_gpt2()))):
        with pytest.raises(SaeBenchError, match=f"wrapped in {kind}: .*{names}"):
            evaluate(sae, hook_in=HOOK, model=model, data=token_rows(), tasks="sparsity", controls="none")
