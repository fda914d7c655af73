"""The end of a run: what it takes to read the rows of every task and coder from the row files, before and after.

``python benchmarks/end_phase.py --before FOLDER`` compares this repository with another checkout of it, each in a
process of its own, round by round. Both write a run in progress of ``--saes`` SAEs with six controls each and three
tasks, 9 columns of 8 documents a row file for every coder and task, and then ask for the rows of every (task, coder) as
results do. Where that is more than ``--calls`` calls, so many of them are timed, spread evenly, and the time of all is
computed from it, without what only the first call costs, which is added once. Printed: CPU seconds of the end, minimum
/ median / maximum over rounds, its ratio, seconds of a save, and bytes of all files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from harness import plain, spread

TASKS = ("reconstruction", "sparsity", "loss_recovered")
CONTROLS = ("mean", "pca", "random", "random_l0", "permuted", "identity")
COLUMNS, DOCUMENTS = 9, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--saes", type=int, nargs="+", default=[6, 36])
    parser.add_argument("--files", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--calls", type=int, default=12, help="calls that are timed at most, of --before (default 12)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(**json.loads(options.child))))
        return
    sides: dict[str, tuple[Path, int | None]] = {"this repository": (Path(__file__).parents[1], None)}
    if options.before:
        sides = {"before": (options.before, options.calls), **sides}
    harness.head("SAEs", "row files", "side", "calls", "timed", "end, CPU s", "before / this", "a save, ms", "MiB")
    for saes in options.saes:
        for files in options.files:
            rounds = [
                {side: child(root, saes=saes, files=files, calls=calls) for side, (root, calls) in sides.items()}
                for _ in range(options.rounds)
            ]
            for side in sides:
                own = [one[side] for one in rounds]
                seconds = [one["end"] for one in own]
                ratio = ""
                if "before" in sides and side != "before":
                    ratio = spread(harness.ratios([one["before"]["end"] for one in rounds], seconds))
                harness.row(
                    saes, files, side, own[0]["calls"], own[0]["timed"], spread(seconds), ratio,
                    plain(min(1000 * one["save"] for one in own)), plain(own[0]["bytes"] / 2**20),
                )  # fmt: skip


def child(root: Path, **given: Any) -> dict[str, Any]:
    """What a process measures that imports the package from ``root``."""
    environment = os.environ | {"PYTHONPATH": str(root.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", json.dumps(given)]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def measured(saes: int, files: int, calls: int | None) -> dict[str, Any]:
    """Write a run in progress, then read it as results do."""
    import numpy as np

    from sae_bench.engine.checkpoint import Checkpoint, State

    rng = np.random.default_rng(0)
    coders = [f"sae{i}{control}" for i in range(saes) for control in ("", *(f"/{name}" for name in CONTROLS))]
    pairs = [(task, coder) for coder in coders for task in TASKS]
    keys = [(*pair, f"column_{i}") for pair in pairs for i in range(COLUMNS)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, state = Checkpoint(Path(folder, "run")), State()
        saves = []
        for _ in range(files):
            rows = {("", "", "unit"): np.arange(DOCUMENTS)}
            rows |= dict(zip(keys, rng.normal(size=(len(keys), DOCUMENTS)), strict=True))
            start = time.process_time()
            checkpoint.save(state, rows)
            saves.append(time.process_time() - start)
        size = sum(file.stat().st_size for file in Path(folder, "run").iterdir())
        step = 1 if calls is None or calls >= len(pairs) else -(-len(pairs) // calls)
        asked = pairs[::step]
        seconds = []
        for pair in asked:
            start = time.process_time()
            found = checkpoint.rows(state, {("", ""), pair})
            seconds.append(time.process_time() - start)
            assert len(found) == COLUMNS + 1
            assert all(len(column) == files * DOCUMENTS for column in found.values())
        checkpoint.remove()
    later = sum(seconds[1:]) / (len(seconds) - 1)
    end = seconds[0] + later * (len(pairs) - 1)
    return {"end": end, "calls": len(pairs), "timed": len(asked), "save": sorted(saves)[files // 2], "bytes": size}


if __name__ == "__main__":
    main()
