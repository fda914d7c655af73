"""What each task costs: CPU time of a run of it alone and of some together, on one SAE of the demo.

    python benchmarks/tasks.py [--limit 512] [--sae demo/topk_k32]

All rows are of one process on one thread, with the default controls and nothing kept of earlier runs. The last column
is the time in times of ``reconstruction`` alone, which is what ``sae-bench ls tasks`` shows.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

TOGETHER = (
    ("reconstruction", "sparsity", "loss_recovered"),
    ("reconstruction", "sparsity", "loss_recovered", "token_rules"),
)


def main() -> None:
    """Measure, and print a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=512, help="evaluation documents")
    parser.add_argument("--sae", default="demo/topk_k32")
    given = parser.parse_args()
    os.environ["SAE_BENCH_CALIBRATION_CACHE"] = ""
    import torch

    from sae_bench.api import Session
    from sae_bench.builtin import RELATIVE_COST
    from sae_bench.settings import Settings

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    first = 0.0
    for tasks in (*((name,) for name in RELATIVE_COST), *TOGETHER):
        session = Session(given.sae, Settings(tasks=",".join(tasks), limit=given.limit))
        start = time.process_time()
        session.run(lambda what, done, total: None)
        took = time.process_time() - start
        first = first or took
        print(f"{took:8.1f} s  {took / first:6.1f}  {' + '.join(tasks)}", flush=True)


if __name__ == "__main__":
    main()
