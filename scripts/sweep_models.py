"""Try every hook point of every architecture of the installed transformers; writes what `sae-bench ls models` prints.

    python scripts/sweep_models.py                 all of them, some minutes; exit code 1 if a number is wrong
    python scripts/sweep_models.py gpt2 llama      only these, and nothing is written

Each is a tiny model with random weights (`tests/builders/architectures.py`), compared with plain torch hooks
(`tests/builders/sweeps.py`). One that cannot be built at this size, or that transformers cannot run, is not tried.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
SWEPT = ROOT / "sae_bench" / "models" / "swept.json"
SECONDS = 60  # for one architecture; some cannot be made small


def main(only: list[str]) -> int:
    """Sweep, print faults, write the table."""
    from tests.builders import architectures

    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows, faults = {}, 0
    for name in only or architectures.names():
        found = _swept(name)
        if found is None:
            continue
        rows[name] = {"right": found.right, "refused": by_reason(found.refused)}
        faults += len(found.faults)
        print(f"{name}: {len(found.right)} right, {len(found.refused)} refused", *found.faults, sep="\n  ", flush=True)
    if not only and not faults:
        SWEPT.write_text(written(rows), encoding="utf-8")
    return 1 if faults else 0


def written(rows: dict[str, Any]) -> str:
    """The table as JSON, a line for each architecture."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    return f'{{"transformers": {json.dumps(transformers.__version__)}, "models": {{\n{lines}\n}}}}\n'


def by_reason(refused: dict[str, str]) -> dict[str, list[str]]:
    """Each reason once, without the name that it was given for and the way out, with all these names."""
    found: dict[str, list[str]] = {}
    for hook, why in refused.items():
        found.setdefault(re.sub(r"^hook point '[^']*' ", "", why).partition("; ")[0], []).append(hook)
    return found


def _swept(name: str) -> Any:
    from tests.builders import architectures, sweeps

    try:
        with _limited():
            model = architectures.tiny(name)
            with torch.no_grad():
                model(input_ids=torch.ones(2, 8, dtype=torch.int64), use_cache=False)
    except Exception as error:  # noqa: BLE001 - transformers' own, of whatever kind
        print(f"{name}: not tried: {type(error).__name__}", flush=True)
        return None
    return sweeps.sweep(model)


@contextmanager
def _limited() -> Any:
    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
