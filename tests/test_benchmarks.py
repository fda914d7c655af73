"""Benchmarks are run by hand; here only that those run at all which need neither a GPU nor other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
SCALING = GPU.with_name("scaling.py")
pytestmark = pytest.mark.skipif(not GPU.exists(), reason="an installed package has no benchmarks")


def ran(*arguments: str, of: Path = GPU, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(GPU.parents[1]), **environment}
    return subprocess.run([sys.executable, str(of), *arguments], capture_output=True, text=True, env=given)


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs_on_a_cpu() -> None:
    found = ran("--quick", "--rounds", "1", "--device", "cpu")
    assert found.returncode == 0, found.stderr
    assert "this repository, bfloat16: encode and decode |" in found.stdout
    assert "0 between exact and certified" in found.stdout


@pytest.mark.slow
def test_without_a_gpu_it_says_so() -> None:
    found = ran(CUDA_VISIBLE_DEVICES="")
    assert found.returncode == 2
    assert "there is no GPU" in found.stderr


SHARES = ("start", "language model", "losses", "encode", "decode", "own", "end")


@pytest.mark.slow
def test_the_benchmark_of_whole_runs_tells_all_of_the_time_apart() -> None:
    found = ran(
        "--quick", "--tasks", "loss_recovered", "all", "--by", "shares", "saes", "many", "--many", "1", of=SCALING
    )
    assert found.returncode == 0, found.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.stdout.splitlines() if "|" in line]
    rows = {line[0]: line for line in lines}
    assert rows["shares, %"][1:8] == [*SHARES]
    for task in ("loss_recovered", "all"):
        of_task = next(line for line in lines if line[0] == task and len(line) == len(SHARES) + 3)
        shares = dict(zip(SHARES, map(float, of_task[1:8]), strict=True))
        assert sum(shares.values()) == pytest.approx(100, abs=1)
        assert all(share > 0 for share in shares.values()), shares
    assert [line[1] for line in lines if line[0] == "1"] == ["none", "default"]
    assert any(line[0] == "by saes" for line in lines)


@pytest.mark.slow
def test_the_benchmark_of_many_results_runs() -> None:
    found = ran("--quick", of=GPU.with_name("many_results.py"))
    assert found.returncode == 0, found.stderr
    for command in ("ls results", "show FOLDER --json", "board --format csv", "board --format html", "compare A B ..."):
        assert f"| {command} |" in found.stdout


COVERAGE = GPU.with_name("coverage.py")


def test_the_study_of_coverage_tells_marks_groups_and_rows_apart() -> None:
    """Of made-up documents: equal ones are covered and not marked, packed ones are not covered if rows are drawn."""
    found = ran("--synthetic", "--trials", "25", "--resamples", "200", "--groups", "100", of=COVERAGE)
    assert found.returncode == 0, found.stderr
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in found.stdout.splitlines()[2:]]
    held = {(world, drawn): (float(share), float(marked)) for world, drawn, _, _, share, _, _, marked, *_ in rows}
    assert held["equal documents", "groups"][0] >= 0.8
    assert held["equal documents", "groups"][1] <= 0.04
    assert held["packed text", "groups"][0] >= 0.75 > held["packed text", "rows"][0]
