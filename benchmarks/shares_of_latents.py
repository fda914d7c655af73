"""How often intervals of shares of latents hold the truth, and with how few documents they tell two SAEs apart.

    python benchmarks/shares_of_latents.py --sae A --sae B --model MODEL --data TEXT -- --limit 2000

One run counts on how many tokens of each document each latent is active (what stands behind ``--`` goes to
``sae-bench run``). From these documents samples are drawn with replacement, and each is given its 32 folds and its
interval as the task ``sparsity`` would. The truth is the mean of the figure over all samples of that size, since a
share of dead latents depends on it. Beside it stands what Wilson's interval over latents would be.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.coverage import head, row
from sae_bench.metrics.sparsity import metrics
from sae_bench.results import store
from sae_bench.results.compare_intervals import Proportion, square_and_add
from sae_bench.units import Units, folds
from sae_bench.units.bootstrap import CONFIDENCE, percentile_interval, quotient, wilson

TASK = Path(__file__).parent / "sides" / "firings"
SHARES = {name: figure for name, figure in metrics({}).items() if name.startswith(("dead", "dense_fraction"))}


class Population:
    """Documents of one text, with their tokens and the counts of each SAE's latents."""

    def __init__(self, results: list[Path]) -> None:
        tables = {store.read(file).sae.name: store.read_units(file)["document"] for file in results}
        ids = {table.ids for table in tables.values()}
        if len(ids) != 1:
            raise SystemExit("the SAEs were measured on different documents")
        self.tokens = next(iter(tables.values())).columns["tokens"]
        self.counts = {name: sparse.csr_array(table.columns["firings"]) for name, table in tables.items()}

    def sample(self, documents: NDArray[np.int64], trial: int) -> Mapping[str, Units]:
        """The table of folds of every SAE, on documents each of which is another one wherever it is drawn."""
        ids = tuple(f"trial {trial} document {i}" for i in range(len(documents)))
        of_fold = np.array([folds.fold_of(name) for name in ids])
        deal = sparse.csr_array((np.ones(len(documents)), (of_fold, documents)), shape=(folds.FOLDS, len(self.tokens)))
        text = Units(ids, {"tokens": self.tokens[documents]})
        return {
            name: folds.table(text, (deal @ counts).toarray().astype(np.int64), np.ones(counts.shape[1]))
            for name, counts in self.counts.items()
        }


Interval = tuple[float, float | None, float | None, float]  # a figure, its interval, and half of Wilson's


def intervals(tables: Mapping[str, Units], resamples: int) -> dict[tuple[str, str], Interval]:
    """Of one sample: each share of each SAE, and of the last SAE minus the first."""
    drawn = {name: folds.draw(table, seed=0, resamples=resamples) for name, table in tables.items()}
    names = list(drawn)
    found: dict[tuple[str, str], Interval] = {}
    for metric, figure in SHARES.items():
        points = {name: float(quotient(figure(one.points))[0]) for name, one in drawn.items()}
        moved = {name: quotient(figure(one.replicates)) for name, one in drawn.items()}
        wide = {name: len(table.columns["active"].T) for name, table in tables.items()}
        for name, value in points.items():
            low, high = wilson(value, wide[name], CONFIDENCE)
            own = percentile_interval(value, moved[name], drawn[name].n, CONFIDENCE)
            found[name, metric] = (value, *own, (high - low) / 2)
        if len(names) > 1:
            a, b = names[0], names[-1]
            low, high = square_and_add(Proportion(points[a], wide[a]), Proportion(points[b], wide[b]), CONFIDENCE)
            value = points[b] - points[a]
            own = percentile_interval(value, moved[b] - moved[a], drawn[a].n, CONFIDENCE)
            found[f"{b} - {a}", metric] = (value, *own, (high - low) / 2)
    return found


def study(population: Population, sizes: list[int], trials: int, resamples: int) -> None:
    """A row for each SAE (or pair), figure and number of documents."""
    head("SAE", "figure", "documents", "mean", "spread", "half-width", "Wilson's", "holds the mean", "leaves out 0")
    for n in sizes:
        rng = np.random.default_rng([0, n])
        found: dict[tuple[str, str], list[Interval]] = {}
        for trial in range(trials):
            sample = population.sample(rng.integers(0, len(population.tokens), n), trial)
            for key, one in intervals(sample, resamples).items():
                found.setdefault(key, []).append(one)
        for (name, metric), each in found.items():
            value, low, high, other = np.array(each, dtype=np.float64).T
            mean = value.mean()
            holds, apart = ((low <= mean) & (mean <= high)).mean(), ((low > 0) | (high < 0)).mean()
            half = ((high - low) / 2).mean()
            figures = (f"{x:.2g}" for x in (mean, value.std(), half, other.mean()))
            row(name, metric, n, *figures, f"{holds:.3f}", f"{apart:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sae", action="append", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--documents", type=int, nargs="+", default=[100, 400], help="documents of a sample")
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--resamples", type=int, default=500)
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:cut])
    saes = [part for sae in options.sae for part in ("--sae", sae)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sae_bench.cli.main", "run", *saes, "--model", options.model]
        command += ["--data", options.data, "--tasks", "firings", "--task-dir", str(TASK), "--controls", "none"]
        subprocess.run([*command, "--out", folder, "--resamples", "20", "--quiet", *given[cut + 1 :]], check=True)
        population = Population(sorted(Path(folder).rglob("firings@*.json")))
    study(population, options.documents, options.trials, options.resamples)


if __name__ == "__main__":
    main()
