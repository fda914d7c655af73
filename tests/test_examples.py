"""What stands in ``examples/``, in this process: what it measures is right, and how little of the rest it touches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae_bench
from sae_bench import registry
from sae_bench.saes import conformance, load
from sae_bench.saes.calibration import Calibration, Moments
from sae_bench.settings import Told
from tests.builders.plugins import EXTRAS, ROOT, extras_points, register
from tests.builders.tiny_saes import activations, tiny_coder


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as if it were installed."""
    monkeypatch.syspath_prepend(EXTRAS)
    register(monkeypatch, *extras_points())
    yield
    registry._tasks.cache_clear()


def test_no_figure_of_the_examples_depends_on_the_batches(extras: None) -> None:
    settings: dict[str, Any] = {"tasks": "half_code,opening_error", "controls": "shuffled_encoder", "tier": "smoke"}
    settings |= {"limit": 8, "context": 40, "resamples": 20, "dtype": "float64"}
    one, other = (sae_bench.evaluate("demo/topk_k16", batch_tokens=n, **settings) for n in (40, 400))
    for a, b in zip(one, other, strict=True):
        assert a.status == "ok", a.reason
        for name, metric in {**a.metrics, **a.controls["shuffled_encoder"]}.items():
            twin = {**b.metrics, **b.controls["shuffled_encoder"]}[name]
            assert metric.value == pytest.approx(twin.value, rel=1e-9)
            assert metric.low == pytest.approx(twin.low, rel=1e-9)
    assert one[1].metrics["opening_nmse"].n_units == 8, "documents are drawn, not windows"


def test_the_strongest_half_is_the_strongest_half(extras: None) -> None:
    from sae_bench_extras.half_code import strongest_part

    codes = tiny_coder("relu").encode(activations(20))
    strength = codes.values.double().abs() * (1 + codes.indices % 7)
    found = strongest_part(codes, strength, 0.5)
    for token in range(codes.n_tokens):
        own = slice(int(codes.indptr[token]), int(codes.indptr[token + 1]))
        order = np.argsort(-strength[own].numpy(), kind="stable")[: -(-(own.stop - own.start) // 2)]
        kept = found.select(torch.arange(codes.n_tokens) == token)
        assert set(kept.indices.tolist()) == set(codes.indices[own][torch.from_numpy(order)].tolist())


def test_the_adapter_the_control_and_the_layout_keep_the_contract(extras: None, tmp_path: Path) -> None:
    from sae_bench_extras.adapter import rotated
    from sae_bench_extras.controls import shuffled_encoder

    sae, x = tiny_coder("relu"), activations(30)
    moments = Moments(x.double().mean(0), torch.cov(x.double().T), x, 1.0, len(x))
    control = shuffled_encoder(sae, Calibration(moments, moments, 5.0), 0)
    assert conformance.check(rotated(), activations(20, width=128)) == []
    assert conformance.check(control, x) == []
    assert sorted(control.encode(x).counts()) == sorted(sae.encode(x).counts())
    weights = {name: tensor.numpy() for name, tensor in sae.weights.items()}
    np.savez(tmp_path / "plain_sae.npz", **weights)
    ((_, loaded),) = load.load_saes([tmp_path], told=Told(hook_in="blocks.1.hook_resid_post"))
    assert loaded.info.format == "plain_npz"
    torch.testing.assert_close(
        loaded.decode(loaded.encode(x)),
        (x @ sae.weights.W_enc + sae.weights.b_enc).relu() @ sae.weights.W_dec + sae.weights.b_dec,
    )


# ------------------------------------------------------------------------------------------ how much one touches


def mentions(pattern: str, *folders: Path) -> set[str]:
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".toml")]
    return {file.name for file in files if pattern in file.read_text(encoding="utf-8")}


def test_few_files_outside_their_own_know_a_stream_or_a_kind_of_unit() -> None:
    """A way of reading may touch three files outside its own, a kind of unit two."""
    assert mentions("sae_bench_extras.openings", EXTRAS) == {
        "pyproject.toml",
        "opening_error.py",
    }  # the second is a task
    assert mentions("sae_bench_extras.windows", EXTRAS) == {"pyproject.toml"}
    code = ROOT / "sae_bench"
    for stream in ("tracked", "labelled", "ablations"):
        outside = {file for file in mentions(f"sae_bench.streams.{stream}", code) if not file.startswith(stream)}
        assert "builtin.py" in outside
        assert len(outside) <= 3, outside
