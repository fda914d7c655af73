"""Many results: what it takes to list them, to show one, to make the board and its page, and to compare many sides.

``python benchmarks/many_results.py`` writes results into a temporary folder, copies of those in ``results/`` with their
details, under other names, weights, hook points and seeds, and runs each command on 500, 1,000 and 5,000 of them
(``--results``) in a process of its own: CPU seconds (user and system), peak of resident memory in MiB, bytes of what it
printed. The last columns are the exponent of time between the smallest and the largest number, and memory per added
result. Two layouts: ``sweep``, four tasks of every SAE at twelve hook points, two seeds; ``one table``, one task of as
many SAEs as there are results, at one hook point. ``compare`` takes ``--sides`` sides with their units.

``--quick`` (8, 16 and 32 results, 3 and 6 sides) is a check that it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
from harness import plain

HOOKS, SEEDS = 12, 2
TASKS = ("reconstruction", "loss_recovered", "sparsity", "downstream_sparsity")
LAYOUTS = {"sweep": TASKS, "one table": ("sparsity",)}


class Cost(NamedTuple):
    cpu: float  # seconds
    memory: float  # MiB
    printed: int  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, nargs="+", help="numbers of results (default 500 1000 5000)")
    parser.add_argument("--sides", type=int, nargs="+", help="numbers of sides of compare (default 10 20 60)")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--only", help="only commands that hold this text")
    parser.add_argument("--quick", action="store_true", help="small numbers: a check that it runs")
    parser.add_argument("--package", type=Path, default=harness.HERE.parent, help="checkout whose sae-bench is run")
    options = parser.parse_args()
    numbers = options.results or ([8, 16, 32] if options.quick else [500, 1000, 5000])
    sides = options.sides or ([3, 6] if options.quick else [10, 20, 60])
    wanted = options.only or ""
    harness.head("layout", "command", "of", "CPU, s", "peak, MiB", "printed, kB", "exponent", "KiB a further one")
    with tempfile.TemporaryDirectory() as folder:
        for layout in options.layouts:
            found: dict[str, dict[int, Cost]] = {}
            for n in numbers:
                place = Path(folder, f"{layout.split()[0]}{n}")
                written(place, n, LAYOUTS[layout], False)
                for name, words in commands(place):
                    if wanted in name:
                        found.setdefault(name, {})[n] = cost(words, options.package)
                shutil.rmtree(place)
            print_rows(layout, found)
        found = {}
        for n in sides if wanted in "compare" else ():
            place = Path(folder, f"sides{n}")
            written(place, n * len(TASKS), TASKS, True)
            paths = sorted(str(one) for one in place.iterdir())
            found.setdefault("compare A B ...", {})[n] = cost(["compare", *paths], options.package)
            shutil.rmtree(place)
        print_rows("sides", found)
    print(f"\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {sys.version.split()[0]}.")


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands by name; one file of results is shown alone."""
    first = next(iter(sorted(folder.rglob("*@v*.json"))))
    yield "ls results", ["ls", "results", "--out", str(folder)]
    yield "ls results --json", ["ls", "results", "--json", "--out", str(folder)]
    yield "show FILE", ["show", str(first)]
    yield "show FOLDER", ["show", str(folder)]
    yield "show FOLDER --json", ["show", "--json", str(folder)]
    for form in ("text", "csv", "json", "html"):
        yield f"board --format {form}", ["board", str(folder), "--format", form]


def written(*given: Any) -> None:
    """:func:`write` in a process of its own: what this one holds counts as memory of each command that it starts."""
    process = multiprocessing.get_context("spawn").Process(target=write, args=given)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the results could not be written")


def write(folder: Path, n: int, tasks: Sequence[str], units: bool) -> None:
    """``n`` results of as many SAEs as it takes, made of the results of this repository in turn."""
    from sae_bench.results import store
    from sae_bench.schema import Protocol

    models = sorted((harness.HERE.parent / "results").iterdir())
    read: dict[Path, dict[str, Any]] = {}
    for i in range(n):
        number, task = i // len(tasks), tasks[i % len(tasks)]
        (source,) = models[number % len(models)].glob(f"*/{task}@*.json")
        content = read.setdefault(source, json.loads(source.read_text(encoding="utf-8")))
        hook, seed = (0, 0) if units or len(tasks) == 1 else (number % HOOKS, number // HOOKS % SEEDS)
        name, weights = f"lab/sweep-{number:05d}", f"{number:064x}"
        hooks = [f"blocks.{hook}.hook_resid_post"]
        content["sae"] |= {"name": name, "weights_sha256": weights, "hooks_in": hooks, "hooks_out": hooks}
        content["provenance"]["protocol"] |= {"seed": seed, "hooks_in": hooks, "hooks_out": hooks}
        content["protocol"] = store.protocol_hash(Protocol.model_validate(content["provenance"]["protocol"]))
        file = folder / f"sae{number:05d}" / weights[-12:] / f"{task}@v1-{content['protocol'][:8]}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.to_json(content))
        if units:
            shutil.copy(store.units_of(source), store.units_of(file))


def cost(words: list[str], package: Path) -> Cost:
    """Run one command to its end. Raises SystemExit if it fails."""
    environment = os.environ | {"PYTHONPATH": str(package.resolve()), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "sae_bench.cli.main", *words]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors, cwd=tempfile.gettempdir())
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 3):
            errors.seek(0)
            raise SystemExit(f"{' '.join(words[:4])} ended with {process.returncode}: {errors.read()[-2000:].decode()}")
        return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, os.fstat(output.fileno()).st_size)


def print_rows(layout: str, found: dict[str, dict[int, Cost]]) -> None:
    """A row a command and number, the last of each with exponent and slope."""
    for name, costs in found.items():
        first, last = min(costs), max(costs)
        for n, one in costs.items():
            more = ["", ""]
            if n == last > first:
                exponent = math.log(one.cpu / costs[first].cpu) / math.log(last / first)
                more = [f"{exponent:.2f}", plain(1024 * (one.memory - costs[first].memory) / (last - first))]
            harness.row(layout, name, n, plain(one.cpu), plain(one.memory), plain(one.printed / 1000), *more)


if __name__ == "__main__":
    main()
