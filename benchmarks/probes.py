"""Logistic probes of every active latent against a loop of scikit-learn over latents.

``python benchmarks/probes.py`` prints a Markdown table; ``--quick`` takes fewer repeats. Both sides use one thread:
scikit-learn's thread pool makes fits of this size slower. A repeat times all probes together and then scikit-learn on
the same sample of latents, whose mean is multiplied by the number of active latents. What scikit-learn needs before a
fit (a dense, standardised column) is not counted. Peak memory is how far the fit raises the largest resident set of a
fresh process (read from /proc, so on Linux only).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from sae_bench.kernels.probes import Columns, columns, dense, fit_probes

RIDGE = 1e-3
SAMPLE = 60  # latents that scikit-learn fits


class Case(NamedTuple):
    latents: int
    rows: int
    active: int  # latents a row


CASES = [Case(1 << 15, 1000, 64), Case(1 << 17, 1000, 64), Case(1 << 20, 1000, 64), Case(1 << 15, 2000, 1024)]


def data(case: Case, seed: int = 0) -> tuple[Columns, Tensor]:
    """Latents of log-normal frequency and size; one in 20 is more or less frequent in positive rows."""
    generator = np.random.default_rng(seed)
    labels = generator.random(case.rows) < 0.5
    frequency = np.exp(2 * generator.standard_normal(case.latents))
    shifted = frequency * np.exp(2 * generator.standard_normal(case.latents) * (generator.random(case.latents) < 0.05))
    cumulative = [np.cumsum(f) for f in (frequency, shifted)]
    latents = np.empty((case.rows, case.active), dtype=np.int64)
    for row, label in enumerate(labels):
        bounds = cumulative[int(label)]
        distinct = np.empty(0, dtype=np.int64)
        while len(distinct) < case.active:
            draws = np.concatenate([distinct, np.searchsorted(bounds, generator.random(4 * case.active) * bounds[-1])])
            distinct = draws[np.sort(np.unique(draws, return_index=True)[1])]
        latents[row] = distinct[: case.active]
    rows = torch.arange(case.rows).repeat_interleave(case.active)
    values = torch.from_numpy(generator.lognormal(0, 1, latents.size))
    return columns(rows, torch.from_numpy(latents).view(-1), values, case.rows), torch.from_numpy(labels)


def seconds_of_all(z: Columns, labels: Tensor) -> float:
    start = time.perf_counter()
    fit_probes(z, labels, ridge=RIDGE)
    return time.perf_counter() - start


def scikit_learn(sample: np.ndarray, labels: np.ndarray, tolerance: float) -> tuple[float, np.ndarray]:
    """Mean seconds of a fit, and the weights."""
    weights, start = [], time.perf_counter()
    for column in sample.T:
        model = LogisticRegression(solver="newton-cholesky", C=1 / (len(labels) * RIDGE), tol=tolerance)
        weights.append(model.fit(column[:, None], labels).coef_[0, 0])
    return (time.perf_counter() - start) / len(weights), np.array(weights)


def peak_memory(z: Columns, labels: Tensor) -> float:
    """MiB that the fit adds to a process that has loaded the columns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "columns.pt"
        torch.save((tuple(z), labels), path)
        out = subprocess.run([sys.executable, __file__, "--memory", path], check=True, capture_output=True, text=True)
    return float(out.stdout)


def print_memory(path: str) -> None:
    parts, labels = torch.load(path)
    fit_probes(columns(torch.arange(2), torch.zeros(2).long(), torch.ones(2), 3), torch.arange(3) < 1, ridge=RIDGE)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of the imports
    before = peak_resident()
    fit_probes(Columns(*parts), labels, ridge=RIDGE)
    print(peak_resident() - before)


def peak_resident() -> float:
    """MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(case: Case, repeats: int) -> str:
    z, labels = data(case)
    which = torch.linspace(0, len(z.latents) - 1, SAMPLE).long()
    raw = dense(z, which).numpy()
    deviation = raw.std(0)
    sample = (raw - raw.mean(0)) / deviation
    seconds_of_all(z, labels)
    scikit_learn(sample[:, :3], labels.numpy(), 1e-4)
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds_of_all(z, labels))
        theirs.append(scikit_learn(sample, labels.numpy(), 1e-4)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tolerance is at the limit of rounding
        exact = scikit_learn(sample, labels.numpy(), 1e-12)[1]
    weight = fit_probes(z, labels, ridge=RIDGE).weight[which].numpy() * deviation
    ratio = np.array(theirs) * len(z.latents) / np.array(ours)
    return (
        f"| {case.latents:,} | {case.rows:,} x {case.active} | {len(z.latents):,} | {1e3 * np.median(ours):.1f} | "
        f"{1e6 * np.median(ours) / len(z.latents):.2f} | {1e6 * np.median(theirs):.0f} | "
        f"{ratio.min():,.0f} / {np.median(ratio):,.0f} / {ratio.max():,.0f} | "
        f"{np.abs(weight - exact).max():.0e} | {peak_memory(z, labels):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 repeats instead of 9")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        print_memory(arguments.memory)
        return
    print("| latents | rows x active | active latents | all probes, ms | µs a latent | scikit-learn, µs a latent "
          "| ratio min / median / max | largest difference of weights | peak memory, MiB |")  # fmt: skip
    print("|" + "---|" * 9)
    with threadpool_limits(1):
        for case in CASES:
            print(measure(case, 3 if arguments.quick else 9), flush=True)


if __name__ == "__main__":
    main()
