"""Kill runs at random moments, alone and two at a time in one folder, and compare what is left with an undisturbed run.

    python scripts/kills.py --kills 200

In every trial one or two processes start the same run into one folder, and after a random time one of them or both are
killed outright, up to three times; then the run is given once more and may finish. All files must be those of a run
that was left alone, to the bit, and nothing else may be there. Exit code 1 if they are not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from sae_bench import evaluate

SETTINGS: dict[str, Any] = {
    "tasks": "reconstruction,sparsity,loss_recovered,downstream_sparsity",
    "tier": "smoke",
    "limit": 8,
    "context": 24,
    "resamples": 20,
    "controls": "mean,permuted",
    "batch_tokens": 160,
    "checkpoint_seconds": 0,
    "calibration_cache": False,  # results count what a run has measured, and the second would measure less
    "parameters": {"downstream_sparsity.positions": 1, "downstream_sparsity.latents": 2},
}


def begun(out: Path) -> int:
    """A forked process that does the run into ``out``; returns its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            evaluate("demo", out=out, **SETTINGS)
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for a process; returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(out: Path) -> dict[str, bytes]:
    """All files below a folder by their names, hidden ones too."""
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def trial(out: Path, seconds: float, most: int, rng: random.Random) -> int:
    """Begin and kill runs into ``out`` at random, at most ``most`` times, then let one finish; returns the kills."""
    kills = 0
    for _ in range(rng.randint(1, 3)):
        children = [begun(out) for _ in range(rng.randint(1, 2))]
        time.sleep(rng.uniform(0, seconds))
        for child in rng.sample(children, rng.randint(1, len(children))):
            if kills < most:
                os.kill(child, signal.SIGKILL)
                kills += 1
        for child in children:
            ended(child)
    if code := ended(begun(out)):
        raise SystemExit(f"the run that was left alone ended with {code}")
    return kills


def main() -> int:
    """Run trials until there were enough kills."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    rng = random.Random(asked.seed)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a forked process must not wait for threads that only its parent has
    with tempfile.TemporaryDirectory() as folder:
        for name in ("warm", "whole"):
            start = time.monotonic()
            evaluate("demo", out=Path(folder, name), **SETTINGS)
        seconds, whole = time.monotonic() - start, contents(Path(folder, "whole"))
        done = trials = 0
        while done < asked.kills:
            out = Path(folder, f"trial {trials}")
            done, trials = done + trial(out, seconds, asked.kills - done, rng), trials + 1
            found = contents(out)
            wrong = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
            left = [name for name in wrong if name.endswith(".tmp")]  # of a process that was killed while it wrote
            if wrong != left:
                print(f"trial {trials} of seed {asked.seed}: other files than without kills: {', '.join(wrong)}")
                return 1
    print(f"{done} kills in {trials} folders: all {len(whole)} files are those of a run that was left alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
