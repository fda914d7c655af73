"""How often a 95 % interval holds the truth, and whether intervals that do not are marked.

``python benchmarks/coverage.py RESULT ...`` takes results with their units as a population: its groups of documents are
drawn with replacement, each draw is given an interval as a run would, and the figure of the whole population is the
truth. With ``--sae``, ``--model`` and ``--data`` the population is measured first, by one run (what stands behind
``--`` goes to ``sae-bench run``). Tables of every kind whose ids name a document serve; others are passed over.

Two results of one task are also a null pair: in every drawn group the two change places at random, so neither is
better, and what ``compare`` still tells apart is a false positive. ``--synthetic`` needs no result: documents of equal
length with independent errors, which must not be marked, and clusters of them, with the groups known and unknown.

Printed, a row a figure and number of groups: the share of intervals that hold the truth, of misses on either side (the
interval lies below the truth, above it), of intervals that are marked, and what the share is among those that are not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from sae_bench.results import compare
from sae_bench.units import Units, kinds
from sae_bench.units.bootstrap import Estimate, Metric
from sae_bench.units.groups import in_group
from sae_bench.validity.sampling import Population

WANTED = "fvu,kl,delta_ce,cosine,dead_fraction,dense_fraction_1pct,rule_f1,effect_sparsity_token"
FEWEST = 20  # groups of a population: of fewer a draw is hardly another sample


@dataclass
class Tally:
    """What became of the intervals of one figure."""

    n: int = 0
    held: int = 0
    below: int = 0
    above: int = 0
    marked: int = 0
    unmarked_held: int = 0
    effects: list[float] = field(default_factory=list)

    def add(self, e: Estimate, truth: float) -> None:
        """Count one interval; a draw without one is not counted."""
        if e.low is None or e.high is None:
            return
        held = e.low <= truth <= e.high
        self.n += 1
        self.held += held
        self.below += e.high < truth
        self.above += e.low > truth
        self.marked += e.optimistic is not None
        self.unmarked_held += held and e.optimistic is None
        self.effects += [] if e.design_effect is None else [e.design_effect]

    @property
    def coverage(self) -> float:
        """Share of intervals that hold the truth."""
        return self.held / max(1, self.n)

    @property
    def share_marked(self) -> float:
        """Share of intervals that are marked."""
        return self.marked / max(1, self.n)

    def cells(self) -> list[str]:
        """The cells of a row."""
        n, plain = max(1, self.n), self.n - self.marked
        among = f"{self.unmarked_held / plain:.3f} of {plain}" if plain else "-"
        effect = f"{np.median(self.effects):.2f}" if self.effects else "-"
        shares = [f"{share / n:.3f}" for share in (self.held, self.below, self.above, self.marked)]
        return [str(self.n), *shares, among, effect]


def covered(
    population: Population, metrics: Mapping[str, tuple[Metric, str]], groups: int, trials: int, resamples: int,
    *, grouped: bool = True, seed: int = 0,
) -> dict[str, Tally]:  # fmt: skip
    """Tallies of some metrics, given with their kind of interval, over samples of so many groups."""
    rng = np.random.default_rng([seed, groups])
    truth = {name: population.point(metric) for name, (metric, _) in metrics.items()}
    found = {name: Tally() for name in metrics}
    for _ in range(trials):
        units = population.sample(population.chosen(rng, groups), grouped=grouped)
        draws = population.kind.drawn(units, seed=0, resamples=resamples)
        for name, (metric, interval) in metrics.items():
            found[name].add(kinds.estimate(draws, metric, interval=interval), truth[name])
    return found


def false_positives(
    a: compare.Loaded, b: compare.Loaded, metric: str, groups: int, trials: int
) -> tuple[float, float, float]:
    """Of null pairs made of two results: the share told apart, the share marked, and that told apart unmarked."""
    table = a.spec.metrics[metric].table
    populations = Population(table, a.tables[table]), Population(table, b.tables[table])
    rng = np.random.default_rng([1, groups])
    told = marked = plain = 0
    for _ in range(trials):
        turned, chosen = rng.random(groups) < 0.5, rng.integers(0, len(populations[0].rows), groups)
        sides = []
        for side in (0, 1):
            parts = [
                populations[side ^ int(turn)].sample([populations[0].rows[i]])
                for i, turn in zip(chosen, turned, strict=True)
            ]
            columns = {n: np.concatenate([part.columns[n] for part in parts]) for n in parts[0].columns}
            ids = tuple(in_group(f"g{i}", f"{j}") for i, part in enumerate(parts) for j in range(len(part)))
            if table == "ablation":
                ids = tuple(
                    in_group(f"g{i}", f"{j}@{unit.partition('@')[2]}")
                    for i, part in enumerate(parts) for j, unit in enumerate(part.ids)
                )  # fmt: skip
            sides.append(Units(ids, columns))
        one, other = (replace(x, tables={table: units}, _figures={}) for x, units in zip((a, b), sides, strict=True))
        d = compare.difference(one, other, metric)
        apart = d.verdict not in ("cannot be told apart", "not compared")
        told, marked = told + apart, marked + (d.optimistic is not None)
        plain += apart and d.optimistic is None
    return told / trials, marked / trials, plain / max(1, trials - marked) if marked < trials else 0.0


def row(*cells: Any) -> None:
    """A row of a Markdown table, written at once."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


HEAD = ("trials", "holds the truth", "below it", "above it", "marked", "holds it, unmarked", "design effect")


def head(*cells: str) -> None:
    """The head of a table."""
    row(*cells)
    row(*("---" for _ in cells))


def study(loaded: Sequence[compare.Loaded], options: argparse.Namespace) -> None:
    """Coverage of every result's figures, then false positives of pairs."""
    head("SAE", "figure", "groups", *HEAD)
    for x in loaded:
        for table, units in x.tables.items():
            wanted = [
                m for m in options.metrics.split(",") if m in x.result.metrics and x.spec.metrics[m].table == table
            ]
            population = Population(table, units)
            if not wanted or len(population.rows) < FEWEST or kinds.kind(table).nested:
                continue
            metrics = {m: (x.metrics[m], x.spec.metrics[m].interval) for m in wanted}
            for groups in options.groups:
                found = covered(
                    population, metrics, groups, options.trials, options.resamples, grouped=not options.rows
                )
                for name, tally in found.items():
                    row(x.result.sae.name, name, groups, *tally.cells())
    pairs = [(a, b) for i, a in enumerate(loaded) for b in loaded[i + 1 :] if a.result.protocol == b.result.protocol]
    if pairs and options.null:
        print("\nTwo SAEs that change places at random in every group:\n")
        head("figure", "groups", "pairs", "told apart", "marked", "told apart, unmarked")
        for a, b in pairs:
            for metric in (m for m in options.metrics.split(",") if m in a.result.metrics):
                for groups in options.groups:
                    shares = false_positives(a, b, metric, groups, options.null)
                    row(metric, groups, options.null, *(f"{share:.3f}" for share in shares))


def equal_documents(rng: np.random.Generator, n: int) -> Units:
    """Documents of equal length whose errors are independent: what intervals are made for."""
    tokens = np.full(n, 128.0)
    return Units(
        tuple(f"{i}" for i in range(n)),
        {"tokens": tokens, "error": tokens * rng.gamma(4, 0.05, n), "energy": tokens * rng.gamma(50, 0.02, n)},
    )


def packed_text(rng: np.random.Generator, n: int, pieces: int = 6, tail: float = 0.6) -> Units:
    """Documents of ``1`` to ``2 * pieces`` pieces that are about as hard as one another, some documents very hard."""
    sizes = rng.integers(1, 2 * pieces, n)
    of = np.repeat(np.arange(n), sizes)
    hard = np.repeat(rng.lognormal(0, tail, n), sizes)
    tokens = np.full(len(of), 128.0)
    return Units(
        tuple(in_group(f"d{d}", f"{i}") for i, d in enumerate(of)),
        {"tokens": tokens, "error": tokens * 0.1 * hard * rng.gamma(20, 0.05, len(of)), "energy": tokens},
    )


def nmse(s: Any) -> Any:
    """The figure of the synthetic world: error over energy."""
    from sae_bench.metrics.reconstruction import nmse as figure

    return figure(s)


def synthetic(options: argparse.Namespace) -> None:
    """Equal documents, which must not be marked, and packed ones with their groups known and unknown."""
    rng = np.random.default_rng(0)
    metrics: dict[str, tuple[Metric, str]] = {"nmse": (nmse, "bootstrap")}
    worlds = {"equal documents": equal_documents(rng, 20_000), "packed text": packed_text(rng, 5_000)}
    head("world", "rows are drawn as", "groups", *HEAD)
    for name, units in worlds.items():
        for grouped in (True, False) if name == "packed text" else (True,):
            for groups in options.groups:
                tallies = covered(
                    Population("document", units), metrics, groups, options.trials, options.resamples, grouped=grouped
                )
                row(name, "groups" if grouped else "rows", groups, *tallies["nmse"].cells())


def measured(options: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """The results of one run over the population."""
    given = [part for sae in options.sae for part in ("--sae", sae)]
    given += ["--model", options.model, "--data", options.data, "--tasks", options.tasks, "--controls", "none"]
    command = [sys.executable, "-m", "sae_bench.cli.main", "run", *given, "--tier", "full", "--out", str(folder)]
    subprocess.run([*command, *options.more], check=True)
    yield from sorted(folder.rglob("*@*.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="result files with their units, or folders of them")
    parser.add_argument("--sae", action="append", default=[], help="SAE to measure the population with")
    parser.add_argument("--model", help="language model, with --sae")
    parser.add_argument("--data", help="text, with --sae")
    parser.add_argument("--tasks", default="reconstruction,loss_recovered", help="tasks, with --sae")
    parser.add_argument("--metrics", default=WANTED, help=f"figures by id (default: {WANTED})")
    parser.add_argument("--groups", type=int, nargs="+", default=[100, 400], help="groups of a sample")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--null", type=int, default=0, help="null pairs of every two results of one protocol")
    parser.add_argument("--rows", action="store_true", help="take rows of a group for independent ones")
    parser.add_argument("--synthetic", action="store_true", help="made-up documents instead of results")
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:cut])
    options.more = given[cut + 1 :]
    if options.synthetic:
        synthetic(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [f for p in options.results for f in ([p] if p.is_file() else sorted(p.rglob("*@*.json")))]
        if options.sae:
            files += measured(options, Path(folder))
        if not files:
            parser.error("give results, or --sae, --model and --data, or --synthetic")
        study([compare.load(file) for file in files], options)


if __name__ == "__main__":
    main()
