"""FVU whatever the length of the reconstruction, and without the channels that hold most of the variance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_bench import Result, evaluate
from sae_bench.kernels.outliers import top_channels
from tests.builders.tiny_models import VOCAB, WIDTH, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.builders.views import ArrayView, figures, measure_all, task

LENGTHS = [5, 1, 0, 9, 3, 7]
FEW = ("top_channels_variance", "top_channels_energy", "fvu_without_top_channels")
BIG = [1, 4]  # channels of the arrays whose variance is many times that of the others


def arrays(seed: int = 0, d: int = 9) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(LENGTHS), d, generator=draw, dtype=torch.float64) + 2
    x[:, BIG] *= 30
    x_hat = 0.7 * x + 0.3 * x.std(0) * torch.randn(len(x), d, generator=draw, dtype=torch.float64)
    return x, x_hat


def values(x: Tensor, x_hat: Tensor, **changes: Any) -> dict[str, Any]:
    made = task("reconstruction")
    return {n: e.value for n, e in figures(made, measure_all(made, ArrayView(x, x_hat, LENGTHS, **changes))).items()}


def spread(x: Tensor) -> Tensor:
    return (x - x.mean(0)).square().sum()


# --- the best number -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_rescaled_is_the_fvu_of_the_best_of_many_numbers(seed: int) -> None:
    """By least squares of the stacked numbers, and no other number that is tried is better."""
    x, x_hat = arrays(seed)
    best = torch.linalg.lstsq(x_hat.reshape(-1, 1), x.reshape(-1, 1)).solution.item()
    found = values(x, x_hat)
    assert found["fvu_rescaled"] == pytest.approx(float((x - best * x_hat).square().sum() / spread(x)), rel=1e-12)
    assert found["relative_reconstruction_bias"] == pytest.approx(1 / best, rel=1e-12)
    for by in np.linspace(-3, 3, 41):
        assert found["fvu_rescaled"] <= float((x - by * x_hat).square().sum() / spread(x)) * (1 + 1e-12)
    assert found["fvu_rescaled"] <= found["fvu"]


@pytest.mark.parametrize("by", [-3.0, 1e-6, 0.5, 2.0, 1e6])
def test_a_wrong_length_costs_nothing(by: float) -> None:
    x, x_hat = arrays()
    assert values(x, by * x_hat)["fvu_rescaled"] == pytest.approx(values(x, x_hat)["fvu_rescaled"], rel=1e-9)
    assert values(x, by * x)["fvu_rescaled"] == pytest.approx(0, abs=1e-12)


def test_rescaled_does_not_turn_with_the_axes() -> None:
    x, x_hat = arrays()
    turn = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    assert values(x @ turn, x_hat @ turn)["fvu_rescaled"] == pytest.approx(values(x, x_hat)["fvu_rescaled"], rel=1e-12)


def test_a_reconstruction_that_is_already_best_keeps_its_fvu_and_nothing_has_that_of_nothing() -> None:
    x, x_hat = arrays()
    assert values(x, x)["fvu_rescaled"] == 0.0
    best = float((x * x_hat).sum() / x_hat.square().sum())
    found = values(x, best * x_hat)
    assert found["fvu_rescaled"] == pytest.approx(found["fvu"], rel=1e-12)
    nothing = values(x, torch.zeros_like(x))
    assert nothing["fvu_rescaled"] == nothing["fvu"]
    assert values(torch.ones_like(x), x_hat)["fvu_rescaled"] is None  # activations that do not vary


# --- the top channels ------------------------------------------------------------------------------------------------


def test_which_channels_they_are() -> None:
    variances = torch.tensor([1.0, 5.0, 2.0, 5.0, 2.0, 0.0])
    assert top_channels(torch.diag(variances)).tolist() == [1, 2, 3]  # of equal ones the first
    assert top_channels(torch.diag(variances[:2])).tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_shares_and_the_fvu_of_all_others_are_those_of_plain_sums(seed: int) -> None:
    x, x_hat = arrays(seed)
    top = x.var(0).argsort(descending=True)[:3]
    rest = [c for c in range(9) if c not in set(top.tolist())]
    found = values(x, x_hat)
    assert found["top_channels_variance"] == pytest.approx(float(spread(x[:, top]) / spread(x)), rel=1e-12)
    energy = float(x[:, top].square().sum() / x.square().sum())
    assert found["top_channels_energy"] == pytest.approx(energy, rel=1e-12)
    without = float((x - x_hat)[:, rest].square().sum() / spread(x[:, rest]))
    assert found["fvu_without_top_channels"] == pytest.approx(without, rel=1e-9)
    assert found["top_channels_variance"] > 0.9


def test_what_changes_no_figure_of_them() -> None:
    """Another order of the channels, another unit of the activations, an error in the top channels alone; batches."""
    x, x_hat = arrays()
    before = {name: values(x, x_hat)[name] for name in FEW}
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    for after in (values(x[:, order], x_hat[:, order]), values(1e3 * x, 1e3 * x_hat)):
        assert {name: after[name] for name in FEW} == pytest.approx(before, rel=1e-9)
    worse = x_hat.clone()
    worse[:, BIG] += 100
    after = values(x, worse)
    assert after["fvu_without_top_channels"] == pytest.approx(before["fvu_without_top_channels"], rel=1e-9)
    assert after["fvu"] > 2 * values(x, x_hat)["fvu"]
    made, view = task("reconstruction"), ArrayView(x, x_hat, LENGTHS)
    cut = figures(made, measure_all(made, view, [[3], [0, 5], [1, 2, 4]]))
    assert {name: cut[name].value for name in FEW} == pytest.approx(before, rel=1e-12)


def test_a_mean_of_one_channel_is_energy_and_no_variance() -> None:
    """What flatters the cosine and leaves FVU alone."""
    x, x_hat = arrays()
    far = torch.zeros(9, dtype=torch.float64)
    far[BIG[0]] = 1e4
    found, before = values(x + far, x_hat + far), values(x, x_hat)
    assert found["top_channels_energy"] > 0.999 > before["top_channels_energy"]
    for name in ("top_channels_variance", "fvu_without_top_channels", "fvu"):
        assert found[name] == pytest.approx(before[name], rel=1e-6)


def test_what_is_left_of_three_channels_has_no_fvu() -> None:
    x, x_hat = arrays()
    found = figures(made := task("reconstruction"), measure_all(made, ArrayView(x[:, :3], x_hat[:, :3], LENGTHS)))
    assert found["top_channels_variance"].value == pytest.approx(1)
    assert found["fvu_without_top_channels"].value is None
    assert "variance of the other channels" in str(found["fvu_without_top_channels"].reason)


# --- a run -----------------------------------------------------------------------------------------------------------


def with_a_loud_channel(size: float) -> Any:
    """A tiny model that adds to one channel what it finds in a token."""
    model = tiny_gpt2()
    with torch.no_grad():
        model.transformer.wte.weight[:, 5] += size * torch.randn(VOCAB, generator=torch.Generator().manual_seed(1))
    return model


def measured(model: Any) -> Result:
    ids = np.random.default_rng(0).integers(1, VOCAB, (40, 24))
    given: dict[str, Any] = {"mask": "none", "mean_from": "evaluation", "controls": "none", "resamples": 20}
    return evaluate(tiny_coder("topk"), model=model, data=ids, tasks="reconstruction", **given)[0]


def test_a_run_says_that_a_few_channels_decide_where_they_do() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = measured(tiny_gpt2())
    assert quiet.metrics["top_channels_variance"].value < 0.5
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loud = measured(with_a_loud_channel(40.0))
    assert loud.metrics["top_channels_variance"].value > 0.9
    expected = 5 * 3 / WIDTH < 1  # of few channels three hold much whatever they carry
    assert any(f"3 of {WIDTH} channels hold" in str(one.message) for one in said) == expected
    assert loud.metrics["fvu_without_top_channels"].value != pytest.approx(loud.metrics["fvu"].value, rel=0.1)
