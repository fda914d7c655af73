"""One process per contender, asked in interleaved rounds; what a benchmark needs to compare unlike environments.

A contender is a module of ``benchmarks/sides`` in a Python of its own. :class:`Worker` starts it and calls its
functions, one JSON line a question and one an answer. An answer holds CPU seconds of the process (all its threads),
wall seconds, what the function returned, and on request the peak of anonymous memory: pages of a mapped file, which the
system can drop at any moment, do not count. Linux only, for it reads /proc. This file needs the standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PEER_PYTHON = HERE / ".peers" / "bin" / "python"
PACKAGES = ("sae-bench", "sae-lens", "transformer-lens", "transformers", "torch", "numpy")
SAMPLE_SECONDS = 0.002


class Memory(NamedTuple):
    """Anonymous memory of a process in MiB: before a call, and its peak during it."""

    before: float
    peak: float

    @property
    def added(self) -> float:
        return self.peak - self.before


class Answer(NamedTuple):
    cpu: float  # seconds of all threads
    wall: float
    result: dict[str, Any]
    memory: Memory | None

    def part(self, name: str) -> float:
        """CPU seconds of a part that the function clocked."""
        return float(self.result["parts"][name])


class Worker:
    """A contender's process. ``own`` puts this repository first on its path; a peer must not see it."""

    def __init__(self, module: str, python: Path | str, *, own: bool, threads: int = 1) -> None:
        self.module, self.python = module, str(python)
        if not Path(self.python).exists():
            raise SystemExit(f"there is no Python at {self.python}: run benchmarks/peers.sh, or give --peer-python")
        count = str(threads)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
            "SAE_BENCH_CALIBRATION_CACHE": "",  # what one run kept is not taken by the next
        }
        if own:
            environment["PYTHONPATH"] = str(HERE.parent)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [self.python, str(HERE / "harness.py"), module, count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            cwd=tempfile.gettempdir(),
        )
        self.versions: dict[str, str] = self._receive()["versions"]

    def call(self, function: str, *, memory: bool = False, **arguments: Any) -> Answer:
        """Call ``function`` of the module. With ``memory`` its peak is sampled, which the timing may feel."""
        before = self._ask({"settle": True})["before"] if memory else 0.0
        sampled = 0.0
        done = threading.Event()

        def sample() -> None:
            nonlocal sampled
            while not done.wait(SAMPLE_SECONDS):
                sampled = max(sampled, self.resident())

        sampler = threading.Thread(target=sample)
        if memory:
            sampler.start()
        try:
            answer = self._ask({"function": function, "arguments": arguments})
        finally:
            done.set()
        if memory:
            sampler.join()
        found = Memory(before, max(answer["peak"], sampled)) if memory else None
        return Answer(answer["cpu"], answer["wall"], answer["result"], found)

    def resident(self) -> float:
        """Anonymous memory now, MiB."""
        return resident(self._process.pid)["RssAnon"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10 if error is None else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            told = self._errors.read().decode(errors="replace")[-4000:]
            raise SystemExit(f"{self.module} in {self.python} stopped:\n{told}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def resident(pid: int | str = "self") -> dict[str, float]:
    """The lines on memory of /proc/PID/status, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(number) / 1024 for name, number, *_ in pairs}


class Clock:
    """CPU seconds of named parts of a function; what a contender returns as ``parts``."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.process_time() - start


def serve(module: str, threads: int) -> None:
    """The child: answer questions on standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    functions = importlib.import_module(f"sides.{module}")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    print(json.dumps({"versions": found}), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(_answer(functions, question)), file=answers, flush=True)


def _answer(functions: Any, question: dict[str, Any]) -> dict[str, Any]:
    if "settle" in question:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed before the call hides what the call takes
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        return {"before": resident()["RssAnon"]}
    function = getattr(functions, question["function"])
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(**question["arguments"]) or {}
    answer = {"result": result, "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    after = resident()
    # the kernel keeps a peak of all pages only; mapped ones do not shrink during a call unless memory runs out
    return answer | {"peak": max(after["VmHWM"] - after["RssFile"], after["RssAnon"])}


def arguments(documentation: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks against a peer share."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: a check that it runs")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default: as stated above, with --quick 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contender (default 1)")
    parser.add_argument("--peer-python", type=_absolute, default=PEER_PYTHON, help="Python of the peers' environment")
    parser.add_argument(
        "--python", type=_absolute, default=Path(sys.executable), help="Python that runs this repository"
    )
    return parser


def _absolute(path: str) -> Path:
    return Path(path).absolute()  # workers start elsewhere; links are kept, an environment's Python is one


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Round by round: how many times faster ours is."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Minimum / median / maximum."""
    return " / ".join(plain(x, digits) for x in (min(values), median(values), max(values)))


def plain(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent."""
    return f"{float(f'{value:.{digits}g}'):,.{max(0, digits - 1 - _exponent(value))}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def row(*cells: object) -> None:
    """A line of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells: str) -> None:
    """The first two lines of a Markdown table."""
    row(*cells)
    print("|" + "---|" * len(cells), flush=True)


def machine() -> str:
    """The day, and on what."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "name" in line]
    return f"{time.strftime('%Y-%m-%d')}, {names[0] if names else 'unknown CPU'}, {os.cpu_count()} cores"


def environment(options: argparse.Namespace) -> str:
    """A line that says on what and with what versions a table was made."""
    parts = [f"\n{machine()}, {options.threads} thread(s) a process"]
    for label, python in (("this repository", options.python), ("peers", options.peer_python)):
        with Worker("dictionaries", python, own=python == options.python) as worker:
            parts.append(f"{label}: " + ", ".join(f"{name} {found}" for name, found in worker.versions.items()))
    return "; ".join(parts) + "."


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
