"""Benchmarks are run by hand; here only that two run at all: that for GPUs, and that of many results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
pytestmark = pytest.mark.skipif(not GPU.exists(), reason="an installed package has no benchmarks")


def ran(*arguments: str, file: Path = GPU, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(GPU.parents[1]), **environment}
    return subprocess.run([sys.executable, str(file), *arguments], capture_output=True, text=True, env=given)


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs_on_a_cpu() -> None:
    found = ran("--quick", "--rounds", "1", "--device", "cpu")
    assert found.returncode == 0, found.stderr
    assert "this repository, bfloat16: encode and decode |" in found.stdout
    assert "0 between exact and certified" in found.stdout


def test_without_a_gpu_it_says_so() -> None:
    found = ran(CUDA_VISIBLE_DEVICES="")
    assert found.returncode == 2
    assert "there is no GPU" in found.stderr


@pytest.mark.slow
def test_the_benchmark_of_many_results_runs() -> None:
    found = ran("--quick", file=GPU.with_name("many_results.py"))
    assert found.returncode == 0, found.stderr
    for command in ("ls results", "show FOLDER --json", "board --format csv", "board --format html", "compare A B ..."):
        assert f"| {command} |" in found.stdout
