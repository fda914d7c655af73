"""The one pass: what it costs, that figures do not depend on how work was cut up, and that a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sae_bench.api import Session, evaluate
from sae_bench.engine.calibrate import _spread
from sae_bench.results import store
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import CoderInfo, Codes
from sae_bench.saes.wrap import as_coder
from sae_bench.settings import Settings
from tests.builders.foreign_saes import Dense
from tests.builders.interrupted import copied_at
from tests.builders.marks import slow_but
from tests.builders.tiny_models import WIDTH, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.builders.token_rows import HOOK, LENGTH, coder, token_rows
from tests.conftest import ON_TEXT


def run(saes: Any, **settings: Any) -> dict[tuple[str, str], Any]:
    """Results by SAE and task, on the tiny model in float64."""
    defaults = {"model": tiny_gpt2().double(), "data": token_rows(), "dtype": "float64", "resamples": 50}
    defaults["tasks"] = ON_TEXT
    results = evaluate(saes, **(defaults | settings))
    return {(result.sae.name, result.task): result for result in results}


def figures(results: dict[tuple[str, str], Any]) -> dict[str, float]:
    return {
        f"{sae} {task} {name} {control}": metric.value
        for (sae, task), result in results.items()
        for control, metrics in [("", result.metrics), *result.controls.items()]
        for name, metric in metrics.items()
        if metric.value is not None
    }


class Watching(Dense):
    """A user's SAE that keeps in which precision it was asked to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[object, ...]] = set()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add((torch.is_autocast_enabled("cpu"), *precision()))
        return super().encode(x)


def precision() -> tuple[object, ...]:
    """How float32 products are made: by the function, or by the attributes that PyTorch has from 2.9 on."""
    try:
        return (torch.get_float32_matmul_precision(),)
    except RuntimeError:  # the two ways do not mix
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


def by_attribute(stack: ExitStack) -> None:
    if not hasattr(torch.backends.mkldnn.matmul, "fp32_precision"):
        pytest.skip("PyTorch before 2.9 has no such attribute")
    for place, value in ((torch.backends.cuda.matmul, "tf32"), (torch.backends.mkldnn.matmul, "bf16")):
        stack.callback(setattr, place, "fp32_precision", place.fp32_precision)
        place.fp32_precision = value
    assert precision() == ("tf32", "bf16")


def by_function(stack: ExitStack) -> None:
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("medium")


def by_autocast(stack: ExitStack) -> None:
    stack.enter_context(torch.autocast("cpu", torch.bfloat16))


@pytest.mark.parametrize("loop", slow_but(1, [by_autocast, by_function, by_attribute]))
def test_what_a_training_loop_has_set_changes_no_figure_and_stays_set(loop: Callable[[ExitStack], None]) -> None:
    """A result that says float32 is one: the model and a coder of the user's own are not run in half precision."""
    module = Watching()
    saes = [tiny_coder("topk", hook=HOOK), as_coder(module, hook=HOOK, d_in=WIDTH)]
    given: dict[str, Any] = {"model": tiny_gpt2(), "data": token_rows(), "tasks": ON_TEXT, "resamples": 50}
    alone = evaluate(saes, **given)
    assert {result.status for result in alone} == {"ok"}
    with ExitStack() as stack:
        loop(stack)
        before = torch.is_autocast_enabled("cpu"), *precision()
        module.seen.clear()
        inside = evaluate(saes, **given)
        assert (torch.is_autocast_enabled("cpu"), *precision()) == before
    assert module.seen <= {(False, "highest"), (False, "ieee", "ieee")}
    assert len(module.seen) == 1
    assert [result.metrics for result in inside] == [result.metrics for result in alone]
    assert [result.sae.weights_sha256 for result in inside] == [result.sae.weights_sha256 for result in alone]


def test_the_model_runs_once_for_all_saes_and_tasks() -> None:
    saes = [coder("a"), coder("b", seed=1), coder("c", k=2)]
    rows = token_rows()
    rows[:, 5] = 1  # BOS is the only special token: ablated documents carry the same everywhere
    results = run(saes, controls="none", data=rows)
    n = results["a", "loss_recovered"].provenance.protocol.n_documents
    counters = results["a", "loss_recovered"].provenance.counters
    assert n > 10
    of_encoding = ("encode_tokens", "code_entries", "code_bytes", "dense_elements")  # tests/test_counters.py
    assert {name: c for name, c in counters.items() if not name.endswith(of_encoding)} == {
        "calibration_prefix": len(token_rows()) - n,
        "prefix": n,
        "suffix_clean": n,
        "suffix_zero": 1,
        "suffix_mean": 1,
        "suffix_spliced": 3 * n,
        "encode": 3 * n,
        "decode": 3 * n,
    }


def test_controls_cost_one_spliced_suffix_each_and_share_what_they_can() -> None:
    results = run([coder("a"), coder("b", seed=1)])
    counters = results["a", "sparsity"].provenance.counters
    n = results["a", "sparsity"].provenance.protocol.n_documents
    assert set(results["a", "sparsity"].controls) == {"mean", "identity", "pca", "random"}, "it sees codes alone"
    seen = {"mean", "identity", "pca", "random", "random_l0", "permuted"}
    assert set(results["a", "reconstruction"].controls) == seen
    # two SAEs of equal size and L0: five controls are shared, and each has its own permuted decoder
    assert counters["prefix"] == counters["suffix_clean"] == n
    # the mean is one vector again, and the identity the clean pass
    assert counters["suffix_spliced"] == (2 + 3 + 2) * n + counters["suffix_mean"]
    assert counters["encode"] == (2 + 4) * n, "random_l0 has the codes of random"


def test_sparsity_alone_needs_no_part_of_the_model_after_the_hook() -> None:
    counters = run(coder(), tasks="sparsity")["tiny", "sparsity"].provenance.counters
    assert not [name for name in counters if name.startswith("suffix")]
    assert "decode" not in counters


@pytest.mark.parametrize("batch_tokens", slow_but(1, [LENGTH * 5, 1, 10_000]))
def test_no_figure_changes_with_the_batch_size(batch_tokens: int) -> None:
    reference = figures(run(coder(), batch_tokens=LENGTH * 2))
    other = figures(run(coder(), batch_tokens=batch_tokens))
    assert reference.keys() == other.keys()
    for name, value in reference.items():
        assert other[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_rows_of_a_part_are_rows_of_the_whole(tmp_path: Path) -> None:
    for limit in (6, 12):
        run(coder(), limit=limit, out=tmp_path / str(limit), controls="none")
    part, whole = (
        store.read_units(next(f for f in store.find(tmp_path / name) if "loss" in f.name))["document"]
        for name in ("6", "12")
    )
    at = [whole.ids.index(unit) for unit in part.ids]
    for name, column in part.columns.items():
        np.testing.assert_allclose(column, whole.columns[name][at], rtol=1e-9, err_msg=name)


def test_the_anchors_hold_the_score_in_their_middle() -> None:
    results = run(coder(), mean_from="evaluation")
    controls = results["tiny", "reconstruction"].controls
    assert controls["mean"]["fvu"].value == pytest.approx(1, abs=1e-12)
    assert controls["identity"]["fvu"].value == pytest.approx(0, abs=1e-20)
    assert controls["identity"]["relative_reconstruction_bias"].value == pytest.approx(1)
    loss = results["tiny", "loss_recovered"]
    assert loss.controls["identity"]["delta_ce"].value == pytest.approx(0, abs=1e-12)
    assert loss.controls["identity"]["kl"].value == pytest.approx(0, abs=1e-12)
    assert loss.controls["mean"]["ce_spliced"].value == pytest.approx(loss.metrics["ce_mean"].value)
    assert loss.controls["mean"]["loss_recovered_mean"].value in (None, pytest.approx(0, abs=1e-9))
    sparsity = results["tiny", "sparsity"]
    assert sparsity.controls["random"]["l0"].value == pytest.approx(sparsity.metrics["l0"].value, rel=0.01)


def test_the_mean_of_another_set_is_taken_from_documents_that_are_not_scored() -> None:
    session = Session(coder(), Settings(model=tiny_gpt2(), data=token_rows()))
    evaluation, calibration = session.inputs.corpus.evaluation, session.inputs.corpus.calibration
    assert set(evaluation.unit_ids).isdisjoint(calibration.unit_ids)


class Raises:
    """Fails on the n-th call of encode."""

    def __init__(self, inner: LinearCoder, on_call: int) -> None:
        self.inner, self.info, self.left = inner, inner.info, on_call

    def encode(self, x: torch.Tensor) -> Codes:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("out of luck")
        return self.inner.encode(x)

    def decode(self, codes: Codes, x: torch.Tensor | None = None) -> torch.Tensor:
        return self.inner.decode(codes, x)

    def decoder_rows(self, latents: torch.Tensor) -> torch.Tensor:
        return self.inner.decoder_rows(latents)


@pytest.mark.parametrize("on_call", slow_but(1, [3, 2, 5]))  # the first call identifies the coder
def test_an_sae_that_raises_is_an_error_and_the_others_go_on(on_call: int) -> None:
    alone = figures(run(coder("good"), batch_tokens=LENGTH * 4))
    both = run([Raises(coder("bad", seed=3), on_call), coder("good")], batch_tokens=LENGTH * 4)
    for task in ("reconstruction", "sparsity", "loss_recovered"):
        assert both["bad", task].status == "error"
        assert "out of luck" in str(both["bad", task].reason)
        assert not both["bad", task].metrics
    assert figures({key: value for key, value in both.items() if key[0] == "good"}) == pytest.approx(alone)


def test_a_reconstruction_with_nan_is_an_error_not_a_number() -> None:
    broken = coder("nan")
    broken.decode = lambda codes, x=None: torch.full((codes.n_tokens, WIDTH), float("nan"))  # type: ignore[method-assign]
    result = run([broken])["nan", "reconstruction"]
    assert result.status == "error"
    assert "NaN" in str(result.reason)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kill_at", slow_but(1, [3, 1, 6]))
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    """The folder of a run is copied at each step, as a kill there would leave it; going on gives the same files."""
    settings: dict[str, Any] = {
        "model": tiny_gpt2(),
        "data": token_rows(),
        "tasks": ON_TEXT,
        "resamples": 50,
        "batch_tokens": LENGTH * 3,
        "checkpoint_seconds": 0,
    }
    evaluate([coder("a"), coder("b", seed=1)], out=tmp_path / "whole", **settings)
    kill = copied_at(kill_at, tmp_path / "first", tmp_path / "killed", Killed)
    with pytest.raises(Killed):
        evaluate([coder("a"), coder("b", seed=1)], out=tmp_path / "first", progress=kill, **settings)
    evaluate([coder("a"), coder("b", seed=1)], out=tmp_path / "killed", **settings)
    whole = {f.relative_to(tmp_path / "whole"): f.read_bytes() for f in (tmp_path / "whole").rglob("*") if f.is_file()}
    resumed = {
        f.relative_to(tmp_path / "killed"): f.read_bytes() for f in (tmp_path / "killed").rglob("*") if f.is_file()
    }
    assert len(whole) == 2 * (3 * 2 + 1)
    assert resumed == whole


def test_a_finished_run_leaves_nothing_behind_and_is_not_repeated(tmp_path: Path) -> None:
    calls: list[str] = []
    settings: dict[str, Any] = {"model": tiny_gpt2(), "data": token_rows(), "resamples": 50, "out": tmp_path}
    first = evaluate(coder(), tasks="sparsity", **settings)
    assert not (tmp_path / ".partial").exists()
    again = evaluate(coder(), tasks="sparsity", progress=lambda what, *_: calls.append(what), **settings)
    assert not calls
    assert again == first
    evaluate(coder(), tasks="sparsity,reconstruction", progress=lambda what, *_: calls.append(what), **settings)
    assert calls
    more = evaluate(coder(), tasks="sparsity", overwrite="always", **settings)
    assert more == first


def test_an_sae_at_another_hook_point_runs_in_the_same_pass() -> None:
    early = coder("early", hook="blocks.0.hook_resid_post")
    both = run([coder("late"), early], controls="none")
    alone = run([coder("early", hook="blocks.0.hook_resid_post")], controls="none")
    counters = both["late", "loss_recovered"].provenance.counters
    assert counters["prefix"] == counters["suffix_clean"] == counters["suffix_spliced"] / 2
    values = {k: v for k, v in figures(both).items() if k.startswith("early")}
    assert values == pytest.approx(figures(alone))


def test_a_transcoder_is_scored_on_what_it_predicts() -> None:
    mlp = coder("transcoder")
    mlp.info = CoderInfo("transcoder", 40, WIDTH, WIDTH, ("blocks.1.mlp.hook_in",), ("blocks.1.hook_mlp_out",))
    results = run(mlp)
    assert {"mean", "random", "random_l0", "permuted"} == set(results["transcoder", "reconstruction"].controls)
    assert results["transcoder", "loss_recovered"].status == "ok"


def test_the_transformer_lens_back_end_gives_the_same_figures() -> None:
    hf = figures(run(coder(), controls="none", model=tiny_gpt2(), dtype="float32"))
    tl = figures(run(coder(), controls="none", model=tiny_gpt2(), dtype="float32", backend="tl"))
    for name, value in hf.items():
        assert tl[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


def test_special_tokens_are_left_out_of_everything() -> None:
    for mask, share in (("none", LENGTH), ("first", LENGTH - 1)):
        details = run(coder(), mask=mask, controls="none")["tiny", "reconstruction"].details
        assert details["tokens"] == share * details["tokens_at_position_0"]
    rows = token_rows()
    rows[:, 5] = 0
    details = run(coder(), data=rows, controls="none")["tiny", "reconstruction"].details
    assert details["tokens"] == (LENGTH - 2) * details["tokens_at_position_0"]
    assert details["tokens_at_position_0"] > 0


class Dropping(torch.nn.Module):
    """A dense SAE in training, with dropout: measured as it would be used, and left as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.W_dec = torch.nn.Parameter(torch.nn.functional.normalize(torch.randn(40, WIDTH), dim=1))
        self.dropout = torch.nn.Dropout(0.5)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(torch.relu(x @ self.W_dec.T))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.W_dec


def test_a_module_in_training_can_be_measured_and_goes_on_training() -> None:
    sae, model = Dropping().train(), tiny_gpt2().train()
    settings: dict[str, Any] = {
        "model": model,
        "data": token_rows(),
        "hook_in": HOOK,
        "controls": "none",
        "tasks": ON_TEXT,
    }
    with pytest.warns(UserWarning, match="wrapped"):
        first, second = (evaluate(sae, resamples=50, **settings) for _ in range(2))
    assert [r.metrics for r in first] == [r.metrics for r in second]
    assert sae.training
    assert sae.dropout.training
    assert model.training
    assert sae.W_dec.grad is None
    assert sae.W_dec.requires_grad


@pytest.mark.parametrize(("length", "a_sequence"), [(255, 5), (10, 3), (4, 9), (7, 1), (12, 12)])
def test_the_sample_of_a_sequence_is_spread_evenly(length: int, a_sequence: int) -> None:
    """A sample that begins with the first token of every text would be a fifth of tokens that are unlike all others."""
    everything = torch.ones(1, length, dtype=torch.bool)
    batch = SimpleNamespace(keep=everything, attention=everything)
    at = _spread(batch, a_sequence).nonzero().flatten()  # type: ignore[arg-type]
    share = min(length, a_sequence)
    assert len(at) == share
    middles = (torch.arange(share) + 0.5) * length / share
    assert ((at + 0.5) - middles).abs().max() <= 0.5
