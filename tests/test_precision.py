"""Sums and products are as exact as the type says while a run computes, and as a process had set them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sae_bench import precision
from sae_bench.modules import as_declared
from sae_bench.saes.linear import LinearCoder
from tests.builders.kernel_inputs import normal
from tests.builders.tiny_saes import activations, coder_of, tiny_rule, tiny_weights

MATMUL: Any = torch.backends.cuda.matmul
BACKENDS: Any = torch.backends
PLACES = [getattr(getattr(BACKENDS, of), kind, None) for of in ("cudnn", "mkldnn") for kind in ("conv", "rnn")]


def switches() -> dict[str, Any]:
    found = {name: getattr(MATMUL, name) for name in precision._REDUCED if hasattr(MATMUL, name)}
    found |= {f"{name}_split_k": getattr(MATMUL, f"{name}_split_k", None) for name in precision._REDUCED}
    found["products"] = torch.get_float32_matmul_precision()
    found["TF32 in convolutions"] = [getattr(place, "fp32_precision", None) for place in PLACES]
    return found


@pytest.fixture(params=["all that is reduced", "nothing", "no sums of parts"])
def process(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What somebody may have set before."""
    before = switches()
    reduced = request.param.startswith("all")
    for name in precision._REDUCED:
        if hasattr(MATMUL, name):
            both = hasattr(MATMUL, f"{name}_split_k") and request.param == "no sums of parts"
            setattr(MATMUL, name, (False, False) if both else reduced)
    torch.set_float32_matmul_precision("medium" if reduced else "highest")
    torch.backends.cudnn.allow_tf32 = reduced
    yield switches()
    for name in precision._REDUCED:
        if hasattr(MATMUL, name):
            split_k = before[f"{name}_split_k"]
            setattr(MATMUL, name, before[name] if split_k is None else (before[name], split_k))
    torch.set_float32_matmul_precision(before["products"])
    torch.backends.cudnn.allow_tf32 = True


def inside() -> None:
    found = switches()
    assert not any(found[name] for name in precision._REDUCED if name in found)
    assert found["products"] == "highest"
    assert set(found["TF32 in convolutions"]) <= {"ieee", None}


@pytest.mark.parametrize("scope", [as_declared, precision.in_full])
def test_nothing_is_reduced_inside_and_all_is_as_it_was_afterwards(scope, process):
    with scope():
        inside()
        with scope():
            inside()
        inside()
    assert switches() == process
    with pytest.raises(ZeroDivisionError), scope():
        _ = 1 / 0
    assert switches() == process


@pytest.mark.parametrize("select_in", ["exact", "bfloat16"])
def test_a_coder_called_on_its_own_is_no_exception(select_in, process):
    seen = []
    weights = tiny_weights("topk", n_latents=50)
    coder = LinearCoder((tiny := coder_of(weights, tiny_rule("topk"))).info, weights, tiny.rule, select_in=select_in)

    def product(*matrices: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        inside()
        seen.append(1)
        return torch.mm(*matrices, out=out)

    coder._product = product
    with torch.autocast("cpu", torch.bfloat16):
        codes = coder.encode(activations(9))
    assert seen
    assert codes.values.dtype == torch.float32
    assert switches() == process


def test_convolutions_are_float32_too():
    with precision.in_full():
        out = torch.nn.functional.conv1d(normal(1, 2, 9).float(), normal(3, 2, 2).float())
    assert out.dtype == torch.float32
