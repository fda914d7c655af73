"""Whole runs: what their time goes into, how time and memory grow, and what controls and the end of a run cost.

``python benchmarks/scaling.py`` prints Markdown tables of runs on a random GPT-2 with random TopK SAEs, texts and
labelled sets, one thread, CPU seconds of one process, results written to disk, calibration measured in each run:

- **shares** of each task, and of all of them in one run (all but the one that asks a judge): the start (digests,
  tokens), the language model, losses, encode, decode, what is the tasks' own, and the end (intervals, results);
- **exponents** of each in latents, texts, SAEs, hook points, labelled sets and resamples: the slope of the
  least-squares line of log(CPU time) on log(size), round by round, the other quantities at their base; and of the peak
  of anonymous memory above what was loaded, measured once. Fixed costs make a slope smaller: sizes stand beside it;
- **many SAEs**: of a run of all tasks on 1, 6 and 36 SAEs, without controls and with the default ones, the share of
  language model, encode and decode, the share of the end, and what controls multiply the time by.

``--by`` and ``--tasks`` choose; ``--latents``, ``--width`` and so on set the base. ``--quick`` takes a tiny model, two
sizes and three rows: a check that it runs. Against other packages: ``benchmarks/growth.py`` and ``benchmarks/core.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import harness
import numpy as np
from harness import Answer, Worker, plain, row, spread

ALL = "all"
ON_TEXT = ("reconstruction", "sparsity", "loss_recovered", "token_rules", "downstream_sparsity")
ON_SETS = ("probe_recovery", "sparse_probing")
PARTS = ("start", "language model", "losses", "encode", "decode", "own", "end")
USEFUL = ("language model", "encode", "decode")
BY = ("latents", "texts", "saes", "hooks", "sets", "resamples")


def main() -> None:
    options = parsed()
    base = {name: getattr(options, name) for name in BY} | {"controls": "none"}
    sizes = {name: [base[name] * factor for factor in ((1, 2) if options.quick else (1, 2, 4))] for name in BY}
    sizes["hooks"] = [1, 2] if options.quick else [1, 2, 4]
    most = {name: max(own) for name, own in sizes.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("scaling_ours", options.python, own=True, threads=options.threads) as worker,
    ):
        shape = {"width": options.width, "layers": max(2, most["hooks"]), "vocabulary": options.vocabulary}
        worker.call("make", folder=folder, **shape, texts=most["texts"], context=options.context, sets=most["sets"])
        runs = Runs(worker, options.rounds)
        print(f"{shape}, {options.context} tokens a text, at the base {base}", flush=True)
        runs.one(ALL, base)  # what libraries do once is not counted
        if "shares" in options.by:
            print_shares(runs, options.tasks, base)
        for by in (name for name in BY if name in options.by):
            print_exponents(runs, options.tasks, base, by, sizes[by])
        if "many" in options.by:
            print_many(runs, base, options.many)
        versions = ", ".join(f"{name} {found}" for name, found in worker.versions.items())
        print(f"\n{harness.machine()}, {options.threads} thread(s); {versions}")


def parsed() -> argparse.Namespace:
    """The options; ``--quick`` changes the base where nothing else is said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round: a check that it runs")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 3, with --quick 1)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="Python that runs this repository")
    parser.add_argument("--by", nargs="+", default=["shares", *BY, "many"], choices=["shares", *BY, "many"])
    parser.add_argument("--tasks", nargs="+", choices=[*ON_TEXT, *ON_SETS, ALL], help="rows (default: each, and all)")
    parser.add_argument("--many", type=int, nargs="+", help="numbers of SAEs of the last table (default 1 6 36)")
    usual = {"width": 256, "vocabulary": 8192, "context": 128, "latents": 4096, "texts": 64, "saes": 2, "hooks": 1}
    usual |= {"sets": 4, "resamples": 2000}
    quick = {"width": 32, "vocabulary": 256, "context": 32, "latents": 128, "texts": 16, "saes": 1, "hooks": 1}
    quick |= {"sets": 1, "resamples": 20}
    for name, value in usual.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"at the base (default {value})")
    options = parser.parse_args()
    for name, value in (quick if options.quick else usual).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.tasks = options.tasks or (
        ["sparsity", "sparse_probing", ALL] if options.quick else [*ON_TEXT, *ON_SETS, ALL]
    )
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.many = options.many or ([1, 2] if options.quick else [1, 6, 36])
    return options


class Runs:
    """Runs of one process, each first once for its memory, which also warms up, and then in rounds."""

    def __init__(self, worker: Worker, rounds: int) -> None:
        self.worker, self.rounds = worker, rounds

    def one(self, task: str, given: dict[str, object], *, memory: bool = False) -> Answer:
        tasks = ",".join((*ON_TEXT, *ON_SETS)) if task == ALL else task
        return self.worker.call("run", memory=memory, tasks=tasks, **given)

    def of(self, task: str, cases: list[dict[str, object]]) -> tuple[list[float], list[list[Answer]]]:
        """MiB above what was loaded of each case, and the answers of each, round by round."""
        memories = [self.one(task, case, memory=True).memory for case in cases]
        rounds = [[self.one(task, case) for case in cases] for _ in range(self.rounds)]
        return [max(found.added, 0.1) for found in memories if found], [list(own) for own in zip(*rounds, strict=True)]


def share(answer: Answer, *parts: str) -> float:
    """Of the CPU seconds of all parts."""
    return sum(map(answer.part, parts)) / sum(map(answer.part, PARTS))


def percent(answers: list[Answer], *parts: str) -> str:
    """The median share over rounds."""
    return f"{100 * median(share(answer, *parts) for answer in answers):.1f}"


def print_shares(runs: Runs, tasks: list[str], base: dict[str, object]) -> None:
    """A row a task."""
    print()
    harness.head("shares, %", *PARTS, "CPU s", "MiB")
    for task in tasks:
        (memory,), (answers,) = runs.of(task, [base])
        seconds = median(sum(map(answer.part, PARTS)) for answer in answers)
        row(task, *(percent(answers, part) for part in PARTS), plain(seconds), plain(memory))


def print_exponents(runs: Runs, tasks: list[str], base: dict[str, object], by: str, sizes: list[int]) -> None:
    """A row a task that can depend on this quantity."""
    print()
    harness.head(f"by {by}", *(f"{size:,}: CPU s, MiB" for size in sizes), "exponent of time: min / median / max",
                 "of memory", "of the end")  # fmt: skip
    for task in tasks:
        if (by == "sets" and task in ON_TEXT) or (by == "texts" and task in ON_SETS):
            continue
        cases = [base | {by: size} | ({"saes": max(sizes)} if by == "hooks" else {}) for size in sizes]
        memories, answers = runs.of(task, cases)
        seconds = [[sum(map(answer.part, PARTS)) for answer in own] for own in answers]
        ends = [median(answer.part("end") for answer in own) for own in answers]
        cells = [f"{plain(median(own))}, {plain(mib)}" for own, mib in zip(seconds, memories, strict=True)]
        slopes = [slope(sizes, list(own)) for own in zip(*seconds, strict=True)]
        row(task, *cells, spread(slopes), f"{slope(sizes, memories):.2f}", f"{slope(sizes, ends):.2f}")


def print_many(runs: Runs, base: dict[str, object], counts: list[int]) -> None:
    """A row a number of SAEs, all tasks; with controls beside."""
    print()
    harness.head("SAEs, all tasks", "controls", "CPU s", "language model, encode, decode, %", "and losses, %", "end, %",
                 "times the run without controls: min / median / max", "MiB")  # fmt: skip
    for count in counts:
        cases = [base | {"saes": count, "controls": controls} for controls in ("none", "default")]
        memories, answers = runs.of(ALL, cases)
        seconds = [[sum(map(answer.part, PARTS)) for answer in own] for own in answers]
        for case, own, taken, memory in zip(cases, answers, seconds, memories, strict=True):
            times = "" if case["controls"] == "none" else spread(harness.ratios(taken, seconds[0]))
            row(count, case["controls"], plain(median(taken)), percent(own, *USEFUL), percent(own, *USEFUL, "losses"),
                percent(own, "end"), times, plain(memory))  # fmt: skip


def slope(sizes: list[int], values: list[float]) -> float:
    """Of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


if __name__ == "__main__":
    main()
