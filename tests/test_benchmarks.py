"""Benchmarks are run by hand; here only that the one for GPUs runs at all, since no machine of the project has one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
pytestmark = pytest.mark.skipif(not GPU.exists(), reason="an installed package has no benchmarks")


def ran(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(GPU.parents[1]), **environment}
    return subprocess.run([sys.executable, str(GPU), *arguments], capture_output=True, text=True, env=given)


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
