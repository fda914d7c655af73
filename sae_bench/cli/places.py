"""Where results lie if nobody says so: the folder that ``run`` writes to is the one that other verbs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sae_bench.errors import UsageError
from sae_bench.files import at_home

RUNS = "runs"
RUNS_HELP = f"(default: {RUNS}, where run writes)"


def saes_in(given: Sequence[str]) -> list[Path]:
    """What was given, else the folder of every SAE that was measured. Raises UsageError where there is nothing yet."""
    if given:
        return [at_home(one) for one in given]
    from sae_bench.results.store import results_below

    return sorted({file.parent for file in results_below(results_in(RUNS))})


def results_in(given: str) -> Path:
    """Where results are read from. Raises UsageError where nothing was given, and there is nothing yet."""
    path = at_home(given)
    if given == RUNS and not (path.is_dir() and any(path.iterdir())):
        what = "is empty" if path.is_dir() else "is not here"
        raise UsageError(
            f"the folder {RUNS} {what}, into which sae-bench run writes unless --out names another: measure an SAE "
            "first (sae-bench run SAE), or name the folder of results"
        )
    return path
