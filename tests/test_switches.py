"""Switches of the process that two runs in it change at once: in force for both, and as before when both are done."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn
from transformers.utils import logging as said_by_transformers

from sae_bench.api import evaluate
from sae_bench.models import departures
from sae_bench.models.quiet import quiet
from sae_bench.precision import in_full, one_thread
from sae_bench.switches import alone_with, remarks_on_stderr, shared, without_warnings
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.token_rows import coder, token_rows

STATES: dict[str, tuple[Callable[[], AbstractContextManager[None]], Callable[[], Any]]] = {
    "precision of products": (in_full, torch.get_float32_matmul_precision),
    "precision of convolutions": (in_full, lambda: torch.backends.cudnn.conv.fp32_precision),
    "threads": (one_thread, torch.get_num_threads),
    "reports of transformers": (quiet, said_by_transformers.get_verbosity),
    "warnings": (without_warnings, lambda: list(warnings.filters)),
    "standard output": (remarks_on_stderr, lambda: sys.stdout),
    "default dtype": (departures._float32_by_default, torch.get_default_dtype),
}


@pytest.fixture
def unusual() -> Any:
    """A process whose switches are not what a run needs."""
    before = torch.get_float32_matmul_precision(), torch.get_num_threads(), said_by_transformers.get_verbosity()
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(3)
    said_by_transformers.set_verbosity(logging.DEBUG)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.set_num_threads(before[1])
    said_by_transformers.set_verbosity(before[2])
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("what", STATES)
def test_the_last_who_leaves_gives_back_what_the_first_one_found(unusual: Any, what: str) -> None:
    """In the order in which it went wrong: who came first leaves first, and the other one is still inside."""
    switched, state = STATES[what]
    before = state()
    first, second = switched(), switched()
    first.__enter__()
    inside = state()
    second.__enter__()
    first.__exit__(None, None, None)
    assert state() == inside
    second.__exit__(None, None, None)
    assert state() == before
    if what != "precision of convolutions":
        assert inside != before


def test_whoever_comes_later_sets_a_switch_again() -> None:
    """Code of somebody else, such as an SAE in memory, may have switched back meanwhile."""
    now = ["usual"]

    @shared
    def changed() -> Callable[[], None]:
        before = now[0]
        now[0] = "changed"
        return lambda: now.__setitem__(0, before)

    with changed():
        now[0] = "something else"
        with changed():
            assert now[0] == "changed"
        assert now[0] == "changed"
    assert now[0] == "usual"


def test_a_fault_gives_a_switch_back() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), in_full():
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before


def test_a_module_that_another_thread_makes_meanwhile_has_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is built without values to compare it; what another run loads at that moment needs its own."""
    made: list[nn.Linear] = []

    class Slow(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config = config
            self.inner = nn.Linear(2, 2)
            other = threading.Thread(target=lambda: made.append(nn.Linear(3, 3)))
            other.start()
            other.join()

    built = departures._built(Slow(None))
    assert built is not None
    assert built.inner.weight.device.type == "meta"  # type: ignore[union-attr]
    assert [module.weight.device.type for module in made] == ["cpu", "cpu"]


def test_two_runs_on_one_model_in_memory_measure_what_each_would_alone() -> None:
    """The hooks of one run act on every pass of the model: figures were wrong, and looked right."""
    model, found = tiny_gpt2(), {}

    def run(name: object) -> list[Any]:
        given: dict[str, Any] = {"model": model, "data": token_rows(30), "tier": "full", "resamples": 20}
        given |= {"tasks": "reconstruction,loss_recovered", "controls": "none", "calibration_cache": False}
        found[name] = [result.metrics for result in evaluate(coder("a", n=20, k=3), **given)]
        return found[name]

    alone = run("alone")
    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(i) for i in range(3)] == [alone] * 3


def test_who_is_alone_with_a_thing_keeps_others_out_and_not_itself() -> None:
    thing, order = nn.Linear(1, 1), []

    def other() -> None:
        with alone_with(thing):
            order.append("other")

    with alone_with(thing), alone_with(thing), alone_with("a text"), alone_with(None), alone_with([1]):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
