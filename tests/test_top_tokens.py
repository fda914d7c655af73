"""A few tokens that hold the variance: what they hold is said, and FVU of the others is that of plain hooks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_bench import Result, evaluate
from sae_bench.engine.workspace import Entry
from sae_bench.kernels.outliers import outlier_bound
from sae_bench.models.loading import load_subject
from sae_bench.preflight import Activations, Text, lines, preflight
from tests.builders.tiny_models import CONTEXT, VOCAB, WIDTH, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.builders.views import ArrayView, figures, measure_all, task

SINK = 20
ROWS, LENGTH = 40, 30


def model_with_a_sink(size: float = 300.0) -> Any:
    """A tiny model in which one token of the vocabulary has a huge vector."""
    model = tiny_gpt2()
    with torch.no_grad():
        model.transformer.wte.weight[SINK] += size * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    return model


def rows(sinks: int, seed: int = 0) -> np.ndarray:
    """Ids ``[ROWS, LENGTH]`` that hold the sink so many times."""
    draw = np.random.default_rng(seed)
    ids = draw.choice([i for i in range(1, VOCAB) if i != SINK], (ROWS, LENGTH))
    ids.flat[draw.choice(ids.size, sinks, replace=False)] = SINK
    return ids


def plain(model: Any, ids: np.ndarray, coder: Any) -> tuple[Tensor, Tensor]:
    """Activations and squared errors of all tokens by a plain hook, float64: ``[tokens, d]``, ``[tokens]``."""
    held: list[Tensor] = []
    block = model.transformer.h[1]
    hook = block.register_forward_hook(lambda _m, _a, out: held.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        for row in ids:
            model(torch.tensor(row)[None])
    hook.remove()
    x = torch.cat([one.reshape(-1, WIDTH) for one in held])
    x_hat = coder.decode(coder.encode(x), x)
    return x.double(), (x.double() - x_hat.double()).square().sum(1)


def spread(x: Tensor) -> Tensor:
    return (x - x.mean(0)).square().sum(1)


def measured(model: Any, ids: np.ndarray, **given: Any) -> Result:
    common: dict[str, Any] = {"mask": "none", "mean_from": "evaluation", "controls": "none", "resamples": 20}
    made = evaluate(tiny_coder("topk"), model=model, data=ids, tasks="reconstruction", **(common | given))
    return made[0]


@pytest.mark.parametrize("sinks", [6, 12, 18, 60], ids=["0.5 %", "1 %", "1.5 %", "5 %"])
def test_the_share_and_the_fvu_of_all_others_are_those_of_plain_hooks(sinks: int) -> None:
    """Also where there are more of them than 1 %: a group is not cut in two, of which one half would hide the rest."""
    model, ids = model_with_a_sink(), rows(sinks)
    x, error = plain(model, ids, tiny_coder("topk"))
    squares = spread(x)
    order = squares.argsort(descending=True)
    with pytest.warns(UserWarning, match="of 1200 tokens hold 9.* of the variance"):
        found = measured(model, ids)
    n = found.details["top_tokens"]
    assert max(sinks, 12) <= n <= max(sinks, 12) + 3  # a few that attend to a sink are like it
    top, rest = order[:n], order[n:]
    share, without = (found.metrics[name].value for name in ("top_tokens_variance", "fvu_without_top_tokens"))
    assert share == pytest.approx(float(squares[top].sum() / squares.sum()), rel=1e-6)
    assert without == pytest.approx(float(error[rest].sum() / spread(x[rest]).sum()), rel=1e-5)
    assert found.metrics["fvu"].value == pytest.approx(float(error.sum() / squares.sum()), rel=1e-5)
    assert "fvu_without_top_tokens" in found.details["cautions"][0]


def test_other_text_for_the_calibration_finds_the_same_tokens() -> None:
    model, ids = model_with_a_sink(), rows(14)
    with pytest.warns(UserWarning, match="of the variance"):
        found = measured(model, ids, mean_from="calibration")
    assert found.metrics["top_tokens_variance"].value > 0.9
    assert 4 <= found.details["top_tokens"] <= 40


def test_batches_change_nothing() -> None:
    model, ids = model_with_a_sink(), rows(12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, small = measured(model, ids), measured(model, ids, batch_tokens=2 * CONTEXT)
    assert small.details == whole.details
    for name in ("top_tokens_variance", "fvu_without_top_tokens"):
        assert small.metrics[name].value == pytest.approx(whole.metrics[name].value, rel=1e-6)
        assert small.metrics[name].low == pytest.approx(whole.metrics[name].low, rel=1e-6)


def test_ordinary_activations_raise_no_alarm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(tiny_gpt2(), rows(0))
    assert found.metrics["top_tokens_variance"].value < 0.2
    assert "cautions" not in found.details


def test_the_same_warning_of_several_saes_is_said_once() -> None:
    coders = {name: tiny_coder("topk", seed=seed) for seed, name in enumerate(("a", "b"))}
    with pytest.warns(UserWarning, match="of the variance") as said:
        evaluate(coders, model=model_with_a_sink(), data=rows(12), tasks="reconstruction", controls="none", mask="none",
                 mean_from="evaluation", resamples=20)  # fmt: skip
    about = [str(one.message) for one in said if "of the variance" in str(one.message)]
    assert len(about) == 1
    assert about[0].startswith("reconstruction of a, b: ")


def test_inspect_names_the_token_and_does_not_blame_the_scale() -> None:
    subject, ids = load_subject(model_with_a_sink())[0], rows(12)
    text = Text(tuple(map(tuple, ids.tolist())), False, special=frozenset({0}), token_text=lambda i: f"word {i}")
    coder = tiny_coder("topk")
    report = preflight(Entry("sae", "sae", coder), Activations(subject, text))
    first = report.findings[0]
    assert (first.cause, first.confidence) == ("few_tokens", "likely")
    assert f"'word {SINK}' (id {SINK}, " in first.says
    assert " times, positions " in first.says
    assert not {"scale", "input_scale", "output_scale"} & {f.cause for f in report.findings if f.confidence == "likely"}
    x, error = plain(subject.model, ids, coder)
    ordinary = torch.from_numpy((ids != SINK) & (np.arange(LENGTH) > 0)).flatten()
    assert report.measured["fvu"] == pytest.approx(float(error[ordinary].sum() / spread(x[ordinary]).sum()), rel=0.02)
    assert "that hold the variance" in "\n".join(lines(report))


# ---------------------------------------------------------------- where the few begin


def test_the_bound_lies_beyond_one_in_a_hundred_and_between_two_tokens() -> None:
    squares = torch.arange(1, 1001).double()
    bound = outlier_bound(squares[torch.randperm(1000, generator=torch.Generator().manual_seed(0))])
    assert 990 < bound < 991


@pytest.mark.parametrize("copies", [11, 40, 500])
def test_equal_tokens_stay_on_one_side(copies: int) -> None:
    """Tokens that begin alike are equal up to rounding, which is not the same in every batch."""
    squares = torch.cat([torch.arange(1, 1001 - copies).double(), 2000 + 1e-4 * torch.rand(copies).double()])
    assert int((squares > outlier_bound(squares)).sum()) == copies


@pytest.mark.parametrize("squares", [[], [3.0], [2.0] * 50, [0.0] * 50])
def test_without_a_difference_there_is_no_outlier(squares: list[float]) -> None:
    assert outlier_bound(torch.tensor(squares)) == float("inf")


# ---------------------------------------------------------------- quotients of rounding


def view(x: Tensor, **given: Any) -> ArrayView:
    draw = torch.Generator().manual_seed(2)
    return ArrayView(x, (x.double() + torch.randn(x.shape, generator=draw).double()).to(x.dtype), [5] * (len(x) // 5),
                     **given)  # fmt: skip


def values(of: ArrayView) -> dict[str, Any]:
    made = task("reconstruction")
    return figures(made, measure_all(made, of))


@pytest.mark.parametrize("wobble", [0.0, 1e-6, 1e-4, 1e-3])
def test_position_0_that_hardly_varies_has_no_fvu(wobble: float) -> None:
    """A position of which all documents carry nearly the same vector: FVU there was printed as 653448.9."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=draw, dtype=torch.float64)
    x[::5] = 100 * torch.ones(8) * (1 + wobble * torch.randn(10, 8, generator=draw))
    found = values(view(x))
    assert found["first_fvu"].value is None
    assert "variance" in found["first_fvu"].reason
    assert found["first_nmse"].value is not None


def test_position_0_that_varies_has_its_fvu() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[::5] += 20
    of = view(x)
    exact = float((x - of.x_hat)[::5].square().sum() / spread(x[::5]).sum())
    assert values(of)["first_fvu"].value == pytest.approx(exact)


@pytest.mark.parametrize(("dtype", "has"), [(torch.float64, True), (torch.float32, True), (torch.bfloat16, False)])
def test_a_variance_below_the_rounding_of_the_dtype_is_none(dtype: torch.dtype, has: bool) -> None:
    x = 1000 + torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (values(view(x.to(dtype)))["fvu"].value is not None) == has


def test_a_rest_without_variance_has_no_fvu() -> None:
    x = torch.ones(100, 8, dtype=torch.float64)
    x[3] = 50
    found = values(view(x, centre=1.0, far=10.0))
    assert found["top_tokens_variance"].value == pytest.approx(0.99, abs=0.011)
    assert found["fvu_without_top_tokens"].value is None
    assert "other" in found["fvu_without_top_tokens"].reason


def test_a_cost_that_is_rounding_is_no_denominator() -> None:
    """Also where a user takes 0 for the least cost of ablation that may be divided by."""
    from sae_bench.metrics.loss_recovered import metrics
    from sae_bench.units import Units
    from sae_bench.units.bootstrap import estimate

    n = 20
    clean = np.linspace(30, 50, n)
    columns = {
        "predictions": np.full(n, 10.0),
        "ce_clean": clean,
        "ce_zero": clean * (1 + 1e-9),
        "ce_spliced": clean + 1,
    }
    columns |= {"kl": np.ones(n), "kl_zero": np.full(n, 1e-9)}
    units, made = Units(tuple(map(str, range(n))), columns), metrics({"smallest_denominator_nats": 0})
    for name in ("loss_recovered_zero", "kl_recovered_zero"):
        found = estimate(units, made[name], resamples=50)
        assert found.value is None
        assert "zero ablation" in str(found.reason)
