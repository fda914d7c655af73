"""The main command on the demo world: what is known of its SAEs must come out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sae_bench import demo
from sae_bench.api import evaluate
from sae_bench.schema import Result
from tests.conftest import ON_TEXT, Run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], Result]:
    """All demo SAEs with their controls, in one pass."""
    found = evaluate("demo/*", limit=12, resamples=20, tasks=ON_TEXT)
    return {(r.sae.name.removeprefix("demo/"), r.task): r for r in found}


def value(result: Result, metric: str, control: str | None = None) -> float:
    found = (result.controls[control] if control else result.metrics)[metric].value
    assert found is not None, metric
    return found


def test_every_demo_sae_has_every_task(results: dict[tuple[str, str], Result]) -> None:
    tasks = ON_TEXT.split(",")
    assert set(results) == {(sae, task) for sae in demo.SAE_NAMES for task in tasks}
    assert all(r.status == "ok" for r in results.values())


@pytest.mark.parametrize("sae", [name for name in demo.SAE_NAMES if "undertrained" not in name])
def test_trained_saes_beat_every_control_that_knows_nothing(results: dict[tuple[str, str], Result], sae: str) -> None:
    for task, metric in (("reconstruction", "fvu"), ("loss_recovered", "delta_ce"), ("loss_recovered", "kl")):
        result = results[sae, task]
        for control in ("mean", "pca", "random", "random_l0", "permuted"):
            assert value(result, metric) < 0.7 * value(result, metric, control), (metric, control)
        assert value(result, metric, "identity") < 1e-6
    bias = value(results[sae, "reconstruction"], "relative_reconstruction_bias")
    assert bias == pytest.approx(1, abs=0.1)


def test_training_and_more_latents_help(results: dict[tuple[str, str], Result]) -> None:
    for task, metric in (("reconstruction", "fvu"), ("loss_recovered", "delta_ce")):
        k16, k32, early = (value(results[s, task], metric) for s in ("topk_k16", "topk_k32", "topk_k32_undertrained"))
        assert k32 < k16 < early


def test_the_l0_that_was_trained_for_comes_out(results: dict[tuple[str, str], Result]) -> None:
    assert value(results["topk_k16", "sparsity"], "l0") == pytest.approx(16, abs=0.1)
    assert value(results["topk_k32", "sparsity"], "l0") == pytest.approx(32, abs=0.1)
    for sae in ("relu", "gated", "jumprelu"):
        assert 10 < value(results[sae, "sparsity"], "l0") < 40


def heed_ctrl_c() -> None:
    """In the new process: tests that run in the background of a shell are made to ignore it, and hand that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_leaves_a_run_that_goes_on(cli: Run, tmp_path: Path) -> None:
    command = ["run", "--sae", "demo", "--out", str(tmp_path), "--tasks", ON_TEXT, "--tier", "smoke"]
    command += ["--controls", "none", "--limit", "32", "--batch-tokens", "128", "--resamples", "20", "--progress"]
    program = [sys.executable, "-m", "sae_bench.cli.main", *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    assert run.stderr is not None
    said = ""
    while "evaluation" not in said and (more := run.stderr.read(1)):  # the bar, drawn before the first batch
        said += more
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=120)
    assert run.returncode == 130, error
    assert "interrupted" in error
    assert "Traceback" not in error
    assert list(tmp_path.glob(".partial/*/state.safetensors"))
    code, _, error = cli(*command)
    assert code == 0, error
    assert not (tmp_path / ".partial").exists()


def test_a_package_of_the_same_import_name_is_refused_in_one_sentence(tmp_path: Path) -> None:
    twin = tmp_path / "sae_bench-0.6.0.dist-info"
    twin.mkdir()
    (twin / "METADATA").write_text("Metadata-Version: 2.1\nName: sae-bench\nVersion: 0.6.0\n")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "sae_bench.cli.main", "ls"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "sae-bench 0.6.0" in done.stderr
    assert "pip uninstall" in done.stderr
