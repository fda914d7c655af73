"""Start-up: what it costs to ask a question that needs no model, here and of the peer's core evaluation.

``python benchmarks/startup.py`` prints a Markdown table: CPU time (user and system, all threads) and peak resident
memory of a fresh process for each command, and how many times the peer's ``--help`` takes as much, as ratios within one
round (minimum / median / maximum over 9 rounds; ``--quick``: 2). Every command runs once before, so that bytecode is
there and files lie in the system's cache. Needs ``benchmarks/peers.sh`` first.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import harness
from harness import plain, ratios, row, spread

PEER = "python -m sae_bench.evals.core.main --help (peer)"
OURS = (("--help",), ("--version",), ("ls", "tasks"), ("show", "reconstruction"), ("compare", "--help"))


class Cost(NamedTuple):
    cpu: float  # seconds
    memory: float  # MiB
    torch: bool  # whether torch was imported


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if not options.peer_python.exists():
        parser.error(f"there is no Python at {options.peer_python}: run benchmarks/peers.sh, or give --peer-python")
    rounds = options.rounds or (2 if options.quick else 9)
    own = {"PYTHONPATH": str(harness.HERE.parent)}
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        "python -c 'import torch' (here)": ([str(options.python), "-c", "import torch"], own),
        PEER: ([str(options.peer_python), "-m", "sae_bench.evals.core.main", "--help"], {}),
    }
    for words in OURS:
        name = "sae-bench " + " ".join(words)
        commands[name] = ([str(options.python), "-m", "sae_bench.cli.main", *words], own)
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, (command, environment) in commands.items():
            measured = cost(command, environment, options.threads)
            if turn:
                found[name].append(measured)
    print_table(found)
    print(harness.environment(options))


def cost(command: list[str], extra: dict[str, str], threads: int) -> Cost:
    """Run one command to its end; raises SystemExit if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | extra
    environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as output:
        # not in the repository: python -m would find its package before the peer's
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=tempfile.gettempdir())
        libraries = _libraries(process)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{output.read().decode(errors='replace')[-2000:]}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, libraries)


def _libraries(process: subprocess.Popen[bytes]) -> bool:
    """Whether torch is among the mapped libraries at any time until the process ends."""
    maps = Path(f"/proc/{process.pid}/maps")
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        try:
            if "libtorch" in maps.read_text():
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                return True
        except (OSError, ProcessLookupError):
            break
    return False


def print_table(found: dict[str, list[Cost]]) -> None:
    """A row a command."""
    harness.head("command", "CPU, s: min / median / max", "peak memory, MiB", "loads torch", "peer's CPU / this one's",
                 "peer's memory / this one's")  # fmt: skip
    peer = found[PEER]
    for name, costs in found.items():
        compared = "" if name == PEER else spread(ratios([c.cpu for c in peer], [c.cpu for c in costs]))
        memory = plain(median(ratios([c.memory for c in peer], [c.memory for c in costs])))
        row(
            f"`{name}`",
            spread([c.cpu for c in costs]),
            plain(median(c.memory for c in costs)),
            "yes" if any(c.torch for c in costs) else "no",
            compared,
            "" if name == PEER else memory,
        )


if __name__ == "__main__":
    main()
